//! Submissions a second through the whole path, and where the time goes.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use tidemark::{
    history::History,
    ids::{ContentHash, DataId},
    sealing::{ContentKey, encrypt},
};
use tidemark_relayer::quality::{Claim, judge};
use tidemark_tests::{
    Options, Stack,
    progress::Progress,
    story::{
        doors::{Doors, meta},
        people::Contributor,
        samples::{Expected, Kind, Sample, noise},
        world::World,
    },
};

/// How long all submissions may take from the last upload to the indexer.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// How many, and how many at once.
#[derive(Args, Clone)]
pub struct Submissions {
    /// Files to submit, each one second of 16 kHz sound (32 KB).
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    count: u32,
    /// Uploads at the same time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
}

struct Upload {
    meta: Value,
    number: u32,
}

/// Prints the tables.
pub async fn run(flags: &Submissions) -> Result<()> {
    let progress = Progress::new();
    let options = Options { progress: progress.clone(), batch_events_max: 10_000, ..Options::default() };
    let stack = Stack::start(options).await?;
    let world = World::build(&stack, [u128::from(flags.count), 1, 1]).await?;
    let doors = Doors::new(&stack, &world)?;
    let group = Contributor::group(100);
    let uploads = prepare(&world, &group, flags.count)?;
    let relayer = stack.relayer.as_ref().context("no relayer")?.url().to_owned();

    let bar = progress.bar("upload", u64::from(flags.count));
    let latencies = Mutex::new(Vec::with_capacity(uploads.len()));
    let begun = Instant::now();
    futures::stream::iter(&uploads)
        .map(|upload| async {
            let file = noise(upload.number);
            let started = Instant::now();
            let answer = doors.post_upload(&upload.meta, "audio/wav", file).await?;
            let (status, text) = (answer.status(), answer.text().await?);
            ensure!(status == 201 && text.contains("\"accepted\""), "upload {}: {status}: {text}", upload.number);
            latencies.lock().map_err(|_| anyhow::anyhow!("an upload panicked"))?.push(started.elapsed());
            bar.advance();
            Ok::<_, anyhow::Error>(())
        })
        .buffer_unordered(usize::from(flags.concurrency))
        .try_collect::<()>()
        .await?;
    let durable = begun.elapsed();
    bar.done("all answered");

    let step = progress.step("settle");
    let (mined, settled) = settle(&stack, &world, flags.count, begun).await?;
    let indexed = indexed(&stack, &world, flags.count, begun).await?;
    step.done("all indexed");
    let stages = stages(&relayer).await?;

    let mut latencies = latencies.into_inner().context("an upload panicked")?;
    latencies.sort_unstable();
    let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    let rate = |time: Duration| f64::from(flags.count) / time.as_secs_f64();
    println!(
        "\n{} submissions of 32 KB, {} at a time, blocks of 1 s, final after 2 more",
        flags.count, flags.concurrency
    );
    println!("\n| reached | s from the first request | submissions/s to here |\n|---|---|---|");
    for (name, time) in [
        ("answered: judged, encrypted, durable", durable),
        ("anchored on chain", mined),
        ("final", settled),
        ("indexed, points credited", indexed),
    ] {
        println!("| {name} | {:.1} | {:.0} |", time.as_secs_f64(), rate(time));
    }
    println!("\nupload latency, ms: median {:.1}, p99 {:.1}, max {:.1}", at(50), at(99), at(100));

    println!("\n| inside one upload | ms, mean | share |\n|---|---|---|");
    let total: f64 = stages.iter().map(|(_, ms)| ms).sum();
    for (name, ms) in &stages {
        println!("| {name} | {ms:.2} | {:.0} % |", 100.0 * ms / total.max(f64::MIN_POSITIVE));
    }

    let rows = floor_rows(&stack, flags).await?;
    let bytes = floor_bytes(flags).await?;
    println!("\n| floor, same run, same concurrency | submissions/s | this path reaches |\n|---|---|---|");
    for (name, floor) in [
        ("the same rows, one plain transaction each, nothing else", rows),
        ("judge, hash and encrypt, nothing kept", bytes),
    ] {
        println!("| {name} | {floor:.0} | {:.2} of it |", rate(durable) / floor);
    }
    Ok(())
}

fn prepare(world: &World, group: &[Contributor], count: u32) -> Result<Vec<Upload>> {
    let people = group.iter().cycle();
    (0..count)
        .zip(people)
        .map(|(number, person)| {
            let sample = Sample {
                name: format!("bench/{number}.wav"),
                path: std::path::PathBuf::new(),
                kind: Kind::Voice,
                mime: "audio/wav",
                expected: Expected::Accepted,
            };
            Ok(Upload { meta: meta(world, &sample, person)?, number })
        })
        .collect()
}

