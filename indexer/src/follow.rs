//! The loops that write: one mirrors the chain and applies what is final, one fetches the files behind it, and one shows
//! what is mined. They are apart so that a file that does not come never holds up a block.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use tidemark::service::causes;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    groups,
    manifest::{self, Files, Mined},
    status::Status,
    sync::{self, Head, Mirror, SyncError},
};

/// Longest pause after failures in a row.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Files fetched at once, and how many of them may be ones that did not come before; fewer where there are few connections.
const JOBS_MAX: usize = 8;
const RETRIES_MAX: usize = 4;

/// Steps in a row that may fail because no node's answers are consistent; then only a person can say which to believe.
const INCONSISTENT_STEPS_MAX: u32 = 8;

/// Why following has to end, where it has: never skip what nobody can tell.
fn end_of_it(error: &SyncError, inconsistent: u32) -> Option<String> {
    match error {
        SyncError::DeepReorg { .. } | SyncError::OtherDeployment { .. } => Some(causes(error)),
        error if inconsistent >= INCONSISTENT_STEPS_MAX => Some(format!(
            "no node gives consistent answers, {inconsistent} times in a row: {}. Nothing of it was taken over. Give another \
             --rpc-url, or repair the node, and start again; it goes on where it stopped",
            causes(error)
        )),
        _ => None,
    }
}

/// Follows the chain until cancelled, or until a reorg goes deeper than finality.
pub async fn follow(mirror: Mirror, files: Files, status: Arc<Status>, poll: Duration, stop: CancellationToken) {
    tokio::join!(fill(mirror, &files, &status, poll, &stop), groups::work(&files.pool, &stop));
}

/// What of [`follow`] writes tables that follow from the chain, and no others.
pub async fn fill(mirror: Mirror, files: &Files, status: &Status, poll: Duration, stop: &CancellationToken) {
    let applied = Notify::new();
    tokio::join!(
        follow_chain(mirror, files, status, poll, &applied, stop),
        follow_files(files, status, poll, &applied, stop),
        show_mined(files, poll, stop),
        manifest::fill_trace(files, stop),
    );
}

async fn follow_chain(
    mut mirror: Mirror,
    files: &Files,
    status: &Status,
    poll: Duration,
    applied: &Notify,
    stop: &CancellationToken,
) {
    let mut failures = 0u32;
    let mut inconsistent = 0u32;
    loop {
        let pause = match step(&mut mirror, files, status, applied).await {
            Ok(head) => {
                (failures, inconsistent) = (0, 0);
                status.update(|seen| seen.last_error = None);
                if head.more { Duration::ZERO } else { poll }
            }
            Err(error) => {
                let text = causes(&error);
                if let SyncError::NodeBehind { latest, .. } = &error {
                    status.update(|seen| seen.latest = Some(*latest));
                }
                inconsistent = if error.is_inconsistency() { inconsistent + 1 } else { 0 };
                if let Some(text) = end_of_it(&error, inconsistent) {
                    tracing::error!(error = text, "following the chain ended for good");
                    status.update(|seen| seen.halted = Some(text));
                    return;
                }
                failures = failures.saturating_add(1);
                tracing::warn!(error = text, failures, "a step failed: trying again");
                status.update(|seen| seen.last_error = Some(text));
                poll.saturating_mul(1 << failures.min(8)).min(PAUSE_MAX)
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn step(mirror: &mut Mirror, files: &Files, status: &Status, applied: &Notify) -> Result<Head, SyncError> {
    let head = mirror.step().await?;
    status.update(|seen| {
        seen.latest = Some(head.latest.number);
        seen.finalized = head.finalized.map(|header| header.number);
    });
    applied.notify_one();
    let cursor = sync::cursor(&mut *files.pool.acquire().await?).await?;
    metrics::gauge!("tidemark_indexer_latest_block").set(gauge(head.latest.number));
    metrics::gauge!("tidemark_indexer_applied_block").set(gauge(cursor.applied_number));
    let final_number = head.finalized.map_or(0, |header| header.number);
    if !head.more && cursor.applied_number >= final_number.min(cursor.mirrored_number) {
        status.update(|seen| seen.level_at = Some(Instant::now()));
    }
    Ok(head)
}

/// Fetches what waits, several at once; one that takes long holds up only what follows it.
///
/// Each is a task of its own: it may hold a connection to Postgres, which looking for more waits for, too.
async fn follow_files(files: &Files, status: &Status, poll: Duration, applied: &Notify, stop: &CancellationToken) {
    // the chain and readers need connections as well, while all of these wait for each other to write
    let connections = usize::try_from(files.pool.options().get_max_connections()).unwrap_or(JOBS_MAX);
    let jobs_max = (connections / 2).clamp(1, JOBS_MAX);
    let retries_max = jobs_max.div_ceil(JOBS_MAX / RETRIES_MAX);
    let mut running = JoinSet::new();
    let mut told = HashMap::new();
    let mut keys = BTreeSet::<String>::new();
    let mut retries = 0usize;
    loop {
        let mut failed = None;
        match manifest::due(files).await {
            Ok(jobs) => {
                for job in jobs {
                    let (key, is_retry) = (job.key(), job.is_retry());
                    let is_full = running.len() >= jobs_max || (is_retry && retries >= retries_max);
                    if is_full || !keys.insert(key.clone()) {
                        continue;
                    }
                    retries += usize::from(is_retry);
                    let files = files.clone();
                    told.insert(running.spawn(async move { job.run(&files).await }).id(), (key, is_retry));
                }
            }
            Err(error) => failed = Some(causes(&error)),
        }
        let pause = tokio::time::sleep(poll);
        tokio::select! {
            () = stop.cancelled() => return,
            () = pause => {}
            () = applied.notified() => {}
            Some(ended) = running.join_next_with_id() => {
                let (id, settled) = match ended {
                    Ok((id, settled)) => (id, settled),
                    Err(error) => (error.id(), Err(error.into())),
                };
                if let Some((key, is_retry)) = told.remove(&id) {
                    keys.remove(&key);
                    retries -= usize::from(is_retry);
                }
                failed = settled.err().map(|error| causes(&error)).or(failed);
            }
        }
        if let Some(error) = &failed {
            tracing::warn!(error, "files could not be settled: trying again");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(poll) => {}
            }
        }
        status.update(|seen| seen.files_error = failed);
    }
}

/// Shows events of mined batches, for readers who do not want to wait for finality.
async fn show_mined(files: &Files, poll: Duration, stop: &CancellationToken) {
    let mut mined = Mined::default();
    loop {
        if let Err(error) = mined.preview(files).await {
            tracing::debug!(error = causes(&error), "mined batches can't be shown: they will be once final");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(poll) => {}
        }
    }
}

/// A gauge takes nothing but a float; block numbers stay far below 2^32 for long.
pub(crate) fn gauge(number: u64) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}
