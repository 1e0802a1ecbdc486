//! The relayer's side of the attestor's API; what comes back is checked like a stranger's word.

use std::time::Duration;

use alloy::{
    primitives::{Address, Bytes},
    sol_types::Eip712Domain,
};
use anyhow::Context;
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use tidemark::{batch::Header, ids::ContentHash};

use super::CONSENT_HEADER;
use crate::{
    intake::submit::{Judged, Submission},
    problem::{Kind, Problem},
};

/// Decoding a minute of film takes a while on a busy machine.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(90);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Asks the attestor.
pub struct AttestorClient {
    client: reqwest::Client,
    url: reqwest::Url,
    token: String,
    domain: Eip712Domain,
}

#[derive(Serialize)]
struct BatchQuestion<'a> {
    header: &'a Header,
}

#[derive(Deserialize)]
struct KeyAnswer {
    attestor: Address,
}

#[derive(Deserialize)]
struct SignatureAnswer {
    signature: Bytes,
}

impl AttestorClient {
    /// A client of one attestor.
    pub fn new(url: &str, token: &str, domain: Eip712Domain) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(TIME_MAX)
            .connect_timeout(CONNECT_TIME_MAX)
            .build()
            .context("make an HTTP client")?;
        let url =
            format!("{}/", url.trim_end_matches('/')).parse().context("--attestor-url: expected http://host:port")?;
        Ok(Self { client, url, token: token.to_owned(), domain })
    }

    /// Whether it answers.
    pub async fn is_ready(&self) -> bool {
        let asked = self.url.join("ready").map(|url| self.client.get(url).timeout(CONNECT_TIME_MAX).send());
        let Ok(asked) = asked else { return false };
        asked.await.is_ok_and(|answer| answer.status().is_success())
    }

    /// Whether it takes our token: an empty question is refused either way, and how tells it.
    pub async fn takes_token(&self) -> anyhow::Result<bool> {
        let asked = self.client.post(self.url.join("v1/batches")?).bearer_auth(&self.token).timeout(CONNECT_TIME_MAX);
        let answer = asked.send().await.map_err(reqwest::Error::without_url).context("ask the attestor")?;
        match answer.status() {
            StatusCode::BAD_REQUEST => Ok(true),
            StatusCode::UNAUTHORIZED => Ok(false),
            other => anyhow::bail!("the attestor answers {other} to an empty question"),
        }
    }

    /// Whose signatures it makes.
    pub async fn address(&self) -> anyhow::Result<Address> {
        let asked = self.client.get(self.url.join("v1/key")?).timeout(CONNECT_TIME_MAX);
        let answer = asked.send().await.map_err(reqwest::Error::without_url).context("ask the attestor for its key")?;
        let (status, body) = read(answer).await?;
        anyhow::ensure!(status.is_success(), "the attestor answers {status}");
        let KeyAnswer { attestor } = serde_json::from_slice(&body).context("read the attestor's key")?;
        Ok(attestor)
    }

    /// Has a submission judged. The bytes go over the wire and stay nowhere.
    pub async fn judge(&self, submission: &Submission, content_hash: ContentHash) -> Result<Judged, Problem> {
        let unavailable = |error: anyhow::Error| Problem::unavailable("the attestor", error);
        let mut url = self.url.join("v1/verdicts").map_err(Problem::internal)?;
        url.query_pairs_mut()
            .append_pair("data_id", &submission.data_id.to_string())
            .append_pair("mime_type", &submission.mime_type);
        let consent = serde_json::to_string(&submission.consent).map_err(Problem::internal)?;
        let answer = self
            .client
            .post(url)
            .bearer_auth(&self.token)
            .header(CONSENT_HEADER, consent)
            .body(submission.bytes.clone())
            .send()
            .await
            .map_err(|error| unavailable(error.without_url().into()))?;
        let (status, body) = read(answer).await.map_err(unavailable)?;
        if status == StatusCode::CONFLICT {
            let (expected, actual) = ("the file that was judged before under this id", content_hash.prefixed());
            return Err(Problem::field(Kind::RecordConflict, "meta.source_record_id", expected, actual));
        }
        if !status.is_success() {
            return Err(unavailable(anyhow::anyhow!("the attestor answers {status}: {}", shown(&body))));
        }
        let judged: Judged = serde_json::from_slice(&body).map_err(|error| unavailable(error.into()))?;
        let verdict = &judged.verdict;
        verdict.check(&self.domain).map_err(|error| unavailable(error.into()))?;
        if verdict.data_id != submission.data_id || verdict.content_hash != content_hash {
            return Err(unavailable(anyhow::anyhow!(
                "the verdict is of {} with content {}",
                verdict.data_id,
                verdict.content_hash
            )));
        }
        Ok(judged)
    }

    /// Has a batch header signed.
    pub async fn sign_batch(&self, header: &Header) -> anyhow::Result<Bytes> {
        let answer = self
            .client
            .post(self.url.join("v1/batches")?)
            .bearer_auth(&self.token)
            .json(&BatchQuestion { header })
            .send()
            .await
            .map_err(|error| anyhow::Error::from(error.without_url()).context("ask the attestor to sign a batch"))?;
        let (status, body) = read(answer).await?;
        anyhow::ensure!(status.is_success(), "the attestor refuses the batch: {status}: {}", shown(&body));
        let SignatureAnswer { signature } = serde_json::from_slice(&body).context("read the attestor's signature")?;
        Ok(signature)
    }
}

async fn read(answer: reqwest::Response) -> anyhow::Result<(StatusCode, Vec<u8>)> {
    use futures::TryStreamExt;
    let status = answer.status();
    let mut stream = answer.bytes_stream();
    let mut body = Vec::new();
    while let Some(chunk) = stream.try_next().await.context("read the attestor's answer")? {
        body.extend_from_slice(&chunk);
        anyhow::ensure!(
            body.len() <= ANSWER_BYTES_MAX,
            "the attestor's answer is longer than {ANSWER_BYTES_MAX} bytes"
        );
    }
    Ok((status, body))
}

fn shown(body: &[u8]) -> String {
    let problem: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let detail = problem.as_ref().and_then(|problem| problem.get("detail")).and_then(|detail| detail.as_str());
    detail.map_or_else(
        || String::from_utf8_lossy(body).chars().take(200).collect(),
        |detail| detail.chars().take(500).collect(),
    )
}
