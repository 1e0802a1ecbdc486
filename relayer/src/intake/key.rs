//! API keys: whose they are, what they may do and until when; of a key only the SHA-256 is stored, as a key is 256
//! random bits.

use alloy::primitives::Address;
use anyhow::{Context, ensure};
use base64::Engine;
use clap::ValueEnum;
use sqlx::{PgPool, Row};
use tidemark::ids::sha256;

use super::{
    Provider, Tx,
    provider::{Caller, Settings},
};

const KEY_PREFIX: &str = "tmk_";
const NAME_BYTES_MAX: usize = 64;
/// Live keys of one provider: enough for a service each, and one more while each is replaced.
const KEYS_MAX: i64 = 100;
/// Keys that are listed, newest first.
const LIST_MAX: i64 = 1000;

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// Trace's write endpoints.
    Records,
    /// Uploads of files.
    Uploads,
    /// Withdrawals of consent, and erasures.
    Withdrawals,
    /// What became of records and batches.
    Read,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Records, Self::Uploads, Self::Withdrawals, Self::Read];

    /// As in the database and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Uploads => "uploads",
            Self::Withdrawals => "withdrawals",
            Self::Read => "read",
        }
    }
}

/// A key that is to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Unique among the provider's live keys; made up where there is none.
    pub name: Option<String>,
    /// At least one.
    pub scopes: Vec<Scope>,
    /// From now on; `None` for a key without an end.
    pub days: Option<u32>,
}

impl NewKey {
    /// A key that may do everything, without an end.
    pub fn unlimited() -> Self {
        Self { name: None, scopes: Scope::ALL.to_vec(), days: None }
    }
}

/// Who holds an API key, where it is known, not revoked and not expired. Notes the minute of its use.
pub async fn caller(db: &PgPool, key: &str) -> anyhow::Result<Option<Caller>> {
    let hash = sha256(&[key.as_bytes()]).0;
    let row = sqlx::query(
        "SELECT p.account, p.name, p.attestation, p.key_url, p.policies, k.scopes,
                k.last_used_at IS NULL OR k.last_used_at < now() - interval '1 minute', p.signed_requests
         FROM api_key k JOIN provider p ON p.account = k.provider
         WHERE k.key_hash = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())",
    )
    .bind(hash)
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    if row.try_get::<bool, _>(6)? {
        sqlx::query(
            "UPDATE api_key SET last_used_at = now()
             WHERE key_hash = $1 AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')",
        )
        .bind(hash)
        .execute(db)
        .await?;
    }
    let scopes: Vec<String> = row.try_get(5)?;
    Ok(Some(Caller {
        provider: Provider { account: Address::from(row.try_get::<[u8; 20], _>(0)?), name: row.try_get(1)? },
        settings: Settings {
            attestation: row.try_get::<&str, _>(2)?.parse()?,
            key_url: row.try_get(3)?,
            policies: row.try_get::<&str, _>(4)?.parse()?,
            signed_requests: row.try_get(7)?,
        },
        scopes: Scope::ALL.into_iter().filter(|scope| scopes.iter().any(|name| name == scope.name())).collect(),
    }))
}

/// Makes a key; it is shown once and never again.
pub async fn issue(tx: &mut Tx<'_>, provider: Address, new: &NewKey) -> anyhow::Result<String> {
    ensure!(!new.scopes.is_empty(), "scopes: expected at least one of records, uploads, withdrawals, read");
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)?;
    let key = format!("{KEY_PREFIX}{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes));
    let hash = sha256(&[key.as_bytes()]);
    let name = new.name.clone().unwrap_or_else(|| format!("key-{}", hex::encode(hash.get(..4).unwrap_or_default())));
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
    ensure!(fits, "name: expected 1 to {NAME_BYTES_MAX} bytes without control characters");
    // the provider's row is held, so that two at once are counted
    sqlx::query("SELECT FROM provider WHERE account = $1 FOR NO KEY UPDATE")
        .bind(provider.0.0)
        .execute(&mut **tx)
        .await?;
    let live: i64 = sqlx::query_scalar("SELECT count(*) FROM api_key WHERE provider = $1 AND revoked_at IS NULL")
        .bind(provider.0.0)
        .fetch_one(&mut **tx)
        .await?;
    ensure!(live < KEYS_MAX, "expected fewer than {KEYS_MAX} keys that are not revoked, got {live}; revoke some");
    let made = sqlx::query(
        "INSERT INTO api_key (key_hash, provider, name, scopes, expires_at)
         VALUES ($1, $2, $3, $4, now() + make_interval(days => $5)) ON CONFLICT DO NOTHING",
    )
    .bind(hash.0)
    .bind(provider.0.0)
    .bind(&name)
    .bind(new.scopes.iter().map(|scope| scope.name()).collect::<Vec<_>>())
    .bind(new.days.map(i32::try_from).transpose()?)
    .execute(&mut **tx)
    .await?;
    ensure!(made.rows_affected() == 1, "a key named {name:?} exists already; revoke it, or choose another name");
    Ok(key)
}

/// A provider's keys, newest first: a line each, of name, scopes, times and state.
pub async fn list(db: &PgPool, provider: &str) -> anyhow::Result<Vec<String>> {
    let rows: Vec<String> = sqlx::query_scalar(
        r#"SELECT concat_ws(E'\t', k.name, array_to_string(k.scopes, ','),
                'issued ' || to_char(k.issued_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                coalesce('expires ' || to_char(k.expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), 'no end'),
                coalesce('used ' || to_char(k.last_used_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"'), 'never used'),
                CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked' WHEN k.expires_at <= now() THEN 'expired' ELSE 'live' END)
         FROM api_key k JOIN provider p ON p.account = k.provider
         WHERE p.name = $1 ORDER BY k.issued_at DESC, k.name LIMIT $2"#,
    )
    .bind(provider)
    .bind(LIST_MAX)
    .fetch_all(db)
    .await?;
    ensure!(!rows.is_empty(), "provider {provider:?}: not let in, or without a key");
    Ok(rows)
}

/// Ends a key; false where there was none to end.
pub async fn revoke(db: &PgPool, key: &str) -> anyhow::Result<bool> {
    let done = sqlx::query("UPDATE api_key SET revoked_at = now() WHERE key_hash = $1 AND revoked_at IS NULL")
        .bind(sha256(&[key.as_bytes()]).0)
        .execute(db)
        .await
        .context("revoke a key")?;
    Ok(done.rows_affected() == 1)
}

/// Ends a provider's key that is known by its name only; false where there was none to end.
pub async fn revoke_named(db: &PgPool, provider: &str, name: &str) -> anyhow::Result<bool> {
    let done = sqlx::query(
        "UPDATE api_key k SET revoked_at = now() FROM provider p
         WHERE p.account = k.provider AND p.name = $1 AND k.name = $2 AND k.revoked_at IS NULL",
    )
    .bind(provider)
    .bind(name)
    .execute(db)
    .await
    .context("revoke a key by its name")?;
    Ok(done.rows_affected() == 1)
}
