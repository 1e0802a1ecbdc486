//! The local chain: npm's anvil, with the means to pause it, mine, and reorganise.

use std::{path::PathBuf, process::Command, time::Duration};

use alloy::{
    primitives::Address,
    providers::{DynProvider, Provider, ProviderBuilder},
};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    chain::{BLOCK_GAS_LIMIT, CLOCK_BEHIND_SECONDS, Mining, POLL, call, funds},
    folder::{RunFolder, node_module},
    process::{Process, Stop},
    services::{free_port, wait_until},
    story::money::unix_seconds,
};

const START_TIME_MAX: Duration = Duration::from_secs(20);
/// Blocks whose states it keeps, more than any reorg is deep. Older ones it would write to disk, without the contracts' code, and
/// a reorg after that loses the code.
const STATES_KEPT: &str = "400";
/// A running anvil: `safe` is the latest block less an epoch, and `finalized` less two.
#[derive(Debug)]
pub struct Anvil {
    port: u16,
    url: String,
    provider: DynProvider,
    process: Process,
    mining: Mining,
    epoch_blocks: u32,
    /// Where its state is between an end and a start.
    state: PathBuf,
    log: PathBuf,
    pid_file: PathBuf,
}

impl Anvil {
    /// Starts one on a free port and waits until it answers.
    pub async fn start(folder: &RunFolder, mining: Mining, epoch_blocks: u32) -> Result<Self> {
        let begin = (unix_seconds() - CLOCK_BEHIND_SECONDS).to_string();
        Self::start_with(folder, mining, epoch_blocks, &["--timestamp", &begin]).await
    }

    async fn start_with(folder: &RunFolder, mining: Mining, epoch_blocks: u32, more: &[&str]) -> Result<Self> {
        let (port, log, pid_file) = (free_port()?, folder.log("anvil"), folder.pid_file());
        let mut command = command(port, mining, epoch_blocks)?;
        command.args(more);
        let process = Process::spawn("anvil", command, &log, &pid_file, Stop::Terminate)?;
        let url = format!("http://127.0.0.1:{port}");
        let provider = ProviderBuilder::new().connect_http(url.parse().context("anvil's own URL")?).erased();
        provider.client().set_poll_interval(POLL);
        let state = folder.path().join(format!("anvil-{port}.json"));
        let mut anvil = Self { port, url, provider, process, mining, epoch_blocks, state, log, pid_file };
        anvil.answers().await?;
        Ok(anvil)
    }

    /// Another one that shares all blocks so far, and none that comes.
    pub async fn fork(&self, folder: &RunFolder, epoch_blocks: u32) -> Result<Self> {
        self.keep_state().await?;
        let state = self.state.display().to_string();
        Self::start_with(folder, Mining::Automatic, epoch_blocks, &["--load-state", &state]).await
    }

    /// Ends it and starts it on the state that it had: what waited in its pool is gone, and so may its last blocks be. It
    /// keeps older blocks, and not their states: no reorg may reach behind the restart.
    pub async fn restart(&mut self) -> Result<()> {
        self.pause_mining().await?;
        self.keep_state().await?;
        self.process.stop();
        let mut command = command(self.port, self.mining, self.epoch_blocks)?;
        command.arg("--load-state").arg(&self.state);
        self.process = Process::spawn("anvil", command, &self.log, &self.pid_file, Stop::Terminate)?;
        self.answers().await
    }

    /// Writes its state where the next one finds it.
    async fn keep_state(&self) -> Result<()> {
        // a block that comes while anvil writes down would be in its accounts and not in its blocks
        let dumped = loop {
            let before = self.provider.get_block_number().await.context("failed to ask for the block number")?;
            let dumped = self.call("anvil_dumpState", json!([false])).await?;
            if self.provider.get_block_number().await.context("failed to ask for the block number")? == before {
                break dumped;
            }
        };
        let zipped = dumped.as_str().and_then(|text| hex::decode(text.trim_start_matches("0x")).ok());
        let mut state = Vec::new();
        let mut unzip = flate2::read::GzDecoder::new(std::io::Cursor::new(zipped.context("anvil's state is not hex")?));
        std::io::Read::read_to_end(&mut unzip, &mut state).context("anvil's state is not gzip")?;
        std::fs::write(&self.state, state).context("failed to keep anvil's state")
    }

