//! Anchoring: signed batches and withdrawals become transactions, each followed until its block is final.
//!
//! ```text
//!  estimate ─► intent + nonce (one transaction) ─► sign, persist ─► broadcast ─► mined ─► final, or reverted
//!                                                       ▲    replaced at a higher fee, or vanished in a reorg
//! ```
//!
//! Each sender key is a lane of its own. Of several processes that have the key, the one with the lane's lease works.

pub mod data_fee;
pub mod fees;
pub mod follow;
pub mod nonce;
pub mod revert;
pub mod send;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tidemark::service::causes;
use tokio_util::sync::CancellationToken;

pub use self::send::Sender;
use crate::app::App;

const ROUND_TIME_MAX: Duration = Duration::from_secs(120);
/// With nothing to do, the chain is looked at this often all the same: for gaps, and for what pauses sending.
const IDLE_TIME: Duration = Duration::from_secs(15);

/// Follows what a lane has under way, then sends what is due, until `stop`; stands by while another process does.
pub async fn run(app: Arc<App>, lane: usize, stop: CancellationToken) {
    let Some(sender) = app.senders.get(lane) else { return };
    let mut looked: Option<Instant> = None;
    loop {
        match app.leases.hold(sender.lease()).await {
            Ok(true) => {
                let is_due = looked.is_none_or(|at| at.elapsed() >= IDLE_TIME);
                // a round that hangs is dropped like one that is killed: every step of it is durable before the next
                match tokio::time::timeout(ROUND_TIME_MAX, round(&app, sender, is_due)).await {
                    Ok(Ok(false)) => {}
                    Ok(Ok(true)) => looked = Some(Instant::now()),
                    Ok(Err(error)) => give_up(&app, sender, &error).await,
                    Err(elapsed) => give_up(&app, sender, &elapsed.into()).await,
                }
            }
            Ok(false) => looked = None,
            Err(error) => tracing::warn!(%error, "no lease of the lane"),
        }
        if stop.run_until_cancelled(tokio::time::sleep(app.config.poll())).await.is_none() {
            return;
        }
    }
}

/// Another process may have better luck, for example with its nodes.
async fn give_up(app: &App, sender: &Sender, error: &anyhow::Error) {
    tracing::warn!(signer = %sender.address(), cause = causes(error.as_ref()), "the chain has to wait");
    if let Err(error) = app.leases.release(sender.lease()).await {
        tracing::warn!(%error, "the lane's lease was not given up");
    }
}

/// One look at everything; false where there was nothing to look at.
async fn round(app: &App, sender: &Sender, is_due: bool) -> anyhow::Result<bool> {
    if !is_due && !follow::is_busy(app, sender).await? && !send::is_due(app).await? {
        return Ok(false);
    }
    nonce::open_lane(&app.db, sender).await?;
    follow::follow(app, sender).await?;
    let paused = fees::pause(&app.db, sender).await?;
    nonce::set_paused(&app.db, sender, paused.as_deref()).await?;
    if paused.is_none() {
        send::send(app, sender).await?;
    }
    Ok(true)
}
