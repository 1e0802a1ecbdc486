//! Records: one piece of data with everything that happened to it, and the proof of each event.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256};
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, Row, postgres::PgRow, types::Json};
use tidemark::{
    event::{Event, EventKind},
    ids::{ContentHash, DataId},
    payload::Payload,
};
use utoipa::ToSchema;

use super::{
    BatchView, DisputeView, ProviderRef, ReadError, TransferView, account, address_text, batch, dispute, hash_text,
    hex0x, number, proof_text, rfc3339, rfc3339_u64, some_address,
};
use crate::manifest::{
    stored::{self, StoredEvent},
    tree::{self, Of},
};

const EVENTS_MAX: i64 = 1_000;
const ROWS_MAX: i64 = 500;

/// ABI types of an event's fields, as `StandardMerkleTree.verify` takes them.
pub const EVENT_TYPES: [&str; 13] = [
    "uint32", "bytes16", "uint32", "uint8", "bytes32", "bytes32", "bytes32", "bytes32", "bytes32", "uint64", "uint64",
    "uint128", "address",
];

/// One event of a record.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EventView {
    /// Place in the record's chain, from 0.
    pub sequence: u32,
    /// Which record.
    pub data_id: String,
    /// registered, accepted, rejected, metadata_updated, consent_withdrawn or erased.
    pub kind: String,
    /// `final`: verified in a final batch · `mined`: anchored, and a reorg may still take it.
    pub state: String,
    /// The batch's number.
    pub batch_number: u64,
    /// Place in the batch.
    pub index: u32,
    /// RFC 3339, as the provider says.
    pub occurred_at: String,
    /// Per-record pseudonym.
    pub contributor: String,
    /// SHA-256 of the submitted bytes, `sha256:…`.
    pub content_hash: String,
    /// Consent it was given under; zero where none.
    pub consent_id: String,
    /// Task; 0 where none.
    pub task_id: u64,
    /// Payment-token units.
    pub reward: String,
    /// Who claims on chain; none where it is paid in points.
    pub payee: Option<String>,
    /// Where a wallet reward is: `waiting` for the end of its batch's challenge window, `claimable`, `claimed`, `held` by a
    /// dispute, `refunded` to the sponsor, `credited` to the payee by a failed dispute, or `paid_as_credit`. None where there
    /// is no wallet reward, or the event is not final.
    pub reward_state: Option<String>,
    /// The dispute about this verdict.
    pub dispute_id: Option<String>,
    /// SHA-256(salt ‖ payload).
    pub commitment: String,
    /// Leaf of the event before.
    pub previous: String,
    /// Its leaf.
    pub leaf: String,
    /// The anchoring transaction.
    pub tx_hash: String,
    /// Height.
    pub block_number: u64,
    /// Hash of the block.
    pub block_hash: String,
    /// RFC 3339.
    pub block_time: String,
    /// `disclosed`, `undisclosed` or `erased`.
    pub disclosure: String,
    /// What the commitment hides, where it is disclosed.
    pub payload: Option<Value>,
    /// What is wrong with the disclosure.
    pub fault: Option<String>,
}

/// A claim of a wallet reward.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ClaimView {
    /// Batch of the Accepted event.
    pub batch_number: u64,
    /// Its index.
    pub index: u64,
    /// Who was paid.
    pub payee: String,
    /// Payment-token units.
    pub amount: String,
    /// RFC 3339.
    pub block_time: String,
    /// The claim.
    pub tx_hash: String,
}

/// A claim of a wallet royalty.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RoyaltyClaimView {
    /// Dataset.
    pub ip_id: String,
    /// Its version.
    pub version: u64,
    /// Who was paid.
    pub payee: String,
    /// Payment-token units.
    pub amount: String,
    /// RFC 3339.
    pub block_time: String,
    /// The claim.
    pub tx_hash: String,
}

/// A dataset version that the record is in, and who licensed it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DatasetPart {
    /// Dataset.
    pub ip_id: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u64,
    /// The record's weight in it.
    pub weight: String,
    /// Licences sold of this version.
    pub license_ids: Vec<String>,
}

/// A withdrawal on chain.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OnChainWithdrawal {
    /// Who withdrew.
    pub by: String,
    /// RFC 3339.
    pub block_time: String,
    /// The withdrawal.
    pub tx_hash: String,
}

