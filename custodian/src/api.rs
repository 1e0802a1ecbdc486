//! HTTP: the release endpoint, the audit list, and what operators and readers of the API need.

mod schema;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::IntoResponse,
};
use futures::StreamExt;
use metrics::{counter, describe_counter, describe_histogram, histogram};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use tidemark::{
    ids::DataId,
    release::{self, Partial, PublicKeyAnswer, REQUEST_BYTES_MAX, ReleaseAnswer, ReleaseRequest},
    sealing::CustodianKey,
    service::{Problem, docs},
};
use tokio::sync::Semaphore;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    audit::{self, Audit, NewRelease, PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX},
    chain::{Block, Chain},
    check,
    problem::{body_invalid, busy},
};

/// How long a caller may take to send its body.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);

/// One share holder with all it needs; shared by all requests.
#[derive(Debug)]
pub struct Custodian {
    key: CustodianKey,
    index: u16,
    chain: Chain,
    audit: Audit,
    slots: Semaphore,
    metrics: PrometheusHandle,
}

impl Custodian {
    /// `index` is its place in the committee, from 1; at most `releases_at_once` are worked on at the same time.
    pub fn new(
        key: CustodianKey,
        index: u16,
        chain: Chain,
        audit: Audit,
        releases_at_once: usize,
        metrics: PrometheusHandle,
    ) -> Self {
        describe_counter!("custodian_releases_total", "Keys released.");
        describe_counter!("custodian_problems_total", "Release requests that ended in a problem, by its type.");
        describe_histogram!("custodian_release_duration_seconds", "From a request's last byte to its answer.");
        Self { key, index, chain, audit, slots: Semaphore::new(releases_at_once), metrics }
    }

    /// Checks a request against the chain and answers with the partial decryption; a row is written before.
    pub async fn release(&self, request: &ReleaseRequest, now: u64) -> Result<ReleaseAnswer, Problem> {
        check::request(request, &self.key.public_key(), now)?;
        let facts = self.chain.facts(request, now).await?;
        let license = check::facts(request, &facts)?;
        // all that can fail comes before the row, so that a row means an answer
        let sealed = &request.sealed_key;
        let encrypted_partial = Partial::of(&self.key, self.index, sealed)
            .and_then(|partial| partial.encrypt(&request.recipient_key, sealed))
            .map_err(|error| Problem::internal(&error))?;
        let deployment = self.chain.deployment();
        let row = self
            .audit
            .record(&NewRelease {
                license_id: request.license_id,
                data_id: request.member.data_id,
                holder: license.holder,
                request_digest: request.digest(&release::domain(deployment.chain_id, deployment.license_registry)),
                block: &facts.block,
            })
            .await?;
        tracing::info!(
            release_id = %row.id, license_id = %row.license_id, data_id = %row.data_id, holder = %row.holder,
            block_number = row.block_number, "key released"
        );
        Ok(ReleaseAnswer {
            release_id: row.id,
            data_id: row.data_id,
            index: self.index,
            encrypted_partial,
            block_number: row.block_number,
            block_hash: row.block_hash,
        })
    }
}

/// Unix seconds by this machine's clock.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or(0)
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tidemark custodian",
        description = "Releases content keys to licence holders. For each request the custodian reads the chain: \
                       licence active, signed by its holder, record in the licensed version, consent not withdrawn. \
                       It answers with a partial decryption that only the recipient key can read, and a proof that it \
                       is right; it never sees a content key. Errors are RFC 9457 problems of the type \
                       `urn:tidemark:problem:<slug>`; the slugs stand below."
    ),
    tags(
        (name = "releases", description = "Keys out, and the list of who got which"),
        (name = "operation", description = "For operators")
    )
)]
struct Api;

fn routes() -> OpenApiRouter<Arc<Custodian>> {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(post_release, list_releases))
        .routes(routes!(public_key))
        .routes(routes!(health))
        .routes(routes!(ready))
        .routes(routes!(status))
        .routes(routes!(prometheus))
}

/// The OpenAPI 3.1 document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().into_openapi()
}

