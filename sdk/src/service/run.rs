//! Starting a service's log, and serving until somebody asks it to stop.

use std::{io, io::IsTerminal, net::SocketAddr, time::Duration};

use axum::{Extension, Router, extract::ConnectInfo, middleware::AddExtension};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::Layer;
use tracing_subscriber::EnvFilter;

/// How long open requests may take after the signal.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(20);
/// How long a connection may take to bring a request's head, the first one or the next.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// Pause where no connection can be taken, as when the process has too many files open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

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
    let served = serve(listener, router, stop.clone(), HEAD_TIME_MAX);
    tokio::pin!(served);
    tokio::select! {
        () = &mut served => return Ok(()),
        signal = stop_signal() => tracing::info!(signal = signal?, "stopping: no new requests"),
    }
    stop.cancel();
    if tokio::time::timeout(SHUTDOWN_TIME_MAX, served).await.is_err() {
        tracing::warn!("some requests did not end in time and were cut off");
    }
    Ok(())
}

/// Takes connections until `stop`, then waits for the open requests.
async fn serve(listener: TcpListener, router: Router, stop: CancellationToken, head_time_max: Duration) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // whoever bounds requests by address finds it with each request
                let service = Extension(ConnectInfo(peer)).layer(router.clone());
                connections.spawn(converse(stream, service, stop.clone(), head_time_max));
            }
            Err(error) => {
                tracing::warn!(%error, "no connection can be taken now");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// One connection: a client that brings its requests' heads byte by byte is not waited for.
async fn converse(
    stream: TcpStream,
    service: AddExtension<Router, ConnectInfo<SocketAddr>>,
    stop: CancellationToken,
    head_time_max: Duration,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head_time_max);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

async fn stop_signal() -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result.map(|()| "SIGINT"),
        _ = terminate.recv() => Ok("SIGTERM"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_client_that_never_ends_its_request_is_cut_off_and_others_are_served() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", axum::routing::get(async || "here"));
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, router, stop.clone(), Duration::from_millis(300)));

        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nx-slow: ").await.unwrap();
        let mut quick = TcpStream::connect(address).await.unwrap();
        quick.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        quick.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("here"), "{answer}");

        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(20), slow.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "still waited for");
        stop.cancel();
        server.await.unwrap();
    }
}
