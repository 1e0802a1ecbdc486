//! The relayer's HTTP API: who asks, what exactly, and the answer; all work is intake's.

pub mod gate;
pub mod gateway;
pub mod idempotent;
pub mod ops;
pub mod records;
pub mod signature;
pub mod submissions;
pub mod trace;
pub mod webhooks;
pub mod withdrawals;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Path, rejection::PathRejection},
    routing::get,
};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    http,
    problem::{Kind, Problem},
};

#[derive(OpenApi)]
#[openapi(info(
    title = "Tidemark relayer",
    description = "The write side: Trace write API, uploads, withdrawals, and what became of them. \
                   Errors are RFC 9457 problems; their types are urn:tidemark:problem:<slug>."
))]
struct Api;

/// What a provider needs an API key for.
fn provider_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(trace::post_records))
        .routes(routes!(trace::post_updates))
        .routes(routes!(trace::post_data_ids))
        .routes(routes!(trace::post_data_ids_ndjson))
        .routes(routes!(trace::post_data_ids_csv))
        .routes(routes!(trace::post_data_ids_txt))
        .routes(routes!(trace::post_updates_ndjson))
        .routes(routes!(trace::post_updates_csv))
        .routes(routes!(trace::post_updates_txt))
        .routes(routes!(trace::policy::put_policy))
        .routes(routes!(submissions::post_submission))
        .routes(routes!(withdrawals::post_withdrawal))
        .routes(routes!(records::get_record))
        .routes(routes!(records::post_erasure))
        .routes(routes!(records::get_contributor_records))
        .routes(routes!(records::get_batches))
        .routes(routes!(records::get_batch_records))
        .routes(routes!(webhooks::get_webhooks))
}

/// What anybody may ask.
fn open_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(gateway::get_block)).routes(routes!(ops::health)).routes(routes!(ops::ready))
}

/// What operators ask, and nobody else should.
fn operator_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(ops::status))
}

/// The OpenAPI document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    provider_routes().merge(open_routes()).merge(operator_routes()).into_openapi()
}

/// Routes for operators alone, where they have an address of their own.
pub fn operator_router(app: Arc<App>) -> Router {
    let (router, _) = operator_routes().routes(routes!(ops::health)).routes(routes!(ops::ready)).split_for_parts();
    router.route("/metrics", get(ops::metrics)).with_state(app)
}

/// All routes, but for those of operators where these have an address of their own.
pub fn router(app: Arc<App>) -> Router {
    let document = openapi().to_pretty_json().unwrap_or_default();
    let gate = axum::middleware::from_fn_with_state(Arc::clone(&app), gate::admit);
    let (mut router, _) = provider_routes().layer(gate).merge(open_routes()).split_for_parts();
    if app.config.operator_listen.is_none() {
        router = router.merge(operator_routes().split_for_parts().0).route("/metrics", get(ops::metrics));
    }
    router
        .route("/openapi.json", get(async move || http::openapi_json(&document)))
        .route("/docs", get(tidemark::service::docs))
        // every handler that takes a body bounds it itself
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}

/// The one segment of a path that varies; what is no text is named like any other wrong field.
fn segment(field: &str, path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    path.map(|Path(text)| text)
        .map_err(|error| Problem::field(Kind::FieldInvalid, field, "UTF-8 text, percent-encoded", error.body_text()))
}

/// Unix seconds of an RFC 3339 time from 1970 on.
fn unix_of(text: &str) -> Option<u64> {
    let at = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    u64::try_from(at.unix_timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_and_not_before_1970() {
        assert_eq!(unix_of("2026-11-21T09:00:00+09:00"), Some(1_795_219_200));
        assert_eq!(unix_of("2026-11-21T00:00:00.250Z"), Some(1_795_219_200));
        for wrong in ["", "2026-11-21", "1795219200", "1969-12-31T23:59:59Z", "2026-13-01T00:00:00Z"] {
            assert_eq!(unix_of(wrong), None, "{wrong}");
        }
    }
}
