//! Verdicts: one per record, the same whenever it is asked for again; the same bytes are accepted once. The consent is seen
//! here, so that a batch can't name another one, nor another payee.

use std::sync::Arc;

use bytes::Bytes;
use sqlx::{PgExecutor, Row, types::Json};
use tidemark::{
    consent::SignedConsent,
    ids::{ConsentId, ContentHash, DataId},
    verdict::{Outcome, Verdict},
};

use super::Attestor;
use crate::{
    intake::{submit::Judged, unix_now},
    problem::{Kind, Problem},
    quality::{Claim, GATE},
};

/// Judges bytes as one record's content, given under a consent.
pub async fn decide(
    attestor: &Attestor,
    data_id: DataId,
    mime_type: &str,
    consent: &SignedConsent,
    bytes: Bytes,
) -> Result<Judged, Problem> {
    let Some(claim) = Claim::parse(mime_type) else {
        let expected = "audio/wav, audio/flac, audio/mpeg, audio/ogg, audio/mp4, image/jpeg, image/png, image/webp, \
                        image/gif, video/mp4 or video/quicktime";
        return Err(Problem::field(Kind::MediaTypeUnsupported, "mime_type", expected, mime_type));
    };
    let domain = attestor.chain.deployment.consent_domain();
    let consent_id = consent
        .check(&domain, consent.provider, claim.media.data_type(), unix_now())
        .map_err(|error| Problem::new(Kind::ConsentInvalid, error.to_string()))?;
    let permit = Arc::clone(&attestor.decodes).acquire_owned().await.map_err(Problem::internal)?;
    let hashed = bytes.clone();
    let content_hash =
        tokio::task::spawn_blocking(move || ContentHash::of(&hashed)).await.map_err(Problem::internal)?;
    if let Some(judged) = find(attestor, data_id, content_hash).await? {
        see(&attestor.db, data_id, consent_id, consent).await?;
        return Ok(judged);
    }
    // where nobody waits for the answer any more, the decoder's process ends with the place that it takes
    let judgement = attestor.sandbox.judge(&bytes, mime_type).await.map_err(Problem::internal)?;
    drop(permit);

    let mut tx = attestor.db.begin().await?;
    let (mut outcome, mut detail) = (judgement.outcome, judgement.detail);
    if outcome == Outcome::Accepted {
        let first: uuid::Uuid = sqlx::query_scalar(
            "INSERT INTO accepted_content (content_hash, data_id) VALUES ($1, $2)
             ON CONFLICT (content_hash) DO UPDATE SET data_id = accepted_content.data_id RETURNING data_id",
        )
        .bind(content_hash.0.0)
        .bind(data_id.0)
        .fetch_one(&mut *tx)
        .await?;
        if first != data_id.0 {
            outcome = Outcome::Duplicate;
            detail = format!("expected bytes that were not accepted before, got those of {first}");
        }
    }
    let mut verdict = Verdict {
        data_id,
        content_hash,
        outcome,
        detail,
        gate: GATE.into(),
        decided_at: unix_now(),
        attestor: attestor.address(),
        signature: Default::default(),
    };
    verdict.signature = attestor.sign(verdict.digest(&attestor.chain.deployment.batch_domain()))?;
    let judged = Judged { verdict, facts: judgement.facts };
    let kept = sqlx::query(
        "INSERT INTO verdict (data_id, content_hash, mime_type, outcome, verdict, facts) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT DO NOTHING",
    )
    .bind(data_id.0)
    .bind(content_hash.0.0)
    .bind(mime_type)
    .bind(outcome.name())
    .bind(Json(&judged.verdict))
    .bind(Json(&judged.facts))
    .execute(&mut *tx)
    .await?;
    if kept.rows_affected() == 0 {
        // the same question came twice at once, and the other one was faster
        tx.rollback().await?;
        let found = find(attestor, data_id, content_hash).await?;
        see(&attestor.db, data_id, consent_id, consent).await?;
        return found.ok_or_else(|| Problem::internal(anyhow::anyhow!("a verdict exists and is not found")));
    }
    see(&mut *tx, data_id, consent_id, consent).await?;
    tx.commit().await?;
    metrics::counter!("verdicts_total", "outcome" => outcome.name()).increment(1);
    Ok(judged)
}

/// Keeps what a record may be anchored under: a retry may have signed its consent anew.
async fn see(
    db: impl PgExecutor<'_>,
    data_id: DataId,
    consent_id: ConsentId,
    consent: &SignedConsent,
) -> Result<(), Problem> {
    sqlx::query(
        "INSERT INTO seen_consent (data_id, consent_id, provider, contributor, purposes) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT DO NOTHING",
    )
    .bind(data_id.0)
    .bind(consent_id.0.0)
    .bind(consent.provider.0.0)
    .bind(consent.contributor.0.0)
    .bind(i64::from(consent.purposes))
    .execute(db)
    .await?;
    Ok(())
}

/// The verdict on this record, where there is one; a problem where it is on other bytes.
async fn find(attestor: &Attestor, data_id: DataId, content_hash: ContentHash) -> Result<Option<Judged>, Problem> {
    let row = sqlx::query("SELECT content_hash, verdict, facts FROM verdict WHERE data_id = $1")
        .bind(data_id.0)
        .fetch_optional(&attestor.db)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let before = ContentHash(row.try_get::<[u8; 32], _>(0)?.into());
    if before != content_hash {
        return Err(Problem::field(Kind::RecordConflict, "data_id", before.prefixed(), content_hash.prefixed()));
    }
    let (Json(verdict), Json(facts)) = (row.try_get(1)?, row.try_get(2)?);
    Ok(Some(Judged { verdict, facts }))
}
