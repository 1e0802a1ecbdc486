//! Points accounts: balance and statement of a per-record pseudonym, its own transfers and its parts of sales alike
//! (`ledger_statement`).

use alloy::primitives::{Address, B256};
use serde::Serialize;
use sqlx::{PgConnection, Row, postgres::PgRow};
use tidemark::ids::DataId;
use utoipa::ToSchema;

use super::{
    ProviderRef, ReadError, address_text, bound_time, hash_text, number,
    page::{Page, Place, cut},
    rfc3339,
};

/// One transfer of the ledger, from the contributor's side.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TransferView {
    /// Names its cause; unique.
    pub id: String,
    /// reward, royalty or redeem.
    pub cause: String,
    /// `credit`: the account gained · `debit`: it was paid out.
    pub side: String,
    /// Payment-token units.
    pub amount: String,
    /// The account: a per-record pseudonym.
    pub account: String,
    /// Whose reward or royalty.
    pub data_id: Option<String>,
    /// Height of the cause.
    pub block_number: u64,
    /// RFC 3339.
    pub block_time: String,
    /// The cause's transaction.
    pub tx_hash: String,
}

/// Balance of one account.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AccountBalance {
    /// The pseudonym.
    pub account: String,
    /// Who owes the points; none where nothing was ever posted.
    pub provider: Option<ProviderRef>,
    /// Payment-token units now.
    pub balance: String,
    /// Ever credited.
    pub credited: String,
    /// Ever paid out.
    pub debited: String,
}

/// An account with its statement, newest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AccountView {
    /// Its balance.
    #[serde(flatten)]
    pub balance: AccountBalance,
    /// Before the oldest transfer of this page, payment-token units. The page after closes with it; that of a period's last
    /// page opens the period.
    pub opening: String,
    /// After the newest transfer of this page: what the page before opened with, or what the period closes with.
    pub closing: String,
    /// Newest first; those of one block by id.
    pub transfers: Vec<TransferView>,
    /// For the page after.
    pub next_cursor: Option<String>,
}

fn transfer(row: &PgRow) -> Result<TransferView, sqlx::Error> {
    let cause: String = row.try_get(1)?;
    let side = if cause == "redeem" { "debit" } else { "credit" };
    Ok(TransferView {
        id: row.try_get(0)?,
        side: side.to_owned(),
        cause,
        amount: row.try_get(2)?,
        account: hash_text(row, 3)?,
        data_id: row.try_get::<Option<uuid::Uuid>, _>(4)?.map(|id| id.to_string()),
        block_number: number(row, 5)?,
        block_time: rfc3339(row.try_get(6)?),
        tx_hash: hash_text(row, 7)?,
    })
}

/// Balances of accounts, in the order asked; of one provider where given. Unknown accounts have 0.
pub async fn balances(
    connection: &mut PgConnection,
    provider: Option<Address>,
    keys: &[B256],
) -> Result<Vec<AccountBalance>, ReadError> {
    bound_time(connection).await?;
    let bytes: Vec<&[u8]> = keys.iter().map(|key| key.as_slice()).collect();
    let rows = sqlx::query(
        "SELECT s.account, s.provider, p.name, (coalesce(a.balance, 0) + s.royalties)::text, s.credited::text, s.debited::text
         FROM (
             SELECT account, provider, coalesce(sum(amount) FILTER (WHERE cause <> 'redeem'), 0) AS credited,
                 coalesce(sum(amount) FILTER (WHERE cause = 'redeem'), 0) AS debited,
                 coalesce(sum(amount) FILTER (WHERE cause = 'royalty'), 0) AS royalties
             FROM ledger_statement WHERE account = ANY($1) AND ($2::bytea IS NULL OR provider = $2)
             GROUP BY account, provider
         ) AS s
         JOIN provider AS p ON p.address = s.provider
         LEFT JOIN ledger_account AS a ON (a.provider, a.kind, a.key) = (s.provider, 'contributor', s.account)
         ORDER BY s.account, p.name",
    )
    .bind(bytes)
    .bind(provider.as_ref().map(|provider| provider.as_slice()))
    .fetch_all(connection)
    .await?;
    let mut found = std::collections::HashMap::<String, AccountBalance>::new();
    for row in &rows {
        let balance = AccountBalance {
            account: hash_text(row, 0)?,
            provider: Some(ProviderRef { address: address_text(row, 1)?, name: row.try_get(2)? }),
            balance: row.try_get(3)?,
            credited: row.try_get(4)?,
            debited: row.try_get(5)?,
        };
        // pseudonyms are random: a second provider with the same one copied it, and is asked for by name
        found.entry(balance.account.clone()).or_insert(balance);
    }
    let zero = || "0".to_owned();
    Ok(keys
        .iter()
        .map(|key| {
            found.get(&key.to_string()).cloned().unwrap_or_else(|| AccountBalance {
                account: key.to_string(),
                provider: None,
                balance: zero(),
                credited: zero(),
                debited: zero(),
            })
        })
        .collect())
}

/// Blocks of a statement, both ends taken in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Period {
    /// From this height on.
    pub from: Option<i64>,
    /// Up to this height.
    pub until: Option<i64>,
}

