//! Plain events a second into Postgres out of a chain's history, and the indexer's memory meanwhile, beside the floor.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use alloy::primitives::{Address, B256, Bytes, keccak256};
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tidemark_tests::{
    Options, Stack,
    chain::{Chain, Mining},
    process::stat_field,
    progress::Progress,
    stack::Services,
};

use super::{memory, on_geth, peers, processor_time};

/// Events of a transaction, which is a block.
const EVENTS_PER_BLOCK: u8 = 50;
/// Blocks that one request of the floor asks for.
const FLOOR_BLOCKS: u64 = 50;
const FLOOR_CONNECTIONS: usize = 2;
/// What anyone may take before something is wrong.
pub const TIME_MAX: Duration = Duration::from_secs(200);
/// Of many events, anyone may take as long as this makes.
const EVENTS_PER_SECOND_MIN: u64 = 5_000;

/// How much, and how often.
#[derive(Args, Clone)]
pub struct Indexer {
    /// Events, 50 a block.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    count: u64,
    /// Times that each is measured, in turns; the medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=99))]
    times: u8,
    /// Also measures ponder and envio, which are installed from npm into `.tidemark/peers` at the first time, and rindexer where
    /// its binary is on the PATH.
    #[arg(long)]
    peers: bool,
}

/// A chain whose history is one contract's transfers.
pub struct History {
    /// The contract.
    pub emitter: Address,
    /// Where it was deployed.
    pub first: u64,
    /// The last block with events.
    pub last: u64,
    /// So far.
    pub events: u64,
    per_block: u8,
}

/// What one run was.
#[derive(Clone, Copy, Default)]
pub struct Run {
    /// From when its tables were there until all was in them.
    pub took: Duration,
    /// Of the processors.
    pub processor: Duration,
    /// Bytes in memory at a quarter, half and three quarters of the blocks, and the most there ever was.
    pub memory: [u64; 4],
}

/// Prints the table.
pub async fn run(flags: &Indexer) -> Result<()> {
    let progress = Progress::new();
    let options = Options {
        progress: progress.clone(),
        services: Services::None,
        mining: Mining::Automatic,
        ..Options::default()
    };
    let stack = Stack::start(options).await?;
    let mut history = History::begin(&stack, EVENTS_PER_BLOCK).await?;
    history.emit(&stack, flags.count, &progress).await?;
    watch_emitter(&stack, &history)?;
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    for time in 0..flags.times {
        let step = progress.step(&format!("run {} of {}", time + 1, flags.times));
        floors.push(floor(&stack, &history, &format!("floor_{time}"), flags.count).await?);
        ours.push(backfill(&stack, &history, &format!("ours_{time}"), flags.count).await?);
        step.done("floor and indexer");
    }
    let peers = match flags.peers {
        true => {
            let step = progress.step("peers");
            let peers = peers::all(&stack, &history).await;
            step.done("once each");
            peers
        }
        false => Vec::new(),
    };
    floors.sort_unstable();
    ours.sort_unstable_by_key(|run| run.took);
    let (floor, median) = (floors[floors.len() / 2], ours[ours.len() / 2]);
    let rate = |took: Duration| flags.count as f64 / took.as_secs_f64();
    let most = ours.iter().map(|run| run.memory[3]).max().unwrap_or_default();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "\n{} events in {} blocks of {EVENTS_PER_BLOCK} on anvil, into Postgres with fsync on, medians of {}\n",
        flags.count,
        history.last - history.first + 1,
        flags.times
    );
    println!("| what | events/s | of the floor | memory at ¼, ½, ¾ of the blocks, at most, MiB | CPU, µs an event |");
    println!("|---|---|---|---|---|");
    let [quarter, half, most_of_it, _] = median.memory.map(mib);
    println!(
        "| tidemark-indexer | {:.0} | {:.2} | {quarter:.0}, {half:.0}, {most_of_it:.0}, {:.0} | {:.1} |",
        rate(median.took),
        rate(median.took) / rate(floor),
        mib(most),
        median.processor.as_secs_f64() * 1e6 / flags.count as f64,
    );
    println!(
        "| floor: `eth_getLogs` of {FLOOR_BLOCKS} blocks and `COPY` with a key, {FLOOR_CONNECTIONS} connections, nothing else kept | {:.0} | 1.00 | | |",
        rate(floor)
    );
    for peer in &peers {
        match &peer.outcome {
            Ok(run) => println!(
                "| {} | {:.0} | {:.3} | at most {:.0} | |",
                peer.name,
                rate(run.took),
                rate(run.took) / rate(floor),
                mib(run.memory[3])
            ),
            Err(why) => println!("| {} | {why} | | | |", peer.name),
        }
    }
    if peers.is_empty() {
        println!("| rindexer, envio, ponder | not measured: `--peers` was not given | | | |");
    }
    let all =
        |runs: Vec<Duration>| runs.iter().map(|took| format!("{:.0}", rate(*took))).collect::<Vec<_>>().join(", ");
    println!(
        "\nall runs, fastest first: indexer {}; floor {}",
        all(ours.iter().map(|run| run.took).collect()),
        all(floors)
    );
    Ok(())
}

