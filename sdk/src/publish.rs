//! Puts a dataset version on chain: members from accepted records, manifest to the store, attested, registered.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::DynProvider;
use serde::{Deserialize, Serialize};

use crate::{
    contracts::IPRegistry,
    dataset::{DatasetError, Member, MemberRow, VersionContent, WEIGHT_MAX, dataset_id, encode_members, summarise},
    history::{History, HistoryError, accepted_records, rpc},
    manifest::ManifestError,
    store::StoreError,
};

/// Bytes of an attestor's answer that are read at most.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

/// Why a version could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Chain or store could not be read.
    #[error("read the provider's history")]
    History(#[from] HistoryError),
    /// The members make no version.
    #[error("members")]
    Dataset(#[from] DatasetError),
    /// The members manifest can't be written.
    #[error("write the members manifest")]
    Manifest(#[from] ManifestError),
    /// The members manifest can't be stored.
    #[error("store the members manifest")]
    Store(#[from] StoreError),
    /// A batch differs from its manifest: nothing of that provider may be sold until that is mended.
    #[error("batch {number} does not match its manifest: {difference}")]
    BatchInvalid {
        /// Its number.
        number: u64,
        /// The first difference.
        difference: String,
    },
    /// The attestor can't be reached or refuses.
    #[error("attestor {url}: {reason}")]
    Attestor {
        /// Where it was asked.
        url: String,
        /// What it said.
        reason: String,
    },
}

/// What the attestor is asked to sign: `POST /v1/dataset-versions`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionRequest {
    /// The provider's account.
    pub provider: Address,
    /// The dataset's name; with the provider it makes the dataset's id, so that no other provider's can be meant.
    pub name: String,
    /// From 1.
    pub version: u32,
    /// To be signed.
    pub content: VersionContent,
}

/// An attestor's signature.
#[derive(Debug, Serialize, Deserialize)]
pub struct Attestation {
    /// Over the EIP-712 digest.
    pub signature: Bytes,
}

/// A version that was registered.
#[derive(Clone, Debug)]
pub struct Published {
    /// The dataset.
    pub ip_id: U256,
    /// From 1.
    pub version: u32,
    /// What it commits to.
    pub content: VersionContent,
    /// Its members.
    pub members: Vec<MemberRow>,
    /// The transaction.
    pub transaction: B256,
    /// What it cost.
    pub gas_used: u64,
}

/// Where the attestor is and what it wants to be told.
#[derive(Clone)]
pub struct AttestorClient {
    /// For example `http://127.0.0.1:7002`.
    pub url: String,
    /// Bearer token.
    pub token: String,
}

impl AttestorClient {
    /// Asks for a signature over a version.
    pub async fn sign_version(&self, request: &VersionRequest) -> Result<Bytes, PublishError> {
        let failed = |reason: String| PublishError::Attestor { url: self.url.clone(), reason };
        let client = reqwest::Client::builder().timeout(TIMEOUT).build().map_err(|error| failed(error.to_string()))?;
        let mut answer = client
            .post(format!("{}/v1/dataset-versions", self.url.trim_end_matches('/')))
            .bearer_auth(&self.token)
            .json(request)
            .send()
            .await
            .map_err(|error| failed(error.without_url().to_string()))?;
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|error| failed(error.to_string()))? {
            body.extend_from_slice(&part);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(failed(format!("an answer of more than {ANSWER_BYTES_MAX} bytes")));
            }
        }
        if !answer.status().is_success() {
            return Err(failed(format!("{}: {}", answer.status(), String::from_utf8_lossy(&body))));
        }
        let attestation: Attestation = serde_json::from_slice(&body).map_err(|error| failed(error.to_string()))?;
        Ok(attestation.signature)
    }
}

/// The members that a provider's accepted records make, each weighted by its reward, ascending by data id. A record whose
/// consent was withdrawn, in its provenance or directly on chain, is no member, and neither is one that earned nothing.
pub async fn members(history: &History, provider: Address) -> Result<Vec<MemberRow>, PublishError> {
    let batches = history.load_all(Some(provider)).await?;
    for batch in &batches {
        if let Some(difference) = batch.difference() {
            return Err(PublishError::BatchInvalid { number: batch.anchored.header.number, difference });
        }
    }
    let withdrawn = history.withdrawn_consents(provider).await?;
    Ok(accepted_records(&batches)
        .into_iter()
        .filter(|(_, record)| (1..=WEIGHT_MAX).contains(&record.accepted.reward))
        .filter(|(_, record)| !withdrawn.contains(&record.accepted.consent_id))
        .map(|(data_id, record)| MemberRow {
            member: Member {
                data_id,
                contributor: record.accepted.contributor,
                consent_id: record.accepted.consent_id,
                payee: record.accepted.payee,
                weight: record.accepted.reward,
            },
            content_hash: record.accepted.content_hash,
            ciphertext_cid: record.delivery.ciphertext_cid,
            key_cid: record.delivery.key_cid,
            batch_number: record.batch_number,
            event_index: record.accepted.index,
            purposes: record.purposes,
        })
        .collect())
}

/// Registers the dataset `name` of `provider` with its first version, or adds the next version to it.
/// `sender` must send from the provider's account.
pub async fn publish(
    history: &History,
    sender: &DynProvider,
    attestor: &AttestorClient,
    provider: Address,
    name: &str,
) -> Result<Published, PublishError> {
    let members = members(history, provider).await?;
    let summary = summarise(&members)?;
    let manifest_cid = history.store.put(&encode_members(&members)?).await?;
    let content = VersionContent {
        root: summary.tree.root(),
        // summarise() has bounded the count
        member_count: u32::try_from(members.len()).unwrap_or(u32::MAX),
        total_weight: summary.total_weight,
        points_weight: summary.points_weight,
        purposes: summary.purposes,
        manifest_cid,
    };
    let ip_id = dataset_id(provider, name);
    let registry = IPRegistry::new(history.deployment.ip_registry, sender);
    let latest = registry.latestVersionOf(ip_id).call().await.map_err(rpc("latestVersionOf"))?;
    let version = latest + 1;
    let request = VersionRequest { provider, name: name.to_owned(), version, content: content.clone() };
    let signature = attestor.sign_version(&request).await?;
    let pending = match latest {
        0 => registry.registerDataset(name.to_owned(), (&content).into(), signature).send().await,
        _ => registry.registerVersion(ip_id, (&content).into(), signature).send().await,
    };
    let receipt = pending.map_err(rpc("send the version"))?.get_receipt().await.map_err(rpc("wait for the version"))?;
    if !receipt.status() {
        return Err(HistoryError::Unknown(format!("a successful registration in {}", receipt.transaction_hash)).into());
    }
    Ok(Published {
        ip_id,
        version,
        content,
        members,
        transaction: receipt.transaction_hash,
        gas_used: receipt.gas_used,
    })
}
