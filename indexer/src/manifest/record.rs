//! The newest state of a record: a pure function of its events and of what is still disclosed of them.

use alloy::primitives::Address;
use sqlx::{PgConnection, Row};
use tidemark::{
    event::{Event, EventKind},
    payload::{Delivery, Payload},
};

use super::{
    perceptual::{self, Named},
    stored::{self, ROWS_PER_STATEMENT},
    trace,
};

/// A row of `record`.
#[derive(Clone, Debug, PartialEq)]
struct Record {
    source_record_id: Option<String>,
    purposes: Option<u32>,
    proven: bool,
    metadata_root: Option<Vec<u8>>,
    /// What its newest metadata names.
    hashes: Vec<Named>,
    status: &'static str,
    verdict: Option<&'static str>,
    reason: Option<&'static str>,
    reason_detail: Option<String>,
    delivery: Option<Delivery>,
    /// The event that carries consent, payee and reward: the verdict, else the newest.
    terms: Event,
    content_hash: Vec<u8>,
    registered_at: u64,
    sequence: u32,
    number: u64,
}

impl Record {
    fn show(&mut self, metadata: &serde_json::Value) {
        self.hashes = perceptual::of_metadata(metadata);
    }
}

/// One event with its payload, where that is disclosed and without fault. The reason of a rejection is shown whoever
/// signed it: the event itself says that it was rejected.
pub(super) struct Seen {
    pub(super) number: u64,
    /// Of the batch's anchoring.
    pub(super) block_number: i64,
    pub(super) log_index: i64,
    pub(super) event: Event,
    pub(super) payload: Option<Payload>,
}

/// Events in sequence order.
fn record_of(seen: &[Seen]) -> Option<Record> {
    let (first, last) = (seen.first()?, seen.last()?);
    let has = |kind: EventKind| seen.iter().any(|seen| seen.event.kind == kind);
    let judged = seen.iter().find(|seen| matches!(seen.event.kind, EventKind::Accepted | EventKind::Rejected));
    let verdict = judged.map(|seen| seen.event.kind.name());
    let mut record = Record {
        source_record_id: None,
        purposes: None,
        proven: false,
        metadata_root: None,
        hashes: Vec::new(),
        status: if has(EventKind::Erased) {
            "erased"
        } else if has(EventKind::ConsentWithdrawn) {
            "withdrawn"
        } else {
            verdict.unwrap_or("registered")
        },
        verdict,
        reason: None,
        reason_detail: None,
        delivery: None,
        terms: judged.unwrap_or(last).event.clone(),
        content_hash: last.event.content_hash.0.to_vec(),
        registered_at: first.event.occurred_at,
        sequence: last.event.sequence,
        number: last.number,
    };
    if record.status == "erased" {
        return Some(record);
    }
    for (kind, payload) in seen.iter().filter_map(|seen| Some((seen.event.kind, seen.payload.as_ref()?))) {
        match payload {
            // what a rejection shows of a payload that is not its own is the reason alone
            _ if kind == EventKind::Rejected && !matches!(payload, Payload::Rejected { .. }) => {}
            Payload::Registered { source_record_id, metadata_root, metadata, purposes, delivery } => {
                // a payload without fault proves its data id
                record.proven = true;
                record.source_record_id = Some(source_record_id.trim().to_owned());
                record.purposes = Some(*purposes);
                record.show(metadata);
                record.metadata_root = Some(metadata_root.to_vec());
                record.delivery = delivery.clone();
            }
            Payload::MetadataUpdated { metadata_root, metadata, .. } => {
                record.show(metadata);
                record.metadata_root = Some(metadata_root.to_vec());
            }
            Payload::Rejected { verdict } => {
                record.reason = Some(verdict.outcome.name());
                record.reason_detail = Some(verdict.detail.replace('\0', "\u{fffd}"));
            }
            Payload::Accepted { .. } | Payload::ConsentWithdrawn { .. } | Payload::Erased { .. } => {}
        }
    }
    Some(record)
}

/// All that is shown of one record: what stands in `record` and in the tables that follow from it.
pub struct Shown {
    record: Record,
    trace: trace::Rows,
}

impl Shown {
    /// From a record's events in sequence order.
    pub(super) fn of(provider: Address, seen: &[Seen]) -> Option<Self> {
        Some(Self { record: record_of(seen)?, trace: trace::rows_of(provider, seen) })
    }
}

