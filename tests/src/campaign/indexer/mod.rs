//! The indexer's campaign: blocks with events of all kinds come and are taken back while nodes lie, files are late and processes
//! die; after each deck of faults the tables have to be those of an index that is made anew.
//!
//! ```text
//!  flow ─► anvil ─► faulty nodes (one may stand before a fork) ─► indexer ─► Postgres
//!    └───► content store ─► a link that shows it, nothing or rubbish ─┘
//! ```

mod check;
mod flow;
mod shelf;

use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::{sync::Mutex, task::JoinHandle};

use super::{check_log, journal, kill, shuffled};
use crate::{
    Options,
    anvil::Anvil,
    chain::Mining,
    faulty_node::{ANY, Fault, FaultyNode, lies, stays_at},
    forge::Forge,
    progress::Progress,
    random::Random,
    services::Service,
    story::strangers::Checksums,
};
use flow::{Done, Flow};
use shelf::Shelf;

const DATABASE: &str = "attacked";
/// Two of them to finality.
const EPOCH_BLOCKS: u32 = 32;
/// A fork's own finality: blocks of a fork never become final while it is shorter than this, less what a reorg takes.
const FORK_EPOCH_BLOCKS: u32 = 60;
const FORK_BLOCKS_MAX: u64 = 40;
/// More submissions than any campaign pays for.
const BUDGETED: u32 = 10_000_000;
/// A node or a store that went wrong stays so for at most so many faults more.
const CARDS_SICK_MAX: u64 = 4;
/// Between two blocks, where nobody waits for them.
const BLOCK_PAUSE: Duration = Duration::from_millis(15);
/// Blocks of 12 s in an hour.
const HOUR_BLOCKS: u64 = 300;
/// Hours of blocks after which a fresh index is made to compare with.
const CHECK_HOURS: usize = 6;

/// What is played.
#[derive(Clone, Copy, Debug)]
pub enum Plan {
    /// Decks of faults, until the indexer was killed so often.
    Kills(u32),
    /// So many blocks as fast as they can be had, with a deck of reorgs in each hour's worth of them.
    Blocks(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Card {
    Kill,
    Pause,
    PostgresKilled,
    PostgresRestarted,
    Reorg,
    NodeFails,
    NodeSilent,
    NodeLies,
    NodeStale,
    NodesDisagree,
    StoreAbsent,
    StoreWrong,
    ChainHangs,
}

impl Card {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9 of the indexer",
            Self::Pause => "the indexer hangs",
            Self::PostgresKilled => "kill -9 of Postgres",
            Self::PostgresRestarted => "Postgres restarts",
            Self::Reorg => "reorg, 1 to 64 blocks deep",
            Self::NodeFails => "a node answers errors, rubbish or late",
            Self::NodeSilent => "a node is silent",
            Self::NodeLies => "a node lies about logs, blooms or parents",
            Self::NodeStale => "a node stays at an old head",
            Self::NodesDisagree => "two nodes disagree: one is on a fork",
            Self::StoreAbsent => "the store has nothing",
            Self::StoreWrong => "the store gives wrong bytes",
            Self::ChainHangs => "the chain hangs",
        }
    }

    fn is_of_nodes(self) -> bool {
        matches!(self, Self::NodeFails | Self::NodeSilent | Self::NodeLies | Self::NodeStale | Self::NodesDisagree)
    }

    fn is_of_store(self) -> bool {
        matches!(self, Self::StoreAbsent | Self::StoreWrong)
    }
}

/// How often each card is in a deck.
const DECK: [(Card, usize); 13] = [
    (Card::Kill, 50),
    (Card::Pause, 1),
    (Card::PostgresKilled, 1),
    (Card::PostgresRestarted, 2),
    (Card::Reorg, 12),
    (Card::NodeFails, 4),
    (Card::NodeSilent, 1),
    (Card::NodeLies, 6),
    (Card::NodeStale, 2),
    (Card::NodesDisagree, 2),
    (Card::StoreAbsent, 2),
    (Card::StoreWrong, 2),
    (Card::ChainHangs, 1),
];
/// The same for an hour of blocks: some hundred times as many reorgs as Ethereum has had in its worst hours.
const HOUR: [(Card, usize); 5] =
    [(Card::Reorg, 10), (Card::Kill, 2), (Card::NodeLies, 1), (Card::NodesDisagree, 1), (Card::NodeFails, 1)];

/// How many kinds of faults there are.
pub const KINDS: usize = DECK.len();

