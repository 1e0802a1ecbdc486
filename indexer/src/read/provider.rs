//! Providers, their tasks and policies, and whether their points are covered.

use alloy::primitives::Address;
use serde::Serialize;
use sqlx::{PgConnection, Row, postgres::PgRow};
use utoipa::ToSchema;

use super::{ReadError, address_text, hash_text, number, rfc3339};
use crate::manifest::stored;

const ROWS_MAX: i64 = 1_000;

/// A provider by address and name.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProviderRef {
    /// Its account.
    pub address: String,
    /// Its unique name.
    pub name: String,
}

/// A provider.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProviderView {
    /// Its account.
    pub address: String,
    /// Its unique name.
    pub name: String,
    /// Signs verdicts, batches and versions now.
    pub attestor: String,
    /// Holds the tokens behind its points.
    pub points_treasury: String,
    /// The ERC-20 that everything is counted in.
    pub token: String,
    /// Anchored and final.
    pub batches: u64,
    /// Of them, with a manifest that is not what was anchored.
    pub invalid_batches: u64,
    /// Known records.
    pub records: u64,
    /// Height of its registration.
    pub block_number: u64,
    /// RFC 3339.
    pub registered_at: String,
    /// The registration.
    pub tx_hash: String,
    /// Its tasks; only where one provider is asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskView>,
    /// Its policies; only where one provider is asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyView>,
}

/// A sponsor's task.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TaskView {
    /// Its id.
    pub task_id: u64,
    /// Who pays.
    pub sponsor: String,
    /// Payment-token units for each accepted submission.
    pub price: String,
    /// Unix seconds.
    pub closes_at: String,
    /// SHA-256 of the description.
    pub terms_hash: String,
    /// Where the description is.
    pub uri: String,
    /// Payment-token units paid in.
    pub funded: String,
    /// Taken by batches.
    pub debited: String,
    /// Returned to the sponsor.
    pub refunded: String,
    /// Left.
    pub escrow: String,
    /// Its creation.
    pub tx_hash: String,
}

/// A published policy.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PolicyView {
    /// SHA-256 of the text.
    pub policy_hash: String,
    /// Its version.
    pub version: String,
    /// Where the text is.
    pub uri: String,
    /// RFC 3339.
    pub published_at: String,
    /// Its publication.
    pub tx_hash: String,
}

/// All providers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProviderList {
    /// By name.
    pub providers: Vec<ProviderView>,
}

/// Whether a provider's points are covered, at the block of the answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Settlement {
    /// Whose.
    pub provider: ProviderRef,
    /// Payment-token units ever issued as points.
    pub issued: String,
    /// Payment-token units that became money.
    pub redeemed: String,
    /// What contributors hold now.
    pub outstanding: String,
    /// Issuer + contributors + redeemed: 0, or the ledger is broken.
    pub difference: String,
    /// Redeemed on chain and not posted, because the account has no such balance: 0, or the treasury was robbed.
    pub unposted: String,
    /// The points treasury.
    pub treasury: String,
    /// Its token.
    pub token: String,
    /// Tokens in the treasury at the block of the answer; none where the node can't say.
    pub treasury_balance: Option<String>,
    /// Whether the treasury holds at least what is outstanding.
    pub covered: Option<bool>,
}

/// An account or a name to the provider's account.
pub async fn find(connection: &mut PgConnection, provider: &str) -> Result<Option<Address>, ReadError> {
    let by_address = provider.parse::<Address>().ok();
    let row = sqlx::query("SELECT address FROM provider WHERE address = $1 OR name = $2")
        .bind(by_address.as_ref().map(|address| address.as_slice()))
        .bind(provider.replace('\0', ""))
        .fetch_optional(connection)
        .await?;
    Ok(row.map(|row| stored::address(&row, 0)).transpose()?)
}

fn view(row: &PgRow) -> Result<ProviderView, sqlx::Error> {
    Ok(ProviderView {
        address: address_text(row, 0)?,
        name: row.try_get(1)?,
        attestor: address_text(row, 2)?,
        points_treasury: address_text(row, 3)?,
        token: address_text(row, 4)?,
        block_number: number(row, 5)?,
        registered_at: rfc3339(row.try_get(6)?),
        tx_hash: hash_text(row, 7)?,
        batches: number(row, 8)?,
        invalid_batches: number(row, 9)?,
        records: number(row, 10)?,
        tasks: Vec::new(),
        policies: Vec::new(),
    })
}

