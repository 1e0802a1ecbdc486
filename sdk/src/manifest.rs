//! Manifests: the Parquet file behind a batch header, one row per event in index order, and the disclosures beside it.
//!
//! The manifest holds every leaf field and is for ever. The disclosures hold salts and payloads, in a file of their own
//! whose CID stands in the manifest, so that they can be erased without touching what was anchored.

use std::ops::Range;

use alloy::primitives::{Address, B256};
use bytes::Bytes;
use cid::Cid;
use rayon::prelude::*;

use crate::{
    batch::EVENTS_MAX,
    event::{Event, EventKind},
    ids::{ConsentId, ContentHash, DataId},
    table::{self, Column, TableError},
};

/// The greatest manifest, in bytes: 2^20 rows of about 320 bytes.
pub const MANIFEST_BYTES_MAX: u64 = 512 << 20;
/// The greatest disclosures file, in bytes.
pub const DISCLOSURES_BYTES_MAX: u64 = 2 << 30;

const EVENTS: &str = "message provenance_events {
  REQUIRED INT32 index (INTEGER(32,false));
  REQUIRED FIXED_LEN_BYTE_ARRAY (16) data_id (UUID);
  REQUIRED INT32 sequence (INTEGER(32,false));
  REQUIRED INT32 kind (INTEGER(8,false));
  REQUIRED FIXED_LEN_BYTE_ARRAY (32) contributor;
  REQUIRED FIXED_LEN_BYTE_ARRAY (32) content_hash;
  REQUIRED FIXED_LEN_BYTE_ARRAY (32) consent_id;
  REQUIRED FIXED_LEN_BYTE_ARRAY (32) commitment;
  REQUIRED FIXED_LEN_BYTE_ARRAY (32) previous;
  REQUIRED INT64 occurred_at (INTEGER(64,false));
  REQUIRED INT64 task_id (INTEGER(64,false));
  REQUIRED FIXED_LEN_BYTE_ARRAY (16) reward (DECIMAL(38,0));
  REQUIRED FIXED_LEN_BYTE_ARRAY (20) payee;
}";

const DISCLOSURES: &str = "message disclosures {
  REQUIRED INT32 index (INTEGER(32,false));
  REQUIRED FIXED_LEN_BYTE_ARRAY (32) salt;
  REQUIRED BYTE_ARRAY payload (STRING);
}";

/// The greatest amount that a Parquet DECIMAL(38,0) holds.
pub(crate) const DECIMAL_MAX: u128 = 10u128.pow(38) - 1;

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not such a Parquet file.
    #[error("not a table of this kind")]
    Table(#[from] TableError),
    /// A row that can't be.
    #[error("row {row}: {field}: {reason}")]
    Row {
        /// From 0.
        row: usize,
        /// Column.
        field: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// Metadata missing or malformed.
    #[error("metadata {key}: {actual:?}")]
    Metadata {
        /// Its key.
        key: &'static str,
        /// Its value; none where missing.
        actual: Option<String>,
    },
}

/// A batch's events with what identifies the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The provider's account.
    pub provider: Address,
    /// The batch number.
    pub number: u64,
    /// In index order.
    pub events: Vec<Event>,
    /// The disclosures file.
    pub disclosures: Option<Cid>,
}