/// All endpoints.
pub fn router(custodian: Arc<Custodian>) -> Router {
    let (router, document) = routes().split_for_parts();
    router
        .route("/openapi.json", axum::routing::get(async move || Json(document)))
        .route("/docs", axum::routing::get(docs))
        .fallback(async || Problem::not_found("see /docs for what there is"))
        .method_not_allowed_fallback(async || {
            let detail = "see /docs for the methods of this path";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Another method is needed", detail)
        })
        .with_state(custodian)
}

/// Release one record's content key
///
/// Asking again with the same request is the same release: it is answered again and listed once.
#[utoipa::path(
    post, path = "/v1/releases", tag = "releases",
    request_body(content = schema::ReleaseRequestBody, content_type = "application/json"),
    responses(
        (status = 200, description = "The partial decryption, encrypted", body = schema::ReleaseAnswerBody),
        (status = 400, description = "`body-invalid`", body = Problem, content_type = "application/problem+json"),
        (status = 403, body = Problem, content_type = "application/problem+json",
         description = "Refused: `deadline-out-of-range`, `sealed-key-of-other-record`, `sealed-key-of-other-consent`, `sealed-key-of-other-provider`, \
                        `sealed-key-of-other-custodian`, `sealed-key-invalid`, `license-unknown`, `license-inactive`, \
                        `not-holder`, `purpose-not-allowed`, `purposes-not-consented`, `not-a-member`, `consent-missing`, \
                        `consent-withdrawn`"),
        (status = 408, description = "`body-timeout`", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "`body-too-large`: more than 64 KiB", body = Problem,
         content_type = "application/problem+json"),
        (status = 503, description = "`chain-unreachable`, `chain-stale`, `database-unreachable` or `busy`; ask again",
         body = Problem, content_type = "application/problem+json")
    )
)]
async fn post_release(State(custodian): State<Arc<Custodian>>, body: Body) -> Result<Json<ReleaseAnswer>, Problem> {
    let answer = answer_release(&custodian, body).await;
    match &answer {
        Ok(_) => counter!("custodian_releases_total").increment(1),
        Err(problem) => {
            tracing::info!(slug = problem.slug(), status = problem.status, "no key released");
            counter!("custodian_problems_total", "type" => problem.slug().to_owned()).increment(1);
        }
    }
    answer.map(Json)
}

async fn answer_release(custodian: &Custodian, body: Body) -> Result<ReleaseAnswer, Problem> {
    let body = tokio::time::timeout(BODY_TIME_MAX, read_body(body)).await.map_err(|_| {
        let detail = format!("the body did not come within {} seconds", BODY_TIME_MAX.as_secs());
        Problem::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", "The body took too long", detail)
    })??;
    let request: ReleaseRequest = serde_json::from_slice(&body).map_err(|error| body_invalid(error.to_string()))?;
    let _slot = custodian.slots.try_acquire().map_err(|_| busy())?;
    let started = std::time::Instant::now();
    let answer = custodian.release(&request, now()).await;
    histogram!("custodian_release_duration_seconds").record(started.elapsed());
    answer
}

async fn read_body(body: Body) -> Result<Vec<u8>, Problem> {
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| body_invalid("the connection broke before the body's end"))?;
        if bytes.len() + chunk.len() > REQUEST_BYTES_MAX {
            let detail = format!("expected at most {REQUEST_BYTES_MAX} bytes");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large", detail));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Query of the audit list; texts, so that a wrong one is answered in the same way as everything else.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only this record's releases.
    #[param(example = "5bb13d8f-63a5-5d2b-9d05-7b3f6d5ca201")]
    data_id: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Releases on the page, 1 to 200; 50 if left out.
    limit: Option<String>,
}

/// One release, as it is listed.
#[derive(Debug, Serialize, ToSchema)]
struct ReleaseEntry {
    /// As in the holder's answer.
    id: Uuid,
    /// Decimal digits.
    #[schema(example = "1")]
    license_id: String,
    /// The record whose key was released.
    data_id: Uuid,
    /// Address of the licence's holder.
    #[schema(example = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8")]
    holder: String,
    /// Where the chain allowed it.
    block_number: u64,
    /// Its hash.
    block_hash: String,
    /// RFC 3339, UTC.
    #[schema(example = "2026-11-21T08:00:00.000000Z")]
    released_at: String,
}

