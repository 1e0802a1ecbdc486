//! The local chain on geth, led as a consensus client leads it: blocks, head, safe and finalized come over its Engine API.
//!
//! ```text
//!  testing_buildBlockV1 ─► engine_newPayloadV4 ─► engine_forkchoiceUpdatedV3 (head, safe, finalized)
//! ```

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use alloy::{
    network::TransactionBuilder,
    primitives::{Address, B256, Bytes, U256, keccak256},
    providers::{DynProvider, Provider, ProviderBuilder},
    rpc::types::TransactionRequest,
};
use anyhow::{Context, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
};

use crate::{
    chain::{BLOCK_GAS_LIMIT, CLOCK_BEHIND_SECONDS, Mining, POLL, call, funds},
    folder::{RunFolder, repository},
    keys::{dev_address, dev_key, dev_signer},
    process::{Process, Stop},
    services::{free_port, wait_until},
    story::money::unix_seconds,
};

const START_TIME_MAX: Duration = Duration::from_secs(30);
const ENGINE_TIME_MAX: Duration = Duration::from_secs(20);
/// How often the pool is looked at while blocks come with transactions.
const POOL_POLL: Duration = Duration::from_millis(10);
/// anvil's.
const CHAIN_ID: u64 = 31_337;
const WEI_PER_GWEI: u64 = 1_000_000_000;
/// Holds all the ether of the genesis block.
const FAUCET: &str = "faucet";
/// Blocks that the faucet's transfer may take.
const FUND_BLOCKS_MAX: u32 = 5;

/// The binary; `None`, said aloud, where there is none.
pub fn binary() -> Option<PathBuf> {
    let path = repository().join(".tidemark/tools/geth");
    if path.exists() {
        return Some(path);
    }
    let reason = format!("SKIPPED: no geth at {}: run tests/geth/build, which needs Go", path.display());
    // eprintln! would go to the harness, which hides what a passing test prints
    #[allow(clippy::explicit_write)]
    let _nobody_listens = writeln!(std::io::stderr(), "{reason}");
    None
}

/// A running geth and its consensus client.
#[derive(Debug)]
pub struct Geth {
    url: String,
    provider: DynProvider,
    faucet: DynProvider,
    process: Process,
    folder: Folder,
    ports: [u16; 2],
    mining: Mining,
    pace: watch::Sender<Pace>,
    consensus: Arc<Mutex<Consensus>>,
    producer: JoinHandle<()>,
}

/// Where its files are.
#[derive(Clone, Debug)]
struct Folder {
    data: PathBuf,
    log: PathBuf,
    pid_file: PathBuf,
}

/// When blocks come now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Paused,
    Every(Duration),
    AtOnce,
}

impl From<Mining> for Pace {
    fn from(mining: Mining) -> Self {
        match mining {
            Mining::Seconds(seconds) => Self::Every(Duration::from_secs(seconds)),
            Mining::Automatic => Self::AtOnce,
        }
    }
}