impl Manifest {
    /// The Parquet bytes; the same manifest always gives the same bytes.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        let events = &self.events;
        if let Some(row) = events.par_iter().with_min_len(4_096).position_first(|event| event.reward > DECIMAL_MAX) {
            return Err(ManifestError::Row { row, field: "reward", reason: "exceeds DECIMAL(38,0)" });
        }
        let columns = |rows: Range<usize>| columns(&events[rows]);
        let mut metadata = vec![
            ("tidemark.provider".into(), self.provider.to_string()),
            ("tidemark.number".into(), self.number.to_string()),
        ];
        if let Some(cid) = self.disclosures {
            metadata.push(("tidemark.disclosures".into(), cid.to_string()));
        }
        Ok(table::write(EVENTS, events.len(), columns, metadata)?)
    }

    /// Reads a manifest; says nothing yet of whether it matches a header.
    pub fn decode(bytes: Bytes) -> Result<Self, ManifestError> {
        let mut table = table::read(EVENTS, EVENTS_MAX, bytes)?;
        let value = |key: &'static str| table.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
        let malformed = |key, actual| ManifestError::Metadata { key, actual };
        let key = "tidemark.provider";
        let provider = value(key).and_then(|v| v.parse().ok()).ok_or_else(|| malformed(key, value(key)))?;
        let key = "tidemark.number";
        let number = value(key).and_then(|v| v.parse().ok()).ok_or_else(|| malformed(key, value(key)))?;
        let key = "tidemark.disclosures";
        let disclosures = match value(key) {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| malformed(key, Some(text)))?),
        };
        let columns = &mut table.columns;
        let index = columns.u32()?;
        let data_id = columns.fixed::<16>()?;
        let sequence = columns.u32()?;
        let kind = columns.u32()?;
        let contributor = columns.fixed::<32>()?;
        let content_hash = columns.fixed::<32>()?;
        let consent_id = columns.fixed::<32>()?;
        let commitment = columns.fixed::<32>()?;
        let previous = columns.fixed::<32>()?;
        let occurred_at = columns.u64()?;
        let task_id = columns.u64()?;
        let reward = columns.fixed::<16>()?;
        let payee = columns.fixed::<20>()?;
        let events = (0..table.rows)
            .map(|row| {
                let reward = u128::from_be_bytes(reward[row]);
                if reward > DECIMAL_MAX {
                    return Err(ManifestError::Row { row, field: "reward", reason: "negative or above DECIMAL(38,0)" });
                }
                let kind = u8::try_from(kind[row]).ok().and_then(EventKind::from_u8);
                Ok(Event {
                    index: index[row],
                    data_id: DataId::from_bytes(data_id[row]),
                    sequence: sequence[row],
                    kind: kind.ok_or(ManifestError::Row { row, field: "kind", reason: "unknown" })?,
                    contributor: B256::from(contributor[row]),
                    content_hash: ContentHash(B256::from(content_hash[row])),
                    consent_id: ConsentId(B256::from(consent_id[row])),
                    commitment: B256::from(commitment[row]),
                    previous: B256::from(previous[row]),
                    occurred_at: occurred_at[row],
                    task_id: task_id[row],
                    reward,
                    payee: Address::from(payee[row]),
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { provider, number, events, disclosures })
    }
}

/// Events as columns, in one pass: a million of them are far more than a core's cache holds.
fn columns(events: &[Event]) -> Vec<Column> {
    let rows = events.len();
    let numbers = || Vec::with_capacity(rows);
    let bytes = |width: usize| Vec::with_capacity(rows * width);
    let (mut index, mut sequence, mut kind) = (numbers(), numbers(), numbers());
    let (mut occurred_at, mut task_id) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    let (mut data_id, mut contributor, mut content_hash, mut consent_id) = (bytes(16), bytes(32), bytes(32), bytes(32));
    let (mut commitment, mut previous, mut reward, mut payee) = (bytes(32), bytes(32), bytes(16), bytes(20));
    for event in events {
        index.push(event.index);
        data_id.extend_from_slice(&event.data_id.bytes());
        sequence.push(event.sequence);
        kind.push(event.kind as u32);
        contributor.extend_from_slice(event.contributor.as_slice());
        content_hash.extend_from_slice(event.content_hash.0.as_slice());
        consent_id.extend_from_slice(event.consent_id.0.as_slice());
        commitment.extend_from_slice(event.commitment.as_slice());
        previous.extend_from_slice(event.previous.as_slice());
        occurred_at.push(event.occurred_at);
        task_id.push(event.task_id);
        reward.extend_from_slice(&event.reward.to_be_bytes());
        payee.extend_from_slice(event.payee.as_slice());
    }
    vec![
        Column::U32(index),
        Column::Fixed(16, data_id),
        Column::U32(sequence),
        Column::U32(kind),
        Column::Fixed(32, contributor),
        Column::Fixed(32, content_hash),
        Column::Fixed(32, consent_id),
        Column::Fixed(32, commitment),
        Column::Fixed(32, previous),
        Column::U64(occurred_at),
        Column::U64(task_id),
        Column::Fixed(16, reward),
        Column::Fixed(20, payee),
    ]
}

/// What one event's commitment hides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disclosure {
    /// The event's index in its batch.
    pub index: u32,
    /// 32 random bytes.
    pub salt: [u8; 32],
    /// Canonical JSON of a [`crate::payload::Payload`].
    pub payload: String,
}

impl Disclosure {
    /// The commitment that stands in the leaf.
    pub fn commitment(&self) -> B256 {
        crate::canonical::commitment(&self.salt, self.payload.as_bytes())
    }
}

/// The Parquet bytes of a disclosures file.
pub fn encode_disclosures(disclosures: &[Disclosure]) -> Result<Vec<u8>, ManifestError> {
    let columns = |rows: Range<usize>| {
        let some = &disclosures[rows];
        vec![
            Column::U32(some.iter().map(|d| d.index).collect()),
            Column::fixed(some.iter().map(|d| d.salt)),
            Column::Text(some.iter().map(|d| d.payload.clone()).collect()),
        ]
    };
    Ok(table::write(DISCLOSURES, disclosures.len(), columns, Vec::new())?)
}

/// Reads a disclosures file; the caller compares each with its event's commitment.
pub fn decode_disclosures(bytes: Bytes) -> Result<Vec<Disclosure>, ManifestError> {
    let mut table = table::read(DISCLOSURES, EVENTS_MAX, bytes)?;
    let index = table.columns.u32()?;
    let salt = table.columns.fixed::<32>()?;
    let payload = table.columns.text()?;
    Ok(index
        .into_iter()
        .zip(salt)
        .zip(payload)
        .map(|((index, salt), payload)| Disclosure { index, salt, payload })
        .collect())
}
