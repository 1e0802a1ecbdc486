//! A wallet that logs in at the indexer (EIP-4361), as a site of its users would have it.

use alloy::{
    primitives::hex,
    signers::{SignerSync, local::PrivateKeySigner},
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The domain that tests give the indexer as `--login-domain`.
pub const DOMAIN: &str = "app.example";

/// Asks for a nonce, signs, logs in; gives status and answer of whichever was the last.
pub async fn sign_in(indexer_url: &str, key: &PrivateKeySigner) -> Result<(u16, Value)> {
    let (status, nonce) = post(indexer_url, "/v1/login/nonce", &Value::Null).await?;
    if status != 200 {
        return Ok((status, nonce));
    }
    let message = format!(
        "{DOMAIN} wants you to sign in with your Ethereum account:\n{}\n\n\nURI: https://{DOMAIN}\nVersion: 1\n\
         Chain ID: {}\nNonce: {}\nIssued At: {}",
        key.address().to_checksum(None),
        nonce["chain_id"],
        nonce["nonce"].as_str().context("the answer has no nonce")?,
        OffsetDateTime::now_utc().format(&Rfc3339).context("failed to write a time")?
    );
    let signature = key.sign_message_sync(message.as_bytes()).context("failed to sign a login")?;
    let body = json!({ "message": message, "signature": hex::encode_prefixed(signature.as_bytes()) });
    post(indexer_url, "/v1/login", &body).await
}

async fn post(indexer_url: &str, path: &str, body: &Value) -> Result<(u16, Value)> {
    let request = reqwest::Client::new().post(format!("{indexer_url}{path}")).json(body);
    let answer = request.send().await.with_context(|| format!("failed to post to {path}"))?;
    let status = answer.status().as_u16();
    let text = answer.text().await.with_context(|| format!("failed to read the answer of {path}"))?;
    Ok((status, serde_json::from_str(&text).unwrap_or_default()))
}
