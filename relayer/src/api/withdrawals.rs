//! Withdrawals of consent, carried for a contributor who signed one.

use std::sync::Arc;

use alloy::primitives::Bytes;
use axum::{Json, body::Body, extract::State, http::HeaderMap, http::StatusCode};
use serde::Deserialize;
use tidemark::ids::ConsentId;
use utoipa::ToSchema;

use super::caller;
use crate::{
    app::App,
    http,
    intake::withdraw::{Withdrawn, withdraw},
    problem::{Kind, Problem},
};

const QUESTION_BYTES_MAX: usize = 16 << 10;

/// What is withdrawn.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Withdrawal {
    /// EIP-712 digest of the consent.
    #[schema(value_type = String)]
    consent_id: ConsentId,
    /// The contributor's, over the EIP-712 digest of Withdrawal(bytes32 consentId).
    #[schema(value_type = String)]
    signature: Bytes,
}

/// Withdraw a consent: its records get a ConsentWithdrawn event each, and the chain is told.
#[utoipa::path(post, path = "/v1/withdrawals",
    params(("X-API-Key" = String, Header, description = "issued to the provider")),
    request_body = Withdrawal,
    responses((status = 202, description = "withdrawn here; the chain follows", body = Withdrawn),
              (status = "default", description = "consent-unknown, signature-invalid", body = tidemark::service::Problem)))]
pub async fn post_withdrawal(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Withdrawn>), Problem> {
    let provider = caller(&app, &headers, false).await?;
    let body = http::read_body(body, QUESTION_BYTES_MAX).await?;
    let Withdrawal { consent_id, signature } = serde_json::from_slice(&body)
        .map_err(|error| Problem::new(Kind::BodyInvalid, format!("expected {{consent_id, signature}}: {error}")))?;
    Ok((StatusCode::ACCEPTED, Json(withdraw(&app, &provider, consent_id, signature).await?)))
}