/// A record with all that happened to it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RecordView {
    /// Its id.
    pub data_id: String,
    /// Whose.
    pub provider: ProviderRef,
    /// mined, registered, accepted, rejected, withdrawn or erased.
    pub status: String,
    /// accepted or rejected, whatever came later.
    pub verdict: Option<String>,
    /// Why it was rejected.
    pub reason: Option<String>,
    /// The gate's sentence.
    pub reason_detail: Option<String>,
    /// The provider's own id, while disclosed.
    pub source_record_id: Option<String>,
    /// Whether the disclosed id gives this data id.
    pub proven: bool,
    /// SHA-256 of the submitted bytes, `sha256:…`.
    pub content_hash: String,
    /// Per-record pseudonym: the points account.
    pub contributor: String,
    /// Consent; zero where none.
    pub consent_id: String,
    /// Its withdrawal on chain.
    pub consent_withdrawn: Option<OnChainWithdrawal>,
    /// Who claims on chain; none where it is paid in points.
    pub payee: Option<String>,
    /// Task; 0 where none.
    pub task_id: u64,
    /// Payment-token units.
    pub reward: String,
    /// As on the verdict's event: where a wallet reward is.
    pub reward_state: Option<String>,
    /// What its consent allows, bits of Consent.purposes, while disclosed.
    pub purposes: Option<u32>,
    /// Newest public metadata, while disclosed.
    pub metadata: Option<Value>,
    /// SHA-256(JCS(metadata)).
    pub metadata_root: Option<String>,
    /// Encrypted bytes in the content store.
    pub ciphertext_cid: Option<String>,
    /// Sealed key in the content store.
    pub key_cid: Option<String>,
    /// Bytes of the plaintext.
    pub size_bytes: Option<String>,
    /// In sequence order.
    pub events: Vec<EventView>,
    /// Wallet rewards claimed.
    pub claims: Vec<ClaimView>,
    /// Points posted for it: rewards and royalties.
    pub points: Vec<TransferView>,
    /// Wallet royalties claimed.
    pub royalty_claims: Vec<RoyaltyClaimView>,
    /// Challenges of its verdict.
    pub disputes: Vec<DisputeView>,
    /// Dataset versions that it is in.
    pub datasets: Vec<DatasetPart>,
    /// Its own IP asset, where registered.
    pub contribution_ip_id: Option<String>,
}

/// An event with its inclusion proof.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EventProof {
    /// Place in the record's chain.
    pub sequence: u32,
    /// Leaf fields in the order of `types`, as StandardMerkleTree takes them.
    pub value: Vec<String>,
    /// keccak256(keccak256(abi.encode(value))).
    pub leaf: String,
    /// Siblings up to the root.
    pub proof: Vec<String>,
    /// The batch whose root it leads to.
    pub batch: BatchView,
}

/// Proofs of all final events of a record.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RecordProofs {
    /// Its id.
    pub data_id: String,
    /// ABI types of each value.
    pub types: Vec<&'static str>,
    /// In sequence order.
    pub proofs: Vec<EventProof>,
}

/// Leaf fields as StandardMerkleTree takes them.
pub(super) fn value(event: &Event) -> Vec<String> {
    vec![
        event.index.to_string(),
        hex0x(&event.data_id.bytes()),
        event.sequence.to_string(),
        (event.kind as u8).to_string(),
        event.contributor.to_string(),
        event.content_hash.to_string(),
        event.consent_id.to_string(),
        event.commitment.to_string(),
        event.previous.to_string(),
        event.occurred_at.to_string(),
        event.task_id.to_string(),
        event.reward.to_string(),
        event.payee.to_string(),
    ]
}

/// Where and how an event stands.
struct Standing {
    state: &'static str,
    tx_hash: String,
    block_number: u64,
    block_hash: String,
    block_time: i64,
    payload: Option<Value>,
    fault: Option<String>,
    disclosed: bool,
    erased: bool,
    reward_state: Option<String>,
    dispute_id: Option<String>,
}

