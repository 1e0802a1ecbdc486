//! Records a second into the relayer by the Trace door, each answered when it is durable; its memory with all of them queued;
//! and how many it anchors meanwhile.

use std::{
    future::ready,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tidemark::ids::ContentHash;
use tidemark_tests::{
    Options, Stack,
    progress::Progress,
    stack::Services,
    story::{
        doors::{Doors, registration},
        world::World,
    },
};

use super::{memory, processor_time};

/// Records of one request, as in the target.
const BATCH: u32 = 1_000;
/// What the Trace door writes, in the order of its references.
const TABLES: [&str; 3] = ["contributor", "record", "event"];
/// Records of one transaction of the floor.
const FLOOR_ROWS: i64 = 20_000;
/// Events of a batch while records come in.
const ANCHORED_BATCH: u32 = 10_000;
/// Records of one contributor.
const RECORDS_PER_PERSON: u32 = 10;
/// How long single records are sent, first as fast as possible, then at half that rate.
const SINGLES_TIME: Duration = Duration::from_secs(10);
const SINGLES_AT_ONCE: usize = 32;

/// How much, and how much at once.
#[derive(Args, Clone)]
pub struct Relayer {
    /// Records of about 2 KB, a multiple of 1,000.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    count: u32,
    /// Requests of 1,000 at the same time.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=64))]
    concurrency: u16,
    /// Events that may wait for the chain meanwhile; more are turned away.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(10_000..))]
    backlog: u32,
    /// How long records come in while batches are sealed and anchored.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u16).range(10..=3_600))]
    seconds: u16,
}

/// Prints the tables.
pub async fn run(flags: &Relayer) -> Result<()> {
    intake(flags).await?;
    anchoring(flags).await
}

/// A write side with its provider, and the relayer's process.
async fn start(options: Options) -> Result<(Stack, Doors, String)> {
    let stack = Stack::start(Options { services: Services::WriteSide, ..options }).await?;
    let world = World::build(&stack, [1, 1, 1]).await?;
    let doors = Doors::new(&stack, &world)?;
    let relayer = stack.relayer.as_ref().context("no relayer")?.process_id().context("the relayer does not run")?;
    Ok((stack, doors, relayer.to_string()))
}

/// What comes in while nothing is sealed, and lies there.
async fn intake(flags: &Relayer) -> Result<()> {
    let progress = Progress::new();
    let options = Options {
        progress: progress.clone(),
        batch_events_max: 1 << 20,
        batch_age_ms_max: 86_400_000,
        ..Options::default()
    };
    let (stack, doors, relayer) = start(options).await?;
    let empty = memory(&relayer, "VmRSS")?;
    let spent = processor_time(&relayer)?;
    let batches = flags.count / BATCH;
    let bar = progress.bar("1,000 records a request", u64::from(batches));
    let mut took = Duration::ZERO;
    // prepared in slices, so that this process stays small too; only the sending is timed
    for slice in (0..batches).collect::<Vec<_>>().chunks(100) {
        let bodies = slice.iter().map(|batch| body(*batch)).collect::<Result<Vec<_>>>()?;
        let begun = Instant::now();
        futures::stream::iter(slice.iter().zip(bodies))
            .map(async |(batch, body)| post(&doors, *batch, body).await.inspect(|()| bar.advance()))
            .buffer_unordered(flags.concurrency.into())
            .try_collect::<()>()
            .await?;
        took += begun.elapsed();
    }
    bar.done("all answered");
    let queued = memory(&relayer, "VmRSS")?;
    let spent = processor_time(&relayer)? - spent;
    let step = progress.step("floor");
    let floor = floor(&stack).await?;
    step.done("the same rows copied");
    let (singles, half, latencies) = singles(&doors).await?;

    let count = f64::from(batches * BATCH);
    let (rate, floor) = (count / took.as_secs_f64(), count / floor.as_secs_f64());
    let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    println!("\n{count} records of {} bytes, {} requests of {BATCH} at a time, fsync on", size()?, flags.concurrency);
    println!("\n| what | measured | beside |\n|---|---|---|");
    println!("| records/s, durable when answered | {rate:.0} | {:.2} of the floor |", rate / floor);
    println!("| CPU of the relayer alone, µs a record | {:.0} | |", spent.as_secs_f64() * 1e6 / count);
    println!("| floor: COPY of the same rows by one connection, {FLOOR_ROWS} records a transaction | {floor:.0} | |");
    println!("| single records/s, {SINGLES_AT_ONCE} at a time | {singles:.0} | |");
    println!("| single records at {half:.0}/s: median, p99, ms | {:.1}, {:.1} | |", at(50), at(99));
    println!(
        "| memory of the relayer, {count} records queued, MiB | {} | {} when it began |",
        queued >> 20,
        empty >> 20
    );
    Ok(())
}

/// How often a request may be lost on its way.
const LOST_MAX: u32 = 10;

/// Sends a batch, again and again where the relayer has no room for it.
async fn post(doors: &Doors, batch: u32, body: Vec<u8>) -> Result<()> {
    let mut lost = 0;
    loop {
        let Ok(answer) = doors.post_records(&format!("bench-{batch}"), body.clone()).await else {
            // whoever is turned away before the body is read loses the connection, maybe with the next request on it
            lost += 1;
            ensure!(lost < LOST_MAX, "batch {batch}: the relayer did not answer {lost} times");
            continue;
        };
        let (status, text) = (answer.status(), answer.text().await?);
        if status == 202 {
            return Ok(());
        }
        ensure!(status == 503 && text.contains("backlog-full"), "batch {batch}: {status}: {text}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// What comes in, and what becomes of it, with a block a second.
async fn anchoring(flags: &Relayer) -> Result<()> {
    let progress = Progress::new();
    let options = Options {
        progress: progress.clone(),
        batch_events_max: ANCHORED_BATCH,
        backlog_events_max: flags.backlog,
        ..Options::default()
    };
    let (stack, doors, relayer) = start(options).await?;
    let time = Duration::from_secs(flags.seconds.into());
    let bar = progress.bar("records that are anchored meanwhile", u64::from(flags.seconds));
    let begun = Instant::now();
    let sending = futures::stream::iter(0u32..)
        .take_while(|_| ready(begun.elapsed() < time))
        .map(async |batch| post(&doors, batch, body(batch)?).await)
        .buffer_unordered(flags.concurrency.into())
        .try_collect::<()>();
    let watching = async {
        let mut db = stack.postgres.connect("relayer").await?;
        let mut seen = Vec::new();
        while begun.elapsed() < time {
            tokio::time::sleep(Duration::from_secs(1)).await;
            seen.push(Seen::now(&mut db, begun).await?);
            bar.advance();
        }
        Ok::<_, anyhow::Error>(seen)
    };
    let ((), seen) = futures::try_join!(sending, watching)?;
    bar.done("all answered");
    let most = memory(&relayer, "VmHWM")?;
    println!(
        "\nrecords of {} bytes, {} requests of {BATCH} at a time for {time:?}, blocks of 1 s, batches of up to {ANCHORED_BATCH}",
        size()?,
        flags.concurrency
    );
    println!(
        "\n| after | came in | in a block | backlog | records/s in | records/s into blocks |\n|---|---|---|---|---|---|"
    );
    let mut before = Seen::default();
    for part in 1..=5 {
        let at = seen.len() * part / 5;
        let Some(now) = at.checked_sub(1).and_then(|at| seen.get(at)) else { continue };
        let seconds = (now.at - before.at).as_secs_f64();
        let rate = |now: i64, before: i64| (now - before) as f64 / seconds;
        println!(
            "| {:.0} s | {} | {} | {} | {:.0} | {:.0} |",
            now.at.as_secs_f64(),
            now.taken,
            now.anchored,
            now.taken - now.anchored,
            rate(now.taken, before.taken),
            rate(now.anchored, before.anchored)
        );
        before = *now;
    }
    println!("\nmost memory of the relayer: {} MiB", most >> 20);
    Ok(())
}

/// Events so far.
#[derive(Clone, Copy, Default)]
struct Seen {
    at: Duration,
    taken: i64,
    anchored: i64,
}

impl Seen {
    async fn now(db: &mut PgConnection, begun: Instant) -> Result<Self> {
        let (pending, sealed, anchored) = sqlx::query_as::<_, (i64, i64, i64)>(
            "SELECT (SELECT count(*) FROM event WHERE batch_number IS NULL), coalesce(sum(event_count), 0)::bigint,
                    coalesce(sum(event_count) FILTER (WHERE state IN ('mined', 'final')), 0)::bigint FROM batch",
        )
        .fetch_one(db)
        .await?;
        Ok(Self { at: begun.elapsed(), taken: pending + sealed, anchored })
    }
}

/// Metadata as providers send it: about 2 KB with the item around it.
fn item(number: u32) -> Result<Value> {
    let id = format!("bench/{number:08}");
    let hash = ContentHash::of(id.as_bytes());
    let person = number / RECORDS_PER_PERSON;
    let hex = hash.prefixed();
    let digits = hex.trim_start_matches("sha256:");
    let metadata = json!({
        "schema_version": "trace-v1.0",
        "file": {
            "content_sha256": hex, "mime_type": "video/mp4", "media_category": "video", "size_bytes": 7_340_032 + number,
            "hashes": { "sha256": digits, "phash64": &digits[..16], "dhash64": &digits[16..32], "ahash64": &digits[32..48],
                        "keyframe_phashes": [&digits[..16], &digits[16..32], &digits[32..48], &digits[48..64]],
                        "md5": &digits[..32] },
            "behavior": { "captured_at_utc": "2026-11-20", "uploaded_at_utc": "2026-11-21", "capture_to_upload_seconds": 421,
                          "capture_to_upload_bucket": "5-60min", "upload_session_size": 3, "upload_session_kind": "gallery_pick",
                          "captured_via": "ios_native_camera", "uploaded_via": "ios_app", "client_version": "ios-1.42.0" },
        },
        "file_specific": { "base": { "motion": { "compass_heading": 247.3, "compass_heading_reference": "true_north", "speed_bucket": "stationary" } },
                           "video": { "duration_ms": 15_000, "width": 1920, "height": 1080 } },
        "asset": { "collection_id": "bench-collection-7", "customer_id": "campaign-2026-11", "task_id": "street-crossings-kr" },
        "contributor": { "anon_id": format!("anon-{person:08}"), "kyc_status": "verified", "kyc_country": "KR", "geo_region": "KR",
                         "tax_status": "submitted", "account_verification_status": "verified" },
        "app": { "platform_name": "NUMO", "legal_entity": "Numo Inc. (Seoul, Korea)" },
        "timestamps": { "originated_at": "2026-11-21T00:00:00Z", "uploaded_at": "2026-11-21T00:07:01Z",
                        "captured_at": "2026-11-20T23:59:58Z" },
        "provider_payload": { "media_id_public": id, "reviewed": 2, "labels": ["crossing", "pedestrian", "daylight", "rain"],
                              "note": "two reviewers agreed; the recording has no faces, no plates and no voices in it" },
    });
    registration(&id, &metadata)
}

fn size() -> Result<usize> {
    Ok(item(0)?.to_string().len())
}

fn body(batch: u32) -> Result<Vec<u8>> {
    let items = (batch * BATCH..(batch + 1) * BATCH).map(item).collect::<Result<Vec<_>>>()?;
    Ok(serde_json::to_vec(&items)?)
}

/// How long one connection needs to copy the rows that are there into tables with the same columns, keys and indexes. In
/// large transactions: a COPY of a few megabytes would mostly wait for its last packet (sqlx leaves Nagle's algorithm on).
async fn floor(stack: &Stack) -> Result<Duration> {
    let mut db = stack.postgres.connect("relayer").await?;
    for table in TABLES {
        let statement = format!("CREATE TABLE floor_{table} (LIKE {table} INCLUDING ALL)");
        sqlx::query(AssertSqlSafe(statement)).execute(&mut db).await?;
    }
    let (first, last): (i64, i64) =
        sqlx::query_as("SELECT min(position), max(position) FROM event").fetch_one(&mut db).await?;
    let mut took = Duration::ZERO;
    for from in (first..=last).step_by(usize::try_from(FLOOR_ROWS)?) {
        let rows = format!("event WHERE position >= {from} AND position < {}", from + FLOOR_ROWS);
        let records = format!("record WHERE data_id IN (SELECT data_id FROM {rows})");
        let people = format!(
            "contributor c WHERE reference IN (SELECT contributor_reference FROM {records})
             AND NOT EXISTS (SELECT FROM floor_contributor f WHERE f.reference = c.reference)"
        );
        let mut read = Vec::new();
        for (table, rows) in TABLES.iter().zip([people, records, rows]) {
            let statement = format!("COPY (SELECT * FROM {rows}) TO STDOUT (FORMAT binary)");
            let bytes = db.copy_out_raw(&statement).await?.try_fold(Vec::new(), |mut all, chunk| {
                all.extend_from_slice(&chunk);
                ready(Ok(all))
            });
            read.push((*table, bytes.await?));
        }
        let begun = Instant::now();
        copy_in(&mut db, &read).await?;
        took += begun.elapsed();
    }
    Ok(took)
}

async fn copy_in(db: &mut PgConnection, read: &[(&str, Vec<u8>)]) -> Result<()> {
    let mut tx = db.begin().await?;
    for (table, bytes) in read {
        let mut copy = tx.copy_in_raw(&format!("COPY floor_{table} FROM STDIN (FORMAT binary)")).await?;
        copy.send(bytes.as_slice()).await?;
        copy.finish().await?;
    }
    Ok(tx.commit().await?)
}

/// Single records a second as fast as they go, then their latencies at half that rate, sent by the clock.
async fn singles(doors: &Doors) -> Result<(f64, f64, Vec<Duration>)> {
    let send = |number: u32| async move {
        let body = serde_json::to_vec(&[item(4_000_000_000 - number)?])?;
        let begun = Instant::now();
        let answer = doors.post_records(&format!("single-{number}"), body).await?;
        ensure!(answer.status() == 202, "single record {number}: {}", answer.text().await?);
        Ok::<_, anyhow::Error>(begun.elapsed())
    };
    let begun = Instant::now();
    let sent: Vec<Duration> = futures::stream::iter(0u32..)
        .take_while(|_| ready(begun.elapsed() < SINGLES_TIME))
        .map(send)
        .buffer_unordered(SINGLES_AT_ONCE)
        .try_collect()
        .await?;
    let highest = sent.len() as f64 / begun.elapsed().as_secs_f64();

    let half = highest / 2.0;
    let pause = Duration::from_secs_f64(1.0 / half);
    let mut clock = tokio::time::interval(pause);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let begun = Instant::now();
    let first = u32::try_from(sent.len())?;
    let ticks = futures::stream::unfold((clock, first), |(mut clock, number)| async move {
        clock.tick().await;
        Some((number, (clock, number + 1)))
    });
    let mut latencies: Vec<Duration> = ticks
        .take_while(|_| ready(begun.elapsed() < SINGLES_TIME))
        .map(send)
        .buffer_unordered(1_000)
        .try_collect()
        .await?;
    latencies.sort_unstable();
    Ok((highest, half, latencies))
}
