//! What one wallet, or one provider's contributor, sees of itself over all records. Only for who proved to be it: nobody else
//! is told which records belong together.

use alloy::primitives::{Address, B256};
use serde::Serialize;
use sqlx::{PgConnection, Row};
use utoipa::ToSchema;

use super::{
    AccountBalance, ProviderRef, ReadError, TransferView, account, address_text, bound_time, hash_text, number,
    page::{Page, Place, cut},
    rfc3339, rfc3339_u64,
};
use crate::manifest::stored::digits;

/// A wallet with very many records is told to ask for pages instead.
const ROWS_MAX: i64 = 1_000;

/// A record that pays this wallet, or is of this contributor.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OwnRecord {
    /// Which record.
    pub data_id: String,
    /// Whose.
    pub provider: ProviderRef,
    /// registered, accepted, rejected, withdrawn or erased.
    pub status: String,
    /// The provider's own id; none while undisclosed or erased.
    pub source_record_id: Option<String>,
    /// Its pseudonym.
    pub contributor: String,
    /// Its consent.
    pub consent_id: String,
    /// Payment-token units.
    pub reward: String,
    /// Where a wallet reward is, as in a record's events; none where it is paid in points, or there is none.
    pub reward_state: Option<String>,
    /// RFC 3339, as the provider says.
    pub registered_at: String,
    /// Batch of its newest event.
    pub batch_number: u64,
}

/// A wallet's records, newest batch first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OwnRecords {
    /// Newest batch first.
    pub records: Vec<OwnRecord>,
    /// For the page after.
    pub next_cursor: Option<String>,
}

/// Wallet rewards in one state.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RewardSum {
    /// Who accepted.
    pub provider: ProviderRef,
    /// What it pays in.
    pub token: String,
    /// `waiting`, `claimable`, `claimed`, `held`, `refunded`, `credited` or `paid_as_credit`.
    pub state: String,
    /// How many.
    pub count: u64,
    /// Payment-token units.
    pub amount: String,
}

/// A wallet over all records.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WalletView {
    /// The wallet.
    pub account: String,
    /// RFC 3339: the session's end.
    pub session_expires_at: String,
    /// Records that pay it.
    pub records: u64,
    /// By provider and state.
    pub rewards: Vec<RewardSum>,
}

/// Royalties of one record in one dataset version.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OwnRoyalty {
    /// Dataset.
    pub ip_id: String,
    /// Its name.
    pub dataset_name: String,
    /// Version.
    pub version: u64,
    /// Place in the members manifest.
    pub position: u64,
    /// Which record.
    pub data_id: String,
    /// Its weight.
    pub weight: String,
    /// What it is paid in.
    pub token: String,
    /// Payment-token units that all sales brought it.
    pub earned: String,
    /// Payment-token units that were claimed.
    pub claimed: String,
    /// The rest: `claimRoyalty` pays it.
    pub claimable: String,
}

/// A wallet's royalties.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OwnRoyalties {
    /// By dataset, version and place.
    pub royalties: Vec<OwnRoyalty>,
    /// For the page after.
    pub next_cursor: Option<String>,
}

/// Money that reached a wallet.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Payment {
    /// Names its cause; unique.
    pub id: String,
    /// `reward`, `royalty` or `credit` of disputes.
    pub cause: String,
    /// Payment-token units.
    pub amount: String,
    /// Whose reward or royalty.
    pub data_id: Option<String>,
    /// Height.
    pub block_number: u64,
    /// RFC 3339.
    pub block_time: String,
    /// The transaction.
    pub tx_hash: String,
}

/// What a wallet was paid, newest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Payments {
    /// Newest first.
    pub payments: Vec<Payment>,
    /// For the page after.
    pub next_cursor: Option<String>,
}

