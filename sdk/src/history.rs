//! What happened, read from chain and content store alone: anchored batches, their manifests, dataset members, sales.

use std::collections::{BTreeMap, BTreeSet};

use alloy::{
    eips::BlockNumberOrTag,
    primitives::{Address, B256, U256},
    providers::{DynProvider, Provider},
    rpc::types::{Filter, Log},
    sol_types::SolEvent,
};
use cid::Cid;
use futures::{StreamExt, TryStreamExt};

use crate::{
    batch::{Debit, Header, summarise},
    chain::Deployment,
    contracts::{ConsentRegistry, IPRegistry, LicenseRegistry, ProvenanceLog},
    dataset::{MEMBERS_BYTES_MAX, MemberRow, VersionContent, decode_members},
    event::{Event, EventKind},
    ids::{ConsentId, DataId},
    manifest::{DISCLOSURES_BYTES_MAX, Disclosure, MANIFEST_BYTES_MAX, Manifest, ManifestError, decode_disclosures},
    merkle::Tree,
    payload::{Delivery, Payload},
    store::{Store, StoreError},
};

/// Blocks asked for in one `eth_getLogs`.
const BLOCKS_PER_QUERY: u64 = 10_000;
/// Manifests fetched at once.
const FETCHES_AT_ONCE: usize = 8;

