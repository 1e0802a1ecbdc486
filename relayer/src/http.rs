//! What both services do the same way over HTTP: metrics, bounded bodies and times, answers to unknown paths.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::net::TcpListener;

use crate::problem::{Kind, Problem};

/// A request that takes longer is given up.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(120);

/// Opens the port.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address}; is the port taken? choose another with --listen"))
}

/// What every router gets: answers to unknown paths, metrics by route, a bound on time.
pub fn dress(router: Router) -> Router {
    router
        .fallback(async || Problem::new(Kind::NotFound, "no such path; see /docs"))
        .method_not_allowed_fallback(async || Problem::new(Kind::MethodNotAllowed, "see /docs"))
        .layer(axum::middleware::from_fn(observe))
}

/// Counts and times each request by its route, and gives up on one that takes too long.
async fn observe(path: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let route = path.map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    // a stranger may make up methods without end, and each would be a series of its own
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "OPTIONS" | "PUT" | "PATCH" | "DELETE") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let started = std::time::Instant::now();
    let response = match tokio::time::timeout(REQUEST_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(elapsed) => Problem::unavailable("the service, in time,", elapsed).into_response(),
    };
    let status = response.status().as_u16().to_string();
    metrics::counter!("http_requests_total", "route" => route.clone(), "method" => method, "status" => status)
        .increment(1);
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
        let chunk = chunk
            .map_err(|error| Problem::new(Kind::BodyInvalid, format!("the body can't be read to its end: {error}")))?;
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
