//! Manifests: the Parquet file behind a batch header, one row per event in index order, and the disclosures beside it.
//!
//! The manifest holds every leaf field and is for ever. The disclosures hold salts and payloads, in a file of their own
//! whose CID stands in the manifest, so that they can be erased without touching what was anchored.

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
        for (row, event) in events.iter().enumerate() {
            if event.reward > DECIMAL_MAX {
                return Err(ManifestError::Row { row, field: "reward", reason: "exceeds DECIMAL(38,0)" });
            }
        }
        type Make<'a> = &'a (dyn Fn(&[Event]) -> Column + Sync);
        let columns: [Make<'_>; 13] = [
            &|events| Column::U32(events.iter().map(|e| e.index).collect()),
            &|events| Column::fixed(events.iter().map(|e| e.data_id.bytes())),
            &|events| Column::U32(events.iter().map(|e| e.sequence).collect()),
            &|events| Column::U32(events.iter().map(|e| e.kind as u32).collect()),
            &|events| Column::fixed(events.iter().map(|e| e.contributor.0)),
            &|events| Column::fixed(events.iter().map(|e| e.content_hash.0.0)),
            &|events| Column::fixed(events.iter().map(|e| e.consent_id.0.0)),
            &|events| Column::fixed(events.iter().map(|e| e.commitment.0)),
            &|events| Column::fixed(events.iter().map(|e| e.previous.0)),
            &|events| Column::U64(events.iter().map(|e| e.occurred_at).collect()),
            &|events| Column::U64(events.iter().map(|e| e.task_id).collect()),
            &|events| Column::fixed(events.iter().map(|e| e.reward.to_be_bytes())),
            &|events| Column::fixed(events.iter().map(|e| e.payee.0.0)),
        ];
        let columns: Vec<Column> = columns.par_iter().map(|make| make(events)).collect();
        let mut metadata = vec![
            ("tidemark.provider".into(), self.provider.to_string()),
            ("tidemark.number".into(), self.number.to_string()),
        ];
        if let Some(cid) = self.disclosures {
            metadata.push(("tidemark.disclosures".into(), cid.to_string()));
        }
        Ok(table::write(EVENTS, events.len(), &columns, metadata)?)
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
    let columns = [
        Column::U32(disclosures.iter().map(|d| d.index).collect()),
        Column::fixed(disclosures.iter().map(|d| d.salt)),
        Column::Text(disclosures.iter().map(|d| d.payload.clone()).collect()),
    ];
    Ok(table::write(DISCLOSURES, disclosures.len(), &columns, Vec::new())?)
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
