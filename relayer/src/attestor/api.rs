//! The attestor's HTTP API; everything but health, metrics and documentation needs the bearer token.

use std::sync::Arc;

use alloy::primitives::{Address, Bytes};
use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tidemark::{batch::Header, consent::SignedConsent, ids::DataId};
use utoipa::{IntoParams, OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Attestor, CONSENT_HEADER, batches, verdicts, versions};
use crate::{
    api::submissions::FILE_BYTES_MAX,
    http,
    intake::submit::Judged,
    problem::{Kind, Problem},
    quality::GATE,
};

/// A header has at most as many debits as tasks fit into this.
const QUESTION_BYTES_MAX: usize = 4 << 20;

#[derive(OpenApi)]
#[openapi(info(
    title = "Tidemark attestor",
    description = "Judges submissions; signs verdicts, batches and dataset versions."
))]
struct Api;

fn routes() -> OpenApiRouter<Arc<Attestor>> {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(post_verdict))
        .routes(routes!(post_batch))
        .routes(routes!(post_version))
        .routes(routes!(get_key))
        .routes(routes!(health))
        .routes(routes!(ready))
        .routes(routes!(status))
}

/// The OpenAPI document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().into_openapi()
}

/// All routes.
pub fn router(attestor: Arc<Attestor>) -> Router {
    let (router, api) = routes().split_for_parts();
    let document = api.to_pretty_json().unwrap_or_default();
    router
        .route("/metrics", get(async |State(attestor): State<Arc<Attestor>>| attestor.metrics.render()))
        .route("/openapi.json", get(async move || http::openapi_json(&document)))
        .route("/docs", get(tidemark::service::docs))
        .layer(DefaultBodyLimit::disable())
        .with_state(attestor)
}

fn allow(attestor: &Attestor, headers: &HeaderMap) -> Result<(), Problem> {
    let token =
        http::header_text(headers, "authorization")?.and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
    match bool::from(token.as_bytes().ct_eq(attestor.token.as_bytes())) {
        true => Ok(()),
        false => Err(Problem::new(Kind::TokenWrong, "expected the attestor's token: Authorization: Bearer …")),
    }
}

#[derive(Deserialize, IntoParams)]
struct VerdictQuery {
    /// UUID of the record.
    #[param(value_type = String, format = Uuid)]
    data_id: String,
    /// What the bytes are said to be.
    mime_type: String,
}

/// Judge the bytes in the body as one record's content, given under the consent in the header.
#[utoipa::path(post, path = "/v1/verdicts",
    params(VerdictQuery, ("tidemark-consent" = String, Header, description = "the signed consent as JSON")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "the file, at most 32 MiB"),
    responses((status = 200, description = "the signed verdict and what was measured", body = Object),
              (status = "default", description = "token-wrong, media-type-unsupported, consent-invalid, record-conflict, body-too-large", body = tidemark::service::Problem)))]
async fn post_verdict(
    State(attestor): State<Arc<Attestor>>,
    query: Result<Query<VerdictQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Judged>, Problem> {
    allow(&attestor, &headers)?;
    let Query(query) = query.map_err(|error| Problem::new(Kind::FieldInvalid, error.body_text()))?;
    let data_id: DataId = query
        .data_id
        .parse()
        .map_err(|_| Problem::field(Kind::FieldInvalid, "data_id", "a UUID", query.data_id.clone()))?;
    let consent: SignedConsent = match http::header_text(&headers, CONSENT_HEADER)? {
        Some(text) => serde_json::from_str(text)
            .map_err(|error| Problem::field(Kind::HeaderInvalid, CONSENT_HEADER, "a consent", error.to_string()))?,
        None => return Err(Problem::field(Kind::HeaderInvalid, CONSENT_HEADER, "a consent", "nothing")),
    };
    let bytes = http::read_body(body, FILE_BYTES_MAX).await?;
    verdicts::decide(&attestor, data_id, &query.mime_type, &consent, bytes).await.map(Json)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BatchQuestion {
    /// The header as it will be anchored.
    #[schema(value_type = Object)]
    header: Header,
}

/// An EIP-712 signature.
#[derive(Serialize, ToSchema)]
struct SignatureAnswer {
    /// Whose.
    #[schema(value_type = String)]
    attestor: Address,
    /// 65 bytes.
    #[schema(value_type = String)]
    signature: Bytes,
}

async fn question<T: serde::de::DeserializeOwned>(body: Body) -> Result<T, Problem> {
    let body = http::read_body(body, QUESTION_BYTES_MAX).await?;
    serde_json::from_slice(&body)
        .map_err(|error| Problem::new(Kind::BodyInvalid, format!("expected the documented JSON: {error}")))
}

/// Sign a batch header whose manifest, read back from the content store, holds.
#[utoipa::path(post, path = "/v1/batches", request_body = BatchQuestion,
    responses((status = 200, description = "signed", body = SignatureAnswer),
              (status = "default", description = "token-wrong, batch-refused, batch-number-taken", body = tidemark::service::Problem)))]