impl Geth {
    /// Starts one with an empty chain on free ports and waits until it answers.
    pub async fn start(folder: &RunFolder, mining: Mining, epoch_blocks: u32) -> Result<Self> {
        let data = folder.path().join("geth");
        fs::create_dir_all(&data).with_context(|| format!("failed to create {}", data.display()))?;
        let folder = Folder { data, log: folder.log("geth"), pid_file: folder.pid_file() };
        let secret = dev_key("geth's engine");
        let secret_path = folder.data.join("jwt.hex");
        fs::write(&secret_path, hex::encode(secret)).context("failed to write the Engine API's secret")?;
        initialise(&folder)?;
        let ports = [free_port()?, free_port()?];
        let mut process = spawn(&folder, ports)?;
        let url = format!("http://127.0.0.1:{}", ports[0]);
        let provider = ProviderBuilder::new().connect_http(url.parse().context("geth's own URL")?).erased();
        provider.client().set_poll_interval(POLL);
        wait_until(&mut process, START_TIME_MAX, async || provider.get_chain_id().await.is_ok()).await?;
        let faucet = tidemark::chain::sender(&url, dev_signer(FAUCET)?).context("failed to make the faucet")?;
        let genesis = call(&provider, "eth_getBlockByNumber", json!(["0x0", false])).await?;
        let genesis =
            Block { hash: genesis["hash"].clone(), time: unix_seconds() - CLOCK_BEHIND_SECONDS, params: Value::Null };
        let client = reqwest::Client::builder().timeout(ENGINE_TIME_MAX).build().context("no HTTP client")?;
        let engine = EngineApi { client, url: format!("http://127.0.0.1:{}", ports[1]), secret };
        let consensus = Consensus {
            node: provider.clone(),
            engine,
            chain: vec![genesis],
            finality_depth: 2 * u64::from(epoch_blocks),
            finalized: 0,
        };
        let consensus = Arc::new(Mutex::new(consensus));
        let (pace, changes) = watch::channel(Pace::from(mining));
        let producer = tokio::spawn(produce(consensus.clone(), changes));
        Ok(Self { url, provider, faucet, process, folder, ports, mining, pace, consensus, producer })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Reads the chain; sends only what is signed already.
    pub fn provider(&self) -> &DynProvider {
        &self.provider
    }

    /// Sends an account ether out of the genesis block, in a block of its own.
    pub async fn fund(&self, account: Address) -> Result<()> {
        let mut consensus = self.consensus.lock().await;
        let from = dev_address(FAUCET)?;
        let nonce = self.provider.get_transaction_count(from).await.context("failed to ask for the faucet's nonce")?;
        let transfer = TransactionRequest::default().with_to(account).with_value(funds()).with_nonce(nonce);
        let transfer = transfer.with_max_fee_per_gas(u128::from(100 * WEI_PER_GWEI)).with_gas_limit(21_000);
        let transfer = transfer.with_max_priority_fee_per_gas(u128::from(WEI_PER_GWEI));
        let pending = self.faucet.send_transaction(transfer).await.context("failed to send from the faucet")?;
        for _ in 0..FUND_BLOCKS_MAX {
            consensus.mine().await?;
            if self.provider.get_transaction_receipt(*pending.tx_hash()).await?.is_some() {
                return Ok(());
            }
        }
        bail!("{FUND_BLOCKS_MAX} blocks did not take the faucet's transfer to {account}")
    }

    /// No more blocks but those that are asked for.
    pub async fn pause_mining(&self) -> Result<()> {
        self.pace.send_replace(Pace::Paused);
        // one that is being made is the last
        drop(self.consensus.lock().await);
        Ok(())
    }

    /// Blocks come again as they did at the start.
    pub fn resume_mining(&self) -> Result<()> {
        self.pace.send_replace(self.mining.into());
        Ok(())
    }

    /// A block whenever the pool has a transaction for it.
    pub fn mine_at_once(&self) -> Result<()> {
        self.pace.send_replace(Pace::AtOnce);
        Ok(())
    }

    /// Makes so many blocks, each with what the pool has for it.
    pub async fn mine(&self, blocks: u64) -> Result<()> {
        let mut consensus = self.consensus.lock().await;
        for _ in 0..blocks {
            consensus.mine().await?;
        }
        Ok(())
    }

    /// Makes a block of each list of signed transactions, as fast as geth can: for long histories. Here nothing is kept of
    /// such a block but its hash, so a geth that loses it in [`Geth::kill`] is not told it again.
    pub async fn commit(&self, blocks: Vec<Vec<Bytes>>) -> Result<()> {
        let mut consensus = self.consensus.lock().await;
        for transactions in blocks {
            consensus.commit(json!(transactions)).await?;
        }
        consensus.choose().await
    }

    /// Bytes of its folder on the disk.
    pub fn disk_bytes(&self) -> Result<u64> {
        bytes_in(&self.folder.data)
    }

    /// Replaces the last `depth` blocks by one more than that, all empty; geth takes the transactions of the old ones back
    /// into its pool, from where later blocks may take them again.
    pub async fn reorg(&self, depth: u64) -> Result<()> {
        self.consensus.lock().await.reorg(depth).await
    }

    /// Number of the finalized block.
    pub async fn finalized(&self) -> u64 {
        self.consensus.lock().await.finalized
    }

    /// From the next block on, the one so many before the newest is final. What is final stays so.
    pub async fn set_finality_depth(&self, depth: u64) {
        self.consensus.lock().await.finality_depth = depth;
    }

    /// Stops it in order and starts it again: what it had in memory is on the disk from now on.
    pub async fn settle(&mut self) -> Result<()> {
        self.pause_mining().await?;
        self.process.stop();
        self.restart().await?;
        self.lead_again().await
    }

    /// SIGKILL; no more blocks. What it had in memory is gone: the state of all blocks since it was started, and with it
    /// its head.
    pub async fn kill(&mut self) -> Result<()> {
        self.pause_mining().await?;
        self.process.kill();
        Ok(())
    }

    /// Starts it on what is on the disk, without a consensus client; gives the number of its head.
    pub async fn restart(&mut self) -> Result<u64> {
        self.process = spawn(&self.folder, self.ports)?;
        let provider = self.provider.clone();
        wait_until(&mut self.process, START_TIME_MAX, async || provider.get_chain_id().await.is_ok()).await?;
        provider.get_block_number().await.context("failed to read the number of geth's head")
    }

    /// The consensus client is there again: it tells geth the blocks that it has lost, and the head.
    pub async fn lead_again(&self) -> Result<()> {
        self.consensus.lock().await.catch_up().await?;
        self.resume_mining()
    }
}

impl Drop for Geth {
    fn drop(&mut self) {
        self.producer.abort();
    }
}

/// Writes the genesis block: all forks from the start, and a faucet.
fn initialise(folder: &Folder) -> Result<()> {
    let binary = binary().context("there is no geth")?;
    // geth's own development chain has the contracts that the forks ask for, and is merged from the start
    let output =
        Command::new(&binary).args(["--dev", "dumpgenesis"]).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.context("failed to run geth dumpgenesis")?;
    let mut genesis: Value = serde_json::from_slice(&output.stdout).context("geth dumpgenesis printed no JSON")?;
    genesis["config"]["chainId"] = json!(CHAIN_ID);
    // newer than what chains run today
    let config = genesis["config"].as_object_mut().context("geth's genesis has no configuration")?;
    config.retain(|name, _| name != "amsterdamTime" && name != "bogotaTime");
    genesis["timestamp"] = json!(format!("{:#x}", unix_seconds() - CLOCK_BEHIND_SECONDS));
    genesis["gasLimit"] = json!(format!("{BLOCK_GAS_LIMIT:#x}"));
    genesis["baseFeePerGas"] = json!(format!("{WEI_PER_GWEI:#x}"));
    genesis["alloc"][hex::encode(dev_address(FAUCET)?)] = json!({ "balance": format!("{:#x}", U256::MAX >> 8) });
    let path = folder.data.join("genesis.json");
    fs::write(&path, genesis.to_string()).context("failed to write the genesis block")?;
    let mut command = Command::new(&binary);
    command.arg("init").arg("--datadir").arg(&folder.data).arg(&path).stdin(Stdio::null());
    let output = command.output().context("failed to run geth init")?;
    ensure!(output.status.success(), "geth init failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn spawn(folder: &Folder, [http, engine]: [u16; 2]) -> Result<Process> {
    let mut command = Command::new(binary().context("there is no geth")?);
    command.arg("--datadir").arg(&folder.data).arg("--authrpc.jwtsecret").arg(folder.data.join("jwt.hex"));
    command.args(["--networkid", &CHAIN_ID.to_string(), "--maxpeers", "0", "--nodiscover", "--port", "0"]);
    command.args(["--ipcdisable", "--http", "--http.addr", "127.0.0.1", "--http.port", &http.to_string()]);
    command.args(["--http.api", "eth,net,web3,txpool,testing"]);
    command.args(["--authrpc.addr", "127.0.0.1", "--authrpc.port", &engine.to_string()]);
    // the CREATE2 proxy's deployment is a transaction without a chain id
    command.args(["--syncmode", "full", "--cache", "64", "--rpc.allow-unprotected-txs"]);
    // its log index helps nobody here and takes twice the time of making a block that is full of logs
    command.args(["--history.logs.disable", "--miner.gaslimit", &BLOCK_GAS_LIMIT.to_string()]);
    Process::spawn("geth", command, &folder.log, &folder.pid_file, Stop::Terminate)
}

/// Makes blocks at the pace that is asked for, until nobody can ask any more.
async fn produce(consensus: Arc<Mutex<Consensus>>, mut pace: watch::Receiver<Pace>) {
    loop {
        let now = *pace.borrow_and_update();
        let wait = match now {
            Pace::Paused => Duration::MAX,
            Pace::Every(time) => time,
            Pace::AtOnce => POOL_POLL,
        };
        tokio::select! {
            changed = pace.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = tokio::time::sleep(wait) => {}
        }
        let mut consensus = consensus.lock().await;
        if *pace.borrow() != now {
            continue;
        }
        let made = async {
            if now != Pace::AtOnce || consensus.has_pending().await? { consensus.mine().await } else { Ok(()) }
        };
        if let Err(error) = made.await {
            eprintln!("geth makes no block: {error:#}");
        }
    }
}

/// Bytes of all files in a folder, with its folders; what goes away meanwhile does not count.
fn bytes_in(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("failed to read {}", folder.display()))?.flatten() {
        bytes += match entry.metadata() {
            Ok(found) if found.is_dir() => bytes_in(&entry.path())?,
            Ok(found) => found.len(),
            Err(_) => 0,
        };
    }
    Ok(bytes)
}

/// A block as the consensus client keeps it.
#[derive(Debug)]
struct Block {
    hash: Value,
    time: u64,
    /// Of `engine_newPayloadV4`, to tell it again; of the genesis block and committed ones there are none.
    params: Value,
}

/// What a consensus client knows and decides.
#[derive(Debug)]
struct Consensus {
    node: DynProvider,
    engine: EngineApi,
    /// By number.
    chain: Vec<Block>,
    finality_depth: u64,
    finalized: u64,
}

impl Consensus {
    fn head(&self) -> u64 {
        self.chain.len() as u64 - 1
    }

