//! Contributions a second out of manifests into all projections and the ledger, a sale split over many members, and proofs
//! by data id under load, each beside its floor or its target.

use std::{
    future::ready,
    time::{Duration, Instant},
};

use alloy::primitives::{Address, B256, Bytes};
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use futures::{StreamExt, TryStreamExt};
use rayon::prelude::*;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tidemark::{
    canonical::{jcs, metadata_root},
    dataset::{Member, MemberRow, split_points},
    event::{Event, pseudonym},
    ids::{ConsentId, ContentHash, DataId, sha256},
    manifest::Disclosure,
    payload::Payload,
    verdict::{Outcome, Verdict},
};
use tidemark_tests::{
    Options,
    forge::Forge,
    progress::Progress,
    services::Service,
    stack::PROVIDER_NAME,
    story::{doors::kept_metadata, market},
};

use super::{indexer::indexer_process, memory, millions, processor_time, reads};

/// Records of one batch, each registered and accepted.
pub const BATCH_RECORDS: u32 = 10_000;
/// What anything may take before it is wrong.
const TIME_MAX: Duration = Duration::from_secs(1_800);
const POLL: Duration = Duration::from_millis(10);
/// Members whose accounts are asked for after the sale.
const SPOT_CHECKS: usize = 100;
/// Bytes that are read before they are copied.
const CHUNK_ROWS: i64 = 50_000;

/// How much.
#[derive(Args, Clone)]
pub struct Ledger {
    /// Records, each of two events, registered and accepted, with what they disclose, a multiple of 10,000.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(10_000..=10_000_000))]
    pub records: u32,
    /// Members of the dataset that is sold; 0 leaves the sale and the endpoints out.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    members: u32,
    /// Proofs that are asked for each second, and how long.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    proofs: u16,
    /// Seconds of asking for proofs; 0 leaves it out.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(..=3_600))]
    seconds: u16,
    /// Leaves everything else out.
    #[arg(long, value_enum)]
    only: Option<Part>,
}

/// What may be measured alone.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Part {
    /// What is read, proofs and every endpoint, out of millions of records if need be: batches are made while those before are
    /// taken in, and leave the content store then.
    Reads,
}

/// Prints the tables.
pub async fn run(flags: &Ledger) -> Result<()> {
    if let Some(Part::Reads) = flags.only {
        return Box::pin(millions::run(flags)).await;
    }
    let progress = Progress::new();
    let forge = Forge::with(Options { progress: progress.clone(), ..Options::default() }, flags.records).await?;
    let batches = flags.records / BATCH_RECORDS;
    let bar = progress.bar("batches anchored", u64::from(batches));
    for number in 0..batches {
        let (events, disclosures) = contributions(&forge, number)?;
        forge.anchor(&forge.disclosed(u64::from(number), events, &disclosures).await?).await?;
        bar.advance();
    }
    bar.done("with manifests and disclosures in the store");
    forge.stack.chain.mine(3).await?;

    let step = progress.step("indexer");
    let (indexer, run) = backfill(&forge, batches).await?;
    step.done("all of it is in the tables");
    let mut db = forge.stack.postgres.connect("ours").await?;
    let step = progress.step("floor");
    let tables = floor(&mut db).await?;
    let (rows, floor): (u64, Duration) =
        tables.iter().fold((0, Duration::ZERO), |(rows, took), table| (rows + table.rows, took + table.took));
    step.done("the same rows copied");
    let (records, events) = (f64::from(batches * BATCH_RECORDS), f64::from(batches * BATCH_RECORDS * 2));
    let per_second = |count: f64, took: Duration| count / took.as_secs_f64();
    println!(
        "\n{records} records in {batches} batches, two events and two disclosures each, one reward each; fsync on\n"
    );
    println!("| what | records/s | events/s | of the floor | most memory, MiB | CPU, µs an event |");
    println!("|---|---|---|---|---|---|");
    println!(
        "| into all projections and the ledger, every signature and hash checked | {:.0} | {:.0} | {:.2} | {} | {:.1} |",
        per_second(records, run.took),
        per_second(events, run.took),
        floor.as_secs_f64() / run.took.as_secs_f64(),
        run.memory >> 20,
        run.processor.as_secs_f64() * 1e6 / events,
    );
    println!(
        "| floor: `COPY` of the same {rows} rows into the same tables with the same indexes, one connection | {:.0} | {:.0} | 1.00 | | |",
        per_second(records, floor),
        per_second(events, floor),
    );
    println!("\n| the floor by table | rows a record | µs a record |\n|---|---|---|");
    for Copied { table, rows, took } in tables.iter().filter(|table| table.took * 200 > floor) {
        println!("| {table} | {:.2} | {:.1} |", *rows as f64 / records, took.as_secs_f64() * 1e6 / records);
    }
    read(&forge, &indexer, &mut db, flags, &progress).await
}

