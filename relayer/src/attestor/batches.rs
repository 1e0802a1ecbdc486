//! Batch signatures: the manifest is read back from the content store, and every line of it checked, before the key moves.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256, Bytes};
use sqlx::{Row, types::Json};
use tidemark::{
    batch::{Header, summarise},
    canonical::metadata_root,
    event::{Event, EventKind},
    ids::DataId,
    manifest::{DISCLOSURES_BYTES_MAX, MANIFEST_BYTES_MAX, Manifest, decode_disclosures},
    payload::{Delivery, Payload},
    store::StoreError,
    verdict::{Outcome, Verdict},
};

use super::Attestor;
use crate::{
    intake::{Tx, bigint},
    problem::{Kind, Problem},
};

/// Rows of one statement.
const ROWS_PER_STATEMENT: usize = 10_000;

/// Signs a header whose manifest holds; the same header again gets the same signature, another under its number none.
pub async fn sign(attestor: &Attestor, header: Header) -> Result<Bytes, Problem> {
    if i64::try_from(header.number).is_err() {
        let actual = header.number.to_string();
        return Err(Problem::field(Kind::FieldInvalid, "header.number", "a batch number below 2^63", actual));
    }
    let digest = header.digest(&attestor.chain.deployment.batch_domain());
    if let Some(signature) = signed(attestor, &header, digest).await? {
        return Ok(signature);
    }
    let (events, payloads) = read(attestor, &header).await?;
    check_prices(attestor, &header, &events).await?;

    let mut tx = attestor.db.begin().await?;
    // one batch of a provider at a time: the next one's chains begin where this one's end
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(header.provider.to_string())
        .execute(&mut *tx)
        .await?;
    if let Some(signature) = signed(attestor, &header, digest).await? {
        return Ok(signature);
    }
    check_number(&mut tx, &header).await?;
    check_chains(&mut tx, header.provider, &events).await?;
    check_verdicts(&mut tx, &events, &payloads).await?;
    check_consents(&mut tx, header.provider, &events, &payloads).await?;

    let signature = attestor.sign(digest)?;
    sqlx::query("INSERT INTO signed_batch (provider, number, digest, header, signature) VALUES ($1, $2, $3, $4, $5)")
        .bind(header.provider.0.0)
        .bind(bigint(header.number)?)
        .bind(digest.0)
        .bind(Json(&header))
        .bind(signature.as_ref())
        .execute(&mut *tx)
        .await?;
    keep(&mut tx, &header, &events).await?;
    keep_deliveries(&mut tx, &events, &payloads).await?;
    tx.commit().await?;
    metrics::counter!("batches_signed_total").increment(1);
    tracing::info!(provider = %header.provider, number = header.number, root = %header.root, "batch signed");
    Ok(signature)
}

/// Batches are signed in the order in which the chain takes them; a record that goes on before it began would be invalid.
async fn check_number(tx: &mut Tx<'_>, header: &Header) -> Result<(), Problem> {
    let last: Option<i64> = sqlx::query_scalar("SELECT max(number) FROM signed_batch WHERE provider = $1")
        .bind(header.provider.0.0)
        .fetch_one(&mut **tx)
        .await?;
    match last.map(|last| last + 1) {
        Some(next) if bigint(header.number)? != next => {
            Err(Problem::field(Kind::BatchRefused, "header.number", next.to_string(), header.number.to_string()))
        }
        _ => Ok(()),
    }
}

/// The signature over a header that was signed before, by today's key: one that has replaced another stands for its word.
async fn signed(attestor: &Attestor, header: &Header, digest: B256) -> Result<Option<Bytes>, Problem> {
    let before: Option<[u8; 32]> =
        sqlx::query_scalar("SELECT digest FROM signed_batch WHERE provider = $1 AND number = $2")
            .bind(header.provider.0.0)
            .bind(bigint(header.number)?)
            .fetch_optional(&attestor.db)
            .await?;
    match before.map(B256::from) {
        None => Ok(None),
        Some(before) if before == digest => Ok(Some(attestor.sign(digest)?)),
        Some(before) => Err(Problem::field(
            Kind::BatchNumberTaken,
            "header",
            format!("digest {before}"),
            format!("digest {digest}"),
        )),
    }
}

