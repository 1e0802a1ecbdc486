//! What has to hold after faults: each event that was taken is anchored once, no nonce is left out, and the books are equal.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use alloy::{primitives::Address, providers::Provider as _};
use anyhow::{Context, Result, bail, ensure};
use tidemark::{contracts::ProvenanceLog, history::History, ids::DataId};

use super::{FINALITY_BLOCKS, Ground};
use crate::{
    keys::{dev_address, role},
    story::{market, samples::Kind},
};

const TIME_MAX: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(200);

/// What is final already, and need not be read again.
#[derive(Debug, Default)]
pub struct Seen {
    providers: BTreeMap<Address, Provider>,
}

#[derive(Debug, Default)]
struct Provider {
    batches: u64,
    /// Sequence numbers of each record's events, as a bit each.
    events: BTreeMap<DataId, u128>,
}

impl Seen {
    /// Batches that were checked.
    pub fn batches(&self) -> u64 {
        self.providers.values().map(|provider| provider.batches).sum()
    }

    /// Events in them.
    pub fn events(&self) -> u64 {
        let events = self.providers.values().flat_map(|provider| provider.events.values());
        events.map(|sequences| u64::from(sequences.count_ones())).sum()
    }
}

/// Waits until all that was taken is final, and checks it. Nothing is wrong with the machines meanwhile, and nobody sends.
pub async fn check(ground: &mut Ground, seen: &mut Seen) -> Result<()> {
    let history = market::history(&ground.stack)?;
    let accounts = ground.apps.each_ref().map(|app| app.account);
    for account in accounts {
        anchored(ground, &history, account).await?;
    }
    ground.stack.chain.mine(FINALITY_BLOCKS).await?;
    settled(ground).await?;
    for account in accounts {
        let expected = ground.taken.events(account);
        batches(&history, account, &expected, seen.providers.entry(account).or_default()).await?;
    }
    nonces(ground).await?;
    books(ground).await
}

/// Waits until the chain's batches have as many events as were taken.
async fn anchored(ground: &mut Ground, history: &History, account: Address) -> Result<()> {
    let wanted: u64 = ground.taken.events(account).values().map(|count| u64::from(*count)).sum();
    let deadline = Instant::now() + TIME_MAX;
    loop {
        ground.keep_running()?;
        let batches = history.anchored(Some(account)).await.context("failed to read the anchored batches")?;
        let events: u64 = batches.iter().map(|batch| u64::from(batch.header.event_count)).sum();
        if events == wanted {
            return Ok(());
        }
        // more than were taken, too, is looked at again: anvil may tell of lost blocks just after a reorg and a restart
        if Instant::now() > deadline {
            let counts: Vec<_> = batches.iter().map(|batch| (batch.header.number, batch.header.event_count)).collect();
            let last = counts.iter().rev().take(8).collect::<Vec<_>>();
            bail!(
                "{account}: {events} events are anchored, {wanted} were taken; last batches and their events, newest first: \
                 {last:?}; {}",
                ground.status().await
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until the relayer knows that all is final.
async fn settled(ground: &mut Ground) -> Result<()> {
    let deadline = Instant::now() + TIME_MAX;
    let open = "SELECT (SELECT count(*) FROM transaction WHERE state IN ('intent', 'submitted', 'mined'))
                     + (SELECT count(*) FROM batch WHERE state <> 'final')
                     + (SELECT count(*) FROM event WHERE batch_number IS NULL)";
    loop {
        ground.keep_running()?;
        let left: i64 = sqlx::query_scalar(open).fetch_one(&mut ground.db().await?).await?;
        if left == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{left} transactions, batches and events are not final; {}", ground.status().await);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Reads the batches that are new: no gap, each as anchored, and no event twice.
async fn batches(
    history: &History,
    account: Address,
    expected: &BTreeMap<DataId, u32>,
    seen: &mut Provider,
) -> Result<()> {
    for batch in history.anchored(Some(account)).await.context("failed to read the anchored batches")? {
        let number = batch.header.number;
        if number < seen.batches {
            continue;
        }
        ensure!(number == seen.batches, "{account}: a gap before batch {number}");
        ensure!(batch.place.is_final, "{account}: batch {number} is not final");
        let loaded = history.load(batch).await.with_context(|| format!("failed to load batch {number}"))?;
        if let Some(difference) = loaded.difference() {
            bail!("{account}: batch {number}: {difference}");
        }
        for event in &loaded.manifest.events {
            let bit = 1u128.checked_shl(event.sequence).context("a sequence that no writer makes")?;
            let sequences = seen.events.entry(event.data_id).or_default();
            ensure!(
                *sequences & bit == 0,
                "{account}: event {} of {} is anchored twice",
                event.sequence,
                event.data_id
            );
            *sequences |= bit;
        }
        seen.batches += 1;
    }
    let counted = seen.events.iter().map(|(data_id, sequences)| (*data_id, sequences.count_ones()));
    let counted: BTreeMap<DataId, u32> = counted.collect();
    if let Some((data_id, count)) = expected.iter().find(|(data_id, count)| counted.get(data_id) != Some(count)) {
        bail!("{account}: {count} events of {data_id} were taken, {:?} are anchored", counted.get(data_id));
    }
    ensure!(counted.len() == expected.len(), "{account}: records are anchored that nobody sent");
    Ok(())
}

/// Every nonce has a transaction that ended in a block.
async fn nonces(ground: &Ground) -> Result<()> {
    let relayer = dev_address(role::RELAYER)?;
    let on_chain = ground.stack.provider().get_transaction_count(relayer).await.context("the relayer's nonce")?;
    let query =
        "SELECT count(*), coalesce(max(nonce) + 1, 0)::bigint FROM transaction WHERE state IN ('final', 'reverted')";
    let (ended, next): (i64, i64) = sqlx::query_as(query).fetch_one(&mut ground.db().await?).await?;
    ensure!(
        u64::try_from(next)? == on_chain && ended == next,
        "{ended} transactions have ended, the last nonce but one is {next}, and the chain's is {on_chain}"
    );
    Ok(())
}

/// The escrow has paid for what was accepted, and for nothing else; the relayer has reserved as much.
async fn books(ground: &Ground) -> Result<()> {
    let task = ground.world.task(Kind::Voice)?;
    let paid = ground.taken.uploads() * task.price;
    let log = ProvenanceLog::new(ground.stack.deployment.provenance_log, ground.stack.provider());
    let escrow = log.taskOf(task.id).call().await.context("failed to read the task")?.escrow;
    ensure!(
        escrow == task.budget - paid,
        "task {}: {escrow} units are in escrow, expected {} less {paid}",
        task.id,
        task.budget
    );
    let query = "SELECT coalesce(sum(reserved), 0)::text FROM task_budget";
    let reserved: String = sqlx::query_scalar(query).fetch_one(&mut ground.db().await?).await?;
    ensure!(reserved == paid.to_string(), "the relayer has reserved {reserved} units, expected {paid}");
    Ok(())
}
