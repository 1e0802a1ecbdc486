//! Dataset versions: every member is an acceptance that this attestor signed, with the weight that it was paid.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, Bytes};
use sqlx::{Row, types::Json};
use tidemark::{
    dataset::{MEMBERS_BYTES_MAX, MemberRow, VersionContent, dataset_id, decode_members, summarise, version_digest},
    ids::DataId,
    publish::VersionRequest,
    store::StoreError,
};

use super::Attestor;
use crate::problem::{Kind, Problem};

const ROWS_PER_STATEMENT: usize = 10_000;

/// Signs a version whose members hold.
pub async fn sign(attestor: &Attestor, request: VersionRequest) -> Result<Bytes, Problem> {
    let VersionRequest { provider, name, version, content } = request;
    // made here, and not taken from the caller: the members of one provider must not be sold by another
    let ip_id = dataset_id(provider, &name);
    if version == 0 {
        return Err(Problem::field(Kind::FieldInvalid, "version", "at least 1", "0"));
    }
    let digest = version_digest(&attestor.chain.deployment.dataset_domain(), ip_id, version, &content);
    let before: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT signature FROM signed_version WHERE ip_id = $1 AND version = $2 AND digest = $3")
            .bind(ip_id.to_be_bytes::<32>())
            .bind(i64::from(version))
            .bind(digest.0)
            .fetch_optional(&attestor.db)
            .await?;
    if let Some(signature) = before {
        return Ok(Bytes::from(signature));
    }
    let rows = read(attestor, &content).await?;
    check_members(attestor, provider, &rows).await?;

    let signature = attestor.sign(digest)?;
    sqlx::query(
        "INSERT INTO signed_version (ip_id, version, digest, content, signature) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT DO NOTHING",
    )
    .bind(ip_id.to_be_bytes::<32>())
    .bind(i64::from(version))
    .bind(digest.0)
    .bind(Json(&content))
    .bind(signature.as_ref())
    .execute(&attestor.db)
    .await?;
    metrics::counter!("versions_signed_total").increment(1);
    Ok(signature)
}

/// Reads the members back and recomputes what the version commits to.
async fn read(attestor: &Attestor, content: &VersionContent) -> Result<Vec<MemberRow>, Problem> {
    let bytes = attestor.store.get(&content.manifest_cid, MEMBERS_BYTES_MAX).await.map_err(|error| match error {
        StoreError::NotFound { .. } | StoreError::Wrong { .. } | StoreError::TooLarge { .. } => {
            Problem::new(Kind::VersionRefused, error.to_string())
        }
        error => Problem::unavailable("the content store", error),
    })?;
    let content = content.clone();
    let checked = tokio::task::spawn_blocking(move || {
        let wrong = |reason: String| Problem::new(Kind::VersionRefused, reason);
        let rows = decode_members(bytes).map_err(|error| wrong(format!("members: {error}")))?;
        let summary = summarise(&rows).map_err(|error| wrong(format!("members: {error}")))?;
        let (count, total, points) = (rows.len() as u64, summary.total_weight, summary.points_weight);
        let expected = (summary.tree.root(), count, total, points, summary.purposes);
        let (count, total, points) = (content.member_count.into(), content.total_weight, content.points_weight);
        let actual = (content.root, count, total, points, content.purposes);
        if expected != actual {
            return Err(wrong(format!(
                "root, members, weights, purposes: expected {expected:?}, as the members give, got {actual:?}"
            )));
        }
        Ok(rows)
    });
    checked.await.map_err(Problem::internal)?
}

async fn check_members(attestor: &Attestor, owner: Address, rows: &[MemberRow]) -> Result<(), Problem> {
    for chunk in rows.chunks(ROWS_PER_STATEMENT) {
        let found = sqlx::query(
            "SELECT a.data_id, a.provider, a.number, a.event_index, a.contributor, a.content_hash, a.consent_id, a.payee,
                    a.reward::text AS reward, t.is_gone, d.ciphertext_cid, d.key_cid, d.purposes
             FROM signed_acceptance a JOIN chain_tip t USING (data_id) JOIN signed_delivery d USING (data_id)
             WHERE a.data_id = ANY($1)",
        )
        .bind(chunk.iter().map(|row| row.member.data_id.0).collect::<Vec<_>>())
        .fetch_all(&attestor.db)
        .await?;
        let mut own = BTreeMap::new();
        for row in &found {
            own.insert(DataId(row.try_get("data_id")?), row);
        }
        for member in chunk {
            let id = member.member.data_id;
            let wrong = |reason: String| Problem::new(Kind::VersionRefused, format!("member {id}: {reason}"));
            let row =
                own.get(&id).ok_or_else(|| wrong("expected a record whose acceptance this attestor signed".into()))?;
            let hash = |column: &str| row.try_get::<[u8; 32], _>(column).map(B256::from);
            let provider = Address::from(row.try_get::<[u8; 20], _>("provider")?);
            if provider != owner {
                return Err(wrong(format!("provider: expected {owner}, got {provider}")));
            }
            if row.try_get::<bool, _>("is_gone")? {
                return Err(wrong("its consent was withdrawn, or it was erased".into()));
            }
            let reward: u128 = row.try_get::<&str, _>("reward")?.parse().map_err(Problem::internal)?;
            let payee = Address::from(row.try_get::<[u8; 20], _>("payee")?);
            let checks = [
                ("contributor", member.member.contributor == hash("contributor")?),
                ("consent_id", member.member.consent_id.0 == hash("consent_id")?),
                ("content_hash", member.content_hash.0 == hash("content_hash")?),
                ("payee", member.member.payee == payee),
                ("weight (the reward of its acceptance)", member.member.weight == reward),
                ("ciphertext_cid", member.ciphertext_cid.to_string() == row.try_get::<&str, _>("ciphertext_cid")?),
                ("key_cid", member.key_cid.to_string() == row.try_get::<&str, _>("key_cid")?),
                ("purposes", i64::from(member.purposes) == row.try_get::<i64, _>("purposes")?),
                ("batch_number", i64::try_from(member.batch_number) == Ok(row.try_get::<i64, _>("number")?)),
                ("event_index", i64::from(member.event_index) == i64::from(row.try_get::<i32, _>("event_index")?)),
            ];
            if let Some((field, _)) = checks.iter().find(|(_, holds)| !holds) {
                return Err(wrong(format!("{field}: expected that of its signed acceptance, got another")));
            }
        }
    }
    Ok(())
}
