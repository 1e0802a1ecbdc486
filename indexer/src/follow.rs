//! The one loop that writes: mirror, apply what is final, settle what waits, look again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tidemark::service::causes;
use tokio_util::sync::CancellationToken;

use crate::{
    manifest::{self, Files, Mined, SettleError},
    project::{self, ProjectError},
    status::Status,
    sync::{self, Head, Mirror, SyncError},
};

/// Longest pause after failures in a row.
const PAUSE_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Sync(#[from] SyncError),
    #[error(transparent)]
    Project(#[from] ProjectError),
    #[error(transparent)]
    Settle(#[from] SettleError),
}

impl StepError {
    fn is_final(&self) -> bool {
        matches!(self, Self::Sync(SyncError::DeepReorg { .. } | SyncError::OtherDeployment { .. }))
    }
}

/// Follows the chain until cancelled, or until a reorg goes deeper than finality.
pub async fn follow(mut mirror: Mirror, files: Files, status: Arc<Status>, poll: Duration, stop: CancellationToken) {
    let mut mined = Mined::default();
    let mut failures = 0u32;
    loop {
        let pause = match step(&mut mirror, &files, &mut mined, &status).await {
            Ok(head) => {
                failures = 0;
                status.update(|seen| seen.last_error = None);
                if head.more { Duration::ZERO } else { poll }
            }
            Err(error) => {
                let text = causes(&error);
                if error.is_final() {
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

async fn step(mirror: &mut Mirror, files: &Files, mined: &mut Mined, status: &Status) -> Result<Head, StepError> {
    let head = mirror.step().await?;
    status.update(|seen| {
        seen.latest = Some(head.latest.number);
        seen.finalized = head.finalized.map(|header| header.number);
    });
    if let Some(finalized) = head.finalized {
        while project::apply(&files.pool, &files.deployment, finalized).await? {}
    }
    while manifest::settle(files).await? > 0 {}
    mined.preview(files).await?;
    let cursor = sync::cursor(&mut *files.pool.acquire().await.map_err(SyncError::from)?).await.map_err(SyncError::from)?;
    metrics::gauge!("tidemark_indexer_latest_block").set(gauge(head.latest.number));
    metrics::gauge!("tidemark_indexer_applied_block").set(gauge(cursor.applied_number));
    let final_number = head.finalized.map_or(0, |header| header.number);
    if !head.more && cursor.applied_number >= final_number.min(cursor.mirrored_number) {
        status.update(|seen| seen.level_at = Some(Instant::now()));
    }
    Ok(head)
}

/// A gauge takes nothing but a float; block numbers stay far below 2^53.
fn gauge(number: u64) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}