/// A provider's contributor over several pseudonyms.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ContributorView {
    /// Whose.
    pub provider: ProviderRef,
    /// In the order asked.
    pub accounts: Vec<AccountBalance>,
    /// Payment-token units over all of them.
    pub total: String,
    /// Of these pseudonyms, at most 1000, newest batch first.
    pub records: Vec<OwnRecord>,
    /// All accounts' transfers, newest first.
    pub transfers: Vec<TransferView>,
    /// For the transfers after.
    pub next_cursor: Option<String>,
}

const RECORD: &str = "SELECT r.data_id, r.provider, p.name, r.status, r.source_record_id, r.contributor, r.consent_id,
         r.reward::text, (SELECT w.state FROM wallet_reward AS w
             WHERE w.provider = r.provider AND w.data_id = r.data_id LIMIT 1), r.registered_at::text, r.number
     FROM record AS r JOIN provider AS p ON p.address = r.provider";

fn record(row: &sqlx::postgres::PgRow) -> Result<OwnRecord, sqlx::Error> {
    Ok(OwnRecord {
        data_id: row.try_get::<uuid::Uuid, _>(0)?.to_string(),
        provider: ProviderRef { address: address_text(row, 1)?, name: row.try_get(2)? },
        status: row.try_get(3)?,
        source_record_id: row.try_get(4)?,
        contributor: hash_text(row, 5)?,
        consent_id: hash_text(row, 6)?,
        reward: row.try_get(7)?,
        reward_state: row.try_get(8)?,
        registered_at: rfc3339_u64(digits(row, 9)?),
        batch_number: number(row, 10)?,
    })
}

/// A wallet's sums.
pub async fn wallet(
    connection: &mut PgConnection,
    wallet: Address,
    session_expires_at: i64,
) -> Result<WalletView, ReadError> {
    bound_time(connection).await?;
    let records: i64 = sqlx::query_scalar("SELECT count(*) FROM record WHERE payee = $1 AND payee <> $2")
        .bind(wallet.as_slice())
        .bind(Address::ZERO.as_slice())
        .fetch_one(&mut *connection)
        .await?;
    let rows = sqlx::query(
        "SELECT r.provider, p.name, p.token, w.state, count(*), sum(w.amount)::text
         FROM record AS r JOIN provider AS p ON p.address = r.provider
         JOIN wallet_reward AS w ON w.provider = r.provider AND w.data_id = r.data_id
         WHERE r.payee = $1 AND r.payee <> $2 AND w.payee = $1
         GROUP BY r.provider, p.name, p.token, w.state ORDER BY p.name, w.state",
    )
    .bind(wallet.as_slice())
    .bind(Address::ZERO.as_slice())
    .fetch_all(connection)
    .await?;
    let rewards = rows.iter().map(|row| {
        Ok(RewardSum {
            provider: ProviderRef { address: address_text(row, 0)?, name: row.try_get(1)? },
            token: address_text(row, 2)?,
            state: row.try_get(3)?,
            count: number(row, 4)?,
            amount: row.try_get(5)?,
        })
    });
    Ok(WalletView {
        account: wallet.to_string(),
        session_expires_at: rfc3339(session_expires_at),
        records: u64::try_from(records).unwrap_or_default(),
        rewards: rewards.collect::<Result<_, sqlx::Error>>()?,
    })
}

