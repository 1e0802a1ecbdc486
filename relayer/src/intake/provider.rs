//! Providers and their API keys; of a key only the SHA-256 is stored, as a key is 256 random bits.

use alloy::primitives::Address;
use anyhow::ensure;
use base64::Engine;
use sqlx::{PgPool, Row};
use tidemark::ids::sha256;

use super::{Provider, Tx};
use crate::chain::Chain;

const KEY_PREFIX: &str = "tmk_";

/// The provider that holds an API key, where there is one.
pub async fn of_key(db: &PgPool, key: &str) -> sqlx::Result<Option<Provider>> {
    let row = sqlx::query(
        "SELECT p.account, p.name FROM api_key k JOIN provider p ON p.account = k.provider
         WHERE k.key_hash = $1 AND k.revoked_at IS NULL",
    )
    .bind(sha256(&[key.as_bytes()]).0)
    .fetch_optional(db)
    .await?;
    row.map(|row| Ok(Provider { account: Address::from(row.try_get::<[u8; 20], _>(0)?), name: row.try_get(1)? }))
        .transpose()
}

/// Whether a provider of this name was let in.
pub async fn is_known(db: &PgPool, name: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM provider WHERE name = $1)").bind(name).fetch_one(db).await
}

/// Every provider that was let in, by name.
pub async fn all(db: &PgPool) -> sqlx::Result<Vec<Provider>> {
    let rows = sqlx::query("SELECT account, name FROM provider ORDER BY name").fetch_all(db).await?;
    rows.iter()
        .map(|row| Ok(Provider { account: Address::from(row.try_get::<[u8; 20], _>(0)?), name: row.try_get(1)? }))
        .collect()
}

/// The account of a provider that was let in under this name.
pub async fn named(db: &PgPool, name: &str) -> anyhow::Result<Address> {
    let account: Option<[u8; 20]> =
        sqlx::query_scalar("SELECT account FROM provider WHERE name = $1").bind(name).fetch_optional(db).await?;
    account.map(Address::from).ok_or_else(|| anyhow::anyhow!("no provider named {name:?} was let in here"))
}

/// Lets a provider in that the chain knows under this name and account, and issues an API key.
pub async fn add(db: &PgPool, chain: &Chain, name: &str, account: Address) -> anyhow::Result<String> {
    let holder = chain.provider_named(name).await?;
    ensure!(
        holder == Some(account),
        "provider {name}: expected the chain to name {account}, got {}; register it with ProvenanceLog.registerProvider first",
        holder.map_or("nobody".into(), |holder| holder.to_string())
    );
    let Some(on_chain) = chain.provider_of(account).await? else {
        anyhow::bail!("provider {account}: not registered on chain");
    };
    let mut tx = db.begin().await?;
    sqlx::query("INSERT INTO provider (account, name) VALUES ($1, $2) ON CONFLICT (account) DO NOTHING")
        .bind(account.0.0)
        .bind(name)
        .execute(&mut *tx)
        .await?;
    crate::batch::start_lane(&mut tx, account, on_chain.nextBatch).await?;
    let key = issue_key(&mut tx, account).await?;
    tx.commit().await?;
    Ok(key)
}

async fn issue_key(tx: &mut Tx<'_>, account: Address) -> anyhow::Result<String> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)?;
    let key = format!("{KEY_PREFIX}{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes));
    sqlx::query("INSERT INTO api_key (key_hash, provider) VALUES ($1, $2)")
        .bind(sha256(&[key.as_bytes()]).0)
        .bind(account.0.0)
        .execute(&mut **tx)
        .await?;
    Ok(key)
}

/// Ends a key; false where there was none to end.
pub async fn revoke_key(db: &PgPool, key: &str) -> sqlx::Result<bool> {
    let done = sqlx::query("UPDATE api_key SET revoked_at = now() WHERE key_hash = $1 AND revoked_at IS NULL")
        .bind(sha256(&[key.as_bytes()]).0)
        .execute(db)
        .await?;
    Ok(done.rows_affected() == 1)
}
