//! The chain of a stack: anvil, or geth where the test says so.

use std::time::{Duration, Instant};

use alloy::{
    primitives::{Address, U256},
    providers::{DynProvider, Provider},
};
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::{anvil::Anvil, folder::RunFolder, geth::Geth, stack::Options};

/// Receipts are polled this often; alloy's 250 ms would be most of a block.
pub const POLL: Duration = Duration::from_millis(40);
/// Ten times Ethereum's: a dev chain should never be what limits a benchmark.
pub const BLOCK_GAS_LIMIT: u64 = 300_000_000;
/// The chain starts this far in the past: blocks mined at once are a second apart, and must not get ahead of us.
pub const CLOCK_BEHIND_SECONDS: u64 = 60;

const SENT_TIME_MAX: Duration = Duration::from_secs(60);

/// Which program is the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Client {
    /// npm's anvil.
    Anvil,
    /// The geth that `tests/geth/build` makes.
    Geth,
}

/// When blocks come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mining {
    /// One block every so many seconds.
    Seconds(u64),
    /// One block a transaction, and none without.
    Automatic,
}

/// A running node with the means to pause it, mine, and reorganise.
#[derive(Debug)]
pub enum Chain {
    /// anvil.
    Anvil(Anvil),
    /// geth.
    Geth(Geth),
}

/// What [`Chain::fund`] gives, wei: 1,000 ether.
pub fn funds() -> U256 {
    U256::from(1_000u64) * U256::from(10u64).pow(U256::from(18u64))
}

impl Chain {
    /// Starts what `options` ask for on a free port and waits until it answers.
    pub async fn start(folder: &RunFolder, options: &Options) -> Result<Self> {
        let (mining, epoch_blocks) = (options.mining, options.epoch_blocks);
        Ok(match options.client {
            Client::Anvil => Self::Anvil(Anvil::start(folder, mining, epoch_blocks).await?),
            Client::Geth => Self::Geth(Geth::start(folder, mining, epoch_blocks).await?),
        })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        match self {
            Self::Anvil(anvil) => anvil.url(),
            Self::Geth(geth) => geth.url(),
        }
    }

    /// Reads the chain; sends only what is signed already.
    pub fn provider(&self) -> &DynProvider {
        match self {
            Self::Anvil(anvil) => anvil.provider(),
            Self::Geth(geth) => geth.provider(),
        }
    }

    /// Any JSON-RPC method, for what alloy has no name for.
    pub async fn call(&self, method: &'static str, params: Value) -> Result<Value> {
        call(self.provider(), method, params).await
    }

    /// The latest block's number.
    pub async fn block_number(&self) -> Result<u64> {
        self.provider().get_block_number().await.context("failed to read the latest block's number")
    }

    /// Gives an account ether for gas.
    pub async fn fund(&self, account: Address) -> Result<()> {
        match self {
            Self::Anvil(anvil) => anvil.fund(account).await,
            Self::Geth(geth) => geth.fund(account).await,
        }
    }

    /// No more blocks until [`Chain::resume_mining`] or [`Chain::mine`].
    pub async fn pause_mining(&self) -> Result<()> {
        match self {
            Self::Anvil(anvil) => anvil.pause_mining().await,
            Self::Geth(geth) => geth.pause_mining().await,
        }
    }

    /// Blocks come again as they did at the start.
    pub async fn resume_mining(&self) -> Result<()> {
        match self {
            Self::Anvil(anvil) => anvil.resume_mining().await,
            Self::Geth(geth) => geth.resume_mining(),
        }
    }

    /// One block a transaction, whatever was asked for at the start, until [`Chain::resume_mining`].
    pub async fn mine_at_once(&self) -> Result<()> {
        match self {
            Self::Anvil(anvil) => anvil.mine_at_once().await,
            Self::Geth(geth) => geth.mine_at_once(),
        }
    }

    /// Sets the chain's clock to this machine's.
    pub async fn set_clock(&self) -> Result<()> {
        match self {
            Self::Anvil(anvil) => anvil.set_clock().await,
            // its blocks have this machine's time already
            Self::Geth(_) => Ok(()),
        }
    }

    /// Waits until a transaction waits in the node's pool while no blocks are made: a row says submitted before it is sent.
    pub async fn until_sent(&self) -> Result<()> {
        let deadline = Instant::now() + SENT_TIME_MAX;
        while self.call("txpool_status", json!([])).await?["pending"] == "0x0" {
            ensure!(Instant::now() < deadline, "no transaction waits in the pool");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Mines so many blocks at once.
    pub async fn mine(&self, blocks: u64) -> Result<()> {
        match self {
            Self::Anvil(anvil) => anvil.mine(blocks).await,
            Self::Geth(geth) => geth.mine(blocks).await,
        }
    }

    /// Replaces the last `depth` blocks by empty ones. On anvil their transactions are gone unless sent again; geth has them
    /// in its pool again.
    pub async fn reorg(&self, depth: u64) -> Result<()> {
        match self {
            Self::Anvil(anvil) => anvil.reorg(depth).await,
            Self::Geth(geth) => geth.reorg(depth).await,
        }
    }

    /// anvil, for what only it can do.
    pub fn anvil(&mut self) -> Result<&mut Anvil> {
        match self {
            Self::Anvil(anvil) => Ok(anvil),
            Self::Geth(_) => bail!("the stack runs on geth, expected anvil"),
        }
    }

    /// geth, for what only it can do.
    pub fn geth(&mut self) -> Result<&mut Geth> {
        match self {
            Self::Anvil(_) => bail!("the stack runs on anvil, expected geth"),
            Self::Geth(geth) => Ok(geth),
        }
    }
}

/// Any JSON-RPC method of a node.
pub async fn call(provider: &DynProvider, method: &'static str, params: Value) -> Result<Value> {
    let answer = provider.raw_request::<Value, Value>(method.into(), params).await;
    answer.with_context(|| format!("{method} failed"))
}