/// All providers by name.
pub async fn providers(connection: &mut PgConnection) -> Result<ProviderList, ReadError> {
    let rows = sqlx::query(
        "SELECT p.address, p.name, p.attestor, p.points_treasury, p.token, p.block_number, p.block_time, p.tx_hash,
             (SELECT count(*) FROM batch AS b WHERE b.provider = p.address),
             (SELECT count(*) FROM batch AS b WHERE b.provider = p.address AND b.state = 'invalid'),
             (SELECT count(*) FROM record AS r WHERE r.provider = p.address)
         FROM provider AS p ORDER BY p.name LIMIT $1",
    )
    .bind(ROWS_MAX)
    .fetch_all(connection)
    .await?;
    let providers = rows.iter().map(view).collect::<Result<_, _>>()?;
    Ok(ProviderList { providers })
}

/// One provider with its tasks and policies.
pub async fn provider(connection: &mut PgConnection, address: Address) -> Result<Option<ProviderView>, ReadError> {
    let row = sqlx::query(
        "SELECT p.address, p.name, p.attestor, p.points_treasury, p.token, p.block_number, p.block_time, p.tx_hash,
             (SELECT count(*) FROM batch AS b WHERE b.provider = p.address),
             (SELECT count(*) FROM batch AS b WHERE b.provider = p.address AND b.state = 'invalid'),
             (SELECT count(*) FROM record AS r WHERE r.provider = p.address)
         FROM provider AS p WHERE p.address = $1",
    )
    .bind(address.as_slice())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let mut provider = view(&row)?;
    let tasks = sqlx::query(
        "SELECT task_id, sponsor, price::text, closes_at::text, terms_hash, uri, funded::text, debited::text,
             refunded::text, (funded - debited - refunded)::text, tx_hash
         FROM task WHERE provider = $1 ORDER BY task_id LIMIT $2",
    )
    .bind(address.as_slice())
    .bind(ROWS_MAX)
    .fetch_all(&mut *connection)
    .await?;
    for row in &tasks {
        provider.tasks.push(TaskView {
            task_id: number(row, 0)?,
            sponsor: address_text(row, 1)?,
            price: row.try_get(2)?,
            closes_at: row.try_get(3)?,
            terms_hash: hash_text(row, 4)?,
            uri: row.try_get(5)?,
            funded: row.try_get(6)?,
            debited: row.try_get(7)?,
            refunded: row.try_get(8)?,
            escrow: row.try_get(9)?,
            tx_hash: hash_text(row, 10)?,
        });
    }
    let policies = sqlx::query(
        "SELECT policy_hash, version, uri, block_time, tx_hash FROM policy
         WHERE provider = $1 ORDER BY block_number DESC, policy_hash LIMIT $2",
    )
    .bind(address.as_slice())
    .bind(ROWS_MAX)
    .fetch_all(connection)
    .await?;
    for row in &policies {
        provider.policies.push(PolicyView {
            policy_hash: hash_text(row, 0)?,
            version: row.try_get(1)?,
            uri: row.try_get(2)?,
            published_at: rfc3339(row.try_get(3)?),
            tx_hash: hash_text(row, 4)?,
        });
    }
    Ok(Some(provider))
}

/// The ledger's proof per provider; the treasury's balance is the caller's to ask the chain for.
pub async fn settlement(connection: &mut PgConnection) -> Result<Vec<Settlement>, ReadError> {
    let rows = sqlx::query(
        "SELECT p.address, p.name, l.issued::text, l.redeemed::text, l.outstanding::text, l.difference::text,
             coalesce((SELECT sum(r.amount) FROM points_redeemed AS r
                 WHERE r.provider = p.address AND r.state = 'waiting'), 0)::text,
             p.points_treasury, p.token
         FROM provider AS p JOIN ledger_proof AS l ON l.provider = p.address ORDER BY p.name LIMIT $1",
    )
    .bind(ROWS_MAX)
    .fetch_all(connection)
    .await?;
    let settlements = rows.iter().map(|row| {
        Ok(Settlement {
            provider: ProviderRef { address: address_text(row, 0)?, name: row.try_get(1)? },
            issued: row.try_get(2)?,
            redeemed: row.try_get(3)?,
            outstanding: row.try_get(4)?,
            difference: row.try_get(5)?,
            unposted: row.try_get(6)?,
            treasury: address_text(row, 7)?,
            token: address_text(row, 8)?,
            treasury_balance: None,
            covered: None,
        })
    });
    Ok(settlements.collect::<Result<_, sqlx::Error>>()?)
}
