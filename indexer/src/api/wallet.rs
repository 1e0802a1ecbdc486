//! What belongs together, for whose it is: a wallet that is logged in, or the provider of a contributor.

use axum::{
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    answer::{Params, answer, body, hash, snapshot},
    login::{Wallet, bearer, private},
};
use crate::{
    problem::Problem,
    read::{
        self, Answer, ContributorView, OwnRecords, OwnRoyalties, Payments, ProviderRef, WalletView, page::PageQuery,
    },
};

const PSEUDONYMS_MAX: usize = 1_000;

/// Its endpoints.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(wallet))
        .routes(routes!(records))
        .routes(routes!(royalties))
        .routes(routes!(payments))
        .routes(routes!(contributor))
}

/// The logged-in wallet: how many records pay it, and its rewards by state.
#[utoipa::path(get, path = "/v1/me", tag = "login",
    params(("Authorization" = String, Header, description = "`Bearer` and the session's token")),
    responses((status = 200, body = Answer<WalletView>), (status = 304), (status = 401, body = Problem)))]
pub async fn wallet(State(app): State<App>, wallet: Wallet, headers: HeaderMap) -> Result<Response, Problem> {
    let (mut snapshot, at) = snapshot(&app).await?;
    let view = read::wallet(&mut snapshot, wallet.account, wallet.expires_at).await?;
    answer(&headers, at, view).map(private)
}

/// The records that pay the logged-in wallet, newest batch first.
#[utoipa::path(get, path = "/v1/me/records", tag = "login",
    params(PageQuery, ("Authorization" = String, Header, description = "`Bearer` and the session's token")),
    responses((status = 200, body = Answer<OwnRecords>), (status = 304), (status = 400, body = Problem),
        (status = 401, body = Problem)))]
pub async fn records(
    State(app): State<App>,
    wallet: Wallet,
    Params(query): Params<PageQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let page = query.page()?;
    let (mut snapshot, at) = snapshot(&app).await?;
    let records = read::own_records(&mut snapshot, wallet.account, &page).await?;
    answer(&headers, at, records).map(private)
}

/// What the logged-in wallet's records earned in datasets, and what of it can be claimed.
#[utoipa::path(get, path = "/v1/me/royalties", tag = "login",
    params(PageQuery, ("Authorization" = String, Header, description = "`Bearer` and the session's token")),
    responses((status = 200, body = Answer<OwnRoyalties>), (status = 304), (status = 400, body = Problem),
        (status = 401, body = Problem)))]
pub async fn royalties(
    State(app): State<App>,
    wallet: Wallet,
    Params(query): Params<PageQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let page = query.page()?;
    let (mut snapshot, at) = snapshot(&app).await?;
    let royalties = read::own_royalties(&mut snapshot, wallet.account, &page).await?;
    answer(&headers, at, royalties).map(private)
}

/// The logged-in wallet's statement: what it was paid on chain, newest first.
#[utoipa::path(get, path = "/v1/me/payments", tag = "login",
    params(PageQuery, ("Authorization" = String, Header, description = "`Bearer` and the session's token")),
    responses((status = 200, body = Answer<Payments>), (status = 304), (status = 400, body = Problem),
        (status = 401, body = Problem)))]
pub async fn payments(
    State(app): State<App>,
    wallet: Wallet,
    Params(query): Params<PageQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let page = query.page()?;
    let (mut snapshot, at) = snapshot(&app).await?;
    let payments = read::payments(&mut snapshot, wallet.account, &page).await?;
    answer(&headers, at, payments).map(private)
}

/// Which pseudonyms are one contributor's; their provider knows.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContributorQuery {
    /// 1 to 1000 pseudonyms.
    pub accounts: Vec<String>,
    /// Transfers, 1 to 1000; 100 where left out.
    #[serde(default)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
}

/// A contributor over all its pseudonyms, for its provider
///
/// Records, balances and one statement over all accounts. A provider sees its own records only.
#[utoipa::path(post, path = "/v1/contributors:query", tag = "points", request_body = ContributorQuery,
    params(("Authorization" = String, Header, description = "`Bearer` and the provider's token")),
    responses((status = 200, body = Answer<ContributorView>), (status = 400, body = Problem),
        (status = 401, body = Problem), (status = 413, body = Problem)))]
pub async fn contributor(
    State(app): State<App>,
    headers: HeaderMap,
    payload: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let name = bearer(&headers).and_then(|token| app.logins.provider_of(token)).ok_or_else(|| {
        let detail = "send Authorization: Bearer with the token that --provider-token has the digest of";
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "No valid provider token", detail).at("Authorization")
    })?;
    let payload = body(payload, super::BODY_BYTES_MAX)?;
    let query: ContributorQuery = serde_json::from_slice(&payload)
        .map_err(|error| Problem::invalid("body", "JSON as in /docs, ContributorQuery", error.to_string()))?;
    if query.accounts.is_empty() || query.accounts.len() > PSEUDONYMS_MAX {
        let expected = format!("1 to {PSEUDONYMS_MAX} pseudonyms");
        return Err(Problem::invalid("accounts", expected, query.accounts.len().to_string()));
    }
    let keys = query.accounts.iter().enumerate().map(|(at, key)| hash(&format!("accounts[{at}]"), key));
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    let page = PageQuery { limit: query.limit, cursor: query.cursor }.page()?;
    let (mut snapshot, at) = snapshot(&app).await?;
    let address = super::accounts::known(&mut snapshot, name).await?;
    let provider = ProviderRef { address: address.to_string(), name: name.to_owned() };
    let view = read::contributor(&mut snapshot, provider, address, &keys, &page).await?;
    answer(&headers, at, view).map(private)
}
