//! Withdrawals of consent, carried for a contributor who signed one.

use std::sync::Arc;

use alloy::primitives::Bytes;
use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::Deserialize;
use tidemark::ids::{ConsentId, sha256};
use utoipa::ToSchema;

use super::{gate::allowed, idempotent};
use crate::{
    app::App,
    http,
    intake::{
        key::Scope,
        provider::Caller,
        withdraw::{Withdrawn, withdraw},
    },
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
    params(("X-API-Key" = String, Header, description = "issued to the provider, with the scope `withdrawals`"),
           ("Idempotency-Key" = Option<String>, Header,
            description = "the same key and body again get the same answer")),
    request_body = Withdrawal,
    responses((status = 202, description = "withdrawn here; the chain follows", body = Withdrawn),
              (status = "default", description = "consent-unknown, signature-invalid", body = tidemark::service::Problem)))]
pub async fn post_withdrawal(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Caller>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let provider = allowed(&app, &caller, &headers, Scope::Withdrawals, false).await?.clone();
    let key = idempotent::key(&headers)?;
    let body = http::read_body(body, QUESTION_BYTES_MAX).await?;
    let Withdrawal { consent_id, signature } = serde_json::from_slice(&body)
        .map_err(|error| Problem::new(Kind::BodyInvalid, format!("expected {{consent_id, signature}}: {error}")))?;
    let fingerprint = sha256(&[b"withdrawal", &body]);
    let (account, shared) = (provider.account, Arc::clone(&app));
    let work = async move {
        let withdrawn = withdraw(&shared, &provider, consent_id, signature).await?;
        Ok((StatusCode::ACCEPTED, withdrawn))
    };
    idempotent::once(&app, account, key, fingerprint, work).await
}