/// Reads manifest and disclosures back and checks all that follows from them alone.
async fn read(attestor: &Attestor, header: &Header) -> Result<(Vec<Event>, Vec<Payload>), Problem> {
    let stored = |error: StoreError| match error {
        StoreError::NotFound { .. } | StoreError::Wrong { .. } | StoreError::TooLarge { .. } => {
            Problem::new(Kind::BatchRefused, error.to_string())
        }
        error => Problem::unavailable("the content store", error),
    };
    let manifest = attestor.store.get(&header.manifest_cid, MANIFEST_BYTES_MAX).await.map_err(stored)?;
    let wrong = |reason: String| Problem::new(Kind::BatchRefused, reason);
    let header = header.clone();
    let manifest = blocking(move || {
        let manifest = Manifest::decode(manifest).map_err(|error| wrong(format!("manifest: {error}")))?;
        let summary = summarise(&manifest.events).map_err(|error| wrong(format!("manifest: {error}")))?;
        let rebuilt = Header::new(manifest.provider, manifest.number, &manifest.events, &summary, header.manifest_cid);
        if rebuilt.as_ref() != Some(&header) {
            return Err(wrong(format!("header: expected {rebuilt:?}, as the manifest gives, got {header:?}")));
        }
        Ok(manifest)
    })
    .await?;
    let Some(cid) = manifest.disclosures else { return Err(wrong("manifest: expected disclosures, got none".into())) };
    let disclosures = attestor.store.get(&cid, DISCLOSURES_BYTES_MAX).await.map_err(stored)?;
    blocking(move || {
        let disclosures = decode_disclosures(disclosures).map_err(|error| wrong(format!("disclosures: {error}")))?;
        if disclosures.len() != manifest.events.len() {
            return Err(wrong(format!("disclosures: expected {}, got {}", manifest.events.len(), disclosures.len())));
        }
        let mut payloads = Vec::with_capacity(disclosures.len());
        for (event, disclosure) in manifest.events.iter().zip(&disclosures) {
            let payload = check_payload(event, disclosure.index, disclosure.commitment(), &disclosure.payload);
            payloads.push(payload.map_err(|reason| wrong(format!("event {}: {reason}", event.index)))?);
        }
        Ok((manifest.events, payloads))
    })
    .await
}

/// An event's payload is the one it commits to, and of its kind.
fn check_payload(event: &Event, index: u32, commitment: B256, payload: &str) -> Result<Payload, String> {
    if index != event.index {
        return Err(format!("expected its disclosure, got that of {index}"));
    }
    if commitment != event.commitment {
        return Err(format!("commitment: expected {commitment}, as its disclosure gives, got {}", event.commitment));
    }
    let payload: Payload = serde_json::from_str(payload).map_err(|error| format!("payload: {error}"))?;
    let kind = match &payload {
        Payload::Registered { metadata_root: root, metadata, .. }
        | Payload::MetadataUpdated { metadata_root: root, metadata, .. } => {
            let expected = metadata_root(metadata).map_err(|error| error.to_string())?;
            if expected != *root {
                return Err(format!("metadata_root: expected {expected}, got {root}"));
            }
            if matches!(payload, Payload::Registered { .. }) {
                EventKind::Registered
            } else {
                EventKind::MetadataUpdated
            }
        }
        Payload::Accepted { .. } => EventKind::Accepted,
        Payload::Rejected { .. } => EventKind::Rejected,
        Payload::ConsentWithdrawn { .. } => EventKind::ConsentWithdrawn,
        Payload::Erased { .. } => EventKind::Erased,
    };
    if kind != event.kind {
        return Err(format!("kind: expected {}, as its payload says, got {}", kind.name(), event.kind.name()));
    }
    Ok(payload)
}

