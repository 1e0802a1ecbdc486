//! Who goes on sending through all faults: apps that register and update records and upload files, and a list of what was taken.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use alloy::primitives::Address;
use anyhow::{Context, Result, ensure};
use tidemark::ids::DataId;
use tokio::sync::RwLock;

use crate::{
    random::Random,
    story::{
        doors,
        people::Contributor,
        samples::{Expected, Kind, Sample, noise},
        world::World,
    },
    write_side::App,
};

/// Records of one request, at most.
const RECORDS_MAX: u64 = 12;
/// Between two requests of one writer, at most.
const PAUSE_MS_MAX: u64 = 900;
/// Events of an accepted upload: submission and verdict.
const EVENTS_OF_UPLOAD: u32 = 2;

/// What relayers have taken, which has to be on the chain in the end: nothing else, and nothing twice.
#[derive(Debug, Default)]
pub struct Taken {
    events: Mutex<BTreeMap<(Address, DataId), u32>>,
    uploads: Mutex<u128>,
}

fn open<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Taken {
    fn note(&self, provider: Address, data_id: DataId, events: u32) {
        *open(&self.events).entry((provider, data_id)).or_default() += events;
    }

    /// Events of each record of a provider.
    pub fn events(&self, provider: Address) -> BTreeMap<DataId, u32> {
        let events = open(&self.events);
        let own = events.iter().filter(|((of, _), _)| *of == provider);
        own.map(|((_, data_id), count)| (*data_id, *count)).collect()
    }

    /// Uploads that were accepted, and so are paid for.
    pub fn uploads(&self) -> u128 {
        *open(&self.uploads)
    }
}

/// The writers' gate: who holds it for writing has it that nothing is under way.
#[derive(Debug, Default)]
pub struct Gate {
    open: RwLock<()>,
    closing: AtomicBool,
}

impl Gate {
    /// Waits until every request is answered, and lets none begin until the guard is dropped.
    pub async fn shut(&self) -> tokio::sync::RwLockWriteGuard<'_, ()> {
        self.open.write().await
    }

    /// Ends the writers.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    fn closed(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }
}

async fn pause(random: &mut Random) {
    tokio::time::sleep(Duration::from_millis(random.below(PAUSE_MS_MAX))).await;
}

/// Registers records and updates some of them.
pub async fn records(app: &App, taken: &Taken, gate: &Gate, mut random: Random) -> Result<()> {
    let mut next = 0;
    while !gate.closed() {
        let passed = gate.open.read().await;
        let count = u32::try_from(1 + random.below(RECORDS_MAX))?;
        app.register(next, count).await?;
        for number in next..next + count {
            taken.note(app.account, app.data_id(number)?, 1);
        }
        if random.below(2) == 0 {
            app.update(next, 1).await?;
            taken.note(app.account, app.data_id(next)?, 1);
        }
        next += count;
        drop(passed);
        pause(&mut random).await;
    }
    Ok(())
}

/// Uploads a recording after the other.
pub async fn uploads(app: &App, world: &World, taken: &Taken, gate: &Gate, mut random: Random) -> Result<()> {
    let group = Contributor::group(8);
    let mut number = 0;
    while !gate.closed() {
        let passed = gate.open.read().await;
        let sample = Sample {
            path: PathBuf::new(),
            name: format!("noise-{number}.wav"),
            kind: Kind::Voice,
            mime: "audio/wav",
            expected: Expected::Accepted,
        };
        let meta = doors::meta(world, &sample, random.pick(&group).context("nobody")?)?;
        let answer = app.upload(&meta, sample.mime, &noise(number)).await?;
        ensure!(answer["status"] == "accepted", "{}: {answer}", sample.name);
        let data_id = answer["data_id"].as_str().context("an answer without a data id")?;
        taken.note(app.account, data_id.parse().context("a malformed data id")?, EVENTS_OF_UPLOAD);
        *open(&taken.uploads) += 1;
        number += 1;
        drop(passed);
        pause(&mut random).await;
    }
    Ok(())
}
