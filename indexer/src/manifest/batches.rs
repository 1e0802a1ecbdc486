//! Batches: from a final header to events, disclosures, records and points, in one transaction.

use std::collections::{BTreeMap, HashMap};

use alloy::primitives::{Address, B256};
use bytes::Bytes;
use cid::Cid;
use futures::StreamExt;
use rayon::prelude::*;
use sqlx::{PgConnection, PgExecutor, PgPool, Row};
use tidemark::{
    batch::Debit,
    event::{Event, EventKind},
    ids::DataId,
    manifest::{DISCLOSURES_BYTES_MAX, Disclosure, MANIFEST_BYTES_MAX, Manifest, decode_disclosures},
    merkle::Tree,
    payload::{Moved, Payload},
    service::causes,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Files, SettleError,
    disclosed::{Checked, Judge},
    fetch::{Fetched, ask_for, came, fetch, forget},
    lock_tables,
    record::{self, Seen, Shown},
    stored::{self, There, corrupt, count, digits},
    tree::{self, Of},
    verify::{Promised, Tail, TaskTerms, check_chains, check_header},
};
use crate::ledger::{self, AccountKey, Cause, Kind};

const PROVIDERS_PER_STEP: i64 = 64;
/// Batches of a provider that one job lets in.
const BATCHES_PER_RUN: i64 = 16;
/// And their events: a larger batch is let in alone, as two of a job are in memory at once.
const EVENTS_PER_RUN: u64 = 200_000;
/// One that is let in, and the one behind it.
const READY_AT_ONCE: usize = 2;
/// Late disclosures that one look asks for.
const LATE_PER_STEP: i64 = 64;
/// After this many tries disclosures count as erased.
const LATE_ATTEMPTS_MAX: i64 = 40;
/// Batches that one erasure may say to have moved; a record has no more events.
const MOVED_MAX: usize = 128;
/// The same of all erasures in a batch.
const MOVED_OF_BATCH_MAX: usize = 10_000;
/// Records from which on it matters what Postgres knows of their tables.
const STATISTICS_FROM: i64 = 1_000;

/// The next batch of a provider that waits.
#[derive(Clone)]
pub struct Next {
    promised: Promised,
    number: i64,
    manifest_cid: Vec<u8>,
    cause: Cause,
    log_index: i64,
    /// The manifest was asked for before.
    is_retry: bool,
}

/// Disclosures that were not there when their batch was settled.
pub struct Late {
    provider: Address,
    number: i64,
    cid: Option<String>,
    attempts: i64,
}

impl Late {
    pub(super) fn what(&self) -> String {
        disclosures_of(self.provider, self.number)
    }
}

impl Next {
    fn what(&self) -> String {
        Of::Batch(self.promised.provider, self.number).to_string()
    }
}

fn disclosures_of(provider: Address, number: i64) -> String {
    format!("disclosures/{provider:#x}/{number}")
}

/// The next batches of a provider that wait, in their order.
pub struct Run {
    batches: Vec<Next>,
}

impl Run {
    /// A provider's batches are let in by one job at a time.
    pub(super) fn what(&self) -> String {
        self.batches.first().map(|next| format!("batches/{:#x}", next.promised.provider)).unwrap_or_default()
    }

    pub(super) fn is_retry(&self) -> bool {
        self.batches.first().is_some_and(|next| next.is_retry)
    }
}