/// The records that pay a wallet.
pub async fn own_records(connection: &mut PgConnection, wallet: Address, page: &Page) -> Result<OwnRecords, ReadError> {
    let after = page.after.as_ref().and_then(|place| {
        let (data_id, provider) = place.1.split_once('/')?;
        Some((place.0, data_id.parse::<uuid::Uuid>().ok()?, provider.parse::<Address>().ok()?))
    });
    let sql = format!(
        "{RECORD} WHERE r.payee = $1 AND r.payee <> $2
             AND ($3::bigint IS NULL OR (r.number, r.data_id, r.provider::bytea) < ($3, $4, $5))
         ORDER BY r.number DESC, r.data_id DESC, r.provider::bytea DESC LIMIT $6"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(wallet.as_slice())
        .bind(Address::ZERO.as_slice())
        .bind(after.as_ref().map(|after| after.0))
        .bind(after.as_ref().map(|after| after.1))
        .bind(after.as_ref().map(|after| after.2.as_slice()))
        .bind(i64::from(page.limit) + 1)
        .fetch_all(connection)
        .await?;
    let mut records = rows.iter().map(record).collect::<Result<Vec<_>, _>>()?;
    let next_cursor = cut(&mut records, page.limit, |record| {
        let number = i64::try_from(record.batch_number).unwrap_or(i64::MAX);
        Place(number, format!("{}/{}", record.data_id, record.provider.address))
    });
    Ok(OwnRecords { records, next_cursor })
}

/// What a wallet's records earned in datasets, as `RoyaltyPool` counts it.
pub async fn own_royalties(
    connection: &mut PgConnection,
    wallet: Address,
    page: &Page,
) -> Result<OwnRoyalties, ReadError> {
    bound_time(connection).await?;
    let after = page.after.as_ref().and_then(|place| {
        let (ip_id, version) = place.1.split_once('/')?;
        let is_decimal = !ip_id.is_empty() && ip_id.bytes().all(|byte| byte.is_ascii_digit());
        Some((place.0, is_decimal.then(|| ip_id.to_owned())?, version.parse::<i64>().ok()?))
    });
    let rows = sqlx::query(
        "SELECT m.ip_id::text, d.name, m.version, m.position, m.data_id, m.weight::text, p.token, earned.amount::text,
             claimed.amount::text, (earned.amount - claimed.amount)::text
         FROM (SELECT * FROM dataset_member WHERE payee = $1 AND payee <> $2
                 AND ($3::bigint IS NULL OR (ip_id, version, position) > ($4::text::numeric, $5, $3))
             ORDER BY ip_id, version, position LIMIT $6) AS m
         JOIN dataset AS d ON d.ip_id = m.ip_id JOIN provider AS p ON p.address = d.provider
         JOIN dataset_version AS v ON (v.ip_id, v.version) = (m.ip_id, m.version)
         CROSS JOIN LATERAL (SELECT least(div(m.weight * coalesce(sum(
                 div(s.wallet_share * 340282366920938463463374607431768211456, v.total_weight - v.points_weight)), 0),
                 340282366920938463463374607431768211456), 79228162514264337593543950335)::numeric(78, 0) AS amount
             FROM sale AS s WHERE (s.ip_id, s.version) = (m.ip_id, m.version) AND v.total_weight > v.points_weight) AS earned
         CROSS JOIN LATERAL (SELECT coalesce(sum(c.amount), 0)::numeric(78, 0) AS amount FROM royalty_claim AS c
             WHERE (c.ip_id, c.version, c.data_id) = (m.ip_id, m.version, m.data_id)) AS claimed
         ORDER BY m.ip_id, m.version, m.position",
    )
    .bind(wallet.as_slice())
    .bind(Address::ZERO.as_slice())
    .bind(after.as_ref().map(|after| after.0))
    .bind(after.as_ref().map(|after| after.1.as_str()))
    .bind(after.as_ref().map(|after| after.2))
    .bind(i64::from(page.limit) + 1)
    .fetch_all(connection)
    .await?;
    let royalties = rows.iter().map(|row| {
        Ok(OwnRoyalty {
            ip_id: row.try_get(0)?,
            dataset_name: row.try_get(1)?,
            version: number(row, 2)?,
            position: number(row, 3)?,
            data_id: row.try_get::<uuid::Uuid, _>(4)?.to_string(),
            weight: row.try_get(5)?,
            token: address_text(row, 6)?,
            earned: row.try_get(7)?,
            claimed: row.try_get(8)?,
            claimable: row.try_get(9)?,
        })
    });
    let mut royalties = royalties.collect::<Result<Vec<_>, sqlx::Error>>()?;
    let next_cursor = cut(&mut royalties, page.limit, |royalty| {
        let position = i64::try_from(royalty.position).unwrap_or(i64::MAX);
        Place(position, format!("{}/{}", royalty.ip_id, royalty.version))
    });
    Ok(OwnRoyalties { royalties, next_cursor })
}

/// What a wallet was paid on chain.
pub async fn payments(connection: &mut PgConnection, wallet: Address, page: &Page) -> Result<Payments, ReadError> {
    let rows = sqlx::query(
        "SELECT * FROM (
             SELECT 'reward/0x' || encode(provider, 'hex') || '/' || number || '/' || index AS id, 'reward' AS cause,
                 amount::text, data_id, block_number, block_time, tx_hash::bytea
             FROM reward_claim WHERE payee = $1
             UNION ALL
             SELECT 'royalty/' || ip_id || '/' || version || '/' || data_id || '/' || block_number || '/' || log_index,
                 'royalty', amount::text, data_id, block_number, block_time, tx_hash::bytea
             FROM royalty_claim WHERE payee = $1
             UNION ALL
             SELECT 'credit/0x' || encode(token, 'hex') || '/' || block_number || '/' || log_index, 'credit', amount::text,
                 NULL, block_number, block_time, tx_hash::bytea
             FROM credit_payment WHERE account = $1
         ) AS paid
         WHERE $2::bigint IS NULL OR (block_number, id) < ($2, $3) ORDER BY block_number DESC, id DESC LIMIT $4",
    )
    .bind(wallet.as_slice())
    .bind(page.after.as_ref().map(|place| place.0))
    .bind(page.after.as_ref().map(|place| place.1.as_str()))
    .bind(i64::from(page.limit) + 1)
    .fetch_all(connection)
    .await?;
    let payments = rows.iter().map(|row| {
        Ok(Payment {
            id: row.try_get(0)?,
            cause: row.try_get(1)?,
            amount: row.try_get(2)?,
            data_id: row.try_get::<Option<uuid::Uuid>, _>(3)?.map(|id| id.to_string()),
            block_number: number(row, 4)?,
            block_time: rfc3339(row.try_get(5)?),
            tx_hash: hash_text(row, 6)?,
        })
    });
    let mut payments = payments.collect::<Result<Vec<_>, sqlx::Error>>()?;
    let next_cursor = cut(&mut payments, page.limit, |payment| {
        Place(i64::try_from(payment.block_number).unwrap_or(i64::MAX), payment.id.clone())
    });
    Ok(Payments { payments, next_cursor })
}

