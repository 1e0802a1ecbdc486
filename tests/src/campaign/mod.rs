//! The fault campaigns. This one: apps go on sending while everything under the relayer fails at random; then the books are
//! checked. [`indexer`] does the same to the read side.
//!
//! ```text
//!  writers ─► relayer, relayer ─► faulty nodes ─► anvil     every card of a shuffled deck is one fault;
//!                │        │                                 after each deck: heal, wait, check, go on
//!             attestor  Postgres, store on a disk
//! ```

mod check;
pub mod indexer;
mod machine;
mod writers;

use std::{
    collections::BTreeMap,
    fmt,
    io::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use alloy::{eips::BlockNumberOrTag, providers::Provider as _};
use anyhow::{Context, Result, bail};
use serde_json::json;
use sqlx::PgConnection;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinSet;

use crate::{
    Options, Stack,
    anvil::Anvil,
    faulty_node::{ANY, Fault, FaultyNode, ON_READS, ON_SEND, READS},
    progress::Progress,
    random::Random,
    services::Service,
    stack::{PROVIDER_NAME, Services},
    story::world::World,
    write_side::{App, another_provider, another_relayer, changed, rewire},
};
use check::Seen;
use machine::{Clock, Disk};
use writers::{Gate, Taken};

/// Blocks of an epoch: what is two of them old is final, and no reorg goes so deep.
const EPOCH_BLOCKS: u32 = 17;
const REORG_BLOCKS_MAX: u64 = 32;
/// More than two epochs.
const FINALITY_BLOCKS: u64 = 40;
/// Uploads that the task pays for.
const UPLOADS_MAX: u128 = 1_000_000;
const GWEI: u64 = 1_000_000_000;
/// A disk, a clock, a fee or a node that went wrong stays so for at most so many faults more.
const CARDS_SICK_MAX: u64 = 4;
/// Back by less than what a record's time may be ahead of a relayer's clock, or it is right to refuse the record.
const CLOCK_JUMPS_SECONDS: [i64; 6] = [-200, -30, 30, 600, 3_600, 7_200];
/// More than a block takes to make.
const BLOCK_UNDER_WAY: Duration = Duration::from_millis(200);
/// How often is looked whether all is running.
const SUPERVISION: Duration = Duration::from_millis(200);

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Card {
    KillRelayer,
    KillBothRelayers,
    KillAttestor,
    PauseRelayer,
    NodeLies,
    NodeSilent,
    Reorg,
    PoolLost,
    FeeSpike,
    ChainRestart,
    ChainHangs,
    PostgresKilled,
    DiskFull,
    ClockJumps,
}

impl Card {
    fn name(self) -> &'static str {
        match self {
            Self::KillRelayer => "kill -9 of a relayer",
            Self::KillBothRelayers => "kill -9 of both relayers",
            Self::KillAttestor => "kill -9 of the attestor",
            Self::PauseRelayer => "a relayer hangs",
            Self::NodeLies => "a node lies, loses answers, is late",
            Self::NodeSilent => "a node is silent",
            Self::Reorg => "reorg, 1 to 32 blocks deep",
            Self::PoolLost => "the node's pool is lost",
            Self::FeeSpike => "base fee times 100",
            Self::ChainRestart => "the chain restarts",
            Self::ChainHangs => "the chain hangs",
            Self::PostgresKilled => "kill -9 of Postgres",
            Self::DiskFull => "the store's disk is full",
            Self::ClockJumps => "the clock jumps",
        }
    }

    /// Whether something stays wrong until it is put right.
    fn lasts(self) -> bool {
        matches!(self, Self::NodeLies | Self::NodeSilent | Self::FeeSpike | Self::DiskFull | Self::ClockJumps)
    }

    /// Processes of ours that it kills.
    fn kills(self) -> u32 {
        match self {
            Self::KillRelayer | Self::KillAttestor => 1,
            Self::KillBothRelayers => 2,
            _ => 0,
        }
    }
}