/// An acceptance pays what its task publishes, and the task is this provider's.
async fn check_prices(attestor: &Attestor, header: &Header, events: &[Event]) -> Result<(), Problem> {
    for event in events.iter().filter(|event| event.kind == EventKind::Accepted) {
        let wrong = |reason: String| Problem::new(Kind::BatchRefused, format!("event {}: {reason}", event.index));
        let price = match event.task_id {
            0 => 0,
            task_id => {
                let terms = attestor.chain.task_terms(task_id).await;
                let terms = terms.map_err(|error| Problem::unavailable("the chain", error))?;
                let terms = terms.filter(|terms| terms.provider == header.provider);
                terms
                    .ok_or_else(|| wrong(format!("task {task_id}: expected one of {}, got none", header.provider)))?
                    .price
            }
        };
        if event.reward != price {
            return Err(wrong(format!("reward: expected {price}, the task's price, got {}", event.reward)));
        }
        if event.consent_id.is_zero() {
            return Err(wrong("consent_id: expected a consent, got none".into()));
        }
    }
    Ok(())
}

/// Every record goes on exactly where the last signed batch left it.
async fn check_chains(tx: &mut Tx<'_>, provider: Address, events: &[Event]) -> Result<(), Problem> {
    let ids: BTreeSet<DataId> = events.iter().map(|event| event.data_id).collect();
    let mut tips: BTreeMap<DataId, Tip> = BTreeMap::new();
    for chunk in ids.into_iter().collect::<Vec<_>>().chunks(ROWS_PER_STATEMENT) {
        let rows = sqlx::query("SELECT data_id, provider, sequence, kind, leaf FROM chain_tip WHERE data_id = ANY($1)")
            .bind(chunk.iter().map(|id| id.0).collect::<Vec<_>>())
            .fetch_all(&mut **tx)
            .await?;
        for row in rows {
            let kind = u8::try_from(row.try_get::<i16, _>(3)?).map_err(Problem::internal)?;
            let tip = Tip {
                provider: Address::from(row.try_get::<[u8; 20], _>(1)?),
                sequence: u32::try_from(row.try_get::<i32, _>(2)?).map_err(Problem::internal)?,
                kind: EventKind::from_u8(kind),
                leaf: B256::from(row.try_get::<[u8; 32], _>(4)?),
            };
            tips.insert(DataId(row.try_get(0)?), tip);
        }
    }
    continue_chains(provider, events, tips).map_err(|reason| Problem::new(Kind::BatchRefused, reason))
}

struct Tip {
    provider: Address,
    sequence: u32,
    kind: Option<EventKind>,
    leaf: B256,
}

fn continue_chains(provider: Address, events: &[Event], mut tips: BTreeMap<DataId, Tip>) -> Result<(), String> {
    for event in events {
        let tip = tips.get(&event.data_id);
        let wrong = |reason: String| Err(format!("event {} of {}: {reason}", event.index, event.data_id));
        if let Some(tip) = tip
            && tip.provider != provider
        {
            return wrong(format!("expected a record of {provider}, got one of {}", tip.provider));
        }
        let (sequence, previous) = tip.map_or((0, B256::ZERO), |tip| (tip.sequence + 1, tip.leaf));
        if event.sequence != sequence {
            return wrong(format!("sequence: expected {sequence}, got {}", event.sequence));
        }
        if event.previous != previous {
            return wrong(format!("previous: expected {previous}, got {}", event.previous));
        }
        if !EventKind::may_follow(tip.and_then(|tip| tip.kind), event.kind) {
            let before = tip.and_then(|tip| tip.kind).map_or("nothing", EventKind::name);
            return wrong(format!("kind: {} can't follow {before}", event.kind.name()));
        }
        let tip = Tip { provider, sequence, kind: Some(event.kind), leaf: event.leaf() };
        tips.insert(event.data_id, tip);
    }
    Ok(())
}

