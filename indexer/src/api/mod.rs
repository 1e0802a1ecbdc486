//! The HTTP API: who may ask what, bounded and typed; each answer names the block that it is true at.

mod accounts;
pub mod answer;
mod chain;
mod datasets;
mod disputes;
mod docs;
mod events;
mod health;
mod leaves;
mod licenses;
mod login;
mod rates;
mod records;
mod similar;
mod trace;
mod wallet;

pub(crate) use answer::{snapshot, token_id};
pub(crate) use chain::settlements;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request},
    http::{HeaderName, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgPool;
use tidemark::store::Store;
use tower_http::{cors::CorsLayer, timeout::RequestBodyTimeoutLayer, trace::TraceLayer};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    explorer,
    feed::Feed,
    payout::{self, Payouts},
    problem::Problem,
    status::Status,
    sync::fetch::Chain,
};

/// 1000 pseudonyms of 66 characters, with room to spare.
const BODY_BYTES_MAX: usize = 256 << 10;
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a body may bring nothing.
const BODY_PAUSE_MAX: Duration = Duration::from_secs(10);

/// What every request may use; clones share it.
#[derive(Clone)]
pub struct App {
    /// The tables.
    pub pool: PgPool,
    /// The chain, for balances of tokens.
    pub chain: Chain,
    /// The content store.
    pub store: Store,
    /// How far the indexer is.
    pub status: Arc<Status>,
    /// Renders `/metrics`.
    pub metrics: PrometheusHandle,
    /// Who may log in.
    pub logins: Arc<crate::login::LoginArgs>,
    /// Live updates.
    pub feed: Feed,
    /// Nothing is written here: a replica beside the writer.
    pub read_only: bool,
}

impl App {
    /// Fails on a replica, whose caller has to do this at the indexer that writes.
    pub(crate) fn writes(&self, advice: &str) -> Result<(), Problem> {
        match self.read_only {
            true => {
                let status = StatusCode::MISDIRECTED_REQUEST;
                Err(Problem::new(status, "read-only", "This replica only reads", advice))
            }
            false => Ok(()),
        }
    }
}

#[derive(OpenApi)]
#[openapi(info(
    title = "Tidemark indexer",
    description = "Provenance, licences and points, mirrored from chain and content store. Amounts and ids above 2^53 are \
                   decimal strings; hashes and addresses are 0x-hex. Errors are application/problem+json (RFC 9457)."
))]
struct Document;

fn routes(payouts: Option<Payouts>) -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(health::status))
        .routes(routes!(health::metrics))
        .routes(routes!(records::record))
        .routes(routes!(records::proofs))
        .routes(routes!(chain::batches))
        .routes(routes!(chain::batch))
        .routes(routes!(chain::batch_events))
        .routes(routes!(chain::providers))
        .routes(routes!(chain::provider))
        .routes(routes!(chain::settlement))
        .routes(routes!(datasets::datasets))
        .routes(routes!(datasets::dataset))
        .routes(routes!(datasets::member))
        .routes(routes!(datasets::license))
        .routes(routes!(disputes::disputes))
        .routes(routes!(disputes::dispute))
        .routes(routes!(accounts::account))
        .routes(routes!(accounts::query))
        .merge(trace::router())
        .merge(events::router())
        .merge(leaves::router())
        .merge(licenses::router())
        .merge(login::router())
        .merge(similar::router())
        .merge(wallet::router())
        .merge(payout::router(payouts))
}

/// The OpenAPI 3.1 document of all endpoints.
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes(None).into_openapi()
}

/// The whole service: API, documents, pages.
pub fn router(app: App, payouts: Option<Payouts>) -> Router {
    let (api, document) = routes(payouts).split_for_parts();
    api.merge(docs::router(document))
        .merge(explorer::router())
        .fallback(explorer::not_found)
        .method_not_allowed_fallback(|| async {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            Problem::new(status, "method-not-allowed", "The path takes another method", "/docs lists the methods")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        // inside the bound of the whole answer, so that who does not send is told so
        .layer(RequestBodyTimeoutLayer::new(BODY_PAUSE_MAX))
        .layer(axum::middleware::from_fn(in_time))
        .layer(
            CorsLayer::new()
                .allow_origin(tower_http::cors::Any)
                .allow_methods([Method::GET, Method::POST, Method::PUT])
                .allow_headers([
                    header::CONTENT_TYPE,
                    header::IF_NONE_MATCH,
                    header::AUTHORIZATION,
                    HeaderName::from_static("last-event-id"),
                    HeaderName::from_static("idempotency-key"),
                ])
                .expose_headers([header::ETAG]),
        )
        .layer(TraceLayer::new_for_http())
        .layer(axum::middleware::from_fn(count))
        .with_state(app)
}

/// Nobody waits for an answer for ever.
async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!("this took more than {} s; ask for less, or later", ANSWER_TIME_MAX.as_secs());
            Problem::unavailable(detail).into_response()
        }
    }
}

/// Counts requests by route and status; the route is the template, so that ids make no new series.
async fn count(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let begun = Instant::now();
    let response = next.run(request).await;
    let labels = [("route", route), ("status", response.status().as_u16().to_string())];
    metrics::counter!("tidemark_indexer_http_requests_total", &labels).increment(1);
    metrics::histogram!("tidemark_indexer_http_request_seconds", &labels[..1]).record(begun.elapsed().as_secs_f64());
    response
}

#[cfg(test)]
mod tests {
    /// An API change shows in review.
    #[test]
    fn the_checked_in_document_is_what_the_code_says() {
        let code: serde_json::Value = serde_json::from_str(&super::openapi().to_json().unwrap()).unwrap();
        let file: serde_json::Value = serde_json::from_str(include_str!("../../../docs/openapi/indexer.json")).unwrap();
        assert!(code == file, "run scripts/openapi");
        assert_eq!(code["openapi"], "3.1.0");
    }

    /// Every answer of `/v1` says its block and whether that is final, but those that are of no block.
    #[test]
    fn every_answer_names_its_block() {
        // sessions and payouts are this service's own, and each live update names its own block
        const OWN: [&str; 5] = ["/v1/events", "/v1/login", "/v1/login/nonce", "/v1/payouts", "/v1/payouts/{payout_id}"];
        let code: serde_json::Value = serde_json::from_str(&super::openapi().to_json().unwrap()).unwrap();
        let mut seen = 0;
        for (path, methods) in code["paths"].as_object().unwrap().iter().filter(|(path, _)| path.starts_with("/v1/")) {
            for (method, operation) in methods.as_object().unwrap() {
                let Some(answer) = operation["responses"].get("200") else { continue };
                let schema = answer["content"]["application/json"]["schema"]["$ref"].as_str().unwrap_or_default();
                let schema = code.pointer(schema.trim_start_matches('#')).cloned().unwrap_or_default();
                let at = schema.pointer("/properties/at").is_some()
                    || schema["allOf"]
                        .as_array()
                        .is_some_and(|all| all.iter().any(|part| part.pointer("/properties/at").is_some()));
                assert!(at || OWN.contains(&path.as_str()), "{method} {path}: {schema}");
                seen += usize::from(at);
            }
        }
        assert!(seen > 20, "{seen}");
    }
}
