//! Terms of service and privacy policies that providers registered, each one they ever had.

use std::collections::BTreeSet;

use alloy::primitives::{Address, B256};
use serde::Serialize;
use sqlx::{PgPool, Row};
use utoipa::ToSchema;

use super::bigint;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyKind {
    /// Terms of service.
    Tos,
    /// Privacy policy.
    PrivacyPolicy,
}

impl PolicyKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tos, Self::PrivacyPolicy];

    /// As in Trace and in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tos => "tos",
            Self::PrivacyPolicy => "privacy_policy",
        }
    }
}

/// A policy, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Policy {
    /// The provider's name for it.
    pub version: String,
    /// SHA-256 of its text.
    #[schema(value_type = String)]
    pub hash: B256,
    /// Where the text is.
    pub uri: String,
    /// Unix seconds.
    pub effective_at: Option<u64>,
}

/// Makes these the provider's current ones; false where they are already.
pub async fn put(db: &PgPool, provider: Address, policies: [(PolicyKind, &Policy); 2]) -> anyhow::Result<bool> {
    let mut tx = db.begin().await?;
    // no key: rows that refer to the provider go on being written; one at a time, so that the newest row of each kind
    // is from the same request
    sqlx::query("SELECT FROM provider WHERE account = $1 FOR NO KEY UPDATE")
        .bind(provider.0.0)
        .execute(&mut *tx)
        .await?;
    let mut is_changed = false;
    for (kind, policy) in policies {
        let effective_at = policy.effective_at.map(bigint).transpose()?;
        let done = sqlx::query(
            "INSERT INTO provider_policy (provider, kind, version, hash, uri, effective_at)
             SELECT $1, $2, $3, $4, $5, $6 WHERE NOT EXISTS (
                 SELECT FROM (SELECT * FROM provider_policy WHERE provider = $1 AND kind = $2
                              ORDER BY position DESC LIMIT 1) AS newest
                 WHERE version = $3 AND hash = $4 AND uri = $5 AND effective_at IS NOT DISTINCT FROM $6)",
        )
        .bind(provider.0.0)
        .bind(kind.name())
        .bind(&policy.version)
        .bind(policy.hash.0)
        .bind(&policy.uri)
        .bind(effective_at)
        .execute(&mut *tx)
        .await?;
        is_changed |= done.rows_affected() == 1;
    }
    tx.commit().await?;
    Ok(is_changed)
}

/// Which of these hashes the provider registered, now or before, as a policy of which kind.
pub async fn known(db: &PgPool, provider: Address, hashes: &[B256]) -> anyhow::Result<BTreeSet<(PolicyKind, B256)>> {
    if hashes.is_empty() {
        return Ok(BTreeSet::new());
    }
    let rows = sqlx::query("SELECT DISTINCT kind, hash FROM provider_policy WHERE provider = $1 AND hash = ANY($2)")
        .bind(provider.0.0)
        .bind(hashes.iter().map(|hash| hash.0).collect::<Vec<_>>())
        .fetch_all(db)
        .await?;
    rows.iter()
        .map(|row| {
            let kind = if row.try_get::<&str, _>(0)? == PolicyKind::Tos.name() {
                PolicyKind::Tos
            } else {
                PolicyKind::PrivacyPolicy
            };
            Ok((kind, B256::from(row.try_get::<[u8; 32], _>(1)?)))
        })
        .collect()
}
