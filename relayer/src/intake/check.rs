//! What metadata claims of itself, compared with what its provider published and registered; and what was found.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256};
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgPool, Row};
use tidemark::ids::{ContentHash, DataId};
use utoipa::ToSchema;

use super::{
    Tx,
    attestation::{Key, Keys, MEMBER, Refusal, Statement},
    policy::{self, PolicyKind},
    provider::{Attestations, Caller, Policies, Settings},
};
use crate::problem::{Kind, Problem};

/// Characters of the sender's value that are kept in a finding.
const ACTUAL_CHARS_MAX: usize = 160;

/// What one state of metadata claims.
#[derive(Clone, Debug)]
pub struct Claims {
    data_id: DataId,
    seq: u32,
    /// Of the metadata in the request.
    path: String,
    /// `None` where attestations of this provider are not looked at.
    attestation: Option<Result<Option<Statement>, Refusal>>,
    /// What it names as hashes of policies.
    policies: Vec<(PolicyKind, String)>,
}

/// What was found of one state of metadata, where there was anything to find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    data_id: DataId,
    seq: u32,
    attestation: Option<Attested>,
    policies: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Attested {
    Verified { key_id: String },
    Absent,
    Refused { reason: String },
}

impl Attested {
    fn name(&self) -> &'static str {
        match self {
            Self::Verified { .. } => "verified",
            Self::Absent => "absent",
            Self::Refused { .. } => "refused",
        }
    }
}

/// A finding, as its provider sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct CheckView {
    /// Trace sequence of the state; 0 is the registration.
    seq: i32,
    /// verified, absent or refused; null where attestations were not looked at.
    attestation: Option<String>,
    /// Of the key that verified it.
    key_id: Option<String>,
    /// Why it was refused.
    reason: Option<String>,
    /// Whether the policies that it names are registered; null where it names none.
    policies: Option<bool>,
}

impl Claims {
    /// Reads what is checked of this provider's metadata.
    pub fn read(settings: &Settings, data_id: DataId, seq: u32, metadata: &Value, path: String) -> Self {
        let attestation = match (settings.attestation, &settings.key_url) {
            (Attestations::None, _) | (_, None) => None,
            (Attestations::Record | Attestations::Enforce, Some(url)) => Some(Statement::read(metadata, url)),
        };
        let consent = metadata.pointer("/contributor/consent");
        let policies = PolicyKind::ALL.into_iter().filter_map(|kind| {
            let named = consent?.get(format!("{}_hash", kind.name())).filter(|value| !value.is_null())?;
            Some((kind, named.as_str().map_or_else(|| named.to_string(), str::to_owned)))
        });
        Self { data_id, seq, path, attestation, policies: policies.collect() }
    }
}

/// Checks claims, in their order; refuses where the provider's settings say so.
pub async fn check(
    db: &PgPool,
    keys: &Keys,
    caller: &Caller,
    claims: Vec<Claims>,
) -> Result<Vec<Option<Finding>>, Problem> {
    let provider = caller.provider.account;
    let policies = check_policies(db, caller, &claims).await?;

    let is_enforced = caller.settings.attestation == Attestations::Enforce;
    if is_enforced {
        // before anything is fetched
        claims.iter().try_for_each(well_formed)?;
    }
    let statements = claims.iter().filter_map(|claims| claims.attestation.as_ref()?.as_ref().ok()?.as_ref());
    let ids: BTreeSet<&str> = statements.map(|statement| statement.key_id.as_str()).collect();
    let url = caller.settings.key_url.as_deref().unwrap_or_default();
    let found = keys.find(db, provider, url, &ids).await?;
    if is_enforced && found.is_none() {
        let error = anyhow::anyhow!("no JWK set of {}", caller.provider.name);
        return Err(Problem::unavailable("the JWK set at the provider's key_url", error));
    }
    let verify = move || {
        claims
            .into_iter()
            .zip(policies)
            .map(|(claims, policies)| {
                let attestation = match &claims.attestation {
                    None => None,
                    Some(read) => match verified(read, found.as_ref()) {
                        Err(refusal) if is_enforced => return Err(problem(&claims.path, refusal)),
                        Err(Refusal { member, expected, actual }) => {
                            Some(Attested::Refused { reason: reason(member, &expected, &actual) })
                        }
                        Ok(attested) => Some(attested),
                    },
                };
                let (data_id, seq) = (claims.data_id, claims.seq);
                let is_any = attestation.is_some() || policies.is_some();
                Ok(is_any.then_some(Finding { data_id, seq, attestation, policies }))
            })
            .collect()
    };
    // signatures of a whole batch, away from the threads that answer requests
    tokio::task::spawn_blocking(verify).await.map_err(Problem::internal)?
}

fn well_formed(claims: &Claims) -> Result<(), Problem> {
    match &claims.attestation {
        Some(Err(refusal)) => Err(problem(&claims.path, refusal.clone())),
        Some(Ok(None)) => {
            let (expected, actual) = ("an attestation by the provider".to_owned(), "none".to_owned());
            Err(problem(&claims.path, Refusal { member: "", expected, actual }))
        }
        Some(Ok(Some(_))) | None => Ok(()),
    }
}

