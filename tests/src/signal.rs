//! Ends by signal: Ctrl-C and SIGTERM.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Waits for the first of them; gives its name.
pub async fn stop_signal() -> Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut hang_up = signal(SignalKind::hangup()).context("failed to listen for SIGHUP")?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed.context("failed to listen for Ctrl-C").map(|()| "Ctrl-C"),
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = hang_up.recv() => Ok("SIGHUP"),
    }
}