    async fn answers(&mut self) -> Result<()> {
        let answers = async || self.provider.get_chain_id().await.is_ok();
        wait_until(&mut self.process, START_TIME_MAX, answers).await
    }

    /// SIGSTOP: it takes connections and answers nothing.
    pub fn pause(&self) -> Result<()> {
        self.process.pause()
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.process.resume()
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Reads the chain; sends only what is signed already.
    pub fn provider(&self) -> &DynProvider {
        &self.provider
    }

    /// Any JSON-RPC method, for what alloy has no name for.
    pub async fn call(&self, method: &'static str, params: Value) -> Result<Value> {
        call(&self.provider, method, params).await
    }

    /// Gives an account ether for gas.
    pub async fn fund(&self, account: Address) -> Result<()> {
        self.call("anvil_setBalance", json!([account, funds()])).await?;
        Ok(())
    }

    /// No more blocks until [`Anvil::resume_mining`] or [`Anvil::mine`].
    pub async fn pause_mining(&self) -> Result<()> {
        match self.mining {
            Mining::Seconds(_) => self.call("evm_setIntervalMining", json!([0])).await?,
            Mining::Automatic => self.call("evm_setAutomine", json!([false])).await?,
        };
        Ok(())
    }

    /// Blocks come again as they did at the start.
    pub async fn resume_mining(&self) -> Result<()> {
        match self.mining {
            Mining::Seconds(seconds) => {
                self.call("evm_setAutomine", json!([false])).await?;
                self.call("evm_setIntervalMining", json!([seconds])).await?
            }
            Mining::Automatic => self.call("evm_setAutomine", json!([true])).await?,
        };
        Ok(())
    }

    /// Sets the chain's clock to this machine's.
    pub async fn set_clock(&self) -> Result<()> {
        self.call("evm_setTime", json!([unix_seconds()])).await?;
        Ok(())
    }

    /// One block a transaction, whatever was asked for at the start, until [`Anvil::resume_mining`].
    pub async fn mine_at_once(&self) -> Result<()> {
        self.call("evm_setIntervalMining", json!([0])).await?;
        self.call("evm_setAutomine", json!([true])).await?;
        Ok(())
    }

    /// Mines so many blocks at once.
    pub async fn mine(&self, blocks: u64) -> Result<()> {
        self.call("anvil_mine", json!([format!("{blocks:#x}")])).await?;
        Ok(())
    }

    /// Replaces the last `depth` blocks by empty ones; their transactions are gone unless sent again.
    pub async fn reorg(&self, depth: u64) -> Result<()> {
        self.call("anvil_reorg", json!([depth, []])).await?;
        Ok(())
    }
}

fn command(port: u16, mining: Mining, epoch_blocks: u32) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--accounts", "1", "--quiet"]);
    command.args(["--slots-in-an-epoch", &epoch_blocks.to_string(), "--gas-limit", &BLOCK_GAS_LIMIT.to_string()]);
    command.args(["--prune-history", STATES_KEPT]);
    if let Mining::Seconds(seconds) = mining {
        // a transaction waits at most this long, and empty blocks bring finality
        command.args(["--block-time", &seconds.to_string()]);
    }
    Ok(command)
}

/// The program itself, not npm's launcher, whose child it would be.
fn binary() -> Result<PathBuf> {
    let package = match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => "anvil-linux-amd64",
        ("linux", "aarch64") => "anvil-linux-arm64",
        ("macos", "x86_64") => "anvil-darwin-amd64",
        ("macos", "aarch64") => "anvil-darwin-arm64",
        (system, machine) => bail!("there is no anvil for {system} on {machine}"),
    };
    node_module(&format!("@foundry-rs/{package}/bin/anvil"))
}