/// A provider's contributor over all of its pseudonyms.
pub async fn contributor(
    connection: &mut PgConnection,
    provider: ProviderRef,
    address: Address,
    keys: &[B256],
    page: &Page,
) -> Result<ContributorView, ReadError> {
    let bytes: Vec<&[u8]> = keys.iter().map(|key| key.as_slice()).collect();
    let accounts = account::balances(connection, Some(address), keys).await?;
    let total: String = sqlx::query_scalar(
        "SELECT (coalesce((SELECT sum(balance) FROM ledger_account
                 WHERE provider = $1 AND kind = 'contributor' AND key = ANY($2)), 0)
             + coalesce((SELECT sum(amount) FROM royalty_part WHERE provider = $1 AND account = ANY($2)), 0))::text",
    )
    .bind(address.as_slice())
    .bind(&bytes)
    .fetch_one(&mut *connection)
    .await?;
    let sql = format!(
        "{RECORD} WHERE r.provider = $1 AND r.contributor = ANY($2) ORDER BY r.number DESC, r.data_id DESC LIMIT $3"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(address.as_slice())
        .bind(&bytes)
        .bind(ROWS_MAX)
        .fetch_all(&mut *connection)
        .await?;
    let records = rows.iter().map(record).collect::<Result<_, _>>()?;
    let (transfers, next_cursor) = account::transfers_of(connection, address, &bytes, page).await?;
    Ok(ContributorView { provider, accounts, total, records, transfers, next_cursor })
}
