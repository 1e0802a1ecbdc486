//! Uploads: consent checked, judged by the attestor, encrypted, stored, and only then one transaction.

use std::{collections::BTreeSet, time::Instant};

use alloy::primitives::{Address, B256};
use anyhow::Context;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidemark::{
    canonical::metadata_root,
    consent::SignedConsent,
    event::pseudonym,
    ids::{ConsentId, ContentHash, DataId, sha256},
    payload::{Delivery, Payload},
    sealing::{Binding, ContentKey, encrypt, seal_key},
    verdict::{Outcome, Verdict},
};
use utoipa::ToSchema;

use super::{
    Provider, budget, consent, contributor,
    event::{self, NewEvent, Subject},
    record::{self, Kept, NewRecord},
    unix_now, update,
};
use crate::{
    app::App,
    problem::{Kind, Problem},
    quality::{Claim, Facts, Media},
};

/// How a contributor is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PayTo {
    /// As points, by the provider.
    Points,
    /// On chain, to the account that signed the consent.
    Wallet,
}

/// An upload, checked on its own.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The provider's id, trimmed.
    pub source_record_id: String,
    /// Follows from provider and source record id.
    pub data_id: DataId,
    /// 0: no task, no reward.
    pub task_id: u64,
    /// The provider's own reference to the contributor.
    pub contributor: String,
    /// How the contributor is paid.
    pub pay_to: PayTo,
    /// As claimed.
    pub mime_type: String,
    /// The same, understood.
    pub claim: Claim,
    /// Unix seconds.
    pub occurred_at: u64,
    /// Not checked yet.
    pub consent: SignedConsent,
    /// The file.
    pub bytes: Bytes,
}

/// The answer to an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Submitted {
    /// UUIDv5 of the submission.
    #[schema(value_type = String, format = Uuid)]
    pub data_id: DataId,
    /// `accepted` or `rejected`.
    #[schema(example = "accepted")]
    pub status: String,
    /// `accepted`, or why not: empty, type_mismatch, undecodable, duplicate, too_short, too_long, too_small, too_large.
    pub outcome: String,
    /// One sentence with what was expected and what came.
    pub detail: String,
    /// Per-record pseudonym of the contributor: the points account.
    #[schema(value_type = String)]
    pub contributor: B256,
    /// Payment-token units, decimal digits.
    pub reward: String,
    /// `sha256:<64 hex digits>`.
    pub content_hash: String,
}

impl Submitted {
    fn of(data_id: DataId, kept: &Kept) -> Self {
        let outcome = kept.outcome.clone().unwrap_or_default();
        Self {
            data_id,
            status: if outcome == Outcome::Accepted.name() { "accepted" } else { "rejected" }.into(),
            outcome,
            detail: kept.detail.clone().unwrap_or_default(),
            contributor: kept.contributor,
            reward: kept.reward.to_string(),
            content_hash: kept.content_hash.prefixed(),
        }
    }
}

/// What the attestor says of an upload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Judged {
    /// Signed.
    pub verdict: Verdict,
    /// What was measured.
    pub facts: Facts,
}

/// Whether an answer is new, or that to an earlier try.
#[derive(Debug)]
pub enum Answer {
    /// 201.
    New(Submitted),
    /// 200.
    Again(Submitted),
}

/// The stages of an upload, by which `submission_stage_seconds` tells where its time goes.
pub const STAGES: [&str; 4] = ["check", "judge", "encrypt and store", "commit"];

/// Times one stage after another.
struct Stages {
    since: Instant,
    names: std::slice::Iter<'static, &'static str>,
}

impl Stages {
    fn start() -> Self {
        Self { since: Instant::now(), names: STAGES.iter() }
    }

    /// Ends the stage under way and begins the next.
    fn end(&mut self) {
        let now = Instant::now();
        if let Some(stage) = self.names.next() {
            metrics::histogram!("submission_stage_seconds", "stage" => *stage).record(now - self.since);
        }
        self.since = now;
    }
}

