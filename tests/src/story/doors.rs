//! The two doors of the relayer: files through the upload endpoint, and metadata of kept files through the Trace API.

use std::time::Duration;

use alloy::primitives::B256;
use anyhow::{Context, Result, ensure};
use reqwest::{Client, Response, multipart};
use serde::Deserialize;
use serde_json::{Value, json};
use tidemark::{
    canonical::metadata_root,
    ids::{ContentHash, DataId},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    people::Contributor,
    samples::{Expected, Sample},
    world::World,
};
use crate::stack::{PROVIDER_NAME, Stack};

const REQUEST_TIME_MAX: Duration = Duration::from_secs(60);
const RECORDS: &str = "/webhook/v1/data-audit/records:batch";
const UPDATES: &str = "/webhook/v1/data-audit/metadata-updates:batch";

/// The relayer as a provider's app speaks to it.
#[derive(Clone, Debug)]
pub struct Doors {
    client: Client,
    url: String,
    api_key: String,
}

/// What the relayer answers to an upload.
#[derive(Clone, Debug, Deserialize)]
pub struct Answer {
    /// Which record it became.
    pub data_id: DataId,
    /// `accepted` or `rejected`.
    pub status: String,
    /// `accepted`, or the reason.
    pub outcome: String,
    /// The gate's sentence.
    pub detail: String,
    /// Per-record pseudonym: the points account.
    pub contributor: B256,
    /// Units, decimal.
    pub reward: String,
    /// `sha256:<hex>`.
    pub content_hash: String,
}

/// One upload with everything that the story checks later.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// The file.
    pub sample: Sample,
    /// Who sent it: position in the group.
    pub contributor: usize,
    /// SHA-256, computed here.
    pub content_hash: ContentHash,
    /// What came back.
    pub answer: Answer,
}

impl Uploaded {
    /// Whether the gate took it.
    pub fn is_accepted(&self) -> bool {
        self.answer.status == "accepted"
    }

    /// Units earned.
    pub fn reward(&self) -> u128 {
        self.answer.reward.parse().unwrap_or_default()
    }

    /// Why the answer is not what the samples' list says.
    pub fn surprise(&self) -> Option<String> {
        let expected = match &self.sample.expected {
            Expected::Unknown => return None,
            Expected::Accepted => "accepted",
            Expected::Rejected(reason) => reason,
        };
        let Answer { outcome, detail, .. } = &self.answer;
        (outcome != expected).then(|| format!("{}: expected {expected}, got {outcome} ({detail})", self.sample.name))
    }
}

impl Doors {
    /// With the world's API key.
    pub fn new(stack: &Stack, world: &World) -> Result<Self> {
        let relayer = stack.relayer.as_ref().context("the stack was started without a relayer")?;
        let client = Client::builder().timeout(REQUEST_TIME_MAX).build().context("failed to make an HTTP client")?;
        Ok(Self { client, url: relayer.url().into(), api_key: world.api_key.clone() })
    }

    /// The same with another API key.
    pub fn with_key(&self, api_key: &str) -> Self {
        Self { api_key: api_key.into(), ..self.clone() }
    }

    /// Sends one file of a contributor, with a consent of its own.
    pub async fn upload(&self, world: &World, sample: &Sample, at: usize, group: &[Contributor]) -> Result<Uploaded> {
        let contributor = group.get(at).context("no such contributor")?;
        let bytes = std::fs::read(&sample.path).with_context(|| format!("failed to read {}", sample.path.display()))?;
        let content_hash = ContentHash::of(&bytes);
        let meta = meta(world, sample, contributor)?;
        let answer = self.post_upload(&meta, sample.mime, bytes).await?;
        let answer: Answer = read(answer).await.with_context(|| format!("failed to upload {}", sample.name))?;
        ensure!(answer.content_hash == content_hash.prefixed(), "{}: the relayer hashed other bytes", sample.name);
        Ok(Uploaded { sample: sample.clone(), contributor: at, content_hash, answer })
    }

    /// Sends any metadata and bytes to the upload endpoint.
    pub async fn post_upload(&self, meta: &Value, mime: &str, bytes: Vec<u8>) -> Result<Response> {
        let form = upload_form(meta, mime, bytes)?;
        let request = self.client.post(format!("{}/v1/submissions", self.url)).multipart(form);
        self.send(request).await
    }