/// Every decision is a verdict of ours, word for word, and no acceptance was signed before.
async fn check_verdicts(tx: &mut Tx<'_>, events: &[Event], payloads: &[Payload]) -> Result<(), Problem> {
    let decided: Vec<(&Event, &Verdict)> = events
        .iter()
        .zip(payloads)
        .filter_map(|(event, payload)| match payload {
            Payload::Accepted { verdict } | Payload::Rejected { verdict } => Some((event, verdict)),
            _ => None,
        })
        .collect();
    for chunk in decided.chunks(ROWS_PER_STATEMENT) {
        let ids: Vec<_> = chunk.iter().map(|(event, _)| event.data_id.0).collect();
        let rows = sqlx::query("SELECT data_id, verdict FROM verdict WHERE data_id = ANY($1)")
            .bind(&ids)
            .fetch_all(&mut **tx)
            .await?;
        let mut own: BTreeMap<DataId, Verdict> = BTreeMap::new();
        for row in rows {
            let Json(verdict) = row.try_get(1)?;
            own.insert(DataId(row.try_get(0)?), verdict);
        }
        let before: Vec<uuid::Uuid> =
            sqlx::query_scalar("SELECT data_id FROM signed_acceptance WHERE data_id = ANY($1)")
                .bind(&ids)
                .fetch_all(&mut **tx)
                .await?;
        for (event, verdict) in chunk {
            let wrong =
                |reason: &str| Err(Problem::new(Kind::BatchRefused, format!("event {}: {reason}", event.index)));
            if own.get(&event.data_id) != Some(*verdict) {
                return wrong("expected a verdict of this attestor, got another");
            }
            if verdict.content_hash != event.content_hash {
                return wrong("content_hash: expected that of the verdict, got another");
            }
            if (verdict.outcome == Outcome::Accepted) != (event.kind == EventKind::Accepted) {
                return wrong("kind: expected what the verdict says, got another");
            }
            if before.contains(&event.data_id.0) {
                return wrong("its acceptance is in another signed batch");
            }
        }
    }
    Ok(())
}

/// Every submitted record is anchored under a consent that this attestor saw with it, says what that consent allows, and is
/// paid to nobody but who gave it.
async fn check_consents(
    tx: &mut Tx<'_>,
    provider: Address,
    events: &[Event],
    payloads: &[Payload],
) -> Result<(), Problem> {
    let submitted: Vec<(&Event, Option<u32>)> = events
        .iter()
        .zip(payloads)
        .filter_map(|(event, payload)| match payload {
            Payload::Registered { delivery: Some(_), purposes, .. } => Some((event, Some(*purposes))),
            Payload::Accepted { .. } => Some((event, None)),
            _ => None,
        })
        .collect();
    for chunk in submitted.chunks(ROWS_PER_STATEMENT) {
        let rows = sqlx::query(
            "SELECT data_id, consent_id, provider, contributor, purposes FROM seen_consent WHERE data_id = ANY($1)",
        )
        .bind(chunk.iter().map(|(event, _)| event.data_id.0).collect::<Vec<_>>())
        .fetch_all(&mut **tx)
        .await?;
        let mut seen = BTreeMap::new();
        for row in &rows {
            seen.insert((DataId(row.try_get(0)?), B256::from(row.try_get::<[u8; 32], _>(1)?)), row);
        }
        for (event, purposes) in chunk {
            let wrong =
                |reason: String| Err(Problem::new(Kind::BatchRefused, format!("event {}: {reason}", event.index)));
            let Some(row) = seen.get(&(event.data_id, event.consent_id.0)) else {
                return wrong(format!(
                    "consent_id: expected one that {} was submitted under, got {}",
                    event.data_id, event.consent_id
                ));
            };
            let to = Address::from(row.try_get::<[u8; 20], _>("provider")?);
            if to != provider {
                return wrong(format!("consent_id: expected a consent to {provider}, got one to {to}"));
            }
            let contributor = Address::from(row.try_get::<[u8; 20], _>("contributor")?);
            if !event.payee.is_zero() && event.payee != contributor {
                return wrong(format!("payee: expected {contributor}, who consented, or none, got {}", event.payee));
            }
            let allowed = u32::try_from(row.try_get::<i64, _>("purposes")?).map_err(Problem::internal)?;
            if purposes.is_some_and(|purposes| purposes != allowed) {
                return wrong(format!("purposes: expected {allowed:#b}, as the consent says, got {purposes:?}"));
            }
        }
    }
    Ok(())
}