/// A sale, proofs, and every read endpoint out of the tables as they are.
pub async fn read(
    forge: &Forge,
    indexer: &Service,
    db: &mut PgConnection,
    flags: &Ledger,
    progress: &Progress,
) -> Result<()> {
    if flags.members > 0 {
        let step = progress.step("sale");
        sale(forge, indexer, db, flags.members).await?;
        step.done("split");
    }
    if flags.seconds > 0 {
        ask_for_proofs(indexer, flags).await?;
    }
    if flags.members > 0 {
        let apart = usize::try_from(flags.records)? / reads::REQUESTS;
        let source_ids = (0..flags.records).step_by(apart).take(reads::REQUESTS).map(source_id).collect();
        reads::ask_all(indexer, db, source_ids, progress).await?;
    }
    Ok(())
}

fn source_id(number: u32) -> String {
    format!("bench-{number}")
}

/// A batch of accepted records with what they disclose, as the upload door leaves them.
pub fn contributions(forge: &Forge, batch: u32) -> Result<(Vec<Event>, Vec<Disclosure>)> {
    let both = (0..BATCH_RECORDS).into_par_iter().map(|at| {
        let number = batch * BATCH_RECORDS + at;
        let id = source_id(number);
        let [mut registered, mut accepted] = forge.accepted(2 * at, &id, Address::ZERO)?;
        let metadata = kept_metadata(&id, registered.content_hash, 0);
        let registration = Payload::Registered {
            source_record_id: id,
            metadata_root: metadata_root(&metadata)?,
            metadata,
            purposes: 1,
            delivery: None,
        };
        let mut verdict = Verdict {
            data_id: accepted.data_id,
            content_hash: accepted.content_hash,
            outcome: Outcome::Accepted,
            detail: "all checks passed".into(),
            gate: "tidemark-gate-1".into(),
            decided_at: accepted.occurred_at,
            attestor: forge.attestor.address(),
            signature: Bytes::new(),
        };
        verdict.signature = forge.sign(verdict.digest(&forge.world.deployment.batch_domain()))?;
        let [first, second] = [registration, Payload::Accepted { verdict }].map(|payload| jcs(&payload));
        let disclosure = |event: &Event, payload: Vec<u8>| -> Result<Disclosure> {
            let salt = sha256(&[event.data_id.bytes().as_slice(), &[event.kind as u8]]).0;
            Ok(Disclosure { index: event.index, salt, payload: String::from_utf8(payload)? })
        };
        let (first, second) = (disclosure(&registered, first?)?, disclosure(&accepted, second?)?);
        registered.commitment = first.commitment();
        accepted.commitment = second.commitment();
        accepted.previous = registered.leaf();
        Ok(([registered, accepted], [first, second]))
    });
    let (events, disclosures): (Vec<_>, Vec<_>) = both.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    Ok((events.into_iter().flatten().collect(), disclosures.into_iter().flatten().collect()))
}

/// What one run was.
struct Run {
    took: Duration,
    processor: Duration,
    memory: u64,
}

/// The indexer from an empty database: timed from when its tables are there until every batch is valid.
async fn backfill(forge: &Forge, batches: u32) -> Result<(Service, Run)> {
    let watched = async {
        let url = forge.stack.postgres.url("ours");
        let deadline = Instant::now() + TIME_MAX;
        let mut db = loop {
            match PgConnection::connect(&url).await {
                Ok(db) => break db,
                Err(_) => tokio::time::sleep(POLL).await,
            }
            ensure!(Instant::now() < deadline, "the database does not come");
        };
        let process = tokio::task::spawn_blocking(indexer_process).await??;
        let before = processor_time(&process)?;
        let mut begun = None;
        let count =
            "SELECT count(*) FILTER (WHERE state = 'valid'), count(*) FILTER (WHERE state = 'invalid') FROM batch
                     WHERE EXISTS (SELECT FROM mirror.cursor)";
        loop {
            ensure!(Instant::now() < deadline, "the batches are not all in the tables in time");
            // before its tables are there
            let Ok(row) = sqlx::query(count).fetch_one(&mut db).await else {
                tokio::time::sleep(POLL).await;
                continue;
            };
            let begun = *begun.get_or_insert_with(Instant::now);
            let (valid, invalid): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            ensure!(invalid == 0, "{invalid} batches are invalid");
            if valid == i64::from(batches) {
                let took = begun.elapsed();
                let (memory, now) = (memory(&process, "VmHWM")?, processor_time(&process)?);
                return Ok(Run { took, memory, processor: now.saturating_sub(before) });
            }
            tokio::time::sleep(POLL).await;
        }
    };
    // it is not ready before it is level, so it is not waited for
    let (indexer, run) = tokio::try_join!(forge.stack.launch_second_indexer("ours"), watched)?;
    let mut db = forge.stack.postgres.connect("ours").await?;
    let missing: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM event) * 2 - (SELECT count(*) FROM disclosure WHERE fault IS NULL)
             - 2 * (SELECT count(*) FROM ledger_transfer)",
    )
    .fetch_one(&mut db)
    .await?;
    ensure!(missing == 0, "some disclosures are at fault, or some rewards are not in the ledger: {missing}");
    Ok((indexer, run))
}