/// Why history can't be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The node failed.
    #[error("RPC: {doing}")]
    Rpc {
        /// What was asked.
        doing: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The node answered with something that is no event of ours.
    #[error("the node answered with a log that does not decode as {0}")]
    Log(&'static str),
    /// There is no such thing on this chain.
    #[error("{0} is not on this chain")]
    Unknown(String),
    /// More than one provider says something of it.
    #[error("{what} stands in batches of several providers: name one with --provider; they are {names}")]
    Ambiguous {
        /// What was asked for.
        what: String,
        /// The providers.
        names: String,
    },
    /// The content store failed, or lacks a file.
    #[error("fetch {what}")]
    Store {
        /// Which file.
        what: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// A file is not what its CID's publisher said.
    #[error("decode {what}")]
    Manifest {
        /// Which file.
        what: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
}

pub(crate) fn rpc<E: std::error::Error + Send + Sync + 'static>(
    doing: impl Into<String>,
) -> impl FnOnce(E) -> HistoryError {
    let doing = doing.into();
    move |source| HistoryError::Rpc { doing, source: Box::new(source) }
}

/// Where on the chain something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Block number.
    pub block: u64,
    /// Transaction hash.
    pub transaction: B256,
    /// Whether the block is at or below the `finalized` tag.
    pub is_final: bool,
}

/// A header as it was anchored.
#[derive(Clone, Debug)]
pub struct AnchoredBatch {
    /// What was signed.
    pub header: Header,
    /// Who signed.
    pub attestor: Address,
    /// Where it stands.
    pub place: Place,
}

/// A batch with its files.
#[derive(Clone, Debug)]
pub struct LoadedBatch {
    /// The anchored header.
    pub anchored: AnchoredBatch,
    /// The manifest behind it.
    pub manifest: Manifest,
    /// Disclosures by event index; those whose commitment does not match are left out.
    pub disclosures: BTreeMap<u32, Disclosure>,
}

/// One event of a record, with its batch.
#[derive(Clone, Debug)]
pub struct RecordEvent {
    /// The event.
    pub event: Event,
    /// Its batch's header.
    pub anchored: AnchoredBatch,
    /// From its leaf to the root.
    pub proof: Vec<B256>,
    /// Its payload, where it is disclosed.
    pub payload: Option<Payload>,
}

/// A dataset version as it was registered.
#[derive(Clone, Debug)]
pub struct RegisteredVersion {
    /// Dataset.
    pub ip_id: U256,
    /// From 1.
    pub version: u32,
    /// What it commits to.
    pub content: VersionContent,
    /// Who signed.
    pub attestor: Address,
    /// Where it stands.
    pub place: Place,
}

/// Reads history; clones share the connection.
#[derive(Clone)]
pub struct History {
    /// The node.
    pub provider: DynProvider,
    /// Where the contracts are.
    pub deployment: Deployment,
    /// Where the files are.
    pub store: Store,
}

impl History {
    /// The number of the newest final block; where the chain has no `finalized` tag, nothing is final.
    pub async fn final_block(&self) -> Result<u64, HistoryError> {
        let block = self
            .provider
            .get_block_by_number(BlockNumberOrTag::Finalized)
            .await
            .map_err(rpc("ask for the finalized block"))?;
        Ok(block.map_or(0, |block| block.header.number))
    }

    /// All logs of one contract's event that pass `narrow`, oldest first.
    pub async fn logs<E: SolEvent>(
        &self,
        address: Address,
        narrow: impl Fn(Filter) -> Filter,
    ) -> Result<Vec<(E, Place)>, HistoryError> {
        let latest = self.provider.get_block_number().await.map_err(rpc("ask for the block number"))?;
        let final_block = self.final_block().await?;
        let mut found = Vec::new();
        let mut from = self.deployment.block;
        while from <= latest {
            let to = latest.min(from.saturating_add(BLOCKS_PER_QUERY - 1));
            let filter =
                narrow(Filter::new().address(address).event_signature(E::SIGNATURE_HASH).from_block(from).to_block(to));
            let logs = self.provider.get_logs(&filter).await.map_err(rpc(format!("read {} logs", E::SIGNATURE)))?;
            for log in logs {
                found.push(decode::<E>(&log, final_block)?);
            }
            from = to + 1;
        }
        Ok(found)
    }

    /// The anchored headers of one provider, or of all, in the order of the chain.
    pub async fn anchored(&self, provider: Option<Address>) -> Result<Vec<AnchoredBatch>, HistoryError> {
        let logs = self
            .logs::<ProvenanceLog::BatchAnchored>(self.deployment.provenance_log, |filter| match provider {
                Some(provider) => filter.topic1(provider.into_word()),
                None => filter,
            })
            .await?;
        logs.into_iter().map(|(log, place)| anchored(log, place)).collect()
    }

    /// One anchored header.
    pub async fn anchored_one(&self, provider: Address, number: u64) -> Result<AnchoredBatch, HistoryError> {
        let mut logs = self
            .logs::<ProvenanceLog::BatchAnchored>(self.deployment.provenance_log, |filter| {
                filter.topic1(provider.into_word()).topic2(B256::from(U256::from(number)))
            })
            .await?;
        match logs.pop() {
            Some((log, place)) => anchored(log, place),
            None => Err(HistoryError::Unknown(format!("batch {number} of {provider}"))),
        }
    }

    /// Fetches a batch's manifest and, where they still exist, its disclosures.
    pub async fn load(&self, anchored: AnchoredBatch) -> Result<LoadedBatch, HistoryError> {
        self.load_moved(anchored, None).await
    }

    /// The same, with the disclosures from where an erasure moved them, once they are not where the manifest says.
    async fn load_moved(&self, anchored: AnchoredBatch, moved: Option<&Cid>) -> Result<LoadedBatch, HistoryError> {
        let what = format!("the manifest of batch {} of {}", anchored.header.number, anchored.header.provider);
        let bytes = self
            .store
            .get(&anchored.header.manifest_cid, MANIFEST_BYTES_MAX)
            .await
            .map_err(|source| HistoryError::Store { what: what.clone(), source })?;
        let manifest = Manifest::decode(bytes).map_err(|source| HistoryError::Manifest { what, source })?;
        let mut loaded = LoadedBatch { anchored, manifest, disclosures: BTreeMap::new() };
        for cid in loaded.manifest.disclosures.as_ref().into_iter().chain(moved) {
            loaded.disclosures = self.disclosures_of(&loaded.manifest, cid).await?;
            if !loaded.disclosures.is_empty() {
                break;
            }
        }
        Ok(loaded)
    }

    /// What a file discloses of a batch's events; nothing where it is not there.
    async fn disclosures_of(&self, manifest: &Manifest, cid: &Cid) -> Result<BTreeMap<u32, Disclosure>, HistoryError> {
        let mut disclosures = BTreeMap::new();
        for disclosure in self.disclosures(cid).await? {
            let event = manifest.events.get(disclosure.index as usize);
            if event.is_some_and(|event| event.commitment == disclosure.commitment()) {
                disclosures.insert(disclosure.index, disclosure);
            }
        }
        Ok(disclosures)
    }

    async fn disclosures(&self, cid: &Cid) -> Result<Vec<Disclosure>, HistoryError> {
        let what = || format!("disclosures {cid}");
        match self.store.get(cid, DISCLOSURES_BYTES_MAX).await {
            Ok(bytes) => decode_disclosures(bytes).map_err(|source| HistoryError::Manifest { what: what(), source }),
            // erased, which is their right
            Err(StoreError::NotFound { .. }) => Ok(Vec::new()),
            Err(source) => Err(HistoryError::Store { what: what(), source }),
        }
    }

    /// All batches of a provider (or of all) with their files, in the order of the chain.
    pub async fn load_all(&self, provider: Option<Address>) -> Result<Vec<LoadedBatch>, HistoryError> {
        let anchored = self.anchored(provider).await?;
        let mut batches: Vec<LoadedBatch> = futures::stream::iter(anchored.into_iter().map(|batch| self.load(batch)))
            .buffered(FETCHES_AT_ONCE)
            .try_collect()
            .await?;
        // newest first: where an erasure moved disclosures to may itself have been moved by a later one
        let mut moved = MovedDisclosures::default();
        for batch in batches.iter_mut().rev() {
            if let (true, Some(cid)) = (batch.disclosures.is_empty(), moved.of(&batch.anchored.header)) {
                batch.disclosures = self.disclosures_of(&batch.manifest, &cid).await?;
            }
            moved.learn(batch);
        }
        Ok(batches)
    }

    /// The events of one record in sequence order, with proofs.
    pub async fn record(&self, data_id: DataId, provider: Option<Address>) -> Result<Vec<RecordEvent>, HistoryError> {
        let mut found = Vec::new();
        let mut moved = MovedDisclosures::default();
        for anchored in self.anchored(provider).await?.into_iter().rev() {
            let cid = moved.of(&anchored.header);
            let batch = self.load_moved(anchored, cid.as_ref()).await?;
            moved.learn(&batch);
            if !batch.manifest.events.iter().any(|event| event.data_id == data_id) {
                continue;
            }
            let leaves: Vec<B256> = batch.manifest.events.iter().map(Event::leaf).collect();
            let tree = Tree::new(&leaves);
            for (at, event) in batch.manifest.events.iter().enumerate().filter(|(_, e)| e.data_id == data_id) {
                found.push(RecordEvent {
                    event: event.clone(),
                    anchored: batch.anchored.clone(),
                    proof: tree.as_ref().and_then(|tree| tree.proof(at)).unwrap_or_default(),
                    payload: batch.payload(event.index),
                });
            }
        }
        found.sort_by_key(|found| found.event.sequence);
        Ok(found)
    }

    /// Published price of a task; `None` where there is no such task.
    pub async fn task_price(&self, task_id: u64) -> Result<Option<u128>, HistoryError> {
        let logs = self
            .logs::<ProvenanceLog::TaskCreated>(self.deployment.provenance_log, |filter| {
                filter.topic1(B256::from(U256::from(task_id)))
            })
            .await?;
        Ok(logs.first().map(|(log, _)| log.price))
    }

    /// Consents to a provider that were withdrawn on chain.
    pub async fn withdrawn_consents(&self, provider: Address) -> Result<BTreeSet<ConsentId>, HistoryError> {
        let logs = self
            .logs::<ConsentRegistry::ConsentWithdrawn>(self.deployment.consent_registry, |filter| {
                filter.topic2(provider.into_word())
            })
            .await?;
        Ok(logs.into_iter().map(|(log, _)| ConsentId(log.consentId)).collect())
    }

    /// Registered versions of one dataset, or of all.
    pub async fn versions(&self, ip_id: Option<U256>) -> Result<Vec<RegisteredVersion>, HistoryError> {
        let logs = self
            .logs::<IPRegistry::VersionRegistered>(self.deployment.ip_registry, |filter| match ip_id {
                Some(ip_id) => filter.topic1(B256::from(ip_id)),
                None => filter,
            })
            .await?;
        logs.into_iter()
            .map(|(log, place)| {
                Ok(RegisteredVersion {
                    ip_id: log.ipId,
                    version: log.version,
                    content: VersionContent {
                        root: log.root,
                        member_count: log.memberCount,
                        total_weight: log.totalWeight,
                        points_weight: log.pointsWeight,
                        purposes: log.purposes,
                        manifest_cid: cid(&log.manifestCid)?,
                    },
                    attestor: log.attestor,
                    place,
                })
            })
            .collect()
    }

    /// The members manifest of a version.
    pub async fn members(&self, version: &RegisteredVersion) -> Result<Vec<MemberRow>, HistoryError> {
        let what = format!("the members of version {} of dataset {}", version.version, version.ip_id);
        let bytes = self
            .store
            .get(&version.content.manifest_cid, MEMBERS_BYTES_MAX)
            .await
            .map_err(|source| HistoryError::Store { what: what.clone(), source })?;
        decode_members(bytes).map_err(|source| HistoryError::Manifest { what, source })
    }

    /// Sales of licences that pass `narrow`.
    pub async fn sales(
        &self,
        narrow: impl Fn(Filter) -> Filter,
    ) -> Result<Vec<(LicenseRegistry::LicenseSold, Place)>, HistoryError> {
        self.logs::<LicenseRegistry::LicenseSold>(self.deployment.license_registry, narrow).await
    }
}

/// Where erasures say that disclosures are now, learnt from the newest batch to the oldest.
#[derive(Default)]
struct MovedDisclosures(BTreeMap<(Address, u64), Cid>);

impl MovedDisclosures {
    fn of(&self, header: &Header) -> Option<Cid> {
        self.0.get(&(header.provider, header.number)).copied()
    }

    fn learn(&mut self, batch: &LoadedBatch) {
        let erased = batch.manifest.events.iter().rev().filter(|event| event.kind == EventKind::Erased);
        for event in erased {
            if let Some(Payload::Erased { disclosures }) = batch.payload(event.index) {
                for moved in disclosures {
                    self.0.entry((batch.anchored.header.provider, moved.number)).or_insert(moved.cid);
                }
            }
        }
    }
}

impl LoadedBatch {
    /// The disclosed payload of one event.
    pub fn payload(&self, index: u32) -> Option<Payload> {
        self.disclosures.get(&index).and_then(|disclosure| serde_json::from_str(&disclosure.payload).ok())
    }

    /// First difference between manifest and anchored header; `None` where they agree.
    pub fn difference(&self) -> Option<String> {
        let header = &self.anchored.header;
        if self.manifest.provider != header.provider || self.manifest.number != header.number {
            return Some(format!("the manifest is of batch {} of {}", self.manifest.number, self.manifest.provider));
        }
        let summary = match summarise(&self.manifest.events) {
            Ok(summary) => summary,
            Err(error) => return Some(error.to_string()),
        };
        let differ = |what: &str, expected: &dyn std::fmt::Display, actual: &dyn std::fmt::Display| {
            Some(format!("{what}: anchored {expected}, the manifest gives {actual}"))
        };
        if summary.tree.root() != header.root {
            return differ("root", &header.root, &summary.tree.root());
        }
        if self.manifest.events.len() != header.event_count as usize {
            return differ("event count", &header.event_count, &self.manifest.events.len());
        }
        if summary.points_total != header.points_total {
            return differ("points total", &header.points_total, &summary.points_total);
        }
        if summary.wallet_total != header.wallet_total {
            return differ("wallet total", &header.wallet_total, &summary.wallet_total);
        }
        if summary.debits != header.debits {
            return Some("task debits: the manifest gives others than anchored".into());
        }
        None
    }
}

/// What a provider's batches say of one record: enough to make a dataset member of it.
#[derive(Clone, Debug)]
pub struct AcceptedRecord {
    /// Its Accepted event.
    pub accepted: Event,
    /// The batch of that event.
    pub batch_number: u64,
    /// Where its bytes are.
    pub delivery: Delivery,
    /// What its consent allows: bits of [`crate::consent::purpose`].
    pub purposes: u32,
}

/// Records that were accepted, keep their consent and were not erased, by data id.
pub fn accepted_records(batches: &[LoadedBatch]) -> BTreeMap<DataId, AcceptedRecord> {
    let mut deliveries = BTreeMap::new();
    let mut found = BTreeMap::new();
    for batch in batches {
        for event in &batch.manifest.events {
            match event.kind {
                EventKind::Registered => {
                    if let Some(Payload::Registered { delivery: Some(delivery), purposes, .. }) =
                        batch.payload(event.index)
                    {
                        deliveries.insert(event.data_id, (delivery, purposes));
                    }
                }
                EventKind::Accepted => {
                    if let Some((delivery, purposes)) = deliveries.get(&event.data_id) {
                        let record = AcceptedRecord {
                            accepted: event.clone(),
                            batch_number: batch.anchored.header.number,
                            delivery: delivery.clone(),
                            purposes: *purposes,
                        };
                        found.insert(event.data_id, record);
                    }
                }
                EventKind::ConsentWithdrawn | EventKind::Erased => {
                    found.remove(&event.data_id);
                }
                EventKind::Rejected | EventKind::MetadataUpdated => {}
            }
        }
    }
    found
}

fn cid(bytes: &[u8]) -> Result<Cid, HistoryError> {
    Cid::try_from(bytes).map_err(|_| HistoryError::Log("a CID"))
}

fn decode<E: SolEvent>(log: &Log, final_block: u64) -> Result<(E, Place), HistoryError> {
    let decoded = log.log_decode::<E>().map_err(|_| HistoryError::Log(E::SIGNATURE))?;
    let (Some(block), Some(transaction)) = (log.block_number, log.transaction_hash) else {
        return Err(HistoryError::Log(E::SIGNATURE));
    };
    Ok((decoded.inner.data, Place { block, transaction, is_final: block <= final_block }))
}

fn anchored(log: ProvenanceLog::BatchAnchored, place: Place) -> Result<AnchoredBatch, HistoryError> {
    Ok(AnchoredBatch {
        header: Header {
            provider: log.provider,
            number: log.number,
            root: log.root,
            event_count: log.eventCount,
            points_total: log.pointsTotal,
            wallet_total: log.walletTotal,
            debits: log.debits.iter().map(|d| Debit { task_id: d.taskId, amount: d.amount }).collect(),
            manifest_cid: cid(&log.manifestCid)?,
        },
        attestor: log.attestor,
        place,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{ConsentId, ContentHash},
        payload::Moved,
        store::cid_of,
    };

    /// A batch whose erasures say, in order, where these batches' disclosures are.
    fn batch(number: u64, moved: &[(u64, Cid)]) -> LoadedBatch {
        let mut disclosures = BTreeMap::new();
        let mut events = Vec::new();
        for (index, (number, cid)) in (0u32..).zip(moved) {
            let payload = Payload::Erased { disclosures: vec![Moved { number: *number, cid: *cid }] };
            let payload = serde_json::to_string(&payload).unwrap();
            disclosures.insert(index, Disclosure { index, salt: [1; 32], payload });
            events.push(Event {
                index,
                data_id: DataId::from_bytes([index as u8; 16]),
                sequence: 1,
                kind: EventKind::Erased,
                contributor: B256::ZERO,
                content_hash: ContentHash::ZERO,
                consent_id: ConsentId::ZERO,
                commitment: B256::ZERO,
                previous: B256::ZERO,
                occurred_at: 1,
                task_id: 0,
                reward: 0,
                payee: Address::ZERO,
            });
        }
        let header = Header {
            provider: Address::ZERO,
            number,
            root: B256::ZERO,
            event_count: 1,
            points_total: 0,
            wallet_total: 0,
            debits: Vec::new(),
            manifest_cid: cid_of(b"manifest"),
        };
        LoadedBatch {
            anchored: AnchoredBatch {
                header,
                attestor: Address::ZERO,
                place: Place { block: 1, transaction: B256::ZERO, is_final: true },
            },
            manifest: Manifest { provider: Address::ZERO, number, events, disclosures: None },
            disclosures,
        }
    }

    #[test]
    fn the_newest_erasure_says_where_a_batch_s_disclosures_are() {
        let [first, second, third, other] = [b"1", b"2", b"3", b"4"].map(|bytes| cid_of(bytes));
        let batches = [batch(0, &[]), batch(1, &[(0, first)]), batch(2, &[(0, second), (0, third), (1, other)])];
        let mut moved = MovedDisclosures::default();
        let mut found = Vec::new();
        for batch in batches.iter().rev() {
            found.push(moved.of(&batch.anchored.header));
            moved.learn(batch);
        }
        assert_eq!(found, [None, Some(other), Some(third)]);
    }
}