/// Each provider's next waiting batches, up to the first behind them whose manifest is not due.
pub async fn due(files: &Files) -> Result<Vec<Run>, SettleError> {
    let rows = sqlx::query(
        "WITH first AS (
             SELECT p.address AS provider, f.attempts, b.block_number, b.log_index
             FROM provider AS p
             CROSS JOIN LATERAL (
                 SELECT * FROM batch WHERE batch.provider = p.address AND state = 'waiting' ORDER BY number LIMIT 1
             ) AS b
             LEFT JOIN missing_file AS f ON f.what = 'batch/0x' || encode(b.provider, 'hex') || '/' || b.number
             WHERE f.next_attempt_at IS NULL OR f.next_attempt_at <= now()
             ORDER BY f.attempts NULLS FIRST, b.block_number, b.log_index LIMIT $1
         )
         SELECT b.provider, b.number, b.root, b.event_count, b.points_total::text, b.wallet_total::text, b.debits,
             b.manifest_cid, b.block_number, b.block_time, b.tx_hash, b.log_index, f.attempts IS NOT NULL,
             f.next_attempt_at IS NULL OR f.next_attempt_at <= now()
         FROM first
         CROSS JOIN LATERAL (
             SELECT * FROM batch WHERE batch.provider = first.provider AND state = 'waiting' ORDER BY number LIMIT $2
         ) AS b
         LEFT JOIN missing_file AS f ON f.what = 'batch/0x' || encode(b.provider, 'hex') || '/' || b.number
         ORDER BY first.attempts NULLS FIRST, first.block_number, first.log_index, b.number",
    )
    .bind(PROVIDERS_PER_STEP)
    .bind(BATCHES_PER_RUN)
    .fetch_all(&files.pool)
    .await?;
    let next = rows.iter().map(|row| {
        let debits: serde_json::Value = row.try_get(6)?;
        let next = Next {
            promised: Promised {
                provider: stored::address(row, 0)?,
                number: count(row, 1)?,
                root: stored::hash(row, 2)?,
                event_count: count(row, 3)?,
                points_total: digits(row, 4)?,
                wallet_total: digits(row, 5)?,
                debits: serde_json::from_value::<Vec<Debit>>(debits).map_err(|_| corrupt("batch.debits"))?,
            },
            number: row.try_get(1)?,
            manifest_cid: row.try_get(7)?,
            cause: Cause { block_number: row.try_get(8)?, block_time: row.try_get(9)?, tx_hash: row.try_get(10)? },
            log_index: row.try_get(11)?,
            is_retry: row.try_get(12)?,
        };
        Ok((next, row.try_get::<bool, _>(13)?))
    });
    let next = next.collect::<Result<Vec<_>, sqlx::Error>>()?;
    let runs = next.chunk_by(|(a, _), (b, _)| a.promised.provider == b.promised.provider).map(|of_provider| {
        let mut events = 0u64;
        let batches = of_provider.iter().enumerate().take_while(|(place, (next, is_due))| {
            events = events.saturating_add(next.promised.event_count);
            *place == 0 || (*is_due && events <= EVENTS_PER_RUN)
        });
        Run { batches: batches.map(|(_, (next, _))| next.clone()).collect() }
    });
    Ok(runs.collect())
}

/// Lets batches in, one after another, and gets the next one ready meanwhile; true where the first waits no more.
pub async fn settle(files: &Files, run: Run) -> Result<bool, SettleError> {
    let mut ready = futures::stream::iter(run.batches)
        .map(|next| AbortOnDropHandle::new(tokio::spawn(prepare(files.clone(), next))))
        .buffered(READY_AT_ONCE);
    let mut is_settled = false;
    while let Some(prepared) = ready.next().await {
        match prepared?? {
            Prepared::Later => break,
            Prepared::Wrong(next, reason) => {
                if !mark_invalid(files, &next, &reason, None).await? {
                    break;
                }
            }
            Prepared::Ready(batch) => {
                if !let_in(files, *batch).await? {
                    break;
                }
            }
        }
        is_settled = true;
    }
    Ok(is_settled)
}

/// A batch whose manifest was looked at.
enum Prepared {
    /// It is not here.
    Later,
    /// It is not what was promised.
    Wrong(Box<Next>, String),
    /// What can be said of it alone holds.
    Ready(Box<Batch>),
}

/// All that a batch writes, but for its place in the chains of older records.
struct Batch {
    next: Next,
    events: Vec<Event>,
    leaves: Vec<B256>,
    tree: Tree,
    disclosures_cid: Option<Cid>,
    /// Their file was there.
    disclosures_came: bool,
    disclosures: Vec<(u32, Checked)>,
    /// Records that it registers.
    new: Vec<Shown>,
    /// Records that were there before.
    old: Vec<uuid::Uuid>,
}