/// A table that was copied.
struct Copied {
    table: String,
    rows: u64,
    took: Duration,
}

/// How long one connection needs to copy the rows that are there into tables with the same columns, keys and indexes; the longest first.
async fn floor(db: &mut PgConnection) -> Result<Vec<Copied>> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT t.table_name::text FROM information_schema.tables AS t
         WHERE t.table_schema = 'public' AND t.table_type = 'BASE TABLE' AND t.table_name <> '_sqlx_migrations'
         ORDER BY 1",
    )
    .fetch_all(&mut *db)
    .await?;
    let mut copied = Vec::with_capacity(tables.len());
    sqlx::query("CREATE SCHEMA floor").execute(&mut *db).await?;
    for table in tables {
        let (mut rows, mut took) = (0, Duration::ZERO);
        let make = format!("CREATE TABLE floor.{table} (LIKE public.{table} INCLUDING ALL)");
        sqlx::query(AssertSqlSafe(make)).execute(&mut *db).await?;
        let of = format!("SELECT count(*) FROM public.{table}");
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(of)).fetch_one(&mut *db).await?;
        for from in (0..count).step_by(usize::try_from(CHUNK_ROWS)?) {
            let part = format!(
                "COPY (SELECT * FROM public.{table} ORDER BY ctid LIMIT {CHUNK_ROWS} OFFSET {from}) TO STDOUT (FORMAT binary)"
            );
            let read = db.copy_out_raw(&part).await?.try_fold(Vec::new(), |mut all, chunk| {
                all.extend_from_slice(&chunk);
                ready(Ok(all))
            });
            let read = read.await?;
            let begun = Instant::now();
            let mut copy = db.copy_in_raw(&format!("COPY floor.{table} FROM STDIN (FORMAT binary)")).await?;
            copy.send(read.as_slice()).await?;
            rows += copy.finish().await?;
            took += begun.elapsed();
        }
        copied.push(Copied { table, rows, took });
    }
    copied.sort_by_key(|table| std::cmp::Reverse(table.took));
    Ok(copied)
}