/// When all events were mined, and when all were final.
async fn settle(stack: &Stack, world: &World, count: u32, begun: Instant) -> Result<(Duration, Duration)> {
    let history =
        History { provider: stack.provider().clone(), deployment: stack.deployment.clone(), store: stack.store()? };
    let wanted = 2 * u64::from(count);
    let mut mined = None;
    let deadline = Instant::now() + SETTLE_TIME_MAX;
    loop {
        let headers = history.anchored(Some(world.provider)).await?;
        let events = |is_final: bool| -> u64 {
            let counted = headers.iter().filter(|batch| batch.place.is_final || !is_final);
            counted.map(|batch| u64::from(batch.header.event_count)).sum()
        };
        if events(false) >= wanted && mined.is_none() {
            mined = Some(begun.elapsed());
        }
        if events(true) >= wanted {
            return Ok((mined.unwrap_or_else(|| begun.elapsed()), begun.elapsed()));
        }
        ensure!(Instant::now() < deadline, "{} of {wanted} events are final", events(true));
        tokio::time::sleep(POLL).await;
    }
}

/// When the indexer had issued all points and wallets' rewards: every batch is in.
async fn indexed(stack: &Stack, world: &World, count: u32, begun: Instant) -> Result<Duration> {
    let indexer = stack.indexer.as_ref().context("no indexer")?.url().to_owned();
    let deadline = Instant::now() + SETTLE_TIME_MAX;
    let task = world.task(Kind::Voice)?;
    ensure!(task.budget == task.price * u128::from(count), "the budget is not spent whole");
    loop {
        let answer = reqwest::get(format!("{indexer}/v1/batches?limit=1000")).await?;
        let batches: Value = answer.json().await.context("batches that can't be read")?;
        let valid = batches["batches"].as_array().into_iter().flatten().filter(|batch| batch["state"] == "valid");
        let events: u64 = valid.filter_map(|batch| batch["event_count"].as_u64()).sum();
        if events >= 2 * u64::from(count) {
            return Ok(begun.elapsed());
        }
        ensure!(Instant::now() < deadline, "{events} of {} events are indexed", 2 * count);
        tokio::time::sleep(POLL).await;
    }
}

/// Mean milliseconds of each stage of an upload, out of the relayer's metrics.
async fn stages(relayer: &str) -> Result<Vec<(String, f64)>> {
    let text = reqwest::get(format!("{relayer}/metrics")).await?.text().await?;
    let value = |suffix: &str, stage: &str| -> Option<f64> {
        let prefix = format!("submission_stage_seconds_{suffix}{{stage=\"{stage}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&prefix))?.parse().ok()
    };
    tidemark_relayer::intake::submit::STAGES
        .iter()
        .map(|stage| {
            let (sum, count) = (value("sum", stage), value("count", stage));
            let (sum, count) = sum.zip(count).with_context(|| format!("the relayer has no metric of stage {stage}"))?;
            Ok(((*stage).to_owned(), 1e3 * sum / count))
        })
        .collect()
}

/// Submissions a second if a submission were only its rows: one transaction, a record and two events of their usual size.
async fn floor_rows(stack: &Stack, flags: &Submissions) -> Result<f64> {
    let url = stack.postgres.create_database("floor").await?;
    let pool = PgPoolOptions::new().max_connections(flags.concurrency.into()).connect(&url).await?;
    for statement in [
        "CREATE TABLE record (id uuid PRIMARY KEY, body jsonb NOT NULL)",
        "CREATE TABLE event (id uuid, sequence int, body jsonb NOT NULL, PRIMARY KEY (id, sequence))",
    ] {
        sqlx::query(statement).execute(&pool).await?;
    }
    let body = json!({ "metadata": "m".repeat(900) });
    let begun = Instant::now();
    futures::stream::iter(0..flags.count)
        .map(|_| async {
            let id = uuid::Uuid::new_v4();
            let mut tx = pool.begin().await?;
            sqlx::query("INSERT INTO record VALUES ($1, $2)").bind(id).bind(&body).execute(&mut *tx).await?;
            sqlx::query("INSERT INTO event VALUES ($1, 0, $2), ($1, 1, $2)")
                .bind(id)
                .bind(&body)
                .execute(&mut *tx)
                .await?;
            tx.commit().await
        })
        .buffer_unordered(flags.concurrency.into())
        .try_collect::<()>()
        .await?;
    Ok(f64::from(flags.count) / begun.elapsed().as_secs_f64())
}

/// Submissions a second if a submission were only its bytes, on as many threads as there are cores.
async fn floor_bytes(flags: &Submissions) -> Result<f64> {
    let next = Arc::new(AtomicUsize::new(0));
    let claim = Claim::parse("audio/wav").context("audio/wav is not judged")?;
    let begun = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = (0..threads).map(|_| {
        let (next, count) = (next.clone(), flags.count as usize);
        tokio::task::spawn_blocking(move || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<_, anyhow::Error>(());
                }
                let file = noise(u32::try_from(number)?);
                let judgement = judge(&file, claim);
                let id = DataId(uuid::Uuid::from_u128(number as u128));
                let sealed = encrypt(&ContentKey::random()?, id, &file)?;
                std::hint::black_box((judgement, ContentHash::of(&file), sealed));
            }
        })
    });
    for worker in futures::future::join_all(workers).await {
        worker.context("a worker panicked")??;
    }
    Ok(f64::from(flags.count) / begun.elapsed().as_secs_f64())
}