async fn keep(tx: &mut Tx<'_>, header: &Header, events: &[Event]) -> Result<(), Problem> {
    let tips: BTreeMap<DataId, &Event> = events.iter().map(|event| (event.data_id, event)).collect();
    let gone: BTreeSet<DataId> = events
        .iter()
        .filter(|event| matches!(event.kind, EventKind::ConsentWithdrawn | EventKind::Erased))
        .map(|event| event.data_id)
        .collect();
    for chunk in tips.values().collect::<Vec<_>>().chunks(ROWS_PER_STATEMENT) {
        sqlx::query(
            "INSERT INTO chain_tip (provider, data_id, sequence, kind, leaf, is_gone)
             SELECT $1, * FROM unnest($2::uuid[], $3::int[], $4::smallint[], $5::bytea[], $6::boolean[])
             ON CONFLICT (data_id) DO UPDATE SET
                 sequence = excluded.sequence, kind = excluded.kind, leaf = excluded.leaf,
                 is_gone = chain_tip.is_gone OR excluded.is_gone",
        )
        .bind(header.provider.0.0)
        .bind(chunk.iter().map(|event| event.data_id.0).collect::<Vec<_>>())
        .bind(
            chunk
                .iter()
                .map(|event| i32::try_from(event.sequence))
                .collect::<Result<Vec<_>, _>>()
                .map_err(Problem::internal)?,
        )
        .bind(chunk.iter().map(|event| i16::from(event.kind as u8)).collect::<Vec<_>>())
        .bind(chunk.iter().map(|event| event.leaf().0).collect::<Vec<_>>())
        .bind(chunk.iter().map(|event| gone.contains(&event.data_id)).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await?;
    }
    let accepted: Vec<&Event> = events.iter().filter(|event| event.kind == EventKind::Accepted).collect();
    for chunk in accepted.chunks(ROWS_PER_STATEMENT) {
        sqlx::query(
            "INSERT INTO signed_acceptance (provider, number, data_id, event_index, contributor, content_hash, consent_id,
                                            payee, reward)
             SELECT $1, $2, data_id, event_index, contributor, content_hash, consent_id, payee, reward::numeric
             FROM unnest($3::uuid[], $4::int[], $5::bytea[], $6::bytea[], $7::bytea[], $8::bytea[], $9::text[])
                  AS new (data_id, event_index, contributor, content_hash, consent_id, payee, reward)",
        )
        .bind(header.provider.0.0)
        .bind(bigint(header.number)?)
        .bind(chunk.iter().map(|event| event.data_id.0).collect::<Vec<_>>())
        .bind(chunk.iter().map(|event| i32::try_from(event.index)).collect::<Result<Vec<_>, _>>().map_err(Problem::internal)?)
        .bind(chunk.iter().map(|event| event.contributor.0).collect::<Vec<_>>())
        .bind(chunk.iter().map(|event| event.content_hash.0.0).collect::<Vec<_>>())
        .bind(chunk.iter().map(|event| event.consent_id.0.0).collect::<Vec<_>>())
        .bind(chunk.iter().map(|event| event.payee.0.0).collect::<Vec<_>>())
        .bind(chunk.iter().map(|event| event.reward.to_string()).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// Notes where the bytes of registered records are, and what their consents allow.
async fn keep_deliveries(tx: &mut Tx<'_>, events: &[Event], payloads: &[Payload]) -> Result<(), Problem> {
    let delivered: Vec<(DataId, &Delivery, u32)> = events
        .iter()
        .zip(payloads)
        .filter_map(|(event, payload)| match payload {
            Payload::Registered { delivery: Some(delivery), purposes, .. } => {
                Some((event.data_id, delivery, *purposes))
            }
            _ => None,
        })
        .collect();
    for chunk in delivered.chunks(ROWS_PER_STATEMENT) {
        sqlx::query(
            "INSERT INTO signed_delivery (data_id, ciphertext_cid, key_cid, purposes)
             SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[])",
        )
        .bind(chunk.iter().map(|(id, ..)| id.0).collect::<Vec<_>>())
        .bind(chunk.iter().map(|(_, delivery, _)| delivery.ciphertext_cid.to_string()).collect::<Vec<_>>())
        .bind(chunk.iter().map(|(_, delivery, _)| delivery.key_cid.to_string()).collect::<Vec<_>>())
        .bind(chunk.iter().map(|(.., purposes)| i64::from(*purposes)).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(Problem::internal)?
}

#[cfg(test)]
mod tests {
    use tidemark::ids::{ConsentId, ContentHash};

    use super::*;

    const PROVIDER: Address = Address::repeat_byte(1);

    fn event(index: u32, sequence: u32, kind: EventKind, previous: B256) -> Event {
        Event {
            index,
            data_id: DataId::from_bytes([7; 16]),
            sequence,
            kind,
            contributor: B256::ZERO,
            content_hash: ContentHash::ZERO,
            consent_id: ConsentId::ZERO,
            commitment: B256::ZERO,
            previous,
            occurred_at: 1,
            task_id: 0,
            reward: 0,
            payee: Address::ZERO,
        }
    }

    #[test]
    fn a_batch_must_go_on_where_the_last_signed_one_left_each_record() {
        let first = event(0, 0, EventKind::Registered, B256::ZERO);
        let second = event(1, 1, EventKind::Accepted, first.leaf());
        assert_eq!(continue_chains(PROVIDER, &[first.clone(), second.clone()], BTreeMap::new()), Ok(()));

        let tip = || {
            let tip = Tip { provider: PROVIDER, sequence: 0, kind: Some(EventKind::Registered), leaf: first.leaf() };
            BTreeMap::from([(first.data_id, tip)])
        };
        assert_eq!(continue_chains(PROVIDER, std::slice::from_ref(&second), tip()), Ok(()));
        let refused = |events: &[Event], tips| continue_chains(PROVIDER, events, tips).unwrap_err();
        assert!(refused(std::slice::from_ref(&first), tip()).contains("sequence: expected 1"));
        assert!(refused(std::slice::from_ref(&second), BTreeMap::new()).contains("sequence: expected 0"));
        assert!(refused(&[event(0, 1, EventKind::Accepted, B256::repeat_byte(9))], tip()).contains("previous"));
        let again = event(1, 2, EventKind::Rejected, second.leaf());
        assert!(refused(&[second.clone(), again], tip()).contains("can't follow accepted"));
        assert!(continue_chains(Address::repeat_byte(2), &[second], tip()).unwrap_err().contains("record of"));
    }

    #[test]
    fn a_payload_must_be_the_one_committed_to_and_of_the_event_s_kind() {
        let payload = r#"{"kind":"erased"}"#;
        let mut event = event(3, 1, EventKind::Erased, B256::ZERO);
        event.commitment = B256::repeat_byte(5);
        assert!(check_payload(&event, 3, B256::repeat_byte(5), payload).is_ok());
        assert!(check_payload(&event, 2, B256::repeat_byte(5), payload).is_err());
        assert!(check_payload(&event, 3, B256::repeat_byte(6), payload).is_err());
        event.kind = EventKind::Rejected;
        assert!(check_payload(&event, 3, B256::repeat_byte(5), payload).unwrap_err().starts_with("kind"));
    }
}