/// Recomputes the records with these data ids of a provider.
pub async fn refresh(
    connection: &mut PgConnection,
    provider: Address,
    data_ids: &[uuid::Uuid],
) -> Result<(), sqlx::Error> {
    for data_ids in data_ids.chunks(ROWS_PER_STATEMENT) {
        let rows = sqlx::query(
            "SELECT e.number, e.index, e.data_id, e.sequence, e.kind, e.contributor, e.content_hash, e.consent_id,
                 e.commitment, e.previous, e.occurred_at::text, e.task_id::text, e.reward::text, e.payee, e.leaf,
                 CASE WHEN d.fault IS NULL OR e.kind = 2 THEN d.payload::text END, b.block_number, b.log_index
             FROM event AS e JOIN batch AS b USING (provider, number) LEFT JOIN disclosure AS d USING (provider, number, index)
             WHERE e.provider = $1 AND e.data_id = ANY($2) ORDER BY e.data_id, e.sequence",
        )
        .bind(provider.as_slice())
        .bind(data_ids)
        .fetch_all(&mut *connection)
        .await?;
        let mut seen = Vec::with_capacity(rows.len());
        for row in &rows {
            let stored = stored::event(row, 0)?;
            let payload: Option<String> = row.try_get(15)?;
            let payload = payload.and_then(|payload| serde_json::from_str(&payload).ok());
            let (block_number, log_index) = (row.try_get(16)?, row.try_get(17)?);
            seen.push(Seen { number: stored.number, block_number, log_index, event: stored.event, payload });
        }
        let shown: Vec<Shown> = seen
            .chunk_by(|a, b| a.event.data_id == b.event.data_id)
            .filter_map(|seen| Shown::of(provider, seen))
            .collect();
        perceptual::forget(connection, provider, data_ids).await?;
        write(connection, provider, Rows::Any, &shown).await?;
        trace::replace(connection, provider, &traces(&shown)).await?;
    }
    Ok(())
}

/// Writes records that are not there yet: their first events are in the batch that is let in.
pub async fn insert(connection: &mut PgConnection, provider: Address, shown: &[Shown]) -> Result<(), sqlx::Error> {
    for shown in shown.chunks(ROWS_PER_STATEMENT) {
        write(connection, provider, Rows::New, shown).await?;
        trace::insert(connection, provider, &traces(shown)).await?;
    }
    Ok(())
}

fn traces(shown: &[Shown]) -> Vec<(uuid::Uuid, &trace::Rows)> {
    shown.iter().map(|shown| (shown.record.terms.data_id.0, &shown.trace)).collect()
}

/// Records, and the perceptual hashes that they name.
async fn write(
    connection: &mut PgConnection,
    provider: Address,
    rows: Rows,
    shown: &[Shown],
) -> Result<(), sqlx::Error> {
    let records: Vec<&Record> = shown.iter().map(|shown| &shown.record).collect();
    write_records(connection, provider, rows, &records).await?;
    let named = records.iter().flat_map(|record| record.hashes.iter().map(|named| (record.terms.data_id.0, *named)));
    perceptual::insert(connection, provider, &named.collect::<Vec<_>>()).await
}

/// Whether rows may be there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// None is: nothing has to be looked for before it is written.
    New,
    /// Those that are there are replaced.
    Any,
}

macro_rules! insert {
    () => {
        "INSERT INTO record
             (provider, data_id, source_record_id, proven, metadata_root, content_hash, contributor, consent_id,
              payee, task_id, reward, status, verdict, reason, reason_detail, ciphertext_cid, key_cid, size_bytes,
              registered_at, sequence, number, purposes)
         SELECT $1, data_id, source_record_id, proven, metadata_root, content_hash, contributor,
              consent_id, payee, task_id::numeric, reward::numeric, status, verdict, reason, reason_detail,
              ciphertext_cid, key_cid, size_bytes::numeric, registered_at::numeric, sequence, number, purposes
         FROM unnest($2::uuid[], $3::text[], $4::bool[], $5::bytea[], $6::bytea[], $7::bytea[], $8::bytea[], $9::bytea[],
              $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[],
              $18::text[], $19::text[], $20::bigint[], $21::bigint[], $22::bigint[])
             AS row (data_id, source_record_id, proven, metadata_root, content_hash, contributor, consent_id,
              payee, task_id, reward, status, verdict, reason, reason_detail, ciphertext_cid, key_cid, size_bytes,
              registered_at, sequence, number, purposes)"
    };
}
const INSERT: &str = insert!();
const UPSERT: &str = concat!(
    insert!(),
    " ON CONFLICT (provider, data_id) DO UPDATE SET
         source_record_id = excluded.source_record_id, proven = excluded.proven,
         metadata_root = excluded.metadata_root, content_hash = excluded.content_hash,
         contributor = excluded.contributor, consent_id = excluded.consent_id, payee = excluded.payee,
         task_id = excluded.task_id, reward = excluded.reward, status = excluded.status,
         verdict = excluded.verdict, reason = excluded.reason, reason_detail = excluded.reason_detail,
         ciphertext_cid = excluded.ciphertext_cid, key_cid = excluded.key_cid, size_bytes = excluded.size_bytes,
         registered_at = excluded.registered_at, sequence = excluded.sequence, number = excluded.number,
         purposes = excluded.purposes"
);