async fn post_batch(
    State(attestor): State<Arc<Attestor>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<SignatureAnswer>, Problem> {
    allow(&attestor, &headers)?;
    let BatchQuestion { header } = question(body).await?;
    let signature = batches::sign(&attestor, header).await?;
    Ok(Json(SignatureAnswer { attestor: attestor.address(), signature }))
}

/// Sign a dataset version whose members, read back from the content store, hold.
#[utoipa::path(post, path = "/v1/dataset-versions",
    request_body(content = Object, description = "{provider, name, version, content: {root, member_count, total_weight, points_weight, purposes, manifest_cid}}"),
    responses((status = 200, description = "signed", body = SignatureAnswer),
              (status = "default", description = "token-wrong, version-refused", body = tidemark::service::Problem)))]
async fn post_version(
    State(attestor): State<Arc<Attestor>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<SignatureAnswer>, Problem> {
    allow(&attestor, &headers)?;
    let signature = versions::sign(&attestor, question(body).await?).await?;
    Ok(Json(SignatureAnswer { attestor: attestor.address(), signature }))
}

/// Who signs, and by which checks.
#[derive(Serialize, ToSchema)]
struct Key {
    /// The signing account.
    #[schema(value_type = String)]
    attestor: Address,
    /// Name and version of the checks.
    gate: &'static str,
}

/// Who signs, and by which checks.
#[utoipa::path(get, path = "/v1/key", responses((status = 200, description = "public", body = Key)))]
async fn get_key(State(attestor): State<Arc<Attestor>>) -> Json<Key> {
    Json(Key { attestor: attestor.address(), gate: GATE })
}

/// Whether the process runs.
#[utoipa::path(get, path = "/health", responses((status = 200, description = "it does")))]
async fn health() -> &'static str {
    "ok"
}

/// Whether requests can be answered.
#[utoipa::path(get, path = "/ready", responses((status = 200, description = "they can"), (status = 503, description = "they can't", body = tidemark::service::Problem)))]
async fn ready(State(attestor): State<Arc<Attestor>>) -> Response {
    match sqlx::query("SELECT 1").execute(&attestor.db).await {
        Ok(_) => (StatusCode::OK, "ready").into_response(),
        Err(error) => Problem::unavailable("the database", error).into_response(),
    }
}

/// What was signed so far.
#[derive(Serialize, ToSchema)]
struct Status {
    #[schema(value_type = String)]
    attestor: Address,
    gate: &'static str,
    verdicts: i64,
    accepted: i64,
    batches: i64,
    versions: i64,
}

/// What was signed so far.
#[utoipa::path(get, path = "/status", responses((status = 200, description = "counts", body = Status)))]
async fn status(State(attestor): State<Arc<Attestor>>) -> Result<Json<Status>, Problem> {
    let (verdicts, accepted, batches, versions) = sqlx::query_as::<_, (i64, i64, i64, i64)>(
        "SELECT (SELECT count(*) FROM verdict), (SELECT count(*) FROM accepted_content),
                (SELECT count(*) FROM signed_batch), (SELECT count(*) FROM signed_version)",
    )
    .fetch_one(&attestor.db)
    .await?;
    Ok(Json(Status { attestor: attestor.address(), gate: GATE, verdicts, accepted, batches, versions }))
}