async fn send(stack: &Stack, transaction: Value) -> Result<Value> {
    let hash = stack.chain.call("eth_sendTransaction", json!([transaction])).await?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let receipt = loop {
        let receipt = stack.chain.call("eth_getTransactionReceipt", json!([hash])).await?;
        if !receipt.is_null() || Instant::now() > deadline {
            break receipt;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    ensure!(receipt["status"] == "0x1", "a transaction of the history failed: {receipt}");
    Ok(receipt)
}

impl History {
    /// Deploys a contract that emits so many events a block.
    pub async fn begin(stack: &Stack, per_block: u8) -> Result<Self> {
        stack.chain.mine_at_once().await?;
        let address = match &stack.chain {
            Chain::Anvil(_) => {
                let sender = stack.chain.call("eth_accounts", json!([])).await?[0].clone();
                let data = emitter(per_block);
                let deployed = send(stack, json!({ "from": sender, "data": data, "gas": "0x100000" })).await?;
                deployed["contractAddress"].as_str().context("no address")?.parse()?
            }
            Chain::Geth(_) => on_geth::deploy(stack, emitter(per_block)).await?,
        };
        let first = stack.chain.block_number().await?;
        Ok(Self { emitter: address, first, last: first, events: 0, per_block })
    }

    /// Has it emit until there are so many events, a block a transaction, and all of them final.
    pub async fn emit(&mut self, stack: &Stack, count: u64, progress: &Progress) -> Result<()> {
        let bar = progress.bar("blocks of events", count.saturating_sub(self.events) / u64::from(self.per_block));
        let numbers = (self.events..count).step_by(self.per_block.into());
        match &stack.chain {
            Chain::Anvil(_) => {
                let sender = stack.chain.call("eth_accounts", json!([])).await?[0].clone();
                for number in numbers.clone() {
                    let data = format!("{number:#066x}");
                    send(stack, json!({ "from": sender, "to": self.emitter, "data": data, "gas": "0x200000" })).await?;
                    bar.advance();
                }
            }
            Chain::Geth(geth) => on_geth::call_each(geth, self.emitter, numbers.clone(), &bar).await?,
        }
        self.events += u64::try_from(numbers.count())? * u64::from(self.per_block);
        bar.done("emitted");
        self.last = stack.chain.block_number().await?;
        // final, all of it: for anvil two blocks below the newest, for ponder 30
        stack.chain.mine(64).await
    }
}

/// Code that emits `Transfer(caller, n, n)` for so many numbers from its input on.
fn emitter(per_block: u8) -> Bytes {
    let signature = keccak256("Transfer(address,address,uint256)");
    let mut code = Vec::new();
    code.extend([0x60, 0x00, 0x35]); // PUSH1 0, CALLDATALOAD: n
    code.extend([0x80, 0x60, per_block, 0x01, 0x90]); // the end below n
    code.push(0x5b); // JUMPDEST, at 8
    code.extend([0x80, 0x60, 0x00, 0x52]); // MSTORE n at 0
    code.extend([0x80, 0x33, 0x7f]); // topics: n, CALLER and the signature
    code.extend(signature);
    code.extend([0x60, 0x20, 0x60, 0x00, 0xa3]); // LOG3 of the 32 bytes at 0
    code.extend([0x60, 0x01, 0x01]); // n + 1
    code.extend([0x81, 0x81, 0x10, 0x60, 0x08, 0x57, 0x00]); // again while below; STOP
    let length = code.len().to_be_bytes()[7];
    let mut deploys = vec![0x60, length, 0x80, 0x60, 0x0b, 0x60, 0x00, 0x39, 0x60, 0x00, 0xf3];
    deploys.extend(code);
    deploys.into()
}

/// A deployment file in which the emitter stands for one of the contracts.
pub fn watch_emitter(stack: &Stack, history: &History) -> Result<()> {
    let mut deployment = stack.deployment.clone();
    (deployment.license_registry, deployment.block) = (history.emitter, history.first);
    let text = serde_json::to_string(&deployment).context("failed to write the deployment as JSON")?;
    std::fs::write(stack.deployment_path(), text).context("failed to write the deployment file")
}

/// The indexer from an empty database: timed from when its tables are there until all blocks are in them and applied.
pub async fn backfill(stack: &Stack, history: &History, database: &str, count: u64) -> Result<Run> {
    let watched = async {
        let url = stack.postgres.url(database);
        let deadline = Instant::now() + TIME_MAX.max(Duration::from_secs(count / EVENTS_PER_SECOND_MIN));
        let mut connection = loop {
            match PgConnection::connect(&url).await {
                Ok(connection) => break connection,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
            ensure!(Instant::now() < deadline, "the database {database} does not come");
        };
        let mut begun = None;
        let mut run = Run::default();
        let process = tokio::task::spawn_blocking(indexer_process).await??;
        let before = processor_time(&process)?;
        loop {
            ensure!(Instant::now() < deadline, "the indexer has not come to block {} in time", history.last);
            let applied = sqlx::query_scalar::<_, i64>("SELECT applied_number FROM mirror.cursor");
            let Ok(Some(applied)) = applied.fetch_optional(&mut connection).await else {
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            };
            let begun = *begun.get_or_insert_with(Instant::now);
            let (done, all) = (u64::try_from(applied)?.saturating_sub(history.first), history.last - history.first);
            for quarter in 1..4 {
                let place = usize::try_from(quarter)? - 1;
                if done * 4 >= all * quarter && run.memory[place] == 0 {
                    run.memory[place] = memory(&process, "VmRSS")?;
                }
            }
            if done >= all {
                run.took = begun.elapsed();
                run.memory[3] = memory(&process, "VmHWM")?;
                run.processor = processor_time(&process)?.saturating_sub(before);
                return Ok(run);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // it is not ready before it is level, so it is not waited for
    let (mut service, run) = tokio::try_join!(stack.launch_second_indexer(database), watched)?;
    service.stop();
    let mut connection = stack.postgres.connect(database).await?;
    let rows: i64 = sqlx::query("SELECT count(*) FROM chain_log").fetch_one(&mut connection).await?.try_get(0)?;
    ensure!(u64::try_from(rows)? == count, "expected {count} events, the indexer has {rows}");
    Ok(run)
}

/// The process id of this process's child that is an indexer.
pub fn indexer_process() -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Some(id) = child("tidemark-indexe")? {
            return Ok(id);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    anyhow::bail!("no indexer was started")
}

/// The process id of this process's child whose name begins so, if there is one; the kernel knows 15 letters of it.
pub fn child(begins: &str) -> Result<Option<String>> {
    let own = std::process::id().to_string();
    for entry in std::fs::read_dir("/proc").context("failed to read /proc")?.flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        let name = std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        if name.starts_with(begins) && stat_field(&id, 4).as_ref() == Some(&own) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

#[derive(Deserialize)]
struct Answer {
    result: Vec<FloorLog>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FloorLog {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
    #[serde(with = "alloy::serde::quantity")]
    block_number: u64,
    transaction_hash: B256,
    #[serde(with = "alloy::serde::quantity")]
    log_index: u64,
}

/// Two connections that take ranges in turn: get the logs, copy them into a table with a key.
pub async fn floor(stack: &Stack, history: &History, table: &str, count: u64) -> Result<Duration> {
    let mut connection = stack.postgres.connect("postgres").await?;
    let statement = format!(
        "CREATE TABLE {table} (block_number bigint, log_index bigint, tx_hash bytea, address bytea, topic0 bytea,
             topic1 bytea, topic2 bytea, data bytea, PRIMARY KEY (block_number, log_index))"
    );
    sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
    let next = AtomicU64::new(history.first);
    let (next, client) = (std::sync::Arc::new(next), reqwest::Client::new());
    let mut workers = Vec::new();
    for _ in 0..FLOOR_CONNECTIONS {
        let url = stack.postgres.url("postgres");
        workers.push(PgConnection::connect(&url).await?);
    }
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for mut connection in workers {
        let (next, client, node) = (next.clone(), client.clone(), stack.chain.url().to_owned());
        let (emitter, last, table) = (history.emitter, history.last, table.to_owned());
        tasks.spawn(async move {
            loop {
                let from = next.fetch_add(FLOOR_BLOCKS, Ordering::Relaxed);
                if from > last {
                    return Ok::<_, anyhow::Error>(());
                }
                let to = (from + FLOOR_BLOCKS - 1).min(last);
                let filter =
                    json!({ "address": emitter, "fromBlock": format!("{from:#x}"), "toBlock": format!("{to:#x}") });
                let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_getLogs", "params": [filter] });
                let bytes = client.post(&node).json(&request).send().await?.bytes().await?;
                let answer: Answer = serde_json::from_slice(&bytes)?;
                let mut copy = connection.copy_in_raw(&format!("COPY {table} FROM STDIN (FORMAT binary)")).await?;
                copy.send(rows(&answer.result)?).await?;
                copy.finish().await?;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let took = begun.elapsed();
    let rows = sqlx::query_scalar::<_, i64>(AssertSqlSafe(format!("SELECT count(*) FROM {table}")));
    let rows = rows.fetch_one(&mut connection).await?;
    ensure!(u64::try_from(rows)? == count, "expected {count} events, the floor has {rows}");
    Ok(took)
}

/// In Postgres' binary format.
fn rows(logs: &[FloorLog]) -> Result<Vec<u8>> {
    let mut rows = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for log in logs {
        rows.extend(8_i16.to_be_bytes());
        let mut field = |bytes: &[u8]| -> Result<()> {
            rows.extend(i32::try_from(bytes.len())?.to_be_bytes());
            rows.extend(bytes);
            Ok(())
        };
        field(&log.block_number.to_be_bytes())?;
        field(&log.log_index.to_be_bytes())?;
        field(log.transaction_hash.as_slice())?;
        field(log.address.as_slice())?;
        for topic in 0..3 {
            field(log.topics.get(topic).context("a log without three topics")?.as_slice())?;
        }
        field(&log.data)?;
    }
    rows.extend((-1_i16).to_be_bytes());
    Ok(rows)
}
