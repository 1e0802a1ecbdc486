//! One delivery: signed as Standard Webhooks says (github.com/standard-webhooks), posted once, judged by its status.

use std::time::Duration;

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::redirect;
use sha2::Sha256;
use tidemark::service::causes;
use uuid::Uuid;

use super::address::{PublicOnly, check_url};

/// An endpoint that takes longer has not taken the message.
pub const TIME_MAX: Duration = Duration::from_secs(10);
const SECRET_PREFIX: &str = "whsec_";

/// Posts messages; to the public internet only, unless told otherwise.
pub struct Client {
    http: reqwest::Client,
    allow_private: bool,
}

/// What the endpoint made of a message.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// HTTP status, where there was one.
    pub status: Option<u16>,
    /// Why it was not taken; none where it was.
    pub error: Option<String>,
}

impl Client {
    /// A client that follows no redirect, uses no proxy, and with `allow_private` also reaches addresses of the inside.
    pub fn new(allow_private: bool) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(TIME_MAX)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(1)
            .user_agent(concat!("tidemark-relayer/", env!("CARGO_PKG_VERSION")));
        let client = if allow_private { client } else { client.https_only(true).dns_resolver(PublicOnly) };
        Ok(Self { http: client.build().context("make an HTTP client for webhooks")?, allow_private })
    }

    /// Posts a body, signed with each of the secrets. The answer's body is not read at all.
    pub async fn post(&self, url: &str, message: Uuid, at: u64, body: &str, secrets: &[impl AsRef<[u8]>]) -> Outcome {
        // checked again: it may have been set under other rules
        let url = match check_url(url, self.allow_private) {
            Ok(url) => url,
            Err(error) => return Outcome { status: None, error: Some(error.to_string()) },
        };
        let id = message_name(message);
        let signed = secrets.iter().map(|secret| signature(secret.as_ref(), &id, at, body));
        let signatures = match signed.collect::<anyhow::Result<Vec<String>>>() {
            Ok(signatures) => signatures.join(" "),
            Err(error) => return Outcome { status: None, error: Some(error.to_string()) },
        };
        let request = self
            .http
            .post(url)
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", at.to_string())
            .header("webhook-signature", signatures)
            .body(body.to_owned());
        match request.send().await {
            Ok(answer) if answer.status().is_success() => {
                Outcome { status: Some(answer.status().as_u16()), error: None }
            }
            Ok(answer) => {
                let error = format!("expected a status from 200 to 299, got {}", answer.status());
                Outcome { status: Some(answer.status().as_u16()), error: Some(error) }
            }
            // the URL may hold what only its owner should know
            Err(error) => Outcome { status: None, error: Some(causes(&error.without_url())) },
        }
    }
}

/// What the receiver knows a message by, to drop the second of two.
pub fn message_name(message: Uuid) -> String {
    format!("msg_{}", message.simple())
}

/// A secret as its owner gets to see it.
pub fn shown(secret: &[u8; 32]) -> String {
    format!("{SECRET_PREFIX}{}", STANDARD.encode(secret))
}

/// `v1,` and the Base64 of HMAC-SHA-256 over `id.timestamp.body`.
fn signature(secret: &[u8], id: &str, at: u64, body: &str) -> anyhow::Result<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).context("sign a webhook")?;
    mac.update(format!("{id}.{at}.{body}").as_bytes());
    Ok(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_signed_as_the_standard_s_own_example() {
        // the vector of the Standard Webhooks libraries
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed =
            signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#).unwrap();
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert!(shown(&[7; 32]).starts_with("whsec_"));
    }

    #[tokio::test]
    async fn nothing_inside_is_posted_to_unless_allowed() {
        tidemark::install_tls();
        let client = Client::new(false).unwrap();
        for url in ["http://127.0.0.1:9/", "https://127.0.0.1:9/", "https://localhost:9/"] {
            let outcome = client.post(url, Uuid::nil(), 1, "{}", &[[7u8; 32]]).await;
            let error = outcome.error.unwrap();
            assert!(
                outcome.status.is_none() && (error.contains("public") || error.contains("https")),
                "{url}: {error}"
            );
        }
    }
}