    fn block(&self, number: u64) -> Result<&Block> {
        let block = usize::try_from(number).ok().and_then(|at| self.chain.get(at));
        block.with_context(|| format!("there is no block {number}, only {}", self.chain.len()))
    }

    async fn has_pending(&self) -> Result<bool> {
        Ok(call(&self.node, "txpool_status", json!([])).await?["pending"] != "0x0")
    }

    /// A block with what the pool has for it.
    async fn mine(&mut self) -> Result<()> {
        self.append(Value::Null).await
    }

    /// What is to be in the block after `parent`, and its time.
    fn attributes(parent: &Block, beacon_root: B256) -> (Value, u64) {
        let time = unix_seconds().max(parent.time + 1);
        let attributes = json!({
            "timestamp": format!("{time:#x}"),
            // siblings differ in this one and the last
            "prevRandao": keccak256(uuid::Uuid::new_v4()),
            "suggestedFeeRecipient": Address::repeat_byte(0xfe),
            "withdrawals": [],
            "parentBeaconBlockRoot": beacon_root,
        });
        (attributes, time)
    }

    /// A block with these transactions; null for those of the pool.
    async fn append(&mut self, transactions: Value) -> Result<()> {
        let parent = self.block(self.head())?;
        let beacon_root = keccak256(uuid::Uuid::new_v4());
        let (attributes, time) = Self::attributes(parent, beacon_root);
        let built = json!([parent.hash, attributes, transactions, null]);
        let built = call(&self.node, "testing_buildBlockV1", built).await?;
        let (payload, requests) = (&built["executionPayload"], &built["executionRequests"]);
        let requests = if requests.is_null() { json!([]) } else { requests.clone() };
        let params = json!([payload, [], beacon_root, requests]);
        self.engine.valid("engine_newPayloadV4", &params).await?;
        self.chain.push(Block { hash: payload["blockHash"].clone(), time, params });
        self.choose().await
    }