/// What a campaign came to.
#[derive(Debug)]
pub struct Report {
    /// How often each fault came.
    pub faults: BTreeMap<&'static str, u32>,
    /// Kills of the indexer.
    pub kills: u32,
    /// Times that it ended by itself while it started and nothing answered, and was started again, as a supervisor does.
    pub ended: u32,
    /// Decks after which its tables were those of an index made anew, and its ledger verified.
    pub checks: u32,
    /// Blocks, reorgs and transactions.
    pub done: Done,
    /// Rows by table, at the end.
    pub rows: BTreeMap<String, i64>,
    /// How long it took.
    pub time: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| fault | times |\n|---|---|")?;
        for (name, times) in &self.faults {
            writeln!(f, "| {name} | {times} |")?;
        }
        let Self { kills, ended, checks, done, rows, time, .. } = self;
        let Done { mined, taken, reorgs, sent, again: [as_before, dropped, changed] } = done;
        writeln!(
            f,
            "\nthe indexer was killed {kills} times in {} s; after each of {checks} decks of faults all tables were those of an \
             index made anew, and the ledger verified;",
            time.as_secs()
        )?;
        writeln!(
            f,
            "{mined} blocks, of which {reorgs} reorgs took {taken}; of the transactions in those {as_before} came again elsewhere, \
             {dropped} never, {changed} with other content;"
        )?;
        let list = |all: Vec<String>| all.join(", ");
        writeln!(f, "sent: {};", list(sent.iter().map(|(kind, count)| format!("{count} {kind}")).collect()))?;
        writeln!(f, "rows: {};", list(rows.iter().map(|(table, count)| format!("{count} {table}")).collect()))?;
        write!(f, "{ended} times it ended by itself while it started and nothing answered, and was started again")
    }
}

struct Ground {
    indexer: Service,
    /// Bytes of its log when it was started last.
    log_begun: u64,
    nodes: [FaultyNode; 2],
    fork: Option<Anvil>,
    shelf: Shelf,
    flow: Arc<Mutex<Flow>>,
    forge: Forge,
    /// What is wrong now, and for how many faults more.
    sick: Vec<(Card, u64)>,
    ended: u32,
}

/// Plays decks of faults, and checks after each.
pub async fn run(plan: Plan, mut random: Random, progress: &Progress) -> Result<Report> {
    let mut ground = Ground::start(&mut random, progress).await?;
    let outcome = ground.play(plan, &mut random, progress).await;
    if outcome.is_err() {
        ground.forge.stack.keep_logs();
    }
    outcome.with_context(|| format!("logs are in {}", ground.forge.stack.folder.path().join("logs").display()))
}

impl Ground {
    async fn start(random: &mut Random, progress: &Progress) -> Result<Self> {
        let options = Options {
            epoch_blocks: EPOCH_BLOCKS,
            poll_ms: 30,
            mining: Mining::Automatic,
            progress: progress.clone(),
            ..Options::default()
        };
        let forge = Forge::with(options, BUDGETED).await?;
        let (url, folder) = (forge.stack.chain.url(), &forge.stack.folder);
        let nodes = [FaultyNode::start(url).await?, FaultyNode::start(url).await?];
        let shelf = Shelf::over(Path::new(forge.stack.store_address().trim_start_matches("folder:")), folder)?;
        let flow = Flow::new(&forge, random.fork()).await?;
        let told = vec![
            ("TIDEMARK_RPC_URL", nodes.each_ref().map(FaultyNode::url).join(",")),
            ("TIDEMARK_STORE", shelf.address()),
            // a log of several that is missing shows in receipts only
            ("TIDEMARK_INDEXER_VERIFY", "full".into()),
        ];
        let indexer = forge.stack.start_indexer_with(DATABASE, told).await?;
        let flow = Arc::new(Mutex::new(flow));
        Ok(Self { indexer, log_begun: 0, nodes, fork: None, shelf, flow, forge, sick: Vec::new(), ended: 0 })
    }

