//! Metadata updates by the Trace door: kept in whatever order they come, applied in the order of their sequence.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256};
use serde_json::Value;
use sqlx::{Row, postgres::PgRow};
use tidemark::{
    ids::{ContentHash, DataId, sha256},
    payload::Payload,
};

use super::{
    Tx, bigint, erase,
    event::{self, NewEvent},
    record::{self, Head},
    register::{Answer, Status},
};

/// One item of `metadata-updates:batch`, already checked on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Which record, registered here or not yet.
    pub data_id: DataId,
    /// 1 to 100.
    pub seq: u32,
    /// Root of the state before.
    pub prev_metadata_root: B256,
    /// SHA-256(JCS(metadata)).
    pub metadata_root: B256,
    /// What its aliases agree on.
    pub content_hash: ContentHash,
    /// Canonical JSON of the full state.
    pub metadata: String,
    /// Unix seconds.
    pub occurred_at: u64,
}

impl Update {
    fn fingerprint(&self) -> B256 {
        sha256(&[self.prev_metadata_root.as_slice(), self.metadata_root.as_slice(), &self.occurred_at.to_be_bytes()])
    }
}

impl Answer {
    fn conflict(reason: impl Into<String>) -> Self {
        Self { status: Status::Conflict, reason: Some(reason.into()) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Applied,
    Refused(String),
}

#[derive(Clone, Debug)]
struct Kept {
    update: Update,
    state: State,
    is_changed: bool,
}

/// The updates of one record, and its head where it is registered: what can be said without the database.
struct Line {
    head: Option<Head>,
    rows: BTreeMap<u32, Kept>,
    applied: Vec<u32>,
}

impl Line {
    /// Takes one update in.
    fn take(&mut self, provider: Address, update: Update) -> Answer {
        let accepted = Answer { status: Status::Accepted, reason: None };
        if let Some(row) = self.rows.get(&update.seq)
            && !matches!(row.state, State::Refused(_))
        {
            return if row.update.fingerprint() == update.fingerprint() {
                Answer { status: Status::Duplicate, reason: None }
            } else {
                Answer::conflict(format!("seq {} is taken by another state", update.seq))
            };
        }
        if let Some(head) = &self.head {
            if head.provider != provider {
                return Answer::conflict("the record belongs to another provider");
            }
            if update.seq <= head.trace_seq {
                return Answer::conflict(format!("seq: expected at least {}, got {}", head.trace_seq + 1, update.seq));
            }
            if update.seq == head.trace_seq + 1
                && let Err(reason) = continues(head, &update)
            {
                return Answer::conflict(reason);
            }
        }
        self.rows.insert(update.seq, Kept { update, state: State::Waiting, is_changed: true });
        self.apply();
        accepted
    }

    /// Applies what waits, as far as there is no gap; a mismatch is refused and ends it.
    fn apply(&mut self) {
        let Some(head) = &mut self.head else { return };
        while let Some(row) = self.rows.get_mut(&(head.trace_seq + 1)).filter(|row| row.state == State::Waiting) {
            row.is_changed = true;
            if let Err(reason) = continues(head, &row.update) {
                row.state = State::Refused(reason);
                return;
            }
            row.state = State::Applied;
            head.trace_seq += 1;
            head.metadata_root = row.update.metadata_root;
            self.applied.push(head.trace_seq);
        }
    }

    /// Events for what was applied.
    fn events(&mut self) -> anyhow::Result<Vec<NewEvent>> {
        let Some(head) = &mut self.head else { return Ok(Vec::new()) };
        let mut events = Vec::with_capacity(self.applied.len());
        for seq in self.applied.drain(..) {
            let Some(Kept { update, .. }) = self.rows.get(&seq) else { continue };
            let payload = Payload::MetadataUpdated {
                seq,
                prev_metadata_root: update.prev_metadata_root,
                metadata_root: update.metadata_root,
                metadata: Value::Null,
            };
            let subject = event::Subject { task_id: 0, ..head.subject.clone() };
            events.push(NewEvent::with_metadata(
                &subject,
                head.next_sequence,
                update.occurred_at,
                &payload,
                &update.metadata,
            )?);
            head.next_sequence += 1;
        }
        Ok(events)
    }
}

fn continues(head: &Head, update: &Update) -> Result<(), String> {
    if update.prev_metadata_root != head.metadata_root {
        return Err(format!("prev_metadata_root: expected {}, got {}", head.metadata_root, update.prev_metadata_root));
    }
    if update.content_hash != head.subject.content_hash {
        return Err(format!(
            "content hash: expected {}, got {}",
            head.subject.content_hash.prefixed(),
            update.content_hash.prefixed()
        ));
    }
    Ok(())
}

/// Takes a batch of updates in, in its order.
pub async fn take(tx: &mut Tx<'_>, provider: Address, updates: Vec<Update>) -> anyhow::Result<Vec<Answer>> {
    let ids: BTreeSet<DataId> = updates.iter().map(|update| update.data_id).collect();
    sqlx::query("SELECT count(pg_advisory_xact_lock(2, bucket)) FROM unnest($1::int[]) AS bucket")
        .bind(buckets(&ids))
        .execute(&mut **tx)
        .await?;
    let mut lines = lines(tx, provider, &ids).await?;
    let erased = erase::among(tx, &ids).await?;
    let mut answers = Vec::with_capacity(updates.len());
    for update in updates {
        if erased.contains(&update.data_id) {
            answers.push(Answer::conflict("the record was erased"));
            continue;
        }
        let line = lines.entry(update.data_id).or_insert_with(|| Line {
            head: None,
            rows: BTreeMap::new(),
            applied: Vec::new(),
        });
        answers.push(line.take(provider, update));
    }
    write(tx, provider, lines).await?;
    Ok(answers)
}

/// Applies what waited for these records, which this transaction made. Registrations share the locks: what one of them
/// reads here no other one writes.
pub async fn catch_up(tx: &mut Tx<'_>, provider: Address, ids: BTreeSet<DataId>) -> anyhow::Result<()> {
    sqlx::query("SELECT count(pg_advisory_xact_lock_shared(2, bucket)) FROM unnest($1::int[]) AS bucket")
        .bind(buckets(&ids))
        .execute(&mut **tx)
        .await?;
    let waiting: Vec<uuid::Uuid> =
        sqlx::query_scalar("SELECT DISTINCT data_id FROM metadata_update WHERE provider = $1 AND data_id = ANY($2)")
            .bind(provider.0.0)
            .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
            .fetch_all(&mut **tx)
            .await?;
    if waiting.is_empty() {
        return Ok(());
    }
    let mut lines = lines(tx, provider, &waiting.into_iter().map(DataId).collect()).await?;
    lines.values_mut().for_each(Line::apply);
    write(tx, provider, lines).await
}

/// Buckets of data ids that are locked together, few enough for a batch to hold all of them.
const BUCKETS: u8 = 64;

/// The advisory locks of records, registered or not yet: an update and the registration it waits for must not pass each
/// other unseen. Ascending, so that two batches wait for each other and do not deadlock.
fn buckets(ids: &BTreeSet<DataId>) -> Vec<i32> {
    let buckets: BTreeSet<i32> = ids.iter().map(|id| i32::from(id.bytes()[15] % BUCKETS)).collect();
    buckets.into_iter().collect()
}

/// Reads records and their updates; the caller holds the locks of their buckets.
async fn lines(tx: &mut Tx<'_>, provider: Address, ids: &BTreeSet<DataId>) -> anyhow::Result<BTreeMap<DataId, Line>> {
    let uuids: Vec<_> = ids.iter().map(|id| id.0).collect();
    let mut heads = record::lock(tx, ids).await?;
    let rows = sqlx::query(
        "SELECT data_id, seq, prev_metadata_root, metadata_root, content_hash, metadata, occurred_at, state, reason
         FROM metadata_update WHERE provider = $1 AND data_id = ANY($2)",
    )
    .bind(provider.0.0)
    .bind(&uuids)
    .fetch_all(&mut **tx)
    .await?;
    let mut lines: BTreeMap<DataId, Line> = BTreeMap::new();
    for id in ids {
        lines.insert(*id, Line { head: heads.remove(id), rows: BTreeMap::new(), applied: Vec::new() });
    }
    for row in &rows {
        let row = read(row)?;
        if let Some(line) = lines.get_mut(&row.update.data_id) {
            line.rows.insert(row.update.seq, row);
        }
    }
    Ok(lines)
}

fn read(row: &PgRow) -> anyhow::Result<Kept> {
    let hash = |column: &str| row.try_get::<[u8; 32], _>(column).map(B256::from);
    let state = match row.try_get::<&str, _>("state")? {
        "waiting" => State::Waiting,
        "applied" => State::Applied,
        _ => State::Refused(row.try_get::<Option<String>, _>("reason")?.unwrap_or_default()),
    };
    Ok(Kept {
        update: Update {
            data_id: DataId(row.try_get("data_id")?),
            seq: u32::try_from(row.try_get::<i32, _>("seq")?)?,
            prev_metadata_root: hash("prev_metadata_root")?,
            metadata_root: hash("metadata_root")?,
            content_hash: ContentHash(hash("content_hash")?),
            metadata: row.try_get("metadata")?,
            occurred_at: u64::try_from(row.try_get::<i64, _>("occurred_at")?)?,
        },
        state,
        is_changed: false,
    })
}

async fn write(tx: &mut Tx<'_>, provider: Address, mut lines: BTreeMap<DataId, Line>) -> anyhow::Result<()> {
    let mut events = Vec::new();
    let mut moved = BTreeSet::new();
    for (id, line) in &mut lines {
        let new = line.events()?;
        if !new.is_empty() {
            moved.insert(*id);
            events.extend(new);
        }
    }
    let changed: Vec<&Kept> = lines.values().flat_map(|line| line.rows.values()).filter(|row| row.is_changed).collect();
    sqlx::query(
        "INSERT INTO metadata_update (provider, data_id, seq, prev_metadata_root, metadata_root, content_hash, metadata,
                                      occurred_at, fingerprint, state, reason)
         SELECT $1, * FROM unnest($2::uuid[], $3::int[], $4::bytea[], $5::bytea[], $6::bytea[], $7::text[], $8::bigint[],
                                  $9::bytea[], $10::text[], $11::text[])
         ON CONFLICT (provider, data_id, seq) DO UPDATE SET
             prev_metadata_root = excluded.prev_metadata_root, metadata_root = excluded.metadata_root,
             content_hash = excluded.content_hash, metadata = excluded.metadata, occurred_at = excluded.occurred_at,
             fingerprint = excluded.fingerprint, state = excluded.state, reason = excluded.reason",
    )
    .bind(provider.0.0)
    .bind(changed.iter().map(|r| r.update.data_id.0).collect::<Vec<_>>())
    .bind(changed.iter().map(|r| i32::try_from(r.update.seq)).collect::<Result<Vec<_>, _>>()?)
    .bind(changed.iter().map(|r| r.update.prev_metadata_root.0).collect::<Vec<_>>())
    .bind(changed.iter().map(|r| r.update.metadata_root.0).collect::<Vec<_>>())
    .bind(changed.iter().map(|r| r.update.content_hash.0.0).collect::<Vec<_>>())
    .bind(changed.iter().map(|r| r.update.metadata.as_str()).collect::<Vec<_>>())
    .bind(changed.iter().map(|r| bigint(r.update.occurred_at)).collect::<Result<Vec<_>, _>>()?)
    .bind(changed.iter().map(|r| r.update.fingerprint().0).collect::<Vec<_>>())
    .bind(
        changed
            .iter()
            .map(|r| match r.state {
                State::Waiting => "waiting",
                State::Applied => "applied",
                State::Refused(_) => "refused",
            })
            .collect::<Vec<_>>(),
    )
    .bind(
        changed
            .iter()
            .map(|r| match &r.state {
                State::Refused(reason) => Some(reason.as_str()),
                _ => None,
            })
            .collect::<Vec<_>>(),
    )
    .execute(&mut **tx)
    .await?;
    event::insert(tx, provider, &events).await?;
    let heads: Vec<&Head> =
        lines.iter().filter(|(id, _)| moved.contains(*id)).filter_map(|(_, line)| line.head.as_ref()).collect();
    record::advance(tx, &heads).await
}

#[cfg(test)]
mod tests {
    use tidemark::ids::ConsentId;

