//! Downloads what a licence covers: ciphertext from the store, keys through the custodian, every file checked.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy::{
    primitives::{B256, Bytes, U256},
    signers::local::PrivateKeySigner,
};
use futures::StreamExt;
use serde::Serialize;

use crate::{
    contracts::LicenseRegistry,
    dataset::{DatasetError, MemberRow, summarise},
    history::{History, HistoryError, rpc},
    ids::{ContentHash, DataId},
    release::{self, DEADLINE_AHEAD_SECONDS_MAX, ReleaseError, ReleaseRequest, request_release},
    sealing::{RecipientKey, SealedKey, SealingError, decrypt},
    store::StoreError,
};

/// Files fetched at once.
const FILES_AT_ONCE: usize = 4;
/// The greatest ciphertext, in bytes: a file is held in memory whole.
const CIPHERTEXT_BYTES_MAX: u64 = 1 << 30;
const SEALED_KEY_BYTES_MAX: u64 = 16 << 10;
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why a dataset could not be downloaded.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// Chain or store could not be read.
    #[error("read the licence's dataset")]
    History(#[from] HistoryError),
    /// The members manifest is none.
    #[error("members")]
    Dataset(#[from] DatasetError),
    /// The members manifest is not the one that was registered.
    #[error("the members manifest does not lead to the registered root {0}")]
    Members(B256),
    /// A file or its sealed key is not to be had.
    #[error("{data_id}: fetch")]
    Store {
        /// Which record.
        data_id: DataId,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The key was not released.
    #[error("{data_id}: key")]
    Release {
        /// Which record.
        data_id: DataId,
        /// Why.
        #[source]
        source: Box<ReleaseError>,
    },
    /// The bytes do not open.
    #[error("{data_id}: decrypt")]
    Sealing {
        /// Which record.
        data_id: DataId,
        /// Why.
        #[source]
        source: SealingError,
    },
    /// The bytes open to something else than was registered.
    #[error("{data_id}: expected content {expected}, got {actual}")]
    Content {
        /// Which record.
        data_id: DataId,
        /// On chain.
        expected: ContentHash,
        /// What came out.
        actual: ContentHash,
    },
    /// The file can't be written, or no HTTP client be made.
    #[error("{doing}")]
    Local {
        /// What was being done.
        doing: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// One file that was checked and written.
#[derive(Clone, Debug, Serialize)]
pub struct Downloaded {
    /// Which record; the file's name.
    pub data_id: DataId,
    /// SHA-256 of its bytes, equal to the one on chain.
    pub content_hash: ContentHash,
    /// Its length.
    pub size_bytes: u64,
}

type OnFile = Box<dyn Fn(u64, u64, &str) + Send + Sync>;

/// Told after each file: how many are done, of how many, and which.
pub struct Progress {
    done: AtomicU64,
    on_file: OnFile,
}

impl Progress {
    /// Calls `on_file` after each file.
    pub fn new(on_file: impl Fn(u64, u64, &str) + Send + Sync + 'static) -> Self {
        Self { done: AtomicU64::new(0), on_file: Box::new(on_file) }
    }

    fn one_more(&self, total: u64, name: &str) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        (self.on_file)(done, total, name);
    }
}

/// What came of a download.
#[derive(Debug)]
pub struct Outcome {
    /// Files that were checked and written, by data id.
    pub files: Vec<Downloaded>,
    /// Records that could not be had, and why: mostly a consent that was withdrawn since.
    pub missing: Vec<(DataId, DownloadError)>,
}

/// Downloads all members of the licensed version into `out`, each under its data id, and writes `files.json` beside them.
/// A record that can't be had does not keep the holder from the others.
pub async fn download(
    history: &History,
    license_id: U256,
    holder: &PrivateKeySigner,
    custodian: &str,
    out: &Path,
    progress: &Progress,
) -> Result<Outcome, DownloadError> {
    let local = |doing: &str| {
        let doing = format!("{doing} {}", out.display());
        move |source: std::io::Error| DownloadError::Local { doing, source: source.into() }
    };
    tokio::fs::create_dir_all(out).await.map_err(local("make the folder"))?;
    let members = licensed_members(history, license_id).await?;
    let summary = summarise(&members)?;
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .build()
        .map_err(|source| DownloadError::Local { doing: "make an HTTP client".into(), source: source.into() })?;
    let (history, client, tree, total) = (&history, &client, &summary.tree, members.len() as u64);
    let outcomes: Vec<(DataId, Result<Downloaded, DownloadError>)> = futures::stream::iter(members.iter().enumerate())
        .map(|(at, row)| async move {
            let data_id = row.member.data_id;
            let got = async {
                let proof = tree.proof(at).unwrap_or_default();
                let plaintext = fetch(history, license_id, holder, custodian, client, row, proof).await?;
                let path = out.join(data_id.to_string());
                tokio::fs::write(&path, &plaintext).await.map_err(local("write a file into"))?;
                let size_bytes = plaintext.len() as u64;
                Ok(Downloaded { data_id, content_hash: row.content_hash, size_bytes })
            }
            .await;
            progress.one_more(total, &data_id.to_string());
            (data_id, got)
        })
        .buffer_unordered(FILES_AT_ONCE)
        .collect()
        .await;
    let (mut files, mut missing) = (Vec::new(), Vec::new());
    for (data_id, outcome) in outcomes {
        match outcome {
            Ok(file) => files.push(file),
            Err(error) => missing.push((data_id, error)),
        }
    }
    files.sort_by_key(|file: &Downloaded| file.data_id);
    missing.sort_by_key(|(data_id, _)| *data_id);
    let list = serde_json::to_vec_pretty(&files)
        .map_err(|source| DownloadError::Local { doing: "list the files".into(), source: source.into() })?;
    tokio::fs::write(out.join("files.json"), list).await.map_err(local("write files.json into"))?;
    Ok(Outcome { files, missing })
}

/// Members of the version that a licence covers, checked against the root on chain.
async fn licensed_members(history: &History, license_id: U256) -> Result<Vec<MemberRow>, DownloadError> {
    let registry = LicenseRegistry::new(history.deployment.license_registry, &history.provider);
    let view = registry.verify(license_id).call().await.map_err(rpc("verify the licence"))?;
    let version = history
        .versions(Some(view.ipId))
        .await?
        .into_iter()
        .find(|v| v.version == view.version)
        .ok_or_else(|| HistoryError::Unknown(format!("version {} of dataset {}", view.version, view.ipId)))?;
    let members = history.members(&version).await?;
    match summarise(&members)?.tree.root() == version.content.root {
        true => Ok(members),
        false => Err(DownloadError::Members(version.content.root)),
    }
}

/// One file: sealed key, release, ciphertext, plaintext, content hash.
async fn fetch(
    history: &History,
    license_id: U256,
    holder: &PrivateKeySigner,
    custodian: &str,
    client: &reqwest::Client,
    row: &MemberRow,
    member_proof: Vec<B256>,
) -> Result<Vec<u8>, DownloadError> {
    let data_id = row.member.data_id;
    let store = |source| DownloadError::Store { data_id, source };
    let sealing = |source| DownloadError::Sealing { data_id, source };
    let releasing = |source| DownloadError::Release { data_id, source: Box::new(source) };
    let sealed_key = history.store.get(&row.key_cid, SEALED_KEY_BYTES_MAX).await.map_err(store)?;
    let sealed_key = SealedKey::decode(&sealed_key).map_err(sealing)?;
    let recipient = RecipientKey::random().map_err(sealing)?;
    let request = ReleaseRequest {
        license_id,
        member: row.member.clone(),
        member_proof,
        sealed_key: sealed_key.clone(),
        recipient_key: recipient.public_key(),
        deadline: unix_seconds() + DEADLINE_AHEAD_SECONDS_MAX / 2,
        signature: Bytes::new(),
    };
    let domain = release::domain(history.deployment.chain_id, history.deployment.license_registry);
    let request = request.sign(&domain, holder).map_err(releasing)?;
    let answer = request_release(client, custodian, &request).await.map_err(releasing)?;
    let key = release::open(&answer, &recipient, &sealed_key).map_err(releasing)?;
    let ciphertext = history.store.get(&row.ciphertext_cid, CIPHERTEXT_BYTES_MAX).await.map_err(store)?;
    let plaintext = decrypt(&key, data_id, &ciphertext).map_err(sealing)?;
    let actual = ContentHash::of(&plaintext);
    match actual == row.content_hash {
        true => Ok(plaintext),
        false => Err(DownloadError::Content { data_id, expected: row.content_hash, actual }),
    }
}

pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
