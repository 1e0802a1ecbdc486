//! `/v1/payouts` over HTTP.

use alloy::primitives::{Address, B256};
use axum::{
    Json,
    body::Bytes,
    extract::{
        DefaultBodyLimit, Path, State,
        rejection::{BytesRejection, PathRejection},
    },
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use sqlx::{PgConnection, Row, postgres::PgRow};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    Payouts,
    rails::RailName,
    request::{PayoutRequest, idempotency_key},
    reserve::{FirstAnswer, reserve},
};
use crate::problem::Problem;

const BODY_BYTES_MAX: usize = 64 * 1024;

/// `/v1/payouts` with its OpenAPI part; without payouts it answers that there are none here.
pub fn router<S: Clone + Send + Sync + 'static>(payouts: Option<Payouts>) -> OpenApiRouter<S> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(read))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(payouts)
}

/// A payout as its provider sees it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PayoutView {
    /// Its id, which is also the rail's key.
    pub payout_id: Uuid,
    /// `pending`: the points are held · `posted`: paid, and the ledger has it at finality · `voided`: nobody was paid, the
    /// points are free again.
    #[schema(example = "pending")]
    pub state: &'static str,
    /// Where in `pending` it is: `reserved`, `paying`, `paid`, `redeeming`, `redeemed`, or `stuck` until an operator decides.
    pub step: String,
    /// What happened last, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Payment-token units in sum, decimal.
    pub amount: String,
    /// The same in whole points.
    pub points: i64,
    /// Who pays.
    pub rail: RailName,
    /// What is paid for the points; none where the rail pays points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paid_in: Option<PaidIn>,
    /// Parts by account, as asked for.
    pub entries: Vec<EntryView>,
    /// The transaction that redeemed, once it is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
    /// Unix seconds.
    pub created_at: i64,
    /// Unix seconds.
    pub updated_at: i64,
}

/// Money for points, by the rate that was valid when the payout was asked for.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PaidIn {
    /// An ISO 4217 code, or a token's address.
    #[schema(example = "EUR")]
    pub currency: String,
    /// Minor units (cents, won, a token's base units), decimal.
    pub minor: String,
    /// Minor units that the rate gives, decimal,
    pub rate_minor: String,
    /// for so many points.
    pub rate_points: i64,
}

/// One account's part.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EntryView {
    /// The points account.
    pub account: String,
    /// Payment-token units, decimal.
    pub amount: String,
    /// Its id on chain, `payoutId` of the treasury's `PointsRedeemed`.
    pub debit_id: String,
    /// The ledger has taken it off the account, at finality.
    pub posted: bool,
}

/// Ask for a payout of points to cash
///
/// Holds the points at once and answers `pending`; ask `GET /v1/payouts/{payout_id}` how it goes on. Sent again with the
/// same Idempotency-Key and body, the first answer comes back, byte for byte.
#[utoipa::path(
    post, path = "/v1/payouts", tag = "payouts", request_body = PayoutRequest,
    params(
        ("Authorization" = String, Header, description = "`Bearer` and the provider's token"),
        ("Idempotency-Key" = String, Header, description = "A fresh UUID for each payout"),
    ),
    responses(
        (status = 201, description = "The points are held", body = PayoutView),
        (status = 400, description = "A field or the Idempotency-Key is missing or can't be read", body = Problem),
        (status = 401, description = "No valid provider token", body = Problem),
        (status = 404, description = "This indexer makes no payouts", body = Problem),
        (status = 409, description = "An account holds less or has it on hold, no rate is valid, or the first request with this key is in flight", body = Problem),
        (status = 413, description = "The body is over 64 KiB", body = Problem),
        (status = 422, description = "The Idempotency-Key was used with another body", body = Problem),
    )
)]
async fn create(
    State(payouts): State<Option<Payouts>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let payouts = payouts.ok_or_else(switched_off)?;
    let provider = authenticate(&payouts, &headers)?.to_owned();
    let key = idempotency_key(&headers)?;
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "The body is too large",
            "send at most 64 KiB",
        ),
        _ => Problem::invalid("body", "a request body", "one that broke off"),
    })?;
    let FirstAnswer { status, body, replayed } =
        reserve(&payouts, &provider, &key, PayoutRequest::read(&body)?).await?;
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = if status.is_success() { "application/json" } else { "application/problem+json" };
    let mut response = (status, body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if replayed {
        response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Read a payout
#[utoipa::path(
    get, path = "/v1/payouts/{payout_id}", tag = "payouts",
    params(
        ("payout_id" = String, Path, description = "UUID of the payout"),
        ("Authorization" = String, Header, description = "`Bearer` and the provider's token"),
    ),
    responses(
        (status = 200, description = "The payout", body = PayoutView),
        (status = 400, description = "No UUID", body = Problem),
        (status = 401, description = "No valid provider token", body = Problem),
        (status = 404, description = "This provider has no such payout", body = Problem),
    )
)]
async fn read(
    State(payouts): State<Option<Payouts>>,
    payout_id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Json<PayoutView>, Problem> {
    let payouts = payouts.ok_or_else(switched_off)?;
    let name = authenticate(&payouts, &headers)?;
    let Path(payout_id) =
        payout_id.map_err(|rejection| Problem::invalid("payout_id", "a UUID", rejection.body_text()))?;
    let id: Uuid = payout_id.parse().map_err(|_| Problem::invalid("payout_id", "a UUID", &payout_id))?;
    let unknown = || Problem::unknown("payout_id", format!("provider {name} has no payout {id}"));
    let mut connection = payouts.inner.pool.acquire().await?;
    let row = sqlx::query("SELECT address FROM provider WHERE name = $1")
        .bind(name)
        .fetch_optional(&mut *connection)
        .await?
        .ok_or_else(unknown)?;
    let provider = address(&row, 0)?;
    Ok(Json(view(&mut connection, id, provider).await?.ok_or_else(unknown)?))
}

fn switched_off() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "payouts-off", "No payouts here", "this indexer runs without payouts")
}