    /// The same in one call, which also makes it geth's head; safe and final blocks stay what they are.
    async fn commit(&mut self, transactions: Value) -> Result<()> {
        let (attributes, time) = Self::attributes(self.block(self.head())?, keccak256(uuid::Uuid::new_v4()));
        let hash = call(&self.node, "testing_commitBlockV1", json!([attributes, transactions, null])).await?;
        self.chain.push(Block { hash, time, params: Value::Null });
        Ok(())
    }

    /// Tells the node which block is the head, which are safe and final.
    async fn choose(&mut self) -> Result<()> {
        let head = self.head();
        self.finalized = self.finalized.max(head.saturating_sub(self.finality_depth));
        let safe = head.saturating_sub(self.finality_depth / 2).max(self.finalized);
        let [head, safe, finalized] =
            [head, safe, self.finalized].map(|number| self.block(number).map(|block| &block.hash));
        self.engine.choose(head?, safe?, finalized?).await
    }

    async fn reorg(&mut self, depth: u64) -> Result<()> {
        let (head, finalized) = (self.head(), self.finalized);
        let ancestor = head.checked_sub(depth).filter(|ancestor| *ancestor >= finalized);
        let ancestor =
            ancestor.with_context(|| format!("block {head} less {depth} is before {finalized}, the final one"))?;
        self.chain.truncate(usize::try_from(ancestor)? + 1);
        // geth makes blocks on its head only
        self.choose().await?;
        for _ in 0..=depth {
            self.append(json!([])).await?;
        }
        Ok(())
    }

