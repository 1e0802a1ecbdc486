//! Points accounts: one with its statement, or the balances of many.

use axum::{
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    response::Response,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    answer::{Params, Segments, answer, body, hash, snapshot},
};
use crate::{
    problem::Problem,
    read::{self, AccountBalance, AccountView, Answer, Period, page::PageQuery},
};

const ACCOUNTS_MAX: usize = 1_000;

/// Query of an account.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AccountQuery {
    /// Account or name of the provider that owes the points; needed only where two know the same pseudonym.
    pub provider: Option<String>,
    /// Only transfers whose causes stand in this block or later.
    pub from_block: Option<u64>,
    /// Only transfers whose causes stand in this block or earlier.
    pub until_block: Option<u64>,
    /// Rows, 1 to 1000; 100 where left out.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl AccountQuery {
    fn period(&self) -> Result<Period, Problem> {
        let height = |field: &str, number: Option<u64>| {
            let read = number.map(i64::try_from).transpose();
            read.map_err(|_| {
                Problem::invalid(field, "a block number below 2^63", number.unwrap_or_default().to_string())
            })
        };
        let (from, until) = (height("from_block", self.from_block)?, height("until_block", self.until_block)?);
        match (from, until) {
            (Some(from), Some(until)) if from > until => {
                Err(Problem::invalid("until_block", format!("{from} or later"), until.to_string()))
            }
            _ => Ok(Period { from, until }),
        }
    }
}

/// A points account with its statement, newest first, of all blocks or of a period; each page says what it opens and closes
/// with. An account that nothing was posted to has balance 0.
#[utoipa::path(get, path = "/v1/accounts/{pseudonym}", tag = "points",
    params(("pseudonym" = String, Path, description = "32 bytes as hex: the record's contributor"), AccountQuery),
    responses((status = 200, body = Answer<AccountView>), (status = 304), (status = 400, body = Problem)))]
pub async fn account(
    State(app): State<App>,
    Segments(pseudonym): Segments<String>,
    Params(query): Params<AccountQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let key = hash("pseudonym", &pseudonym)?;
    let page = PageQuery { limit: query.limit, cursor: query.cursor.clone() }.page()?;
    let period = query.period()?;
    let (mut snapshot, at) = snapshot(&app).await?;
    let provider = match &query.provider {
        None => None,
        Some(provider) => Some(known(&mut snapshot, provider).await?),
    };
    match read::account(&mut snapshot, provider, key, period, &page).await? {
        Some(account) => answer(&headers, at, account),
        None => Err(Problem::unknown("pseudonym", format!("no account {key}"))),
    }
}

pub(super) async fn known(
    connection: &mut sqlx::PgConnection,
    provider: &str,
) -> Result<alloy::primitives::Address, Problem> {
    let found = read::find_provider(connection, provider).await?;
    found.ok_or_else(|| Problem::invalid("provider", "account or name of a provider on chain", provider))
}

/// Accounts to look up.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountsQuery {
    /// Account or name of the provider that owes the points.
    #[serde(default)]
    pub provider: Option<String>,
    /// 1 to 1000 pseudonyms.
    pub accounts: Vec<String>,
}

/// Balances in the order asked.
#[derive(Debug, Serialize, ToSchema)]
pub struct AccountBalances {
    /// In the order asked.
    pub accounts: Vec<AccountBalance>,
    /// Their sum, payment-token units.
    pub total: String,
}

/// Balances of up to 1000 accounts at one block, for an app that sums up one contributor's records.
#[utoipa::path(post, path = "/v1/accounts:query", tag = "points", request_body = AccountsQuery,
    responses((status = 200, body = Answer<AccountBalances>), (status = 400, body = Problem)))]
pub async fn query(
    State(app): State<App>,
    headers: HeaderMap,
    payload: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let payload = body(payload, super::BODY_BYTES_MAX)?;
    let query: AccountsQuery = serde_json::from_slice(&payload)
        .map_err(|error| Problem::invalid("body", "JSON as in /docs, AccountsQuery", error.to_string()))?;
    if query.accounts.is_empty() || query.accounts.len() > ACCOUNTS_MAX {
        let expected = format!("1 to {ACCOUNTS_MAX} pseudonyms");
        return Err(Problem::invalid("accounts", expected, query.accounts.len().to_string()));
    }
    let keys = query.accounts.iter().enumerate().map(|(at, key)| hash(&format!("accounts[{at}]"), key));
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    let (mut snapshot, at) = snapshot(&app).await?;
    let provider = match &query.provider {
        None => None,
        Some(provider) => Some(known(&mut snapshot, provider).await?),
    };
    let accounts = read::balances(&mut snapshot, provider, &keys).await?;
    // each once, however often it was asked for
    let mut distinct: Vec<&AccountBalance> = accounts.iter().collect();
    distinct.sort_by(|a, b| a.account.cmp(&b.account));
    distinct.dedup_by(|a, b| a.account == b.account);
    let total =
        distinct.iter().filter_map(|account| account.balance.parse::<u128>().ok()).fold(0u128, u128::saturating_add);
    answer(&headers, at, AccountBalances { accounts, total: total.to_string() })
}