    use super::*;

    const PROVIDER: Address = Address::repeat_byte(1);

    fn root(n: u8) -> B256 {
        B256::repeat_byte(n)
    }

    fn update(seq: u32, before: u8, after: u8) -> Update {
        Update {
            data_id: DataId::from_bytes([5; 16]),
            seq,
            prev_metadata_root: root(before),
            metadata_root: root(after),
            content_hash: ContentHash(root(0xcc)),
            metadata: "{}".into(),
            occurred_at: 7,
        }
    }

    fn line(registered: bool) -> Line {
        let head = registered.then(|| Head {
            provider: PROVIDER,
            subject: event::Subject {
                data_id: DataId::from_bytes([5; 16]),
                contributor: root(0xdd),
                content_hash: ContentHash(root(0xcc)),
                consent_id: ConsentId::ZERO,
                task_id: 0,
            },
            metadata_root: root(10),
            trace_seq: 0,
            next_sequence: 1,
        });
        Line { head, rows: BTreeMap::new(), applied: Vec::new() }
    }

    #[test]
    fn updates_before_their_registration_wait_and_are_applied_in_order_when_it_comes() {
        let mut early = line(false);
        for update in [update(2, 11, 12), update(1, 10, 11)] {
            assert_eq!(early.take(PROVIDER, update).status, Status::Accepted);
        }
        assert!(early.applied.is_empty());
        early.head = line(true).head;
        early.apply();
        assert_eq!(early.applied, [1, 2]);
        let events = early.events().unwrap();
        assert_eq!(events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2]);
        let head = early.head.unwrap();
        assert_eq!((head.trace_seq, head.next_sequence, head.metadata_root), (2, 3, root(12)));
    }