fn event_view(stored: StoredEvent, standing: Standing) -> EventView {
    let StoredEvent { number, event, leaf } = stored;
    EventView {
        sequence: event.sequence,
        data_id: event.data_id.to_string(),
        kind: event.kind.name().to_owned(),
        state: standing.state.to_owned(),
        batch_number: number,
        index: event.index,
        occurred_at: rfc3339_u64(event.occurred_at),
        contributor: event.contributor.to_string(),
        content_hash: event.content_hash.prefixed(),
        consent_id: event.consent_id.to_string(),
        task_id: event.task_id,
        reward: event.reward.to_string(),
        payee: some_address(event.payee),
        reward_state: standing.reward_state,
        dispute_id: standing.dispute_id,
        commitment: event.commitment.to_string(),
        previous: event.previous.to_string(),
        leaf: leaf.to_string(),
        tx_hash: standing.tx_hash,
        block_number: standing.block_number,
        block_hash: standing.block_hash,
        block_time: rfc3339(standing.block_time),
        disclosure: match (standing.disclosed, standing.erased) {
            (true, _) => "disclosed",
            (false, true) => "erased",
            (false, false) => "undisclosed",
        }
        .to_owned(),
        payload: standing.payload,
        fault: standing.fault,
    }
}

/// Columns 0–14 the event, then tx_hash, block_number, block_hash, block_time, payload text, fault, erased, reward_state,
/// dispute_id.
fn final_event(row: &PgRow) -> Result<EventView, sqlx::Error> {
    let payload: Option<String> = row.try_get(19)?;
    let fault: Option<String> = row.try_get(20)?;
    let standing = Standing {
        state: "final",
        tx_hash: hash_text(row, 15)?,
        block_number: number(row, 16)?,
        block_hash: hash_text(row, 17)?,
        block_time: row.try_get(18)?,
        disclosed: payload.is_some() || fault.is_some(),
        payload: payload.and_then(|payload| serde_json::from_str(&payload).ok()),
        fault,
        erased: row.try_get(21)?,
        reward_state: row.try_get(22)?,
        dispute_id: row.try_get(23)?,
    };
    Ok(event_view(stored::event(row, 0)?, standing))
}

/// Events of one batch after an index.
pub(super) async fn events_of_batch(
    connection: &mut PgConnection,
    provider: Address,
    batch_number: u64,
    after: Option<i64>,
    limit: u32,
) -> Result<Vec<EventView>, ReadError> {
    let rows = sqlx::query(
        "SELECT e.number, e.index, e.data_id, e.sequence, e.kind, e.contributor, e.content_hash, e.consent_id,
             e.commitment, e.previous, e.occurred_at::text, e.task_id::text, e.reward::text, e.payee, e.leaf,
             b.tx_hash, b.block_number, b.block_hash, b.block_time, d.payload::text, d.fault,
             EXISTS (SELECT 1 FROM event AS x WHERE x.provider = e.provider AND x.data_id = e.data_id AND x.kind = 5),
             (SELECT w.state FROM wallet_reward AS w
                 WHERE (w.provider, w.number, w.index) = (e.provider, e.number, e.index)),
             f.dispute_id::text
         FROM event AS e JOIN batch AS b USING (provider, number) LEFT JOIN disclosure AS d USING (provider, number, index)
         LEFT JOIN dispute AS f USING (provider, number, index)
         WHERE e.provider = $1 AND e.number = $2 AND e.index > $3 ORDER BY e.index LIMIT $4",
    )
    .bind(provider.as_slice())
    .bind(i64::try_from(batch_number).unwrap_or(i64::MAX))
    .bind(after.unwrap_or(-1))
    .bind(i64::from(limit) + 1)
    .fetch_all(connection)
    .await?;
    Ok(rows.iter().map(final_event).collect::<Result<_, _>>()?)
}

async fn final_events(
    connection: &mut PgConnection,
    provider: Address,
    data_id: DataId,
) -> Result<Vec<EventView>, ReadError> {
    let rows = sqlx::query(
        "SELECT e.number, e.index, e.data_id, e.sequence, e.kind, e.contributor, e.content_hash, e.consent_id,
             e.commitment, e.previous, e.occurred_at::text, e.task_id::text, e.reward::text, e.payee, e.leaf,
             b.tx_hash, b.block_number, b.block_hash, b.block_time, d.payload::text, d.fault,
             EXISTS (SELECT 1 FROM event AS x WHERE x.provider = e.provider AND x.data_id = e.data_id AND x.kind = 5),
             (SELECT w.state FROM wallet_reward AS w
                 WHERE (w.provider, w.number, w.index) = (e.provider, e.number, e.index)),
             f.dispute_id::text
         FROM event AS e JOIN batch AS b USING (provider, number) LEFT JOIN disclosure AS d USING (provider, number, index)
         LEFT JOIN dispute AS f USING (provider, number, index)
         WHERE e.provider = $1 AND e.data_id = $2 ORDER BY e.sequence LIMIT $3",
    )
    .bind(provider.as_slice())
    .bind(data_id.0)
    .bind(EVENTS_MAX)
    .fetch_all(connection)
    .await?;
    Ok(rows.iter().map(final_event).collect::<Result<_, _>>()?)
}