/// How often each card is in a deck.
const DECK: [(Card, usize); 14] = [
    (Card::KillRelayer, 26),
    (Card::KillBothRelayers, 3),
    (Card::KillAttestor, 4),
    (Card::PauseRelayer, 1),
    (Card::NodeLies, 4),
    (Card::NodeSilent, 1),
    (Card::Reorg, 4),
    (Card::PoolLost, 1),
    (Card::FeeSpike, 1),
    (Card::ChainRestart, 1),
    (Card::ChainHangs, 1),
    (Card::PostgresKilled, 1),
    (Card::DiskFull, 1),
    (Card::ClockJumps, 2),
];

/// How many kinds of faults there are.
pub const KINDS: usize = DECK.len();

/// What a campaign came to.
#[derive(Debug)]
pub struct Report {
    /// How often each fault came.
    pub faults: BTreeMap<&'static str, u32>,
    /// Kills of relayers and attestor.
    pub kills: u32,
    /// Relayers and attestors that ended by themselves and were started again, as a supervisor does.
    pub ended: u32,
    /// Checks, all of which held.
    pub checks: u32,
    /// Batches that were anchored.
    pub batches: u64,
    /// Events in them.
    pub events: u64,
    /// Uploads that were paid for.
    pub uploads: u128,
    /// Transactions that took a nonce, by how they ended.
    pub transactions: String,
    /// Faults that this user may not make.
    pub left_out: Option<&'static str>,
    /// How long it took.
    pub time: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| fault | times |\n|---|---|")?;
        for (name, times) in &self.faults {
            writeln!(f, "| {name} | {times} |")?;
        }
        let Self { kills, checks, events, batches, uploads, transactions, ended, time, .. } = self;
        writeln!(
            f,
            "\n{kills} processes were killed in {} s; after each of {checks} decks of faults all held:",
            time.as_secs()
        )?;
        writeln!(f, "{events} events in {batches} batches, each anchored once; {uploads} uploads, each paid once;")?;
        writeln!(f, "transactions: {transactions};")?;
        write!(f, "{ended} processes ended by themselves where nothing answered, and were started again")?;
        match self.left_out {
            None => Ok(()),
            Some(left_out) => write!(f, "\nleft out: {left_out}"),
        }
    }
}

/// The stack and who uses it.
struct Ground {
    // before the stack, over whose folder it lies
    disk: Option<Disk>,
    clock: Clock,
    nodes: Vec<FaultyNode>,
    relayers: Vec<Service>,
    attestor: Service,
    stack: Stack,
    world: Arc<World>,
    /// Two providers' apps.
    apps: [Arc<App>; 2],
    taken: Arc<Taken>,
    /// What is wrong now, and for how many faults more.
    sick: Vec<(Card, u64)>,
    ended: u32,
}

/// Runs decks of faults until so many processes were killed, and checks after each.
pub async fn run(kills: u32, mut random: Random, progress: &Progress) -> Result<Report> {
    let mut ground = Ground::start(progress).await?;
    let outcome = ground.play(kills, &mut random, progress).await;
    if outcome.is_err() {
        ground.stack.keep_logs();
    }
    outcome.with_context(|| format!("logs are in {}", ground.stack.folder.path().join("logs").display()))
}