fn authenticate<'a>(payouts: &'a Payouts, headers: &HeaderMap) -> Result<&'a str, Problem> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let token = value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    token.and_then(|(_, token)| payouts.inner.config.provider_of(token.trim())).ok_or_else(|| {
        let detail = "send Authorization: Bearer with the provider's payout token";
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "No valid provider token", detail).at("Authorization")
    })
}

/// A payout of this provider with its entries.
pub(super) async fn view(
    connection: &mut PgConnection,
    id: Uuid,
    provider: Address,
) -> Result<Option<PayoutView>, Problem> {
    let row = sqlx::query(
        "SELECT state, note, amount::text, points, extract(epoch FROM created_at)::bigint,
             extract(epoch FROM updated_at)::bigint,
             (SELECT tx_hash FROM local.payout_transaction AS t
              WHERE t.payout_id = payout.payout_id AND t.state IN ('sent', 'mined')),
             rail, currency, minor::text, rate_minor::text, rate_points
         FROM local.payout WHERE payout_id = $1 AND provider = $2",
    )
    .bind(id)
    .bind(provider.as_slice())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let entries = sqlx::query(
        "SELECT entry.account, entry.amount::text, entry.debit_id, EXISTS (
             SELECT FROM points_redeemed AS mirrored
             WHERE mirrored.provider = payout.provider AND mirrored.payout_id = entry.debit_id AND mirrored.state = 'posted'
         )
         FROM local.payout_entry AS entry JOIN local.payout USING (payout_id)
         WHERE payout_id = $1 ORDER BY entry.position",
    )
    .bind(id)
    .fetch_all(&mut *connection)
    .await?;
    let step: String = row.try_get(0)?;
    let rail: String = row.try_get(7)?;
    let rail = rail.parse().map_err(|error: anyhow::Error| sqlx::Error::Decode(error.into()))?;
    let paid_in = match row.try_get::<Option<String>, _>(8)? {
        Some(currency) => Some(PaidIn {
            currency,
            minor: row.try_get(9)?,
            rate_minor: row.try_get(10)?,
            rate_points: row.try_get(11)?,
        }),
        None => None,
    };
    Ok(Some(PayoutView {
        payout_id: id,
        state: match step.as_str() {
            "posted" => "posted",
            "voided" => "voided",
            _ => "pending",
        },
        step,
        note: row.try_get(1)?,
        amount: row.try_get(2)?,
        points: row.try_get(3)?,
        rail,
        paid_in,
        created_at: row.try_get(4)?,
        updated_at: row.try_get(5)?,
        transaction: row.try_get::<Option<Vec<u8>>, _>(6)?.map(|hash| format!("0x{}", hex::encode(hash))),
        entries: entries.iter().map(entry_view).collect::<Result<_, Problem>>()?,
    }))
}

fn entry_view(row: &PgRow) -> Result<EntryView, Problem> {
    Ok(EntryView {
        account: hash(row, 0)?.to_string(),
        amount: row.try_get(1)?,
        debit_id: hash(row, 2)?.to_string(),
        posted: row.try_get(3)?,
    })
}

/// Twenty bytes of a row.
pub(super) fn address(row: &PgRow, column: usize) -> Result<Address, sqlx::Error> {
    Address::try_from(row.try_get::<&[u8], _>(column)?).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Thirty-two bytes of a row.
pub(super) fn hash(row: &PgRow, column: usize) -> Result<B256, sqlx::Error> {
    B256::try_from(row.try_get::<&[u8], _>(column)?).map_err(|error| sqlx::Error::Decode(error.into()))
}