/// Takes an upload in. Every step before the transaction may be repeated; what a crash leaves in the content store is
/// ciphertext that nothing points to.
pub async fn submit(app: &App, provider: &Provider, submission: Submission) -> Result<Answer, Problem> {
    let mut stages = Stages::start();
    let bytes = submission.bytes.clone();
    let content_hash = off_thread(move || Ok(ContentHash::of(&bytes))).await?;
    let fingerprint = submission.fingerprint(content_hash);
    if let Some(answer) = answered(app, provider, &submission, fingerprint).await? {
        return Ok(answer);
    }

    let times = [unix_now(), submission.occurred_at];
    let data_type = submission.claim.media.data_type();
    let consent_id =
        consent::check(&app.chain, &app.db, provider, &submission.consent, data_type, &times, "meta.consent").await?;
    let price = price(app, provider, submission.task_id).await?;
    if price > 0 {
        let mut db = app.db.acquire().await?;
        budget::check(&mut db, &app.chain, provider.account, submission.task_id, price).await?;
    }
    stages.end();

    let judged = app.attestor.judge(&submission, content_hash).await?;
    let is_accepted = judged.verdict.outcome == Outcome::Accepted;
    stages.end();
    let delivery = if is_accepted { Some(deliver(app, provider, consent_id, &submission).await?) } else { None };
    stages.end();

    let metadata = metadata(&submission, content_hash, consent_id.0, &judged.facts);
    let root = metadata_root(&metadata).map_err(Problem::internal)?;
    let reward = if is_accepted { price } else { 0 };
    let payee = match submission.pay_to {
        PayTo::Wallet if reward > 0 => submission.consent.contributor,
        _ => Address::ZERO,
    };

    let mut tx = app.db.begin().await?;
    let references = BTreeSet::from([submission.contributor.clone()]);
    let secrets = contributor::secrets(&mut tx, &app.storage_key, provider.account, references).await?;
    let secret = secrets.get(&submission.contributor).context("a contributor without a secret")?;
    let subject = Subject {
        data_id: submission.data_id,
        contributor: pseudonym(secret, submission.data_id),
        content_hash,
        consent_id,
        task_id: submission.task_id,
    };
    consent::keep(&mut tx, provider.account, &[(consent_id, submission.consent.clone())]).await?;
    let record = NewRecord {
        subject: subject.clone(),
        source_record_id: submission.source_record_id.clone(),
        door: "upload",
        fingerprint,
        contributor_reference: submission.contributor.clone(),
        reward,
        payee,
        verdict: Some((judged.verdict.outcome.name().into(), judged.verdict.detail.clone())),
        metadata_root: root,
        event_count: 2,
    };
    if record::insert(&mut tx, provider.account, &[record]).await?.is_empty() {
        // the same upload came twice at once, and the other one was faster
        tx.rollback().await?;
        return answered(app, provider, &submission, fingerprint)
            .await?
            .ok_or_else(|| Problem::internal(anyhow::anyhow!("a record exists and is not found")));
    }
    let registered = Payload::Registered {
        source_record_id: submission.source_record_id.clone(),
        metadata_root: root,
        metadata,
        purposes: submission.consent.purposes,
        delivery,
    };
    let decided_at = judged.verdict.decided_at;
    let decision = match is_accepted {
        true => Payload::Accepted { verdict: judged.verdict },
        false => Payload::Rejected { verdict: judged.verdict },
    };
    let events = [
        NewEvent::new(&subject, 0, submission.occurred_at, &registered)?,
        NewEvent::new(&subject, 1, decided_at, &decision)?.paying(reward, payee),
    ];
    event::insert(&mut tx, provider.account, &events).await?;
    update::catch_up(&mut tx, provider.account, BTreeSet::from([submission.data_id])).await?;
    if reward > 0 {
        budget::reserve(&mut tx, &app.chain, provider.account, submission.task_id, reward).await?;
    }
    tx.commit().await?;
    stages.end();
    match answered(app, provider, &submission, fingerprint).await? {
        Some(Answer::Again(submitted) | Answer::New(submitted)) => Ok(Answer::New(submitted)),
        None => Err(Problem::internal(anyhow::anyhow!("a record was made and is not found"))),
    }
}

impl Submission {
    /// Of what makes a retry the same; not of the consent, which a retry may have signed anew.
    fn fingerprint(&self, content_hash: ContentHash) -> B256 {
        let pay_to: &[u8] = match self.pay_to {
            PayTo::Points => b"points",
            PayTo::Wallet => b"wallet",
        };
        let mime = self.mime_type.to_ascii_lowercase();
        let length = |text: &str| (text.len() as u64).to_be_bytes();
        sha256(&[
            b"upload",
            content_hash.0.as_slice(),
            &self.task_id.to_be_bytes(),
            pay_to,
            &length(&mime),
            mime.as_bytes(),
            self.contributor.as_bytes(),
        ])
    }
}