impl Ground {
    async fn start(progress: &Progress) -> Result<Self> {
        tidemark::install_tls();
        let options = Options {
            services: Services::WriteSide,
            epoch_blocks: EPOCH_BLOCKS,
            progress: progress.clone(),
            batch_events_max: 16,
            batch_age_ms_max: 400,
            poll_ms: 30,
            ..Options::default()
        };
        let mut stack = Stack::start(options).await?;
        let disk = Disk::over(Path::new(stack.store_address().trim_start_matches("folder:")));
        let world = World::build(&stack, [UPLOADS_MAX, 1, 1]).await?;
        let clock = Clock::new(&stack.folder)?;
        let mut attestor = stack.attestor.take().context("the stack has no attestor")?;
        attestor.stop();
        let attestor = Service::start(&stack.folder, changed(attestor.wiring(), &clock.environment())).await?;
        let nodes = vec![FaultyNode::start(stack.chain.url()).await?, FaultyNode::start(stack.chain.url()).await?];
        let urls = nodes.iter().map(FaultyNode::url).collect::<Vec<_>>().join(",");
        let own = [("TIDEMARK_RPC_URL", urls), ("TIDEMARK_LEASE_MS", "500".into())];
        let changes = [&clock.environment()[..], &own].concat();
        rewire(&mut stack, &changes).await?;
        let other = another_relayer(&stack, "relayer-2", &changes).await?;
        let one = stack.relayer.take().context("the stack has no relayer")?;
        let urls = vec![one.url().to_owned(), other.url().to_owned()];
        let first = App::new(PROVIDER_NAME, world.provider, &world.api_key, urls.clone())?;
        let mut second = another_provider(&stack, &world, "second", &one).await?;
        second.relayers = urls;
        // what was set up is final before anything is taken back
        stack.chain.mine(FINALITY_BLOCKS).await?;
        Ok(Self {
            disk,
            clock,
            nodes,
            relayers: vec![one, other],
            attestor,
            stack,
            world: world.into(),
            apps: [first.into(), second.into()],
            taken: Arc::default(),
            sick: Vec::new(),
            ended: 0,
        })
    }

    fn start_writers(&self, gate: &Arc<Gate>, random: &mut Random) -> JoinSet<Result<()>> {
        let mut writers = JoinSet::new();
        for app in &self.apps {
            let (app, taken, gate, random) = (app.clone(), self.taken.clone(), gate.clone(), random.fork());
            writers.spawn(async move { writers::records(&app, &taken, &gate, random).await });
        }
        let (app, world, taken, gate) = (self.apps[0].clone(), self.world.clone(), self.taken.clone(), gate.clone());
        let random = random.fork();
        writers.spawn(async move { writers::uploads(&app, &world, &taken, &gate, random).await });
        writers
    }

    async fn play(&mut self, kills: u32, random: &mut Random, progress: &Progress) -> Result<Report> {
        let (begun, step) = (Instant::now(), progress.bar("kills", kills.into()));
        let gate = Arc::new(Gate::default());
        let mut writers = self.start_writers(&gate, random);
        let (mut seen, mut faults) = (Seen::default(), BTreeMap::new());
        let (mut killed, mut checks) = (0, 0);
        while killed < kills {
            for card in deck(random) {
                self.keep_running()?;
                check_writers(&mut writers)?;
                journal(&self.stack, card.name())?;
                if self.play_card(card, random).await.with_context(|| format!("at the fault: {}", card.name()))? {
                    *faults.entry(card.name()).or_default() += 1;
                }
                killed += card.kills();
                (0..card.kills()).for_each(|_| step.advance());
                step.say(card.name());
                // as a rule soon after a start, else in the middle of work
                let pause = if random.below(3) == 0 { 1_500 } else { 400 };
                tokio::time::sleep(Duration::from_millis(random.below(pause))).await;
                self.grow_well().await?;
                if killed >= kills {
                    break;
                }
            }
            step.say("checking");
            journal(&self.stack, "check")?;
            self.heal().await?;
            let shut = gate.shut();
            tokio::pin!(shut);
            let _nobody_sends = loop {
                tokio::select! {
                    guard = &mut shut => break guard,
                    () = tokio::time::sleep(SUPERVISION) => self.keep_running()?,
                }
            };
            check_writers(&mut writers)?;
            check::check(self, &mut seen).await.with_context(|| format!("after {killed} kills and {faults:?}"))?;
            self.check_logs()?;
            checks += 1;
        }
        gate.close();
        while let Some(ended) = writers.join_next().await {
            ended.context("a writer panicked")??;
        }
        let query = "SELECT string_agg(count || ' ' || state || ' ' || purpose, ', ')
                     FROM (SELECT state, purpose, count(*) FROM transaction GROUP BY 1, 2 ORDER BY 1, 2) AS ends";
        let transactions: Option<String> = sqlx::query_scalar(query).fetch_one(&mut self.db().await?).await?;
        step.done("");
        Ok(Report {
            faults,
            kills: killed,
            ended: self.ended,
            checks,
            batches: seen.batches(),
            events: seen.events(),
            uploads: self.taken.uploads(),
            transactions: transactions.unwrap_or_default(),
            left_out: self.disk.is_none().then_some("a full disk: this user may not mount one to fill up"),
            time: begun.elapsed(),
        })
    }