/// Everything that does not depend on the batches before.
async fn prepare(files: Files, next: Next) -> Result<Prepared, SettleError> {
    let what = next.what();
    let bytes = match fetch(&files.pool, &files.store, &what, &next.manifest_cid, MANIFEST_BYTES_MAX).await? {
        Fetched::File(bytes) => bytes,
        Fetched::Later => return Ok(Prepared::Later),
        Fetched::Never(reason) => return Ok(Prepared::Wrong(Box::new(next), reason)),
    };
    let promised = next.promised.clone();
    let decoded = tokio::task::spawn_blocking(move || {
        let manifest = Manifest::decode(bytes).map_err(|error| causes(&error))?;
        let (leaves, tree) = check_header(&promised, &manifest).map_err(|wrong| wrong.to_string())?;
        Ok::<_, String>((manifest, leaves, tree))
    })
    .await?;
    let (Manifest { events, disclosures: disclosures_cid, .. }, leaves, tree) = match decoded {
        Ok(decoded) => decoded,
        Err(reason) => return Ok(Prepared::Wrong(Box::new(next), reason)),
    };
    let (provider, number) = (next.promised.provider, next.number);
    let file = match &disclosures_cid {
        Some(cid) => disclosures(&files, provider, number, cid).await?,
        None => None,
    };
    let judge = judge(&files, provider, number).await?;
    let (block_number, log_index) = (next.cause.block_number, next.log_index);
    let ready = move || {
        let disclosures_came = file.is_some();
        let disclosures = file.map(|bytes| decoded_or_none(bytes, provider, number)).unwrap_or_default();
        let Looked { disclosures, new, old } =
            look(&judge, &events, disclosures, (provider, number), block_number, log_index);
        Batch { next, events, leaves, tree, disclosures_cid, disclosures_came, disclosures, new, old }
    };
    Ok(Prepared::Ready(Box::new(tokio::task::spawn_blocking(ready).await?)))
}

/// True where the batch waits no more.
async fn let_in(files: &Files, batch: Batch) -> Result<bool, SettleError> {
    let Batch { next, events, leaves, tree, disclosures_cid, disclosures_came, disclosures, new, old } = batch;
    let provider = next.promised.provider;
    // only one job of a provider writes its events, so what is read here still holds in the transaction below, if the tables are
    // still the same
    let tables = tables(&files.pool).await?;
    let tails = tails(&files.pool, provider, &data_ids(&events)).await?;
    let tasks = tasks(&files.pool, &events, next.cause.block_number).await?;
    if let Err(wrong) = check_chains(&next.promised, &events, &leaves, tails, &tasks) {
        return mark_invalid(files, &next, &wrong.to_string(), Some(tables)).await;
    }
    let mut transaction = files.pool.begin().await?;
    let connection = &mut *transaction;
    lock_tables(connection).await?;
    // the rows of a statement, which its triggers look at, stay in memory
    sqlx::query("SET LOCAL work_mem = '32MB'").execute(&mut *connection).await?;
    if self::tables(&mut *connection).await? != tables {
        return Ok(false);
    }
    let cid_text = disclosures_cid.map(|cid| cid.to_string());
    if !set_state(connection, &next, "valid", None, cid_text.as_deref()).await? {
        return Ok(false);
    }
    let what = disclosures_of(provider, next.number);
    if let (Some(cid), true) = (&disclosures_cid, disclosures_came) {
        came(connection, &what, cid).await?;
    } else {
        // the tries of a file that was asked for in vain while the batches before were waited for begin now
        sqlx::query("UPDATE missing_file SET attempts = 1, next_attempt_at = now() WHERE what = $1")
            .bind(&what)
            .execute(&mut *connection)
            .await?;
    }
    stored::insert_events(connection, provider, next.number, &events, &leaves).await?;
    tree::insert(connection, Of::Batch(provider, next.number), &tree).await?;
    stored::insert_disclosures(connection, provider, next.number, There::None, &disclosures).await?;
    follow_moved(connection, provider, next.number, &events, &disclosures).await?;
    let erased: Vec<uuid::Uuid> =
        events.iter().filter(|event| event.kind == EventKind::Erased).map(|event| event.data_id.0).collect();
    if !erased.is_empty() {
        stored::erase(connection, provider, &erased).await?;
    }
    record::insert(connection, provider, &new).await?;
    record::refresh(connection, provider, &old).await?;
    let postings = ledger::rewards(provider, next.promised.number, &events);
    ledger::post(connection, provider, Kind::Reward, &next.cause, &postings).await?;
    let credited: Vec<AccountKey> =
        postings.iter().map(|posting| AccountKey { provider, key: posting.account }).collect();
    ledger::settle_redemptions(connection, &credited).await?;
    clear(connection, &next).await?;
    transaction.commit().await?;
    tracing::info!(%provider, number = next.number, events = events.len(), credits = postings.len(), "batch is valid");
    metrics::counter!("tidemark_indexer_batches_total", "state" => "valid").increment(1);
    metrics::counter!("tidemark_indexer_events_total").increment(events.len() as u64);
    if let Err(error) = know_tables(&files.pool).await {
        tracing::warn!(%error, "no new statistics of the tables: reads may take longer until Postgres comes to it itself");
    }
    Ok(true)
}