fn verified(
    read: &Result<Option<Statement>, Refusal>,
    keys: Option<&BTreeMap<String, Result<Key, Refusal>>>,
) -> Result<Attested, Refusal> {
    let Some(statement) = read.as_ref().map_err(Clone::clone)? else { return Ok(Attested::Absent) };
    let key = match keys.map(|keys| keys.get(&statement.key_id)) {
        Some(Some(key)) => key.as_ref().map_err(Clone::clone)?,
        Some(None) | None => {
            let (expected, actual) = ("a JWK set that can be had".to_owned(), "none".to_owned());
            return Err(Refusal { member: "key_url", expected, actual });
        }
    };
    statement.check(key)?;
    Ok(Attested::Verified { key_id: statement.key_id.clone() })
}

/// One line for the database, which takes no NUL, and not too much of what was sent.
fn reason(member: &str, expected: &str, actual: &str) -> String {
    let actual: String = actual.chars().take(ACTUAL_CHARS_MAX).flat_map(char::escape_default).collect();
    format!("{}: expected {expected}, got {actual}", dotted(member))
}

fn dotted(member: &str) -> String {
    if member.is_empty() { MEMBER.to_owned() } else { format!("{MEMBER}.{member}") }
}

fn problem(path: &str, Refusal { member, expected, actual }: Refusal) -> Problem {
    Problem::field(Kind::AttestationInvalid, format!("{path}.{}", dotted(member)), expected, actual)
}

/// Of each: whether all policies that it names are registered; `None` where it names none.
async fn check_policies(db: &PgPool, caller: &Caller, claims: &[Claims]) -> Result<Vec<Option<bool>>, Problem> {
    let hash = |text: &str| ContentHash::parse(text).ok().map(|hash| hash.0);
    let named = claims.iter().flat_map(|claims| &claims.policies);
    let hashes: BTreeSet<B256> = named.filter_map(|(_, text)| hash(text)).collect();
    let hashes: Vec<B256> = hashes.into_iter().collect();
    let known = policy::known(db, caller.provider.account, &hashes).await?;
    claims
        .iter()
        .map(|claims| {
            let is_known =
                |(kind, text): &&(PolicyKind, String)| hash(text).is_some_and(|hash| known.contains(&(*kind, hash)));
            let unknown = claims.policies.iter().find(|named| !is_known(named));
            match unknown {
                Some((kind, text)) if caller.settings.policies == Policies::Enforce => {
                    let field = format!("{}.contributor.consent.{}_hash", claims.path, kind.name());
                    let expected = "sha256:<64 hex digits> of a policy that the provider registered by provider-policy";
                    Err(Problem::field(Kind::PolicyUnknown, field, expected, text))
                }
                _ => Ok((!claims.policies.is_empty()).then_some(unknown.is_none())),
            }
        })
        .collect()
}

/// Keeps findings in the transaction that takes the metadata in; an update that is sent again replaces what was found
/// of one that was refused.
pub async fn keep<'a>(
    tx: &mut Tx<'_>,
    provider: Address,
    findings: impl Iterator<Item = &'a Finding>,
) -> Result<(), Problem> {
    let findings: Vec<&Finding> = findings.collect();
    if findings.is_empty() {
        return Ok(());
    }
    let key_id = |finding: &&Finding| match &finding.attestation {
        Some(Attested::Verified { key_id }) => Some(key_id.clone()),
        _ => None,
    };
    let why = |finding: &&Finding| match &finding.attestation {
        Some(Attested::Refused { reason }) => Some(reason.clone()),
        _ => None,
    };
    let seqs: Result<Vec<i32>, _> = findings.iter().map(|finding| i32::try_from(finding.seq)).collect();
    sqlx::query(
        "INSERT INTO metadata_check (provider, data_id, seq, attestation, key_id, reason, policies)
         SELECT $1, * FROM unnest($2::uuid[], $3::int[], $4::text[], $5::text[], $6::text[], $7::boolean[])
         ON CONFLICT (provider, data_id, seq) DO UPDATE SET
             attestation = excluded.attestation, key_id = excluded.key_id, reason = excluded.reason,
             policies = excluded.policies, checked_at = now()",
    )
    .bind(provider.0.0)
    .bind(findings.iter().map(|finding| finding.data_id.0).collect::<Vec<_>>())
    .bind(seqs.map_err(Problem::internal)?)
    .bind(findings.iter().map(|finding| finding.attestation.as_ref().map(Attested::name)).collect::<Vec<_>>())
    .bind(findings.iter().map(key_id).collect::<Vec<_>>())
    .bind(findings.iter().map(why).collect::<Vec<_>>())
    .bind(findings.iter().map(|finding| finding.policies).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// What was found of a record's metadata, by sequence.
pub async fn of_record(db: &PgPool, provider: Address, id: DataId) -> sqlx::Result<Vec<CheckView>> {
    let rows = sqlx::query(
        "SELECT seq, attestation, key_id, reason, policies FROM metadata_check
         WHERE provider = $1 AND data_id = $2 ORDER BY seq",
    )
    .bind(provider.0.0)
    .bind(id.0)
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(CheckView {
                seq: row.try_get(0)?,
                attestation: row.try_get(1)?,
                key_id: row.try_get(2)?,
                reason: row.try_get(3)?,
                policies: row.try_get(4)?,
            })
        })
        .collect()
}