async fn write_records(
    connection: &mut PgConnection,
    provider: Address,
    rows: Rows,
    records: &[&Record],
) -> Result<(), sqlx::Error> {
    macro_rules! all {
        ($record:ident => $value:expr) => {
            records.iter().map(|$record| $value).collect::<Vec<_>>()
        };
    }
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let sql = match rows {
        Rows::New => INSERT,
        Rows::Any => UPSERT,
    };
    sqlx::query(sql)
        .bind(provider.as_slice())
        .bind(all!(r => r.terms.data_id.0))
        .bind(all!(r => r.source_record_id.as_deref()))
        .bind(all!(r => r.proven))
        .bind(all!(r => r.metadata_root.as_deref()))
        .bind(all!(r => r.content_hash.as_slice()))
        .bind(all!(r => r.terms.contributor.as_slice()))
        .bind(all!(r => r.terms.consent_id.0.as_slice()))
        .bind(all!(r => r.terms.payee.as_slice()))
        .bind(all!(r => r.terms.task_id.to_string()))
        .bind(all!(r => r.terms.reward.to_string()))
        .bind(all!(r => r.status))
        .bind(all!(r => r.verdict))
        .bind(all!(r => r.reason))
        .bind(all!(r => r.reason_detail.as_deref()))
        .bind(all!(r => r.delivery.as_ref().map(|delivery| delivery.ciphertext_cid.to_string())))
        .bind(all!(r => r.delivery.as_ref().map(|delivery| delivery.key_cid.to_string())))
        .bind(all!(r => r.delivery.as_ref().map(|delivery| delivery.size_bytes.to_string())))
        .bind(all!(r => r.registered_at.to_string()))
        .bind(all!(r => i64::from(r.sequence)))
        .bind(all!(r => number(r.number)))
        .bind(all!(r => r.purposes.map(i64::from)))
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;
    use serde_json::json;
    use tidemark::ids::{ConsentId, ContentHash, DataId};

    use super::*;

    fn seen(sequence: u32, kind: EventKind, payload: Option<Payload>) -> Seen {
        let event = Event {
            index: sequence,
            data_id: DataId::from_bytes([1; 16]),
            sequence,
            kind,
            contributor: B256::ZERO,
            content_hash: ContentHash::of(b"x"),
            consent_id: ConsentId::ZERO,
            commitment: B256::ZERO,
            previous: B256::ZERO,
            occurred_at: 100 + u64::from(sequence),
            task_id: 1,
            reward: if kind == EventKind::Accepted { 5 } else { 0 },
            payee: Address::ZERO,
        };
        Seen { number: 2, block_number: 9, log_index: 0, event, payload }
    }

    fn registered() -> Seen {
        let payload = Payload::Registered {
            source_record_id: " a ".into(),
            metadata_root: B256::repeat_byte(1),
            metadata: json!({"v": 0}),
            purposes: 5,
            delivery: None,
        };
        seen(0, EventKind::Registered, Some(payload))
    }

    fn updated(sequence: u32) -> Seen {
        let payload = Payload::MetadataUpdated {
            seq: 1,
            prev_metadata_root: B256::repeat_byte(1),
            metadata_root: B256::repeat_byte(2),
            metadata: json!({"v": 1}),
        };
        seen(sequence, EventKind::MetadataUpdated, Some(payload))
    }

    #[test]
    fn a_record_shows_its_newest_metadata_and_keeps_its_verdict() {
        let record = record_of(&[registered(), seen(1, EventKind::Accepted, None), updated(2)]).unwrap();
        assert_eq!((record.status, record.verdict), ("accepted", Some("accepted")));
        assert_eq!(record.metadata_root, Some(vec![2; 32]));
        assert_eq!((record.source_record_id.as_deref(), record.purposes), (Some("a"), Some(5)));
        assert_eq!((record.terms.reward, record.sequence, record.registered_at), (5, 2, 100));
    }

    #[test]
    fn an_erased_record_keeps_its_events_and_loses_what_was_disclosed() {
        let withdrawn = record_of(&[registered(), seen(1, EventKind::ConsentWithdrawn, None)]).unwrap();
        assert_eq!(withdrawn.status, "withdrawn");
        let erased = record_of(&[registered(), updated(1), seen(2, EventKind::Erased, None)]).unwrap();
        assert_eq!(erased.status, "erased");
        assert!(erased.source_record_id.is_none() && erased.metadata_root.is_none() && !erased.proven);
        assert_eq!(erased.purposes, None);
    }

    #[test]
    fn a_rejection_shows_its_reason_and_no_other_payload() {
        let of_another_kind = seen(1, EventKind::Rejected, registered().payload);
        let record = record_of(&[seen(0, EventKind::Registered, None), of_another_kind]).unwrap();
        assert_eq!((record.status, record.proven, record.source_record_id), ("rejected", false, None));
        assert_eq!(record.metadata_root, None);
    }

    #[test]
    fn an_undisclosed_record_is_there_without_a_proof_of_its_id() {
        let record = record_of(&[seen(0, EventKind::Registered, None)]).unwrap();
        assert_eq!((record.status, record.proven), ("registered", false));
        assert!(record_of(&[]).is_none());
    }
}
