//! From a block's being mined to its rows in the API, with a block every 200 ms and a batch of events in each.

use std::time::Duration;

use alloy::{primitives::Address, sol_types::SolCall};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use tidemark::contracts::ProvenanceLog;
use tidemark_tests::{Options, chain::Mining, forge::Forge, progress::Progress};
use tokio::{task::JoinSet, time::Instant};

/// Blocks that become final with one: anvil's is the second below the newest.
const FINAL_AFTER: u64 = 2;
const BLOCK_TIME: Duration = Duration::from_millis(200);
/// How often the API is asked; what it finds is late by less.
const ASK: Duration = Duration::from_millis(10);
const TIME_MAX: Duration = Duration::from_secs(30);
/// How often the indexer looks for a new block, for chains as fast as this.
const POLL_MS: u64 = 50;

/// How much.
#[derive(Args, Clone)]
pub struct Lag {
    /// Blocks.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    blocks: u32,
    /// Records in each, two events a record.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    records: u32,
}

/// Prints the table.
pub async fn run(flags: &Lag) -> Result<()> {
    let progress = Progress::new();
    let options =
        Options { progress: progress.clone(), mining: Mining::Automatic, poll_ms: POLL_MS, ..Options::default() };
    let forge = Forge::with(options, flags.blocks.saturating_mul(flags.records)).await?;
    let step = progress.step("batches");
    let mut batches = Vec::new();
    for number in 0..flags.blocks {
        let mut events = Vec::new();
        for at in 0..flags.records {
            events.extend(forge.accepted(2 * at, &format!("lag-{number}-{at}"), Address::ZERO)?);
        }
        batches.push(forge.batch(number.into(), events).await?);
    }
    step.done("signed, their manifests in the store");
    let indexer = forge.stack.start_second_indexer("lag").await?;
    let chain = &forge.stack.chain;
    chain.call("anvil_impersonateAccount", json!([forge.world.provider])).await?;
    chain.call("evm_setAutomine", json!([false])).await?;

    let client = reqwest::Client::builder().timeout(TIME_MAX).build().context("no HTTP client")?;
    let bar = progress.bar("blocks", flags.blocks.into());
    let (mut clock, mut mined, mut asked) = (tokio::time::interval(BLOCK_TIME), Vec::new(), JoinSet::new());
    for number in 0..u64::from(flags.blocks) + FINAL_AFTER {
        clock.tick().await;
        let batch = usize::try_from(number).ok().and_then(|at| batches.get(at));
        if let Some(batch) = batch {
            let call = ProvenanceLog::anchorCall { batch: (&batch.header).into(), signature: batch.signature.clone() };
            let (from, to) = (forge.world.provider, forge.world.deployment.provenance_log);
            let data = alloy::primitives::Bytes::from(call.abi_encode());
            let transaction = json!({ "from": from, "to": to, "data": data, "gas": "0x200000" });
            chain.call("eth_sendTransaction", json!([transaction])).await?;
        }
        chain.call("anvil_mine", json!(["0x1"])).await?;
        let at = Instant::now();
        mined.push(at);
        if let Some(batch) = batch {
            bar.advance();
            let last = batch.events.last().context("a batch without events")?.data_id;
            let (batch, record) = (format!("/v1/batches/numo/{number}"), format!("/v1/records/{last}"));
            let (client, url) = (client.clone(), indexer.url().to_owned());
            asked.spawn(async move {
                let mined =
                    until(&client, &url, &record, |status, body| status == 200 && body["events"][1].is_object());
                let mined = mined.await?;
                // before it is final there is nothing to see: who asks all the time only takes processor time away
                tokio::time::sleep_until(at + BLOCK_TIME * u32::try_from(FINAL_AFTER)?).await;
                let credited = until(&client, &url, &batch, |_, body| body["state"] == "valid").await?;
                Ok::<_, anyhow::Error>((number, mined, credited))
            });
        }
    }
    bar.done("mined");
    let (mut readable, mut credited) = (Vec::new(), Vec::new());
    while let Some(ended) = asked.join_next().await {
        let (number, first, second) = ended.context("a reader panicked")??;
        let when = |number: u64| usize::try_from(number).ok().and_then(|at| mined.get(at)).context("no such block");
        readable.push(first.saturating_duration_since(*when(number)?));
        credited.push(second.saturating_duration_since(*when(number + FINAL_AFTER)?));
    }
    println!(
        "\n{} blocks, one every {} ms, a batch of {} events in each, the indexer looking every {POLL_MS} ms (`--poll-interval-ms`)\n",
        flags.blocks,
        BLOCK_TIME.as_millis(),
        flags.records * 2
    );
    println!("| from | to | p50, ms | p99, ms | most, ms | target |\n|---|---|---|---|---|---|");
    row("its block is mined", "a record's events are in the API", &mut readable, "p99 under 1,000")?;
    row("its block is final", "its batch is valid, its points in the ledger", &mut credited, "")?;
    Ok(())
}

fn row(from: &str, to: &str, latencies: &mut [Duration], target: &str) -> Result<()> {
    latencies.sort_unstable();
    ensure!(!latencies.is_empty(), "nothing was measured");
    let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    let (median, late, most) = (at(50), at(99), at(100));
    let verdict = match target {
        "" => String::new(),
        target => format!("{} {target}", if late < 1e3 { "✔" } else { "✘" }),
    };
    println!("| {from} | {to} | {median:.0} | {late:.0} | {most:.0} | {verdict} |");
    Ok(())
}

/// When the API first answers as wanted.
async fn until(
    client: &reqwest::Client,
    url: &str,
    path: &str,
    wanted: impl Fn(u16, &Value) -> bool,
) -> Result<Instant> {
    let deadline = Instant::now() + TIME_MAX;
    loop {
        let answer =
            client.get(format!("{url}{path}")).send().await.with_context(|| format!("failed to get {path}"))?;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap_or_default();
        let now = Instant::now();
        if wanted(status, &body) {
            return Ok(now);
        }
        if now > deadline {
            bail!("{path} stays {status} {body}");
        }
        tokio::time::sleep(ASK).await;
    }
}