    async fn play(&mut self, plan: Plan, random: &mut Random, progress: &Progress) -> Result<Report> {
        let begun = Instant::now();
        let (name, total) = match plan {
            Plan::Kills(kills) => ("kills", u64::from(kills)),
            Plan::Blocks(blocks) => ("blocks", blocks),
        };
        let step = progress.bar(name, total);
        let (mut faults, mut killed, mut checks, mut stepped) = (BTreeMap::new(), 0, 0, 0);
        let is_over = |killed: u32, done: &Done| match plan {
            Plan::Kills(kills) => killed >= kills,
            Plan::Blocks(blocks) => done.mined - done.taken >= blocks,
        };
        loop {
            let writer = matches!(plan, Plan::Kills(_)).then(|| Writer::start(&self.flow));
            let (cards, blocks) = match plan {
                Plan::Kills(_) => (shuffled(&DECK, random), 0),
                Plan::Blocks(_) => {
                    let hours = (0..CHECK_HOURS).flat_map(|_| shuffled(&HOUR, random)).collect::<Vec<_>>();
                    let blocks = HOUR_BLOCKS * CHECK_HOURS as u64;
                    let each = blocks.div_ceil(hours.len() as u64);
                    (hours, each)
                }
            };
            for card in cards {
                self.keep_running()?;
                journal(&self.forge.stack, card.name())?;
                self.play_card(card, random).await.with_context(|| format!("at the fault: {}", card.name()))?;
                *faults.entry(card.name()).or_default() += 1;
                killed += u32::from(card == Card::Kill);
                step.say(card.name());
                self.go_on(writer.is_some(), blocks, random).await?;
                self.grow_well().await?;
                let done = self.flow.lock().await.done.clone();
                let at = if writer.is_some() { u64::from(killed) } else { done.mined - done.taken };
                (stepped..at.min(total)).for_each(|_| step.advance());
                stepped = at.min(total).max(stepped);
                if is_over(killed, &done) {
                    break;
                }
            }
            if let Some(writer) = writer {
                writer.end().await?;
            }
            step.say("checking");
            journal(&self.forge.stack, "check")?;
            self.heal().await?;
            let done = self.flow.lock().await.done.clone();
            let is_over = is_over(killed, &done);
            let sums = self
                .check(checks, is_over || random.below(2) == 0)
                .await
                .with_context(|| format!("after {killed} kills and {faults:?}"))?;
            checks += 1;
            if is_over {
                step.done("");
                let rows = sums.into_iter().map(|(table, (rows, _))| (table, rows)).collect();
                let (ended, time) = (self.ended, begun.elapsed());
                return Ok(Report { faults, kills: killed, ended, checks, done, rows, time });
            }
        }
    }

    /// Time for something to happen until the next fault: as a rule little, so that it comes soon after a start.
    async fn go_on(&self, is_written: bool, blocks: u64, random: &mut Random) -> Result<()> {
        if is_written {
            let pause = if random.below(3) == 0 { 700 } else { 200 };
            tokio::time::sleep(Duration::from_millis(random.below(pause))).await;
            return Ok(());
        }
        let mut flow = self.flow.lock().await;
        for _ in 0..blocks {
            flow.block().await?;
        }
        Ok(())
    }

    async fn play_card(&mut self, card: Card, random: &mut Random) -> Result<()> {
        let which = usize::try_from(random.below(2))?;
        if card.is_of_nodes() {
            // one node of the two tells what is: else there would be nobody to believe, and stopping would be right
            self.heal_nodes();
        }
        match card {
            Card::Kill => {
                self.indexer.kill();
                self.check_whole().await?;
                self.note_start()?;
                kill(std::slice::from_mut(&mut self.indexer), random).await?;
            }
            Card::Pause => {
                self.indexer.pause()?;
                tokio::time::sleep(Duration::from_millis(300 + random.below(1_200))).await;
                self.indexer.resume()?;
            }
            Card::PostgresKilled => self.forge.stack.postgres.kill_and_restart().await?,
            Card::PostgresRestarted => self.forge.stack.postgres.restart().await?,
            Card::Reorg => drop(self.flow.lock().await.reorg().await?),
            Card::NodeFails => {
                let (faults, reads) =
                    (node_fails(), ["eth_getLogs", "eth_getBlockByNumber", "eth_getBlockReceipts", ANY]);
                let fault = random.pick(&faults).context("no fault")?;
                self.nodes[which].fail(random.pick(&reads).context("no read")?, fault.clone());
            }
            Card::NodeSilent => self.nodes[which].fail(ANY, Fault::Silent),
            Card::NodeLies => {
                let lies = lies();
                let (method, _, lie) = random.pick(&lies).context("no lie")?;
                self.nodes[which].fail(method, lie.clone());
            }
            Card::NodeStale => {
                let (latest, finalized) = (self.header("latest").await?, self.header("finalized").await?);
                self.nodes[which].fail("eth_getBlockByNumber", stays_at(latest, finalized));
            }
            Card::NodesDisagree => {
                let fork = self.fork(1 + random.below(FORK_BLOCKS_MAX)).await?;
                self.nodes[which].redirect(fork.url());
                self.fork = Some(fork);
            }
            Card::StoreAbsent => self.shelf.empty()?,
            Card::StoreWrong => self.shelf.wrong()?,
            Card::ChainHangs => {
                let _no_block_meanwhile = self.flow.lock().await;
                let anvil = self.forge.stack.chain.anvil()?;
                anvil.pause()?;
                tokio::time::sleep(Duration::from_millis(300 + random.below(1_500))).await;
                anvil.resume()?;
            }
        }
        if card.is_of_nodes() || card.is_of_store() {
            self.sick.push((card, 1 + random.below(CARDS_SICK_MAX)));
        }
        Ok(())
    }