    /// Tells the node what it has lost: it may know a block and not the state after it, which it makes again where the
    /// block becomes the head; later blocks it may not know at all.
    async fn catch_up(&mut self) -> Result<()> {
        let head = self.node.get_block_number().await.context("failed to read the number of geth's head")?;
        let nothing = json!(B256::ZERO);
        for block in self.chain.iter().skip(usize::try_from(head)? + 1) {
            self.engine.valid("engine_newPayloadV4", &block.params).await?;
            self.engine.choose(&block.hash, &nothing, &nothing).await?;
        }
        self.choose().await
    }
}

/// The door for consensus clients.
#[derive(Debug)]
struct EngineApi {
    client: reqwest::Client,
    url: String,
    secret: B256,
}

impl EngineApi {
    async fn choose(&self, head: &Value, safe: &Value, finalized: &Value) -> Result<()> {
        let state = json!({ "headBlockHash": head, "safeBlockHash": safe, "finalizedBlockHash": finalized });
        self.valid("engine_forkchoiceUpdatedV3", &json!([state, null])).await
    }

    /// Asks, and expects `VALID`.
    async fn valid(&self, method: &str, params: &Value) -> Result<()> {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let request = self.client.post(&self.url).bearer_auth(self.token()?).json(&request);
        let answer = request.send().await.with_context(|| format!("failed to send {method}"))?;
        let text = answer.text().await.with_context(|| format!("failed to read the answer to {method}"))?;
        let answer: Value = serde_json::from_str(&text).with_context(|| format!("{method}: {text}"))?;
        let result = &answer["result"];
        let status = if result["payloadStatus"].is_null() { result } else { &result["payloadStatus"] };
        ensure!(status["status"] == "VALID", "{method}: expected VALID, got {answer}");
        Ok(())
    }

    /// A token of this second (Engine API specification, "Authentication").
    fn token(&self) -> Result<String> {
        let [header, claims] = [json!({ "typ": "JWT", "alg": "HS256" }), json!({ "iat": unix_seconds() })]
            .map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_slice()).context("the Engine API's secret")?;
        mac.update(format!("{header}.{claims}").as_bytes());
        Ok(format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())))
    }
}