    #[test]
    fn a_gap_waits_until_it_is_closed() {
        let mut line = line(true);
        assert_eq!(line.take(PROVIDER, update(3, 12, 13)).status, Status::Accepted);
        assert_eq!(line.take(PROVIDER, update(2, 11, 12)).status, Status::Accepted);
        assert!(line.applied.is_empty());
        assert_eq!(line.take(PROVIDER, update(1, 10, 11)).status, Status::Accepted);
        assert_eq!(line.applied, [1, 2, 3]);
    }

    #[test]
    fn a_waiting_update_that_does_not_continue_is_refused_with_the_reason_and_may_be_sent_again() {
        let mut line = line(true);
        line.take(PROVIDER, update(2, 99, 12));
        line.take(PROVIDER, update(1, 10, 11));
        assert_eq!(line.applied, [1]);
        let State::Refused(reason) = &line.rows[&2].state else { panic!("{:?}", line.rows[&2].state) };
        assert!(reason.contains(&root(11).to_string()) && reason.contains(&root(99).to_string()), "{reason}");
        assert_eq!(line.take(PROVIDER, update(2, 11, 12)).status, Status::Accepted);
        assert_eq!(line.applied, [1, 2]);
    }

    #[test]
    fn the_same_update_is_a_duplicate_and_another_under_its_sequence_a_conflict() {
        let mut line = line(true);
        line.take(PROVIDER, update(1, 10, 11));
        assert_eq!(line.take(PROVIDER, update(1, 10, 11)).status, Status::Duplicate);
        assert_eq!(line.take(PROVIDER, update(1, 10, 12)).status, Status::Conflict);
        assert_eq!(line.take(PROVIDER, update(2, 10, 12)).status, Status::Conflict);
        let other_bytes = Update { content_hash: ContentHash(root(1)), ..update(2, 11, 12) };
        assert!(line.take(PROVIDER, other_bytes).reason.unwrap().starts_with("content hash"));
        assert_eq!(line.take(Address::repeat_byte(2), update(3, 12, 13)).status, Status::Conflict);
        assert_eq!(line.applied, [1]);
    }
}