async fn answered(
    app: &App,
    provider: &Provider,
    submission: &Submission,
    fingerprint: B256,
) -> Result<Option<Answer>, Problem> {
    let Some(kept) = record::kept(&app.db, provider.account, submission.data_id).await? else { return Ok(None) };
    if kept.fingerprint != fingerprint {
        let expected = format!(
            "the file, task, contributor, pay_to and MIME type that {:?} was sent with before (content {})",
            submission.source_record_id,
            kept.content_hash.prefixed()
        );
        let actual = format!("content {}", ContentHash::of(&submission.bytes).prefixed());
        return Err(Problem::field(Kind::RecordConflict, "meta.source_record_id", expected, actual));
    }
    Ok(Some(Answer::Again(Submitted::of(submission.data_id, &kept))))
}

/// Price of an open task of this provider; 0 for no task.
async fn price(app: &App, provider: &Provider, task_id: u64) -> Result<u128, Problem> {
    if task_id == 0 {
        return Ok(0);
    }
    let terms = app.chain.task_terms(task_id).await.map_err(|error| Problem::unavailable("the chain", error))?;
    let field = "meta.task_id";
    let Some(terms) = terms else {
        return Err(Problem::field(
            Kind::TaskUnknown,
            field,
            "a task in a final block of the chain",
            task_id.to_string(),
        ));
    };
    if terms.provider != provider.account {
        let (expected, actual) = (format!("a task of {}", provider.account), format!("one of {}", terms.provider));
        return Err(Problem::field(Kind::TaskUnknown, field, expected, actual));
    }
    let most = app.config.task_price_max;
    if terms.price > most {
        let expected = format!("a task that pays at most {most}");
        return Err(Problem::field(Kind::TaskUnknown, field, expected, terms.price.to_string()));
    }
    let now = unix_now();
    if now > terms.closes_at {
        let expected = "a task that is open";
        return Err(Problem::field(
            Kind::TaskClosed,
            field,
            expected,
            format!("closed at {} (Unix seconds)", terms.closes_at),
        ));
    }
    Ok(terms.price)
}

/// Encrypts under a fresh key, seals the key to the custodian, stores both.
async fn deliver(
    app: &App,
    provider: &Provider,
    consent_id: ConsentId,
    submission: &Submission,
) -> Result<Delivery, Problem> {
    let binding = Binding { provider: provider.account, data_id: submission.data_id, consent_id };
    let (bytes, data_id, custodian) = (submission.bytes.clone(), submission.data_id, app.custodian);
    let size_bytes = bytes.len() as u64;
    let (ciphertext, sealed) = off_thread(move || {
        let key = ContentKey::random()?;
        Ok((encrypt(&key, data_id, &bytes)?, seal_key(&custodian, binding, &key)?.encode()?))
    })
    .await?;
    let stored = async {
        let ciphertext_cid = app.store.put(&ciphertext).await?;
        let key_cid = app.store.put(&sealed).await?;
        Ok::<_, tidemark::store::StoreError>(Delivery { ciphertext_cid, key_cid, size_bytes })
    };
    stored.await.map_err(|error| Problem::unavailable("the content store", error))
}

/// CPU work on a whole file, away from the threads that answer requests.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(Problem::internal)?.map_err(Problem::internal)
}

/// trace-v1.0 metadata of an upload, out of what was measured.
fn metadata(submission: &Submission, content_hash: ContentHash, consent_id: B256, facts: &Facts) -> Value {
    let block = match submission.claim.media {
        Media::Voice => "audio",
        Media::Photo => "image",
        Media::Video => "video",
    };
    let originated_at = time::OffsetDateTime::from_unix_timestamp(i64::try_from(submission.occurred_at).unwrap_or(0))
        .ok()
        .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok());
    json!({
        "schema_version": "trace-v1.0",
        "file": {
            "content_sha256": content_hash.prefixed(),
            "mime_type": submission.mime_type,
            "media_category": submission.claim.media.category(),
            "size_bytes": submission.bytes.len(),
        },
        "file_specific": { block: facts },
        "asset": { "task_id": submission.task_id.to_string() },
        "contributor": { "consent": { "policy_hash": submission.consent.policy_hash, "consent_id": consent_id } },
        "timestamps": { "originated_at": originated_at },
        "provider_payload": { "source_record_id": submission.source_record_id },
    })
}