/// Has Postgres look at its tables where it knows of less than half of the records. Its own look comes once a minute, and who has none
/// takes a provider for one of 200: a page of Trace's feed took 27 s out of 50,000 records that had just come.
async fn know_tables(pool: &PgPool) -> Result<(), sqlx::Error> {
    let is_known: bool = sqlx::query_scalar(
        "SELECT coalesce(sum(t.records), 0) < greatest($1, 2 * (SELECT reltuples::bigint FROM pg_class WHERE oid = 'record'::regclass))
         FROM provider_total AS t",
    )
    .bind(STATISTICS_FROM)
    .fetch_one(pool)
    .await?;
    if !is_known {
        let tables = "ANALYZE (SKIP_LOCKED) batch, event, disclosure, record, perceptual_hash, trace_record, trace_update, trace_count,
             trace_total, ledger_account, ledger_transfer, provider";
        sqlx::query(tables).execute(pool).await?;
    }
    Ok(())
}

fn data_ids(events: &[Event]) -> Vec<uuid::Uuid> {
    let mut ids: Vec<uuid::Uuid> = events.iter().map(|event| event.data_id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Which tables the names stand for: a rebuild swaps them.
async fn tables(executor: impl PgExecutor<'_>) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT 'batch'::regclass::oid::bigint").fetch_one(executor).await
}

/// `judged_by` are the tables that it was held against, where it was.
async fn mark_invalid(files: &Files, next: &Next, reason: &str, judged_by: Option<i64>) -> Result<bool, SettleError> {
    let reason: String = reason.replace('\0', "\u{fffd}").chars().take(1_000).collect();
    let mut transaction = files.pool.begin().await?;
    lock_tables(&mut transaction).await?;
    if let Some(judged_by) = judged_by
        && tables(&mut *transaction).await? != judged_by
    {
        return Ok(false);
    }
    if !set_state(&mut transaction, next, "invalid", Some(&reason), None).await? {
        return Ok(false);
    }
    clear(&mut transaction, next).await?;
    forget(&mut *transaction, &disclosures_of(next.promised.provider, next.number)).await?;
    transaction.commit().await?;
    tracing::error!(
        provider = %next.promised.provider, number = next.number, reason,
        "batch is invalid and credits nobody"
    );
    metrics::counter!("tidemark_indexer_batches_total", "state" => "invalid").increment(1);
    Ok(true)
}

/// False where somebody else settled it in the meantime.
async fn set_state(
    connection: &mut PgConnection,
    next: &Next,
    state: &str,
    reason: Option<&str>,
    disclosures_cid: Option<&str>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE batch SET state = $3, reason = $4, disclosures_cid = $5
         WHERE provider = $1 AND number = $2 AND state = 'waiting'",
    )
    .bind(next.promised.provider.as_slice())
    .bind(next.number)
    .bind(state)
    .bind(reason)
    .bind(disclosures_cid)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// What was kept only until the batch is settled.
async fn clear(connection: &mut PgConnection, next: &Next) -> Result<(), sqlx::Error> {
    forget(&mut *connection, &next.what()).await?;
    sqlx::query("DELETE FROM mined_event WHERE block_number = $1 AND log_index = $2")
        .bind(next.cause.block_number)
        .bind(next.log_index)
        .execute(connection)
        .await?;
    Ok(())
}

async fn tails(
    pool: &PgPool,
    provider: Address,
    data_ids: &[uuid::Uuid],
) -> Result<HashMap<DataId, Tail>, sqlx::Error> {
    let mut tails = HashMap::new();
    for ids in data_ids.chunks(stored::ROWS_PER_STATEMENT) {
        let rows = sqlx::query(
            "SELECT DISTINCT ON (data_id) data_id, leaf, sequence, kind FROM event
             WHERE provider = $1 AND data_id = ANY($2) ORDER BY data_id, sequence DESC",
        )
        .bind(provider.as_slice())
        .bind(ids)
        .fetch_all(pool)
        .await?;
        for row in rows {
            let kind = u8::try_from(row.try_get::<i16, _>(3)?).ok().and_then(EventKind::from_u8);
            let tail = Tail {
                leaf: stored::hash(&row, 1)?,
                sequence: count(&row, 2)?,
                kind: kind.ok_or_else(|| corrupt("event.kind"))?,
            };
            tails.insert(DataId(row.try_get(0)?), tail);
        }
    }
    Ok(tails)
}

/// Tasks that were there when the batch was anchored: an indexer that looks later must find the same fault.
async fn tasks(pool: &PgPool, events: &[Event], block: i64) -> Result<HashMap<u64, TaskTerms>, sqlx::Error> {
    let mut ids: Vec<i64> = events.iter().filter_map(|event| i64::try_from(event.task_id).ok()).collect();
    ids.sort_unstable();
    ids.dedup();
    let rows =
        sqlx::query("SELECT task_id, provider, price::text FROM task WHERE task_id = ANY($1) AND block_number <= $2")
            .bind(ids)
            .bind(block)
            .fetch_all(pool)
            .await?;
    rows.iter()
        .map(|row| Ok((count(row, 0)?, TaskTerms { provider: stored::address(row, 1)?, price: digits(row, 2)? })))
        .collect()
}

/// The file of a batch's disclosures; none where it is not there, which may be because it was erased.
async fn disclosures(files: &Files, provider: Address, number: i64, cid: &Cid) -> Result<Option<Bytes>, SettleError> {
    let what = disclosures_of(provider, number);
    match fetch(&files.pool, &files.store, &what, &cid.to_bytes(), DISCLOSURES_BYTES_MAX).await? {
        Fetched::File(bytes) => Ok(Some(bytes)),
        Fetched::Later | Fetched::Never(_) => Ok(None),
    }
}

fn decoded_or_none(bytes: Bytes, provider: Address, number: i64) -> Vec<Disclosure> {
    decode_disclosures(bytes).unwrap_or_else(|error| {
        tracing::warn!(%provider, number, error = causes(&error), "disclosures are not a table: none are kept");
        Vec::new()
    })
}

/// Erasures say where batches keep what they still disclose: whatever of them is not here is asked for there. Where a later
/// erasure took something out of the same batch, its word counts, whichever of the two is read first.
async fn follow_moved(
    connection: &mut PgConnection,
    provider: Address,
    told_in: i64,
    events: &[Event],
    disclosures: &[(u32, Checked)],
) -> Result<(), sqlx::Error> {
    // the last word of this batch on each other one
    let mut words: BTreeMap<i64, (i64, Cid)> = BTreeMap::new();
    for (index, checked) in disclosures {
        let is_erasure = events.get(*index as usize).is_some_and(|event| event.kind == EventKind::Erased);
        let payload = checked.payload.as_ref().filter(|_| is_erasure && checked.fault.is_none());
        let Some(Ok(Payload::Erased { disclosures: moved })) = payload.map(|payload| serde_json::from_str(payload))
        else {
            continue;
        };
        let index = i64::from(*index);
        for Moved { number, cid } in moved.into_iter().take(MOVED_MAX) {
            let Some(number) = i64::try_from(number).ok().filter(|number| *number <= told_in) else { continue };
            // whoever names more hides what it moved, and holds nobody up
            if words.len() >= MOVED_OF_BATCH_MAX && !words.contains_key(&number) {
                continue;
            }
            let word = words.entry(number).or_insert((index, cid));
            if index >= word.0 {
                *word = (index, cid);
            }
        }
    }
    if words.is_empty() {
        return Ok(());
    }
    let known: Vec<i64> = sqlx::query_scalar(
        "UPDATE batch SET disclosures_cid = word.cid
         FROM unnest($3::bigint[], $4::bigint[], $5::text[]) AS word (number, index, cid)
         WHERE batch.provider = $1 AND batch.number = word.number AND batch.state = 'valid' AND NOT EXISTS (
             SELECT FROM event AS erased JOIN event AS held USING (provider, data_id)
             WHERE erased.provider = $1 AND erased.kind = 5 AND (erased.number, erased.index) > ($2, word.index)
               AND held.number = word.number)
         RETURNING batch.number",
    )
    .bind(provider.as_slice())
    .bind(told_in)
    .bind(words.keys().copied().collect::<Vec<_>>())
    .bind(words.values().map(|(index, _)| *index).collect::<Vec<_>>())
    .bind(words.values().map(|(_, cid)| cid.to_string()).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    for number in known {
        if let Some((_, cid)) = words.get(&number) {
            ask_for(&mut *connection, &disclosures_of(provider, number), cid).await?;
        }
    }
    Ok(())
}

/// What a batch's disclosures are worth, and what is shown of its records.
struct Looked {
    disclosures: Vec<(u32, Checked)>,
    /// Records whose first event is in the batch.
    new: Vec<Shown>,
    old: Vec<uuid::Uuid>,
}

fn look(
    judge: &Judge,
    events: &[Event],
    disclosures: Vec<Disclosure>,
    (provider, number): (Address, i64),
    block_number: i64,
    log_index: i64,
) -> Looked {
    let mut of_event: Vec<Vec<Disclosure>> = events.iter().map(|_| Vec::new()).collect();
    for disclosure in disclosures {
        if let Some(of_event) = of_event.get_mut(disclosure.index as usize) {
            of_event.push(disclosure);
        }
    }
    let mut by_record: Vec<(&Event, Vec<Disclosure>)> = events.iter().zip(of_event).collect();
    // stable: a record's events stay in their order
    by_record.sort_by_key(|(event, _)| event.data_id);
    let mut records: Vec<Vec<(&Event, Vec<Disclosure>)>> = Vec::new();
    for (event, disclosures) in by_record {
        match records.last_mut() {
            Some(last) if last.iter().all(|(first, _)| first.data_id == event.data_id) => {
                last.push((event, disclosures))
            }
            _ => records.push(vec![(event, disclosures)]),
        }
    }
    let looked = records.into_par_iter().map(|events| {
        let id = events.first().map(|(event, _)| (event.data_id.0, event.sequence));
        let (mut kept, mut seen) = (Vec::with_capacity(events.len()), Vec::with_capacity(events.len()));
        for (event, disclosures) in events {
            let mut payload = None;
            let mut checked = disclosures.into_iter().map(|disclosure| judge.check(event, disclosure));
            // of two for one event, the first that fits counts
            let first = checked.next();
            let fits = |(checked, _): &(Checked, Option<Payload>)| checked.payload.is_some();
            let best = match first {
                Some(first) if !fits(&first) => Some(checked.find(fits).unwrap_or(first)),
                first => first,
            };
            if let Some((checked, parsed)) = best {
                payload = parsed.filter(|_| checked.fault.is_none() || event.kind == EventKind::Rejected);
                kept.push((event.index, checked));
            }
            let number = u64::try_from(number).unwrap_or_default();
            seen.push(Seen { number, block_number, log_index, event: event.clone(), payload });
        }
        let is_new = id.is_some_and(|(_, sequence)| sequence == 0);
        let shown = if is_new { Shown::of(provider, &seen) } else { None };
        (kept, shown, id.filter(|_| !is_new).map(|(id, _)| id))
    });
    let mut all = Looked { disclosures: Vec::new(), new: Vec::new(), old: Vec::new() };
    for (kept, shown, old) in looked.collect::<Vec<_>>() {
        all.disclosures.extend(kept);
        all.new.extend(shown);
        all.old.extend(old);
    }
    all.disclosures.sort_by_key(|(index, _)| *index);
    all
}

async fn judge(files: &Files, provider: Address, number: i64) -> Result<Judge, sqlx::Error> {
    let name: String = sqlx::query_scalar("SELECT name FROM provider WHERE address = $1")
        .bind(provider.as_slice())
        .fetch_one(&files.pool)
        .await?;
    let attestors: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT a.attestor FROM provider_attestor AS a JOIN batch AS b ON b.provider = a.provider
         WHERE b.provider = $1 AND b.number = $2
           AND (a.block_number, a.log_index) <= (b.block_number, b.log_index)",
    )
    .bind(provider.as_slice())
    .bind(number)
    .fetch_all(&files.pool)
    .await?;
    let attestors = attestors.iter().filter_map(|bytes| Address::try_from(bytes.as_slice()).ok()).collect();
    Ok(Judge { provider_name: name, verdicts: files.deployment.batch_domain(), attestors })
}

/// Late disclosures that are due.
pub async fn due_late(files: &Files) -> Result<Vec<Late>, SettleError> {
    let rows = sqlx::query(
        "WITH f AS MATERIALIZED (
             SELECT decode(substr(split_part(what, '/', 2), 3), 'hex') AS provider, split_part(what, '/', 3)::bigint AS number,
                 attempts, next_attempt_at
             FROM missing_file WHERE starts_with(what, 'disclosures/') AND next_attempt_at <= now()
         )
         SELECT b.provider, b.number, b.disclosures_cid, f.attempts
         FROM f JOIN batch AS b ON (b.provider, b.number) = (f.provider, f.number)
         WHERE b.state = 'valid' ORDER BY f.next_attempt_at LIMIT $1",
    )
    .bind(LATE_PER_STEP)
    .fetch_all(&files.pool)
    .await?;
    let late = rows.iter().map(|row| {
        Ok(Late {
            provider: stored::address(row, 0)?,
            number: row.try_get(1)?,
            cid: row.try_get(2)?,
            attempts: row.try_get(3)?,
        })
    });
    Ok(late.collect::<Result<_, sqlx::Error>>()?)
}

/// Lets late disclosures in; gives up on them after enough tries.
pub async fn settle_late(files: &Files, late: Late) -> Result<bool, SettleError> {
    let (provider, number) = (late.provider, late.number);
    let cid = late.cid.as_ref().and_then(|cid| cid.parse::<Cid>().ok());
    let (Some(cid), true) = (cid, late.attempts < LATE_ATTEMPTS_MAX) else {
        forget(&files.pool, &late.what()).await?;
        return Ok(true);
    };
    let events = events_of(&files.pool, provider, number).await?;
    let Some(bytes) = disclosures(files, provider, number, &cid).await? else { return Ok(false) };
    let judge = judge(files, provider, number).await?;
    let (events, disclosures) = tokio::task::spawn_blocking(move || {
        // records are shown as all their batches say, below
        let looked = look(&judge, &events, decoded_or_none(bytes, provider, number), (provider, number), 0, 0);
        (events, looked.disclosures)
    })
    .await?;
    let mut transaction = files.pool.begin().await?;
    lock_tables(&mut transaction).await?;
    came(&mut transaction, &late.what(), &cid).await?;
    if disclosures.is_empty() {
        transaction.commit().await?;
        return Ok(false);
    }
    stored::insert_disclosures(&mut transaction, provider, number, There::Perhaps, &disclosures).await?;
    follow_moved(&mut transaction, provider, number, &events, &disclosures).await?;
    let erased: Vec<uuid::Uuid> = sqlx::query_scalar(
        "SELECT e.data_id FROM event AS e WHERE e.provider = $1 AND e.kind = 5 AND e.data_id IN
             (SELECT data_id FROM event WHERE provider = $1 AND number = $2)",
    )
    .bind(provider.as_slice())
    .bind(number)
    .fetch_all(&mut *transaction)
    .await?;
    stored::erase(&mut transaction, provider, &erased).await?;
    record::refresh(&mut transaction, provider, &data_ids(&events)).await?;
    transaction.commit().await?;
    Ok(true)
}

/// The events of a valid batch in index order.
async fn events_of(pool: &PgPool, provider: Address, number: i64) -> Result<Vec<Event>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT number, index, data_id, sequence, kind, contributor, content_hash, consent_id, commitment, previous,
             occurred_at::text, task_id::text, reward::text, payee, leaf
         FROM event WHERE provider = $1 AND number = $2 ORDER BY index",
    )
    .bind(provider.as_slice())
    .bind(number)
    .fetch_all(pool)
    .await?;
    rows.iter().map(|row| Ok(stored::event(row, 0)?.event)).collect()
}
