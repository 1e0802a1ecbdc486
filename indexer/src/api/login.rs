//! `/v1/login` and `/v1/logout`: a wallet signs a message (EIP-4361) and gets a session.

use std::num::NonZeroU32;

use alloy::primitives::{Address, Bytes as HexBytes};
use axum::{
    Extension, Json,
    body::Bytes,
    extract::{FromRequestParts, State, rejection::BytesRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    answer::body,
    rates::{Client, Rates},
};
use crate::{
    login::{self, message::MESSAGE_BYTES_MAX},
    problem::Problem,
    read::rfc3339,
};

/// Contract wallets' signatures may be long.
const SIGNATURE_BYTES_MAX: usize = 8192;
const TOKEN_CHARS_MAX: usize = 256;

/// Nonces and logins from one address: nobody shall use all of them up, nor the node that is asked for contracts' signatures.
const LOGINS_PER_MINUTE: NonZeroU32 = match NonZeroU32::new(120) {
    Some(count) => count,
    None => NonZeroU32::MIN,
};

/// Its endpoints.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(nonce))
        .routes(routes!(log_in))
        .layer(Extension(Rates::per_minute(LOGINS_PER_MINUTE)))
        .routes(routes!(log_out))
}

/// What goes into a message.
#[derive(Serialize, ToSchema)]
pub struct NonceView {
    /// For one login.
    pub nonce: String,
    /// RFC 3339.
    pub expires_at: String,
    /// `domain` of the message: one of these.
    pub domains: Vec<String>,
    /// `Chain ID` of the message.
    pub chain_id: u64,
}

/// A signed message.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// As EIP-4361 has it, to the byte.
    pub message: String,
    /// 0x-hex: 65 bytes (EIP-191), or what the account's contract takes (ERC-1271).
    #[schema(value_type = String)]
    pub signature: HexBytes,
}

/// A session.
#[derive(Serialize, ToSchema)]
pub struct SessionView {
    /// For `Authorization: Bearer`; it is told once.
    pub token: String,
    /// The wallet.
    pub account: String,
    /// RFC 3339.
    pub expires_at: String,
}

/// Nobody's cache keeps what is somebody's own.
pub(super) fn private(response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    response
}

fn writable(app: &App) -> Result<(), Problem> {
    app.writes("log in and out at the indexer that writes; its sessions count here, too")?;
    match app.logins.login_domain.is_empty() {
        true => Err(Problem::new(
            StatusCode::NOT_FOUND,
            "logins-off",
            "No logins here",
            "this indexer was started without --login-domain",
        )),
        false => Ok(()),
    }
}

/// A nonce for a login, good for five minutes
#[utoipa::path(post, path = "/v1/login/nonce", tag = "login",
    responses((status = 200, body = NonceView), (status = 404, body = Problem), (status = 421, body = Problem), (status = 429, body = Problem),
        (status = 503, body = Problem)))]
pub async fn nonce(State(app): State<App>, Client(_client): Client) -> Result<Response, Problem> {
    writable(&app)?;
    let nonce = login::nonce(&app.pool).await?;
    Ok(private(Json(NonceView {
        nonce: nonce.nonce,
        expires_at: rfc3339(nonce.expires_at),
        domains: app.logins.login_domain.clone(),
        chain_id: app.chain.deployment.chain_id,
    })))
}

/// Log a wallet in
///
/// The message names a domain of this service, its chain and a nonce from `/v1/login/nonce`, and is at most ten minutes old.
/// The session lasts an hour, or until the message's `Expiration Time`.
#[utoipa::path(post, path = "/v1/login", tag = "login", request_body = Login,
    responses((status = 200, body = SessionView), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 404, body = Problem), (status = 413, body = Problem), (status = 421, body = Problem),
        (status = 429, body = Problem), (status = 503, body = Problem)))]
pub async fn log_in(
    State(app): State<App>,
    Client(_client): Client,
    payload: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    writable(&app)?;
    let payload = body(payload, super::BODY_BYTES_MAX)?;
    let login: Login = serde_json::from_slice(&payload)
        .map_err(|error| Problem::invalid("body", "JSON as in /docs, Login", error.to_string()))?;
    if login.message.len() > MESSAGE_BYTES_MAX {
        let expected = format!("at most {MESSAGE_BYTES_MAX} bytes");
        return Err(Problem::invalid("message", expected, login.message.len().to_string()));
    }
    if login.signature.len() > SIGNATURE_BYTES_MAX {
        let expected = format!("at most {SIGNATURE_BYTES_MAX} bytes");
        return Err(Problem::invalid("signature", expected, login.signature.len().to_string()));
    }
    let chain_id = app.chain.deployment.chain_id;
    let domains = &app.logins.login_domain;
    let session = login::login(&app.pool, &app.chain.rpc, domains, chain_id, &login.message, &login.signature).await?;
    Ok(private(Json(SessionView {
        token: session.token,
        account: session.account.to_string(),
        expires_at: rfc3339(session.expires_at),
    })))
}

/// End a session
#[utoipa::path(post, path = "/v1/logout", tag = "login",
    params(("Authorization" = String, Header, description = "`Bearer` and the session's token")),
    responses((status = 204, description = "The session is none any more"), (status = 401, body = Problem),
        (status = 404, body = Problem), (status = 421, body = Problem)))]
pub async fn log_out(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    writable(&app)?;
    login::logout(&app.pool, bearer(&headers).ok_or_else(unauthorized)?).await?;
    Ok(private(StatusCode::NO_CONTENT))
}

/// The token of `Authorization: Bearer`.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && token.len() <= TOKEN_CHARS_MAX).then_some(token)
}

fn unauthorized() -> Problem {
    let detail = "send Authorization: Bearer with the token of a session from /v1/login";
    Problem::new(StatusCode::UNAUTHORIZED, "session-unknown", "No such session", detail).at("Authorization")
}

/// The wallet that is logged in.
pub struct Wallet {
    /// Which.
    pub account: Address,
    /// Unix seconds.
    pub expires_at: i64,
}

impl FromRequestParts<App> for Wallet {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let token = bearer(&parts.headers).ok_or_else(unauthorized)?;
        let (account, expires_at) = login::session(&app.pool, token).await?.ok_or_else(unauthorized)?;
        Ok(Self { account, expires_at })
    }
}