    async fn header(&self, at: &str) -> Result<Value> {
        self.forge.stack.chain.call("eth_getBlockByNumber", json!([at, false])).await
    }

    /// A chain that shares all blocks so far, and none that comes.
    async fn fork(&mut self, blocks: u64) -> Result<Anvil> {
        let _no_block_meanwhile = self.flow.lock().await;
        let (chain, folder) = (&mut self.forge.stack.chain, &self.forge.stack.folder);
        let fork = chain.anvil()?.fork(folder, FORK_EPOCH_BLOCKS).await?;
        fork.call("evm_increaseTime", json!([7])).await?;
        fork.mine(blocks).await?;
        Ok(fork)
    }

    fn heal_nodes(&mut self) {
        for node in &self.nodes {
            node.heal();
            node.redirect(self.forge.stack.chain.url());
        }
        self.fork = None;
        self.sick.retain(|(card, _)| !card.is_of_nodes());
    }

    /// One fault later: what was wrong for long enough is well again.
    async fn grow_well(&mut self) -> Result<()> {
        for (_, left) in &mut self.sick {
            *left = left.saturating_sub(1);
        }
        if self.sick.iter().any(|(card, left)| card.is_of_nodes() && *left == 0) {
            self.heal_nodes();
        }
        if self.sick.extract_if(.., |(card, left)| card.is_of_store() && *left == 0).count() > 0 {
            self.shelf.right()?;
        }
        Ok(())
    }

    async fn heal(&mut self) -> Result<()> {
        self.heal_nodes();
        self.sick.clear();
        self.shelf.right()?;
        self.keep_running()?;
        self.flow.lock().await.release().await
    }

    fn log_length(&self) -> Result<u64> {
        let log = self.forge.stack.folder.log(self.indexer.name());
        Ok(std::fs::metadata(&log).with_context(|| format!("failed to look at {}", log.display()))?.len())
    }

    fn note_start(&mut self) -> Result<()> {
        self.log_begun = self.log_length()?;
        Ok(())
    }

    /// Starts it again where it ended while it started: then nothing answered, and whatever supervises it does the same. Once it
    /// is up, nothing may end it.
    fn keep_running(&mut self) -> Result<()> {
        if self.indexer.runs() {
            return Ok(());
        }
        let log = std::fs::read(self.forge.stack.folder.log(self.indexer.name())).context("failed to read the log")?;
        let since = log.get(usize::try_from(self.log_begun)?..).unwrap_or_default();
        ensure!(
            !String::from_utf8_lossy(since).contains("tidemark-indexer is up"),
            "the indexer ended by itself; {}",
            self.indexer.log_tail()
        );
        self.ended += 1;
        self.note_start()?;
        self.indexer.spawn()
    }
}

/// What goes wrong where something is asked, and what can't be taken for an answer.
fn node_fails() -> [Fault; 7] {
    [
        Fault::Status(502),
        Fault::Status(429),
        Fault::Garbage,
        Fault::Late(Duration::from_millis(700)),
        Fault::Says(Value::Null),
        Fault::Refuses(-32603, "Internal error"),
        Fault::Refuses(-32005, "query returned more than 10000 results"),
    ]
}

/// Blocks come one after the other until it is told to end.
struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<()>>,
}

impl Writer {
    fn start(flow: &Arc<Mutex<Flow>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (flow, stopped) = (flow.clone(), stop.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                flow.lock().await.block().await?;
                tokio::time::sleep(BLOCK_PAUSE).await;
            }
            Ok(())
        });
        Self { stop, task }
    }

    async fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the writer panicked")?
    }
}

impl Ground {
    /// Tables of an index made anew, which have to be the same.
    async fn check(&mut self, number: u32, is_all_final: bool) -> Result<Checksums> {
        let flow = self.flow.clone();
        let mut flow = flow.lock().await;
        if is_all_final {
            flow.finish().await?;
        }
        self.until_level().await?;
        journal(&self.forge.stack, "level")?;
        check_log(&self.forge.stack, &self.indexer)?;
        self.check_whole().await?;
        self.compare(&format!("fresh_{number}")).await
    }
}