/// Sells a dataset of so many members and says how long its points took into the ledger.
async fn sale(forge: &Forge, indexer: &Service, db: &mut PgConnection, members: u32) -> Result<()> {
    let cid = forge.stack.store()?.put(b"ciphertext").await?;
    let mut rows: Vec<MemberRow> = (0..members)
        .into_par_iter()
        .map(|number| {
            let data_id = DataId::new(PROVIDER_NAME, &format!("member-{number}"))?;
            let member = Member {
                data_id,
                contributor: pseudonym(&[7; 32], data_id),
                consent_id: ConsentId(B256::repeat_byte(8)),
                payee: Address::ZERO,
                weight: u128::from(1 + number % 7),
            };
            Ok(MemberRow {
                member,
                content_hash: ContentHash(sha256(&[&number.to_be_bytes()])),
                ciphertext_cid: cid,
                key_cid: cid,
                batch_number: 0,
                event_index: 0,
                purposes: u32::MAX,
            })
        })
        .collect::<Result<_>>()?;
    rows.sort_unstable_by_key(|row| row.member.data_id);
    let content = forge.version_of(&rows).await?;
    let paid: Vec<(B256, u128)> = rows.iter().map(|row| (row.member.contributor, row.member.weight)).collect();
    drop(rows);
    let ip_id = forge.register_dataset(&content).await?;
    forge.stack.chain.mine(3).await?;
    let begun = Instant::now();
    until(db, "SELECT state = 'valid' FROM dataset_version", indexer).await?;
    let loaded = begun.elapsed();

    let offer = market::publish_offer(&forge.stack, &forge.world, ip_id).await?;
    let sold = market::buy(&forge.stack, &forge.world, offer, 1, market::LICENSE_PRICE).await?;
    forge.stack.chain.mine(3).await?;
    let begun = Instant::now();
    until(db, "SELECT points_state = 'posted' FROM sale", indexer).await?;
    let took = begun.elapsed();
    let weights: Vec<u128> = paid.iter().map(|(_, weight)| *weight).collect();
    let parts = split_points(sold.pointsShare, &weights).context("nobody is paid")?;
    let transfers: i64 =
        sqlx::query_scalar("SELECT count(*) FROM ledger_transfer WHERE cause = 'royalty'").fetch_one(&mut *db).await?;
    let begun = Instant::now();
    let (count, sum): (i64, String) =
        sqlx::query_as("SELECT count(*), sum(amount)::text FROM royalty_part WHERE license_id = $1::text::numeric")
            .bind(sold.licenseId.to_string())
            .fetch_one(&mut *db)
            .await?;
    let summed = begun.elapsed();
    let gained = parts.iter().filter(|part| **part > 0).count();
    ensure!(
        sum == sold.pointsShare.to_string() && usize::try_from(count)? == gained,
        "{count} parts sum to {sum}; expected {gained}, and a share of {}",
        sold.pointsShare
    );
    let mut slowest = Duration::ZERO;
    for at in (0..paid.len()).step_by((paid.len() / SPOT_CHECKS).max(1)) {
        let begun = Instant::now();
        let (_, account) = indexer.get(&format!("/v1/accounts/{}", paid[at].0)).await?;
        slowest = slowest.max(begun.elapsed());
        let part = parts[at].to_string();
        ensure!(
            account["balance"] == part.as_str() && (part == "0" || account["transfers"][0]["amount"] == part.as_str()),
            "member {at}: expected {part}, got {account}"
        );
    }
    println!("\n| sale over {members} members | s |\n|---|---|");
    println!("| members out of their manifest into the tables | {:.1} |", loaded.as_secs_f64());
    println!("| the sale's points into the ledger, transfers: {transfers} | {:.2} |", took.as_secs_f64());
    println!("| its {count} parts added up: to the last unit the share, {sum} | {:.2} |", summed.as_secs_f64());
    println!(
        "| the slowest of {SPOT_CHECKS} accounts with its statement, each as the split is computed apart | {:.3} |",
        slowest.as_secs_f64()
    );
    Ok(())
}

/// Waits until a query says yes.
async fn until(db: &mut PgConnection, sql: &'static str, indexer: &Service) -> Result<()> {
    let deadline = Instant::now() + TIME_MAX;
    while !sqlx::query_scalar::<_, bool>(sql).fetch_optional(&mut *db).await?.unwrap_or_default() {
        ensure!(Instant::now() < deadline, "{sql}: not in time; {}", indexer.log_tail());
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Asks for proofs by the clock, of records far apart.
async fn ask_for_proofs(indexer: &Service, flags: &Ledger) -> Result<()> {
    let client = reqwest::Client::new();
    let (begun, time) = (Instant::now(), Duration::from_secs(flags.seconds.into()));
    let mut clock = tokio::time::interval(Duration::from_secs(1) / u32::from(flags.proofs));
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let ticks = futures::stream::unfold((clock, 0u32), |(mut clock, number)| async move {
        let due = clock.tick().await;
        Some(((number, due), (clock, number.wrapping_add(1))))
    });
    let ask = |(number, due): (u32, tokio::time::Instant)| {
        let client = &client;
        async move {
            // a multiplicative hash: neighbours in time are in batches far apart
            let record = u32::try_from(u64::from(number) * 2_654_435_761 % u64::from(flags.records))?;
            let id = DataId::new(PROVIDER_NAME, &source_id(record))?;
            let answer = client.get(format!("{}/v1/records/{id}/proofs", indexer.url())).send().await?;
            let status = answer.status();
            let body: serde_json::Value = answer.json().await?;
            ensure!(status == 200 && body["proofs"][1] != json!(null), "{id}: {status}: {body}");
            Ok::<_, anyhow::Error>(due.elapsed())
        }
    };
    let mut latencies: Vec<Duration> =
        ticks.take_while(|_| ready(begun.elapsed() < time)).map(ask).buffer_unordered(1_000).try_collect().await?;
    latencies.sort_unstable();
    let at = |percent: usize| {
        latencies.get((latencies.len().saturating_sub(1)) * percent / 100).context("no proof was asked for")
    };
    println!("\n| proofs by data id out of {} events, {}/s | ms |\n|---|---|", flags.records * 2, flags.proofs);
    for percent in [50, 99, 100] {
        println!("| p{percent} | {:.1} |", at(percent)?.as_secs_f64() * 1e3);
    }
    Ok(())
}
