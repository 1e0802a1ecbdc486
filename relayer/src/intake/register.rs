//! Registrations by the Trace door: metadata of files that the provider keeps.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256};
use anyhow::Context;
use serde_json::Value;
use tidemark::{
    consent::SignedConsent,
    event::pseudonym,
    ids::{ConsentId, ContentHash, DataId, sha256},
    payload::Payload,
};

use super::{
    Provider, Tx, consent, contributor,
    event::{self, NewEvent, Subject},
    record::{self, ERASED, NewRecord},
    update,
};
use crate::{problem::Problem, storage_key::StorageKey};

/// One item of `records:batch`, already checked on its own.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The provider's id, trimmed.
    pub source_record_id: String,
    /// Follows from provider and source record id.
    pub data_id: DataId,
    /// SHA-256(JCS(metadata)).
    pub metadata_root: B256,
    /// trace-v1.0, canonical.
    pub metadata: String,
    /// What its aliases agree on.
    pub content_hash: ContentHash,
    /// Unix seconds.
    pub occurred_at: u64,
    /// `contributor_ref`, or `contributor.anon_id`, where there is one.
    pub contributor: Option<String>,
    /// Checked, with its id, where there is one.
    pub consent: Option<(ConsentId, SignedConsent)>,
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// New, and durable.
    Accepted,
    /// Here already, the same.
    Duplicate,
    /// Here already, another.
    Conflict,
}

/// What became of an item, and why where it is a conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Accepted, duplicate or conflict.
    pub status: Status,
    /// Of a conflict.
    pub reason: Option<String>,
}

/// Where a contributor is not named, the record stands for one: no reference that a provider can send begins like this.
const ANONYMOUS: &str = "\u{1}";

/// What a provider may see of a stored reference.
pub fn public_reference(stored: String) -> String {
    stored.trim_start_matches(ANONYMOUS).to_owned()
}

impl Registration {
    fn reference(&self) -> String {
        self.contributor.clone().unwrap_or_else(|| format!("{ANONYMOUS}{}", self.source_record_id))
    }

    fn fingerprint(&self) -> B256 {
        sha256(&[b"trace", self.metadata_root.as_slice(), &self.occurred_at.to_be_bytes(), self.reference().as_bytes()])
    }
}

/// Makes records and events for what is new; a duplicate or a conflict changes nothing.
pub async fn register(
    tx: &mut Tx<'_>,
    key: &StorageKey,
    provider: &Provider,
    items: Vec<Registration>,
) -> Result<Vec<Answer>, Problem> {
    let account: Address = provider.account;
    let ids: Vec<DataId> = items.iter().map(|item| item.data_id).collect();
    let mut known = record::fingerprints(tx, account, &ids).await?;
    // of a record that is here, or was erased, nothing that a repetition brings is kept
    let fresh: Vec<&Registration> = items.iter().filter(|item| !known.contains_key(&item.data_id)).collect();
    let references: BTreeSet<String> = fresh.iter().map(|item| item.reference()).collect();
    let secrets = contributor::secrets(tx, key, account, references).await?;
    let consents: Vec<_> = fresh.iter().filter_map(|item| item.consent.clone()).collect();
    consent::keep(tx, account, &consents).await?;

    let mut records = BTreeMap::new();
    for item in fresh {
        let reference = item.reference();
        let secret = secrets.get(&reference).context("a contributor without a secret")?;
        let record = NewRecord {
            subject: Subject {
                data_id: item.data_id,
                contributor: pseudonym(secret, item.data_id),
                content_hash: item.content_hash,
                consent_id: item.consent.as_ref().map_or(ConsentId::ZERO, |(id, _)| *id),
                task_id: 0,
            },
            source_record_id: item.source_record_id.clone(),
            door: "trace",
            fingerprint: item.fingerprint(),
            contributor_reference: reference,
            reward: 0,
            payee: Address::ZERO,
            verdict: None,
            metadata_root: item.metadata_root,
            event_count: 1,
        };
        records.insert(item.data_id, record);
    }
    let new = record::insert(tx, account, records.values()).await?;
    if new.len() < records.len() {
        // another transaction made these meanwhile
        let others: Vec<DataId> = records.keys().copied().filter(|id| !new.contains(id)).collect();
        known.extend(record::fingerprints(tx, account, &others).await?);
    }

    let mut answers = Vec::with_capacity(items.len());
    let mut events = Vec::with_capacity(new.len());
    for item in items {
        let made = records.get(&item.data_id).filter(|_| new.contains(&item.data_id));
        let status = if let Some(made) = made {
            let payload = Payload::Registered {
                source_record_id: item.source_record_id,
                metadata_root: item.metadata_root,
                metadata: Value::Null,
                purposes: item.consent.map_or(0, |(_, consent)| consent.purposes),
                delivery: None,
            };
            events.push(NewEvent::with_metadata(&made.subject, 0, item.occurred_at, &payload, &item.metadata)?);
            Status::Accepted
        } else if known.get(&item.data_id) == Some(&item.fingerprint()) {
            Status::Duplicate
        } else {
            Status::Conflict
        };
        let is_erased = known.get(&item.data_id) == Some(&ERASED);
        answers.push(Answer { status, reason: is_erased.then(|| "the record was erased".to_owned()) });
    }
    event::insert(tx, account, &events).await?;
    update::catch_up(tx, account, new).await?;
    Ok(answers)
}