/// Events that are anchored and not verified as final yet.
async fn mined_events(
    connection: &mut PgConnection,
    provider: Option<Address>,
    data_id: DataId,
) -> Result<Vec<(Address, EventView)>, ReadError> {
    let rows = sqlx::query(
        "SELECT m.provider, m.number, m.event, l.tx_hash, l.block_number, l.block_hash, l.block_time
         FROM mined_event AS m JOIN chain_log AS l USING (block_number, log_index)
         WHERE m.data_id = $1 AND ($2::bytea IS NULL OR m.provider = $2)
         ORDER BY l.block_number, l.log_index, m.sequence LIMIT $3",
    )
    .bind(data_id.0)
    .bind(provider.as_ref().map(|provider| provider.as_slice()))
    .bind(EVENTS_MAX)
    .fetch_all(connection)
    .await?;
    let mut events = Vec::with_capacity(rows.len());
    for row in &rows {
        let Json(event): Json<Event> = row.try_get(2)?;
        let leaf = event.leaf();
        let standing = Standing {
            state: "mined",
            tx_hash: hash_text(row, 3)?,
            block_number: number(row, 4)?,
            block_hash: hash_text(row, 5)?,
            block_time: row.try_get(6)?,
            payload: None,
            fault: None,
            disclosed: false,
            erased: false,
            reward_state: None,
            dispute_id: None,
        };
        let view = event_view(StoredEvent { number: number(row, 1)?, event, leaf }, standing);
        events.push((stored::address(row, 0)?, view));
    }
    Ok(events)
}

/// Which provider's record an id means: whoever proved it, else whoever came first.
pub(super) async fn owner(connection: &mut PgConnection, data_id: DataId) -> Result<Option<Address>, ReadError> {
    let row = sqlx::query(
        "SELECT r.provider FROM event AS e
         JOIN record AS r ON r.provider = e.provider AND r.data_id = e.data_id
         JOIN batch AS b ON b.provider = e.provider AND b.number = e.number
         WHERE e.data_id = $1 AND e.sequence = 0 ORDER BY r.proven DESC, b.block_number, b.log_index LIMIT 1",
    )
    .bind(data_id.0)
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| stored::address(&row, 0)).transpose()?)
}

