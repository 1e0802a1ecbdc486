//! Anchoring: signed batches and withdrawals become transactions, each followed until its block is final.
//!
//! ```text
//!  estimate ─► intent + nonce (one transaction) ─► sign, persist ─► broadcast ─► mined ─► final
//!                                                       ▲    replaced at a higher fee, or vanished in a reorg
//! ```

pub mod follow;
pub mod nonce;
pub mod revert;
pub mod send;

use std::{sync::Arc, time::Duration};

use tidemark::service::causes;
use tokio_util::sync::CancellationToken;

pub use self::send::Sender;
use crate::app::App;

const ROUND_TIME_MAX: Duration = Duration::from_secs(120);

/// Follows what is under way, then sends what is due, until `stop`.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    loop {
        // a round that hangs is dropped like one that is killed: every step of it is durable before the next
        let done = tokio::time::timeout(ROUND_TIME_MAX, round(&app)).await;
        if let Err(error) = done.map_err(anyhow::Error::from).flatten() {
            tracing::warn!(cause = causes(error.as_ref()), "the chain has to wait");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(app.config.poll()) => {}
        }
    }
}

async fn round(app: &App) -> anyhow::Result<()> {
    follow::follow(app).await?;
    send::send_batches(app).await?;
    send::send_withdrawals(app).await
}
