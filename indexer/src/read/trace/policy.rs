//! Terms of service and privacy policies. The chain says which policies a provider published, and its records say which of
//! them is what: nothing else about them is public.

use alloy::primitives::{Address, B256};
use serde::Serialize;
use sqlx::{PgConnection, Row, postgres::PgRow};
use utoipa::ToSchema;

use super::prefixed;
use crate::{
    read::{ReadError, hash_text, rfc3339},
    trace::key,
};

const POLICIES_MAX: i64 = 500;

/// What records name a policy as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyRole {
    /// `contributor.consent.tos_hash`.
    Tos,
    /// `contributor.consent.privacy_policy_hash`.
    PrivacyPolicy,
}

impl PolicyRole {
    /// As in Trace's paths.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tos => "tos",
            Self::PrivacyPolicy => "privacy_policy",
        }
    }
}

/// A policy that a provider published on chain.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PolicyDocument {
    /// The provider's name.
    pub provider: String,
    /// What the provider's records name it as: tos, privacy_policy, both or neither.
    pub kinds: Vec<&'static str>,
    /// As published.
    pub version: String,
    /// `sha256:…` of its text.
    pub hash: String,
    /// Where the text is.
    pub uri: String,
    /// Always null: the chain has no such time.
    pub effective_at: Option<String>,
    /// RFC 3339: the block of its publication.
    pub published_at: String,
    /// Its publication.
    pub tx_hash: String,
    /// Where the newest record that names it in this role was registered: block, and place in it.
    #[serde(skip)]
    named: [Option<(i64, i64)>; 2],
}

/// A provider's policies.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PolicyList {
    /// The provider's name.
    pub provider: String,
    /// The one that its newest record with terms of service names.
    pub tos: Option<PolicyDocument>,
    /// The one that its newest record with a privacy policy names.
    pub privacy_policy: Option<PolicyDocument>,
    /// All that it published, newest first.
    pub policies: Vec<PolicyDocument>,
}

fn document(row: &PgRow) -> Result<PolicyDocument, sqlx::Error> {
    Ok(PolicyDocument {
        provider: row.try_get(0)?,
        kinds: Vec::new(),
        version: row.try_get(2)?,
        hash: prefixed(&row.try_get::<Vec<u8>, _>(1)?),
        uri: row.try_get(3)?,
        effective_at: None,
        published_at: rfc3339(row.try_get(4)?),
        tx_hash: hash_text(row, 5)?,
        named: [None; 2],
    })
}

async fn published(
    connection: &mut PgConnection,
    provider: Address,
    hash: Option<B256>,
) -> Result<Vec<PolicyDocument>, ReadError> {
    let rows = sqlx::query(
        "SELECT v.name, p.policy_hash, p.version, p.uri, p.block_time, p.tx_hash
         FROM policy AS p JOIN provider AS v ON v.address = p.provider
         WHERE p.provider = $1 AND ($2::bytea IS NULL OR p.policy_hash = $2)
         ORDER BY p.block_number DESC, p.policy_hash LIMIT $3",
    )
    .bind(provider.as_slice())
    .bind(hash.as_ref().map(|hash| hash.as_slice()))
    .bind(POLICIES_MAX)
    .fetch_all(&mut *connection)
    .await?;
    let mut policies = rows.iter().map(document).collect::<Result<Vec<_>, _>>()?;
    let keys = |column| policies.iter().map(|policy| key(provider, column, policy.hash.as_bytes())).collect::<Vec<_>>();
    let named = sqlx::query(
        "SELECT asked.position, tos.block_number, tos.place, privacy.block_number, privacy.place
         FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS asked (tos, privacy, position)
         LEFT JOIN LATERAL (SELECT r.block_number, r.place FROM trace_record AS r WHERE r.tos_hash_key = asked.tos
             ORDER BY r.block_number DESC, r.place DESC LIMIT 1) AS tos ON TRUE
         LEFT JOIN LATERAL (SELECT r.block_number, r.place FROM trace_record AS r
             WHERE r.privacy_policy_hash_key = asked.privacy
             ORDER BY r.block_number DESC, r.place DESC LIMIT 1) AS privacy ON TRUE
         ORDER BY asked.position",
    )
    .bind(keys("tos_hash"))
    .bind(keys("privacy_policy_hash"))
    .fetch_all(connection)
    .await?;
    for (policy, row) in policies.iter_mut().zip(&named) {
        let place = |at: usize| -> Result<_, sqlx::Error> {
            let block: Option<i64> = row.try_get(at)?;
            Ok(block.zip(row.try_get::<Option<i64>, _>(at + 1)?))
        };
        policy.named = [place(1)?, place(3)?];
        let kinds = [PolicyRole::Tos, PolicyRole::PrivacyPolicy].into_iter().zip(policy.named);
        policy.kinds = kinds.filter(|(_, named)| named.is_some()).map(|(role, _)| role.name()).collect();
    }
    Ok(policies)
}

fn newest(policies: &[PolicyDocument], role: PolicyRole) -> Option<PolicyDocument> {
    let named = |policy: &&PolicyDocument| policy.named.get(role as usize).copied().flatten();
    policies.iter().filter(|policy| named(policy).is_some()).max_by_key(named).cloned()
}

/// A provider's policies, and which of them its newest records name.
pub async fn policies(connection: &mut PgConnection, provider: Address, name: String) -> Result<PolicyList, ReadError> {
    let policies = published(connection, provider, None).await?;
    Ok(PolicyList {
        provider: name,
        tos: newest(&policies, PolicyRole::Tos),
        privacy_policy: newest(&policies, PolicyRole::PrivacyPolicy),
        policies,
    })
}

/// The policies that the provider's newest records with one name: terms of service, privacy policy.
pub(super) async fn active(
    connection: &mut PgConnection,
    provider: Address,
) -> Result<[Option<PolicyDocument>; 2], ReadError> {
    let policies = published(connection, provider, None).await?;
    Ok([newest(&policies, PolicyRole::Tos), newest(&policies, PolicyRole::PrivacyPolicy)])
}

/// One published policy, whatever names it.
pub async fn policy(
    connection: &mut PgConnection,
    provider: Address,
    hash: B256,
) -> Result<Option<PolicyDocument>, ReadError> {
    Ok(published(connection, provider, Some(hash)).await?.pop())
}
