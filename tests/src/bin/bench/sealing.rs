//! Sealing a batch of a million events: order, chain, tree, manifest and its CID, beside hashing the leaves alone.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use alloy::primitives::{Address, B256, keccak256};
use anyhow::{Context, Result};
use clap::Args;
use tidemark::{
    batch::{Header, leaves, summarise_hashed},
    event::{Event, EventKind},
    ids::{ConsentId, ContentHash, DataId, sha256},
    manifest::Manifest,
    store::cid_of,
};
use tidemark_relayer::batch::arrange::arrange;

/// How large, and how often.
#[derive(Args, Clone)]
pub struct Sealing {
    /// Events of the batch.
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    count: u32,
    /// Times that each is measured; the medians are shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=99))]
    times: u8,
}

const STEPS: [&str; 3] = ["order, chain and hash", "check and tree, manifest", "CID"];

/// Prints the table.
pub fn run(flags: &Sealing) -> Result<()> {
    let events: Vec<Event> = (0..flags.count / 2).flat_map(record).collect();
    let cores = std::thread::available_parallelism()?;
    let mut floor = Laps::default();
    let mut total = Laps::default();
    let mut steps: [Laps; 3] = Default::default();
    for _ in 0..flags.times {
        let begun = Now::read()?;
        std::hint::black_box(leaves(&events));
        floor.add(begun)?;

        let mut events = events.clone();
        let begun = Now::read()?;
        let leaves = arrange(&mut events, &HashMap::new())?;
        let arranged = steps[0].add(begun)?;
        let manifest = Manifest { provider: Address::repeat_byte(1), number: 0, events, disclosures: None };
        // side by side, as the relayer does it
        let (summary, bytes) = rayon::join(|| summarise_hashed(&manifest.events, &leaves), || manifest.encode());
        let (summary, bytes) = (summary?, bytes?);
        let encoded = steps[1].add(arranged)?;
        let cid = cid_of(&bytes);
        std::hint::black_box(Header::new(manifest.provider, 0, &manifest.events, &summary, cid));
        steps[2].add(encoded)?;
        total.add(begun)?;
    }
    println!("\n{} events, two of each record, on {cores} cores; medians of {}", events.len(), flags.times);
    println!("\n| step | s | of the floor | cores busy |\n|---|---|---|---|");
    let floor_seconds = median(&mut floor.elapsed)?.as_secs_f64();
    let line = |name: &str, laps: &mut Laps| {
        let (seconds, worked) = (median(&mut laps.elapsed)?.as_secs_f64(), median(&mut laps.worked)?.as_secs_f64());
        println!("| {name} | {seconds:.2} | {:.2} | {:.2} |", seconds / floor_seconds, worked / seconds);
        anyhow::Ok(())
    };
    for (name, laps) in STEPS.iter().zip(&mut steps) {
        line(name, laps)?;
    }
    line("all of it", &mut total)?;
    line("floor: hashing the leaves alone, same cores", &mut floor)?;
    println!("\nmost memory of the process: {} MiB", super::memory("self", "VmHWM")? >> 20);
    Ok(())
}

/// How often something was timed.
#[derive(Default)]
struct Laps {
    elapsed: Vec<Duration>,
    /// Of all cores.
    worked: Vec<Duration>,
}

impl Laps {
    /// Adds what it took since then, and says when it ended.
    fn add(&mut self, since: Now) -> Result<Now> {
        let now = Now::read()?;
        self.elapsed.push(now.at - since.at);
        self.worked.push(now.worked.saturating_sub(since.worked));
        Ok(now)
    }
}

/// A moment, and the time that this process had had the processors for until then.
#[derive(Clone, Copy)]
struct Now {
    at: Instant,
    worked: Duration,
}

impl Now {
    fn read() -> Result<Self> {
        Ok(Self { at: Instant::now(), worked: super::processor_time("self")? })
    }
}

fn median(times: &mut [Duration]) -> Result<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied().context("nothing measured")
}

/// A registration and its acceptance, as sealing takes them: neither index nor predecessor known.
fn record(number: u32) -> [Event; 2] {
    let random = keccak256(number.to_be_bytes());
    let first = Event {
        index: 0,
        data_id: DataId(uuid::Uuid::from_slice(&random[..16]).unwrap_or_default()),
        sequence: 0,
        kind: EventKind::Registered,
        contributor: random,
        content_hash: ContentHash(sha256(&[random.as_slice()])),
        consent_id: ConsentId(keccak256(random)),
        commitment: sha256(&[random.as_slice(), b"1"]),
        previous: B256::ZERO,
        occurred_at: 1_795_219_200 + u64::from(number),
        task_id: 7,
        reward: 0,
        payee: Address::ZERO,
    };
    // every fourth is paid to one of a thousand wallets
    let payee = if number.is_multiple_of(4) {
        Address::from_word(keccak256((number % 4_000).to_be_bytes()))
    } else {
        Address::ZERO
    };
    let commitment = sha256(&[random.as_slice(), b"2"]);
    let second = Event { sequence: 1, kind: EventKind::Accepted, commitment, reward: 300, payee, ..first.clone() };
    [first, second]
}