impl From<audit::Release> for ReleaseEntry {
    fn from(release: audit::Release) -> Self {
        Self {
            id: release.id,
            license_id: release.license_id.to_string(),
            data_id: release.data_id.0,
            holder: release.holder.to_string(),
            block_number: release.block_number,
            block_hash: release.block_hash.to_string(),
            released_at: release.released_at,
        }
    }
}

/// A page of releases, newest first.
#[derive(Debug, Serialize, ToSchema)]
struct ReleasePage {
    /// Newest first.
    releases: Vec<ReleaseEntry>,
    /// For the page after; `null` on the last one.
    next_cursor: Option<String>,
}

/// What a [`ListQuery`] means.
#[derive(Debug, PartialEq, Eq)]
struct ListPage {
    data_id: Option<DataId>,
    older_than: Option<i64>,
    limit: u32,
}

impl ListQuery {
    fn read(&self) -> Result<ListPage, Problem> {
        let data_id = self
            .data_id
            .as_deref()
            .map(|text| text.parse::<DataId>().map_err(|_| Problem::invalid("data_id", "a UUID", text)));
        let older_than = self.cursor.as_deref().map(|text| {
            text.parse::<i64>()
                .ok()
                .filter(|number| *number > 0)
                .ok_or_else(|| Problem::invalid("cursor", "next_cursor of a page before", text))
        });
        let limit = self.limit.as_deref().map(|text| {
            text.parse::<u32>()
                .ok()
                .filter(|rows| (1..=PAGE_ROWS_MAX).contains(rows))
                .ok_or_else(|| Problem::invalid("limit", "1 to 200", text))
        });
        Ok(ListPage {
            data_id: data_id.transpose()?,
            older_than: older_than.transpose()?,
            limit: limit.transpose()?.unwrap_or(PAGE_ROWS_DEFAULT),
        })
    }
}

/// List releases
///
/// The audit list that contributors and auditors read: who got the key of which record, under which licence, and at
/// which block the chain allowed it.
#[utoipa::path(
    get, path = "/v1/releases", tag = "releases", params(ListQuery),
    responses(
        (status = 200, description = "A page, newest first", body = ReleasePage),
        (status = 400, description = "`field-invalid`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`database-unreachable`", body = Problem,
         content_type = "application/problem+json")
    )
)]
async fn list_releases(
    State(custodian): State<Arc<Custodian>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<ReleasePage>, Problem> {
    let Query(query) =
        query.map_err(|rejection| Problem::invalid("query", "the documented parameters", rejection.body_text()))?;
    let page = query.read()?;
    // one more than asked for tells whether there is a page after this one
    let mut releases = custodian.audit.list(page.data_id, page.older_than, page.limit + 1).await?;
    let rows = page.limit as usize;
    let more = releases.len() > rows;
    releases.truncate(rows);
    let next_cursor = releases.last().filter(|_| more).map(|release| release.number.to_string());
    Ok(Json(ReleasePage { releases: releases.into_iter().map(Into::into).collect(), next_cursor }))
}

/// The key to seal to
#[utoipa::path(
    get, path = "/v1/public-key", tag = "releases",
    responses((status = 200, description = "This custodian's public key", body = schema::PublicKeyBody))
)]
async fn public_key(State(custodian): State<Arc<Custodian>>) -> Json<PublicKeyAnswer> {
    Json(PublicKeyAnswer { public_key: custodian.key.public_key(), index: custodian.index })
}

/// Says that the process lives.
#[derive(Serialize, ToSchema)]
struct Health {
    /// `ok`.
    status: &'static str,
}

/// Is the process alive
#[utoipa::path(
    get, path = "/health", tag = "operation",
    responses((status = 200, description = "It is", body = Health))
)]
async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Can it release keys now
#[utoipa::path(
    get, path = "/ready", tag = "operation",
    responses(
        (status = 200, description = "Chain and database answer", body = Health),
        (status = 503, description = "What does not answer", body = Problem, content_type = "application/problem+json")
    )
)]
async fn ready(State(custodian): State<Arc<Custodian>>) -> Result<Json<Health>, Problem> {
    custodian.audit.ping().await?;
    custodian.chain.latest(now()).await?;
    Ok(Json(Health { status: "ok" }))
}

