//! What both services do the same way over HTTP: logs, metrics, bounded bodies, documentation, orderly stop.

use std::{io::IsTerminal, net::SocketAddr, time::Duration};

use anyhow::Context;
use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{Html, IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::timeout::TimeoutLayer;

use crate::problem::{Kind, Problem};

/// A request that takes longer is given up.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(120);
/// Requests that are being answered get this long after the signal to stop.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// JSON lines where standard output is no terminal; `RUST_LOG` narrows or widens.
pub fn start_logs() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,sqlx=warn,symphonia=error,symphonia_core=error"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter);
    // a second subscriber in the same process is a test's; the first one stays
    let _already_there = match std::io::stdout().is_terminal() {
        true => logs.try_init(),
        false => logs.json().try_init(),
    };
}

/// Installs the metrics recorder of the process.
pub fn metrics() -> anyhow::Result<PrometheusHandle> {
    PrometheusBuilder::new().install_recorder().context("install the metrics recorder")
}

/// Opens the port.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {address}; is the port taken? choose another with --listen"))
}

/// A token that is cancelled on SIGTERM or SIGINT.
pub fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}

/// Serves until `stop`, then lets what is under way finish.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> anyhow::Result<()> {
    let router = router
        .fallback(async || Problem::new(Kind::NotFound, "no such path; see /docs"))
        .method_not_allowed_fallback(async || Problem::new(Kind::MethodNotAllowed, "see /docs"))
        .layer(axum::middleware::from_fn(observe))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, REQUEST_TIME_MAX));
    let asked = stop.clone();
    let server = axum::serve(listener, router).with_graceful_shutdown(async move { asked.cancelled().await });
    tokio::select! {
        done = server.into_future() => done.context("serve HTTP"),
        () = async { stop.cancelled().await; tokio::time::sleep(DRAIN_TIME_MAX).await } => Ok(()),
    }
}

/// Counts and times each request by its route.
async fn observe(path: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let route = path.map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let method = request.method().to_string();
    let started = std::time::Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    metrics::counter!("http_requests_total", "route" => route.clone(), "method" => method, "status" => status).increment(1);
    metrics::histogram!("http_request_seconds", "route" => route).record(started.elapsed().as_secs_f64());
    response
}

/// Reads a body of at most `max` bytes. A longer one is read on for a while and dropped, so that a client that sends all
/// of it first still gets to see the answer.
pub async fn read_body(body: Body, max: usize) -> Result<Bytes, Problem> {
    let mut stream = body.into_data_stream();
    let mut read = BytesMut::new();
    let mut length = 0usize;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| Problem::new(Kind::BodyInvalid, format!("the body ended early: {error}")))?;
        length = length.saturating_add(chunk.len());
        if length <= max {
            read.extend_from_slice(&chunk);
        } else {
            read = BytesMut::new();
        }
        if length > max.saturating_mul(3) {
            break;
        }
    }
    if length > max {
        let actual = format!("{length} or more");
        return Err(Problem::field(Kind::BodyTooLarge, "body", format!("at most {max} bytes"), actual));
    }
    Ok(read.freeze())
}

/// A header as text, where it is there.
pub fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match value.to_str().map(str::trim) {
        Ok(text) if !text.is_empty() => Ok(Some(text)),
        _ => Err(Problem::field(Kind::HeaderInvalid, name, "visible ASCII", "something else")),
    }
}

/// The OpenAPI document.
pub fn openapi_json(document: &str) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document.to_owned()).into_response()
}

/// A page that shows `/openapi.json`, with nothing loaded from anywhere else.
pub async fn docs_page() -> Html<&'static str> {
    Html(include_str!("api/docs.html"))
}
