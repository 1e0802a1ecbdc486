//! What is read out of millions of events, which are made in bounded memory and with no file kept that is not needed any more.
//!
//! ```text
//!  contributions of a batch ─► content store, chain ─► indexer ─► valid: its files leave the content store
//!       └── at most AHEAD_MAX batches before it ◄──────────────────┘
//! ```

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cid::Cid;
use sqlx::{PgConnection, Row};
use tidemark::store::Store;
use tidemark_tests::{
    Options,
    forge::Forge,
    progress::{Progress, Step},
    services::Service,
};

use super::ledger::{BATCH_RECORDS, Ledger, contributions, read};

/// Batches that are made and not taken in: what they take in the content store is all that is there.
const AHEAD_MAX: usize = 6;
/// How long the indexer may take for one batch before something is wrong.
const BATCH_TIME_MAX: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(50);
/// Blocks that make one before them final.
const FINAL_AFTER: u64 = 2;
const GIB: f64 = 1_073_741_824.0;

/// Takes the records in, says what they take on the disk, and reads them.
pub async fn run(flags: &Ledger) -> Result<()> {
    let progress = Progress::new();
    let forge = Forge::with(Options { progress: progress.clone(), ..Options::default() }, flags.records).await?;
    let indexer = forge.stack.start_second_indexer("ours").await?;
    let mut db = forge.stack.postgres.connect("ours").await?;
    let batches = flags.records / BATCH_RECORDS;
    let store = forge.stack.store()?;
    let mut taken_in = TakenIn {
        store: &store,
        files: VecDeque::new(),
        valid: 0,
        bar: progress.bar("batches taken in", batches.into()),
    };
    let begun = Instant::now();
    for number in 0..batches {
        let (events, disclosures) = tokio::task::block_in_place(|| contributions(&forge, number))?;
        let batch = forge.disclosed(number.into(), events, &disclosures).await?;
        let disclosures = batch.disclosures.context("a batch without disclosures")?;
        taken_in.files.push_back([batch.header.manifest_cid, disclosures]);
        forge.anchor(&batch).await?;
        forge.stack.chain.mine(FINAL_AFTER).await?;
        taken_in.until_waiting_are(AHEAD_MAX, &mut db, &indexer).await?;
    }
    taken_in.until_waiting_are(0, &mut db, &indexer).await?;
    taken_in.bar.done("made and taken in side by side");
    let took = begun.elapsed();
    let records = batches * BATCH_RECORDS;
    println!("\n{records} records in {batches} batches, made and taken in side by side in {:.0} s", took.as_secs_f64());
    print_sizes(&mut db, records).await?;
    read(&forge, &indexer, &mut db, flags, &progress).await
}

/// How far the indexer is, and which files it may still ask for.
struct TakenIn<'a> {
    store: &'a Store,
    /// Manifest and disclosures of each batch that is not known to be valid.
    files: VecDeque<[Cid; 2]>,
    valid: u32,
    bar: Step,
}

impl TakenIn<'_> {
    /// Waits until so few batches are made and not valid; the files of the others are deleted.
    async fn until_waiting_are(&mut self, most: usize, db: &mut PgConnection, indexer: &Service) -> Result<()> {
        let mut deadline = Instant::now() + BATCH_TIME_MAX;
        loop {
            let row = sqlx::query(
                "SELECT count(*) FILTER (WHERE state = 'valid'), count(*) FILTER (WHERE state = 'invalid') FROM batch",
            );
            let row = row.fetch_one(&mut *db).await.context("failed to count the valid batches")?;
            let (valid, invalid): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            ensure!(invalid == 0, "{invalid} batches are invalid");
            while i64::from(self.valid) < valid {
                for cid in self.files.pop_front().context("more batches are valid than were made")? {
                    self.store.delete(&cid).await?;
                }
                self.valid += 1;
                self.bar.advance();
                deadline = Instant::now() + BATCH_TIME_MAX;
            }
            if self.files.len() <= most {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "batch {} is not valid in time; {}", self.valid, indexer.log_tail());
            tokio::time::sleep(POLL).await;
        }
    }
}

/// What the tables take, with their indexes.
async fn print_sizes(db: &mut PgConnection, records: u32) -> Result<()> {
    let rows = sqlx::query(
        "SELECT n.nspname || '.' || c.relname, pg_table_size(c.oid), pg_indexes_size(c.oid)
         FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
         ORDER BY pg_total_relation_size(c.oid) DESC",
    );
    let rows = rows.fetch_all(db).await.context("failed to read the tables' sizes")?;
    println!("\n| table | bytes a record | of its indexes | GiB in all |\n|---|---|---|---|");
    let (mut all_bytes, mut all_of_indexes) = (0.0, 0.0);
    let line = |name: &str, bytes: f64, of_indexes: f64| {
        let each = f64::from(records);
        println!(
            "| {name} | {:.0} | {:.0} | {:.2} |",
            (bytes + of_indexes) / each,
            of_indexes / each,
            (bytes + of_indexes) / GIB
        );
    };
    for row in rows {
        let (name, bytes, of_indexes): (String, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let (bytes, of_indexes) = (bytes as f64, of_indexes as f64);
        // the others are of one row a batch, or empty
        if bytes + of_indexes > f64::from(records) {
            line(&name, bytes, of_indexes);
        }
        all_bytes += bytes;
        all_of_indexes += of_indexes;
    }
    line("all", all_bytes, all_of_indexes);
    Ok(())
}