/// A record with its timeline; also one whose first batch is only mined.
pub async fn record(connection: &mut PgConnection, data_id: DataId) -> Result<Option<RecordView>, ReadError> {
    let Some(provider) = owner(connection, data_id).await? else {
        return only_mined(connection, data_id).await;
    };
    let row = sqlx::query(
        "SELECT r.provider, p.name, r.status, r.verdict, r.reason, r.reason_detail, r.source_record_id, r.proven,
             r.content_hash, r.contributor, r.consent_id, r.payee, r.task_id::text, r.reward::text,
             (SELECT d.payload::text FROM event AS e JOIN disclosure AS d USING (provider, number, index)
                 WHERE e.provider = r.provider AND e.data_id = r.data_id AND e.kind IN (0, 3) AND d.fault IS NULL
                 ORDER BY e.sequence DESC LIMIT 1),
             r.metadata_root, r.ciphertext_cid, r.key_cid, r.size_bytes::text,
             w.by, w.block_time, w.tx_hash,
             (SELECT c.ip_id::text FROM contribution AS c WHERE c.provider = r.provider AND c.data_id = r.data_id
                 ORDER BY c.block_number LIMIT 1),
             r.purposes
         FROM record AS r JOIN provider AS p ON p.address = r.provider
         LEFT JOIN consent_withdrawal AS w ON w.consent_id = r.consent_id
         WHERE r.provider = $1 AND r.data_id = $2",
    )
    .bind(provider.as_slice())
    .bind(data_id.0)
    .fetch_one(&mut *connection)
    .await?;
    let by: Option<Vec<u8>> = row.try_get(19)?;
    let consent_withdrawn = match by {
        Some(_) => Some(OnChainWithdrawal {
            by: address_text(&row, 19)?,
            block_time: rfc3339(row.try_get(20)?),
            tx_hash: hash_text(&row, 21)?,
        }),
        None => None,
    };
    let newest: Option<String> = row.try_get(14)?;
    let newest = newest.and_then(|payload| serde_json::from_str::<Payload>(&payload).ok());
    let metadata_root: Option<Vec<u8>> = row.try_get(15)?;
    let mut events = final_events(connection, provider, data_id).await?;
    let known = events.len();
    let reward_state = events.iter().find_map(|event| event.reward_state.clone());
    let purposes: Option<i64> = row.try_get(23)?;
    let mined = mined_events(connection, Some(provider), data_id).await?;
    events.extend(mined.into_iter().map(|(_, event)| event).filter(|event| event.sequence as usize >= known));
    Ok(Some(RecordView {
        data_id: data_id.to_string(),
        provider: ProviderRef { address: address_text(&row, 0)?, name: row.try_get(1)? },
        status: row.try_get(2)?,
        verdict: row.try_get(3)?,
        reason: row.try_get(4)?,
        reason_detail: row.try_get(5)?,
        source_record_id: row.try_get(6)?,
        proven: row.try_get(7)?,
        content_hash: ContentHash(stored::hash(&row, 8)?).prefixed(),
        contributor: hash_text(&row, 9)?,
        consent_id: hash_text(&row, 10)?,
        consent_withdrawn,
        payee: some_address(stored::address(&row, 11)?),
        task_id: stored::digits(&row, 12)?,
        reward: row.try_get(13)?,
        reward_state,
        purposes: purposes
            .map(|bits| u32::try_from(bits).map_err(|_| stored::corrupt("record.purposes")))
            .transpose()?,
        metadata: newest.and_then(Payload::into_metadata),
        metadata_root: metadata_root.map(|root| hex0x(&root)),
        ciphertext_cid: row.try_get(16)?,
        key_cid: row.try_get(17)?,
        size_bytes: row.try_get(18)?,
        contribution_ip_id: row.try_get(22)?,
        events,
        claims: claims(connection, provider, data_id).await?,
        points: account::transfers_of_record(connection, provider, data_id, ROWS_MAX).await?,
        royalty_claims: royalty_claims(connection, provider, data_id).await?,
        disputes: dispute::disputes_of_record(connection, provider, data_id).await?,
        datasets: datasets(connection, provider, data_id).await?,
    }))
}

/// A record that nothing final speaks of.
async fn only_mined(connection: &mut PgConnection, data_id: DataId) -> Result<Option<RecordView>, ReadError> {
    let mut mined = mined_events(connection, None, data_id).await?;
    let Some((provider, first)) = mined.first().cloned() else { return Ok(None) };
    mined.retain(|(of, _)| *of == provider);
    let name: Option<String> = sqlx::query_scalar("SELECT name FROM provider WHERE address = $1")
        .bind(provider.as_slice())
        .fetch_optional(connection)
        .await?;
    let is_verdict = |event: &&EventView| matches!(event.kind.as_str(), "accepted" | "rejected");
    let events: Vec<EventView> = mined.into_iter().map(|(_, event)| event).collect();
    let judged = events.iter().find(is_verdict).cloned();
    let terms = judged.clone().unwrap_or(first);
    Ok(Some(RecordView {
        data_id: data_id.to_string(),
        provider: ProviderRef { address: provider.to_string(), name: name.unwrap_or_default() },
        status: "mined".into(),
        verdict: judged.map(|event| event.kind),
        reason: None,
        reason_detail: None,
        source_record_id: None,
        proven: false,
        content_hash: terms.content_hash,
        contributor: terms.contributor,
        consent_id: terms.consent_id,
        consent_withdrawn: None,
        payee: terms.payee,
        task_id: terms.task_id,
        reward: terms.reward,
        reward_state: None,
        purposes: None,
        metadata: None,
        metadata_root: None,
        ciphertext_cid: None,
        key_cid: None,
        size_bytes: None,
        events,
        claims: Vec::new(),
        points: Vec::new(),
        royalty_claims: Vec::new(),
        disputes: Vec::new(),
        datasets: Vec::new(),
        contribution_ip_id: None,
    }))
}