    /// Registers metadata of files that the provider keeps.
    pub async fn register(&self, batch_id: &str, items: &[Value]) -> Result<Value> {
        read(self.post_batch(RECORDS, batch_id, json!(items).to_string().into()).await?).await
    }

    /// Updates metadata.
    pub async fn update(&self, batch_id: &str, items: &[Value]) -> Result<Value> {
        read(self.post_batch(UPDATES, batch_id, json!(items).to_string().into()).await?).await
    }

    /// Sends any body to `records:batch`.
    pub async fn post_records(&self, batch_id: &str, body: Vec<u8>) -> Result<Response> {
        self.post_batch(RECORDS, batch_id, body).await
    }

    /// Sends any body to `metadata-updates:batch`.
    pub async fn post_updates(&self, batch_id: &str, body: Vec<u8>) -> Result<Response> {
        self.post_batch(UPDATES, batch_id, body).await
    }

    async fn post_batch(&self, path: &str, batch_id: &str, body: Vec<u8>) -> Result<Response> {
        let request = self.client.post(format!("{}{path}", self.url)).body(body);
        let request = request.header("content-type", "application/json").header("x-batch-id", batch_id);
        self.send(request).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response> {
        let request = request.header("x-api-key", &self.api_key).header("x-provider", PROVIDER_NAME);
        request.send().await.context("the relayer does not answer")
    }
}

/// An upload's body: the two parts in their order.
pub fn upload_form(meta: &Value, mime: &str, bytes: Vec<u8>) -> Result<multipart::Form> {
    let file = multipart::Part::bytes(bytes).file_name("file").mime_str(mime).context("a malformed MIME type")?;
    let text = multipart::Part::text(meta.to_string()).mime_str("application/json").context("a MIME type")?;
    Ok(multipart::Form::new().part("meta", text).part("file", file))
}

/// What goes with a file: the contributor's consent, the task, and how to pay.
pub fn meta(world: &World, sample: &Sample, contributor: &Contributor) -> Result<Value> {
    Ok(json!({
        "source_record_id": sample.name,
        "task_id": world.task(sample.kind)?.id,
        "contributor_ref": contributor.reference,
        "pay_to": if contributor.has_wallet { "wallet" } else { "points" },
        "mime_type": sample.mime,
        "occurred_at": rfc3339_now()?,
        "consent": contributor.consent(world)?,
    }))
}

/// Metadata of a kept file, trace-v1.0, in its state after `updates` updates.
pub fn kept_metadata(source_record_id: &str, content_hash: ContentHash, updates: u32) -> Value {
    json!({
        "schema_version": "trace-v1.0",
        "file": {
            "content_sha256": content_hash.prefixed(),
            "mime_type": "video/mp4",
            "media_category": "video",
            "size_bytes": 1_048_576,
        },
        "contributor": { "anon_id": format!("anon-{source_record_id}"), "kyc_country": "KR", "kyc_status": "verified" },
        "asset": { "collection_id": "demo" },
        "provider_payload": { "source_record_id": source_record_id, "reviewed": updates },
    })
}

/// An item of `records:batch`.
pub fn registration(source_record_id: &str, metadata: &Value) -> Result<Value> {
    Ok(json!({
        "source_record_id": source_record_id,
        "initial_metadata_root": root(metadata)?,
        "initial_metadata_json": metadata,
        "occurred_at": rfc3339_now()?,
    }))
}

/// An item of `metadata-updates:batch`: from one state to the next.
pub fn metadata_update(data_id: DataId, seq: u32, before: &Value, after: &Value) -> Result<Value> {
    Ok(json!({
        "data_id": data_id,
        "seq": seq,
        "prev_metadata_root": root(before)?,
        "metadata_root": root(after)?,
        "metadata_json": after,
        "occurred_at": rfc3339_now()?,
    }))
}

/// A metadata root as the Trace API carries it.
pub fn root(metadata: &Value) -> Result<String> {
    Ok(metadata_root(metadata).context("metadata without a canonical form")?.to_string())
}

fn rfc3339_now() -> Result<String> {
    OffsetDateTime::now_utc().replace_nanosecond(0)?.format(&Rfc3339).context("failed to write a time")
}

async fn read<T: serde::de::DeserializeOwned>(answer: Response) -> Result<T> {
    let status = answer.status();
    let text = answer.text().await.context("the relayer's answer broke off")?;
    ensure!(status.is_success(), "the relayer answered {status}: {text}");
    serde_json::from_str(&text).with_context(|| format!("an answer that can't be read: {text}"))
}