/// An account with a page of its statement.
pub async fn account(
    connection: &mut PgConnection,
    provider: Option<Address>,
    key: B256,
    period: Period,
    page: &Page,
) -> Result<Option<AccountView>, ReadError> {
    let Some(balance) = balances(connection, provider, &[key]).await?.pop() else { return Ok(None) };
    let of: Option<Address> = balance.provider.as_ref().and_then(|provider| provider.address.parse().ok());
    let of = of.unwrap_or_default();
    let rows = sqlx::query(
        "SELECT id, cause, amount::text, account, data_id, block_number, block_time, tx_hash FROM ledger_statement
         WHERE provider = $1 AND account = $2 AND ($3::bigint IS NULL OR (block_number, id) < ($3, $4))
             AND block_number BETWEEN coalesce($6, 0) AND coalesce($7, 9223372036854775807)
         ORDER BY block_number DESC, id DESC LIMIT $5",
    )
    .bind(of.as_slice())
    .bind(key.as_slice())
    .bind(page.after.as_ref().map(|place| place.0))
    .bind(page.after.as_ref().map(|place| place.1.as_str()))
    .bind(i64::from(page.limit) + 1)
    .bind(period.from)
    .bind(period.until)
    .fetch_all(&mut *connection)
    .await?;
    let mut transfers = rows.iter().map(transfer).collect::<Result<Vec<_>, _>>()?;
    let place =
        |transfer: &TransferView| Place(i64::try_from(transfer.block_number).unwrap_or(i64::MAX), transfer.id.clone());
    let next_cursor = cut(&mut transfers, page.limit, place);
    let oldest = transfers.last().map(place);
    let (opening, closing) = ends(connection, of, key, period, page.after.as_ref(), oldest.as_ref()).await?;
    Ok(Some(AccountView { balance, opening, closing, transfers, next_cursor }))
}

/// What was on an account before the oldest transfer of a page, and after its newest: the sums of what stands below each of
/// them. Without transfers both are the same.
async fn ends(
    connection: &mut PgConnection,
    provider: Address,
    key: B256,
    period: Period,
    after: Option<&Place>,
    oldest: Option<&Place>,
) -> Result<(String, String), ReadError> {
    let row = sqlx::query(
        "SELECT coalesce(sum(amount) FILTER (WHERE $6::bigint IS NULL OR (block_number, id) < ($6, $7)), 0)::text,
             coalesce(sum(amount), 0)::text
         FROM (
             SELECT block_number, id, CASE cause WHEN 'redeem' THEN -amount ELSE amount END AS amount FROM ledger_statement
             WHERE provider = $1 AND account = $2 AND ($3::bigint IS NULL OR (block_number, id) < ($3, $4))
                 AND block_number <= coalesce($5, 9223372036854775807)
         ) AS sides",
    )
    .bind(provider.as_slice())
    .bind(key.as_slice())
    .bind(after.map(|place| place.0))
    .bind(after.map(|place| place.1.as_str()))
    .bind(period.until)
    .bind(oldest.map(|place| place.0))
    .bind(oldest.map(|place| place.1.as_str()))
    .fetch_one(connection)
    .await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// A page of the transfers of several accounts of one provider, newest first.
pub(super) async fn transfers_of(
    connection: &mut PgConnection,
    provider: Address,
    keys: &[&[u8]],
    page: &Page,
) -> Result<(Vec<TransferView>, Option<String>), ReadError> {
    let rows = sqlx::query(
        "SELECT id, cause, amount::text, account, data_id, block_number, block_time, tx_hash FROM ledger_statement
         WHERE provider = $1 AND account = ANY($2) AND ($3::bigint IS NULL OR (block_number, id) < ($3, $4))
         ORDER BY block_number DESC, id DESC LIMIT $5",
    )
    .bind(provider.as_slice())
    .bind(keys)
    .bind(page.after.as_ref().map(|place| place.0))
    .bind(page.after.as_ref().map(|place| place.1.as_str()))
    .bind(i64::from(page.limit) + 1)
    .fetch_all(connection)
    .await?;
    let mut transfers = rows.iter().map(transfer).collect::<Result<Vec<_>, _>>()?;
    let next_cursor = cut(&mut transfers, page.limit, |transfer| {
        Place(i64::try_from(transfer.block_number).unwrap_or(i64::MAX), transfer.id.clone())
    });
    Ok((transfers, next_cursor))
}

/// Points posted for one record.
pub(super) async fn transfers_of_record(
    connection: &mut PgConnection,
    provider: Address,
    data_id: DataId,
    limit: i64,
) -> Result<Vec<TransferView>, ReadError> {
    let rows = sqlx::query(
        "SELECT id, cause, amount::text, account, data_id, block_number, block_time, tx_hash FROM ledger_statement
         WHERE provider = $1 AND data_id = $2 ORDER BY block_number, id LIMIT $3",
    )
    .bind(provider.as_slice())
    .bind(data_id.0)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows.iter().map(transfer).collect::<Result<_, _>>()?)
}