async fn claims(
    connection: &mut PgConnection,
    provider: Address,
    data_id: DataId,
) -> Result<Vec<ClaimView>, ReadError> {
    let rows = sqlx::query(
        "SELECT number, index, payee, amount::text, block_time, tx_hash FROM reward_claim
         WHERE provider = $1 AND data_id = $2 ORDER BY number, index LIMIT $3",
    )
    .bind(provider.as_slice())
    .bind(data_id.0)
    .bind(ROWS_MAX)
    .fetch_all(connection)
    .await?;
    let claims = rows.iter().map(|row| {
        Ok(ClaimView {
            batch_number: number(row, 0)?,
            index: number(row, 1)?,
            payee: address_text(row, 2)?,
            amount: row.try_get(3)?,
            block_time: rfc3339(row.try_get(4)?),
            tx_hash: hash_text(row, 5)?,
        })
    });
    Ok(claims.collect::<Result<_, sqlx::Error>>()?)
}

async fn royalty_claims(
    connection: &mut PgConnection,
    provider: Address,
    data_id: DataId,
) -> Result<Vec<RoyaltyClaimView>, ReadError> {
    let rows = sqlx::query(
        "SELECT c.ip_id::text, c.version, c.payee, c.amount::text, c.block_time, c.tx_hash
         FROM royalty_claim AS c JOIN dataset AS d USING (ip_id)
         WHERE d.provider = $1 AND c.data_id = $2 ORDER BY c.block_number, c.log_index LIMIT $3",
    )
    .bind(provider.as_slice())
    .bind(data_id.0)
    .bind(ROWS_MAX)
    .fetch_all(connection)
    .await?;
    let claims = rows.iter().map(|row| {
        Ok(RoyaltyClaimView {
            ip_id: row.try_get(0)?,
            version: number(row, 1)?,
            payee: address_text(row, 2)?,
            amount: row.try_get(3)?,
            block_time: rfc3339(row.try_get(4)?),
            tx_hash: hash_text(row, 5)?,
        })
    });
    Ok(claims.collect::<Result<_, sqlx::Error>>()?)
}

async fn datasets(
    connection: &mut PgConnection,
    provider: Address,
    data_id: DataId,
) -> Result<Vec<DatasetPart>, ReadError> {
    let rows = sqlx::query(
        "SELECT m.ip_id::text, d.name, m.version, m.weight::text,
             ARRAY(SELECT l.license_id::text FROM license AS l WHERE (l.ip_id, l.version) = (m.ip_id, m.version)
                 ORDER BY l.license_id LIMIT 100)
         FROM dataset_member AS m JOIN dataset AS d USING (ip_id)
         WHERE d.provider = $1 AND m.data_id = $2 ORDER BY d.name, m.version LIMIT $3",
    )
    .bind(provider.as_slice())
    .bind(data_id.0)
    .bind(ROWS_MAX)
    .fetch_all(connection)
    .await?;
    let parts = rows.iter().map(|row| {
        Ok(DatasetPart {
            ip_id: row.try_get(0)?,
            name: row.try_get(1)?,
            version: number(row, 2)?,
            weight: row.try_get(3)?,
            license_ids: row.try_get(4)?,
        })
    });
    Ok(parts.collect::<Result<_, sqlx::Error>>()?)
}