    /// Makes one fault; false where it can't be made here.
    async fn play_card(&mut self, card: Card, random: &mut Random) -> Result<bool> {
        let which = usize::try_from(random.below(2))?;
        let anvil = self.stack.chain.anvil()?;
        match card {
            Card::KillRelayer => kill(&mut self.relayers[which..=which], random).await?,
            Card::KillBothRelayers => kill(&mut self.relayers, random).await?,
            Card::KillAttestor => kill(std::slice::from_mut(&mut self.attestor), random).await?,
            Card::PauseRelayer => {
                self.relayers[which].pause()?;
                tokio::time::sleep(Duration::from_millis(300 + random.below(1_200))).await;
                self.relayers[which].resume()?;
            }
            Card::NodeLies => {
                let sick = if random.below(2) == 0 { &self.nodes[..] } else { &self.nodes[which..=which] };
                for node in sick {
                    node.fail("eth_sendRawTransaction", random.pick(&ON_SEND).context("no fault")?.clone());
                    let read = random.pick(&READS).context("no read")?;
                    node.fail(read, random.pick(&ON_READS).context("no fault")?.clone());
                }
            }
            Card::NodeSilent => self.nodes[which].fail(ANY, Fault::Silent),
            Card::Reorg => return reorg(anvil, 1 + random.below(REORG_BLOCKS_MAX)).await,
            Card::PoolLost => drop(anvil.call("anvil_dropAllTransactions", json!([])).await?),
            Card::FeeSpike => {
                let latest = anvil.provider().get_block_by_number(BlockNumberOrTag::Latest).await?;
                let fee = latest.and_then(|block| block.header.base_fee_per_gas).unwrap_or_default();
                self.set_base_fee(fee.max(GWEI).saturating_mul(100)).await?;
            }
            Card::ChainRestart => anvil.restart().await?,
            Card::ChainHangs => {
                anvil.pause()?;
                tokio::time::sleep(Duration::from_millis(500 + random.below(2_500))).await;
                anvil.resume()?;
            }
            Card::PostgresKilled => self.stack.postgres.kill_and_restart().await?,
            Card::DiskFull => match &self.disk {
                Some(disk) => disk.fill()?,
                None => return Ok(false),
            },
            Card::ClockJumps => self.clock.set(*random.pick(&CLOCK_JUMPS_SECONDS).context("no jump")?)?,
        }
        if card.lasts() {
            self.sick.push((card, 1 + random.below(CARDS_SICK_MAX)));
        }
        Ok(true)
    }

    /// One fault later: what was wrong for long enough is well again.
    async fn grow_well(&mut self) -> Result<()> {
        for (_, left) in &mut self.sick {
            *left = left.saturating_sub(1);
        }
        let over: Vec<Card> = self.sick.extract_if(.., |(_, left)| *left == 0).map(|(card, _)| card).collect();
        for card in over {
            self.cure(card).await?;
        }
        Ok(())
    }

    async fn cure(&self, card: Card) -> Result<()> {
        match card {
            Card::NodeLies | Card::NodeSilent => self.nodes.iter().for_each(FaultyNode::heal),
            Card::FeeSpike => self.set_base_fee(GWEI).await?,
            Card::DiskFull => self.disk.as_ref().map_or(Ok(()), Disk::free)?,
            Card::ClockJumps => self.clock.set(0)?,
            _ => {}
        }
        Ok(())
    }