/// What this custodian is and sees.
#[derive(Serialize, ToSchema)]
struct Status {
    /// Of the program.
    version: &'static str,
    /// The key to seal to.
    public_key: String,
    /// Place in the committee, from 1.
    index: u16,
    /// EIP-155.
    chain_id: u64,
    /// Whose licences it serves.
    license_registry: String,
    /// Where it looks up members.
    ip_registry: String,
    /// Where it looks up withdrawals.
    consent_registry: String,
    /// The node's latest block; `null` while it can't be read.
    block: Option<StatusBlock>,
    /// Whether the audit list can be written.
    database_reachable: bool,
    /// Requests that can be taken on now.
    free_slots: usize,
}

/// A block, as the status shows it.
#[derive(Serialize, ToSchema)]
struct StatusBlock {
    /// Its number.
    number: u64,
    /// Its hash.
    hash: String,
    /// Unix seconds.
    timestamp: u64,
}

impl From<Block> for StatusBlock {
    fn from(block: Block) -> Self {
        Self { number: block.number, hash: block.hash.to_string(), timestamp: block.timestamp }
    }
}

/// What it is and sees
#[utoipa::path(get, path = "/status", tag = "operation", responses((status = 200, description = "Now", body = Status)))]
async fn status(State(custodian): State<Arc<Custodian>>) -> Json<Status> {
    let deployment = custodian.chain.deployment();
    let (block, database) = futures::join!(custodian.chain.latest(now()), custodian.audit.ping());
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        public_key: custodian.key.public_key().to_string(),
        index: custodian.index,
        chain_id: deployment.chain_id,
        license_registry: deployment.license_registry.to_string(),
        ip_registry: deployment.ip_registry.to_string(),
        consent_registry: deployment.consent_registry.to_string(),
        block: block.ok().map(Into::into),
        database_reachable: database.is_ok(),
        free_slots: custodian.slots.available_permits(),
    })
}

/// Numbers for Prometheus
#[utoipa::path(
    get, path = "/metrics", tag = "operation",
    responses((status = 200, description = "Prometheus text format", body = String, content_type = "text/plain"))
)]
async fn prometheus(State(custodian): State<Arc<Custodian>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], custodian.metrics.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(data_id: Option<&str>, cursor: Option<&str>, limit: Option<&str>) -> Result<ListPage, Problem> {
        ListQuery { data_id: data_id.map(Into::into), cursor: cursor.map(Into::into), limit: limit.map(Into::into) }
            .read()
    }

    #[test]
    fn a_query_is_bounded_and_a_wrong_one_names_its_field() {
        assert_eq!(query(None, None, None).unwrap(), ListPage { data_id: None, older_than: None, limit: 50 });
        assert_eq!(query(None, Some("7"), Some("200")).unwrap().older_than, Some(7));
        let field = |result: Result<ListPage, Problem>| result.unwrap_err().field.unwrap();
        for wrong in ["", "0", "-1", "x", "99999999999999999999", &"9".repeat(10_000)] {
            assert_eq!(field(query(None, Some(wrong), None)), "cursor");
            assert_eq!(field(query(None, None, Some(wrong))), "limit");
            assert_eq!(field(query(Some(wrong), None, None)), "data_id");
        }
        assert_eq!(field(query(None, None, Some("201"))), "limit");
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_bound() {
        assert_eq!(read_body(Body::from(vec![0; REQUEST_BYTES_MAX])).await.unwrap().len(), REQUEST_BYTES_MAX);
        let problem = read_body(Body::from(vec![0; REQUEST_BYTES_MAX + 1])).await.unwrap_err();
        assert_eq!((problem.status, problem.slug()), (413, "body-too-large"));
    }

    #[test]
    fn the_document_names_every_endpoint_and_every_refusal() {
        let document = serde_json::to_value(openapi()).unwrap();
        assert_eq!(document["openapi"].as_str().map(|version| &version[..3]), Some("3.1"));
        for path in ["/v1/releases", "/v1/public-key", "/health", "/ready", "/status", "/metrics"] {
            assert!(document["paths"][path].is_object(), "{path}");
        }
        let refused = &document["paths"]["/v1/releases"]["post"]["responses"]["403"]["description"];
        for slug in check::SLUGS {
            assert!(refused.as_str().unwrap().contains(&format!("`{slug}`")), "{slug}");
        }
    }
}