/// Inclusion proofs of a record's final events.
pub async fn proofs(connection: &mut PgConnection, data_id: DataId) -> Result<Option<RecordProofs>, ReadError> {
    let Some(provider) = owner(connection, data_id).await? else { return Ok(None) };
    let rows = sqlx::query(
        "SELECT number, index, data_id, sequence, kind, contributor, content_hash, consent_id, commitment, previous,
             occurred_at::text, task_id::text, reward::text, payee, leaf
         FROM event WHERE provider = $1 AND data_id = $2 ORDER BY sequence LIMIT $3",
    )
    .bind(provider.as_slice())
    .bind(data_id.0)
    .bind(EVENTS_MAX)
    .fetch_all(&mut *connection)
    .await?;
    let events = rows.iter().map(|row| stored::event(row, 0)).collect::<Result<Vec<_>, _>>()?;
    let mut of_batches = BTreeMap::<u64, Vec<StoredEvent>>::new();
    for event in events {
        of_batches.entry(event.number).or_default().push(event);
    }
    let mut proofs = Vec::new();
    for (batch_number, events) in of_batches {
        let (batch, root) = batch_with_root(connection, provider, batch_number).await?;
        let leaves: Vec<_> = events.iter().map(|stored| (stored.event.index, stored.leaf)).collect();
        let paths = paths(connection, provider, batch_number, root, &leaves).await?;
        proofs.extend(events.iter().zip(paths).map(|(StoredEvent { event, leaf, .. }, path)| EventProof {
            sequence: event.sequence,
            value: value(event),
            leaf: leaf.to_string(),
            proof: proof_text(&path),
            batch: batch.clone(),
        }));
    }
    proofs.sort_by_key(|proof| proof.sequence);
    Ok(Some(RecordProofs { data_id: data_id.to_string(), types: EVENT_TYPES.to_vec(), proofs }))
}

/// The proofs of some leaves of a valid batch, each with its index, checked against the batch's root.
pub(super) async fn paths(
    connection: &mut PgConnection,
    provider: Address,
    batch_number: u64,
    root: B256,
    leaves: &[(u32, B256)],
) -> Result<Vec<Vec<B256>>, ReadError> {
    let of = Of::Batch(provider, i64::try_from(batch_number).unwrap_or(i64::MAX));
    let paths = tree::proofs(connection, of, root, leaves).await?;
    paths.ok_or_else(|| ReadError::Root(format!("batch {batch_number} of {provider}")))
}

/// A batch with its root.
async fn batch_with_root(
    connection: &mut PgConnection,
    provider: Address,
    batch_number: u64,
) -> Result<(BatchView, B256), ReadError> {
    let row = sqlx::query(
        "SELECT b.provider, p.name, b.number, b.state, b.reason, b.root, b.event_count, b.points_total::text, b.debits,
             b.wallet_total::text, b.manifest_cid, b.disclosures_cid, b.attestor, b.block_number, b.block_hash,
             b.block_time, b.tx_hash, b.challenge_until,
             (b.wallet_total - coalesce((SELECT sum(c.amount) FROM reward_claim AS c
                 WHERE (c.provider, c.number) = (b.provider, b.number)), 0)
                 - coalesce((SELECT sum(h.amount) FROM reward_hold AS h
                 WHERE (h.provider, h.number) = (b.provider, b.number)), 0))::text
         FROM batch AS b JOIN provider AS p ON p.address = b.provider WHERE b.provider = $1 AND b.number = $2",
    )
    .bind(provider.as_slice())
    .bind(i64::try_from(batch_number).unwrap_or(i64::MAX))
    .fetch_one(connection)
    .await?;
    Ok((batch::view(&row)?, stored::hash(&row, 5)?))
}

/// Whether a kind is one that the Trace API knows.
pub(crate) fn trace_event_type(kind: &str) -> Option<&'static str> {
    if kind == EventKind::Registered.name() {
        Some("DataRegistered")
    } else if kind == EventKind::MetadataUpdated.name() {
        Some("MetadataUpdated")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use tidemark::ids::ConsentId;

    use super::*;

    #[test]
    fn values_stand_in_the_order_of_the_types() {
        let event = Event {
            index: 1,
            data_id: DataId::from_bytes([2; 16]),
            sequence: 3,
            kind: EventKind::Accepted,
            contributor: B256::repeat_byte(4),
            content_hash: ContentHash(B256::repeat_byte(5)),
            consent_id: ConsentId(B256::repeat_byte(6)),
            commitment: B256::repeat_byte(7),
            previous: B256::repeat_byte(8),
            occurred_at: 9,
            task_id: 10,
            reward: 11,
            payee: Address::repeat_byte(12),
        };
        let value = value(&event);
        assert_eq!(value.len(), EVENT_TYPES.len());
        assert_eq!(value[1], format!("0x{}", "02".repeat(16)));
        assert_eq!((value[0].as_str(), value[3].as_str(), value[11].as_str()), ("1", "1", "11"));
        assert_eq!(value[8], format!("0x{}", "08".repeat(32)));
    }
}