    async fn heal(&mut self) -> Result<()> {
        for (card, _) in std::mem::take(&mut self.sick) {
            self.cure(card).await?;
        }
        Ok(())
    }

    async fn set_base_fee(&self, wei: u64) -> Result<()> {
        self.stack.chain.call("anvil_setNextBlockBaseFeePerGas", json!([format!("{wei:#x}")])).await?;
        Ok(())
    }

    /// Starts again what has ended by itself, as a supervisor does.
    fn keep_running(&mut self) -> Result<()> {
        for service in self.relayers.iter_mut().chain([&mut self.attestor]) {
            if !service.runs() {
                self.ended += 1;
                service.spawn()?;
            }
        }
        Ok(())
    }

    fn check_logs(&self) -> Result<()> {
        self.relayers.iter().chain([&self.attestor]).try_for_each(|service| check_log(&self.stack, service))
    }

    async fn db(&self) -> Result<PgConnection> {
        self.stack.postgres.connect("relayer").await
    }

    /// What the relayers say of themselves, for errors.
    async fn status(&self) -> String {
        self.apps[0].get("/status").await.map_or_else(|error| error.to_string(), |status| status.to_string())
    }
}

/// Replaces so many blocks, or half as many where anvil has thrown away the state to go back to; false where it has none.
async fn reorg(anvil: &Anvil, mut depth: u64) -> Result<bool> {
    // a block that anvil makes meanwhile would leave it with blocks that are lost and without some that are not
    anvil.pause_mining().await?;
    tokio::time::sleep(BLOCK_UNDER_WAY).await;
    let mut is_done = false;
    while depth > 0 && !is_done {
        is_done = anvil.reorg(depth).await.is_ok();
        depth /= 2;
    }
    anvil.resume_mining().await?;
    Ok(is_done)
}

/// What happened when, beside the services' logs.
fn journal(stack: &Stack, what: &str) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).append(true).open(stack.folder.log("faults")).context("open the journal")?;
    let now = time::OffsetDateTime::now_utc().format(&Rfc3339).context("failed to write a time")?;
    writeln!(file, "{now} {what}").context("failed to write the journal")
}

/// Kills them, and starts them again at once or a moment later.
async fn kill(services: &mut [Service], random: &mut Random) -> Result<()> {
    services.iter_mut().for_each(Service::kill);
    tokio::time::sleep(Duration::from_millis(random.below(100))).await;
    services.iter_mut().try_for_each(Service::spawn)
}

/// Whoever ends by itself may be started again; whoever panics is broken.
fn check_log(stack: &Stack, service: &Service) -> Result<()> {
    let log = stack.folder.log(service.name());
    let text = std::fs::read_to_string(&log).with_context(|| format!("failed to read {}", log.display()))?;
    match text.lines().find(|line| line.contains("panicked at")) {
        Some(line) => bail!("{}: {line}", service.name()),
        None => Ok(()),
    }
}

/// Each card as often as it is in a deck, in any order.
fn shuffled<C: Copy>(cards: &[(C, usize)], random: &mut Random) -> Vec<C> {
    let mut cards: Vec<C> = cards.iter().flat_map(|(card, count)| std::iter::repeat_n(*card, *count)).collect();
    random.shuffle(&mut cards);
    cards
}

fn deck(random: &mut Random) -> Vec<Card> {
    let mut cards = shuffled(&DECK, random);
    // anvil that was started anew can't go back before its start: this comes last, and after it the check's blocks
    cards.sort_by_key(|card| *card == Card::ChainRestart);
    cards
}

/// Fails with what a writer ended with: it goes on until the gate is closed.
fn check_writers(writers: &mut JoinSet<Result<()>>) -> Result<()> {
    match writers.try_join_next() {
        None => Ok(()),
        Some(ended) => {
            ended.context("a writer panicked")??;
            bail!("a writer ended before its time")
        }
    }
}
