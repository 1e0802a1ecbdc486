//! Starting a service's log, and serving until somebody asks it to stop.

use std::{io, io::IsTerminal, time::Duration};

use axum::Router;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// How long open requests may take after the signal.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(20);

/// Logs to standard error: text for a person at a terminal, JSON lines otherwise.
pub fn start_log(filter: &str) -> Result<(), tracing_subscriber::filter::ParseError> {
    let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::try_new(filter)?).with_writer(io::stderr);
    match io::stderr().is_terminal() {
        true => log.init(),
        false => log.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Serves until SIGTERM, SIGINT or `stop`; then cancels `stop`, so that workers end too, and lets open requests finish.
pub async fn serve_until_stopped(listener: TcpListener, router: Router, stop: CancellationToken) -> io::Result<()> {
    let server = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let served = server.into_future();
    tokio::pin!(served);
    tokio::select! {
        result = &mut served => return result,
        signal = stop_signal() => tracing::info!(signal = signal?, "stopping: no new requests"),
    }
    stop.cancel();
    match tokio::time::timeout(SHUTDOWN_TIME_MAX, served).await {
        Ok(result) => result,
        Err(_) => {
            tracing::warn!("some requests did not end in time and were cut off");
            Ok(())
        }
    }
}

async fn stop_signal() -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result.map(|()| "SIGINT"),
        _ = terminate.recv() => Ok("SIGTERM"),
    }
}
