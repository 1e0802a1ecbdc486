//! Keys that sign transactions: in a file, or in a cloud's hardware behind the cargo features `aws-kms` and `gcp-kms`.

use std::{path::Path, time::Duration};

use alloy::{network::TxSigner, primitives::Signature};
use anyhow::{Context, bail};
use futures::FutureExt;

use crate::config::signer_file;

/// A hardware key is asked over the network.
pub const SIGNING_TIME_MAX: Duration = Duration::from_secs(10);

/// A key of any kind.
pub type Signer = Box<dyn TxSigner<Signature> + Send + Sync>;

/// The key in a file.
pub fn of_file(path: &Path) -> anyhow::Result<Signer> {
    Ok(Box::new(signer_file(path)?))
}

/// The key that `--sender` names: `aws-kms:KEY` or `gcp-kms:projects/…/cryptoKeyVersions/N`. Its public key is asked for now.
pub async fn of_name(name: &str) -> anyhow::Result<Signer> {
    // boxed as dyn: the clouds' futures nest deeper than the compiler looks
    let opened = match name.split_once(':') {
        Some(("aws-kms", key)) if !key.is_empty() => aws(key).boxed().await,
        Some(("gcp-kms", key)) => gcp(key).boxed().await,
        _ => bail!("--sender: expected aws-kms:KEY_ID or gcp-kms:projects/…/cryptoKeyVersions/N, got {name:?}"),
    };
    opened.with_context(|| format!("--sender {name}"))
}

#[cfg(feature = "aws-kms")]
async fn aws(key: &str) -> anyhow::Result<Signer> {
    use alloy::signers::aws::{AwsSigner, aws_sdk_kms};
    use aws_smithy_http_client::{Builder, tls};

    let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    let http = Builder::new().tls_provider(ring).build_https();
    // credentials and region as every AWS tool finds them
    let config = aws_config::defaults(aws_config::BehaviorVersion::latest()).http_client(http).load();
    let client = aws_sdk_kms::Client::new(&config.await);
    let signer = tokio::time::timeout(SIGNING_TIME_MAX, AwsSigner::new(client, key.to_owned(), None)).await;
    Ok(Box::new(signer.context("AWS KMS did not answer in time")?.context("ask AWS KMS for the public key")?))
}

#[cfg(not(feature = "aws-kms"))]
async fn aws(_: &str) -> anyhow::Result<Signer> {
    bail!("this relayer was built without the cargo feature aws-kms")
}

#[cfg(feature = "gcp-kms")]
async fn gcp(key: &str) -> anyhow::Result<Signer> {
    use alloy::signers::gcp::{
        GcpSigner,
        gcloud_sdk::{GoogleApi, google::cloud::kms::v1::key_management_service_client::KeyManagementServiceClient},
    };

    let client = GoogleApi::from_function(KeyManagementServiceClient::new, "https://cloudkms.googleapis.com", None);
    let signer = async { anyhow::Ok(GcpSigner::new(client.await?, gcp_key(key)?, None).await?) };
    let signer = tokio::time::timeout(SIGNING_TIME_MAX, signer).await;
    Ok(Box::new(
        signer.context("Google Cloud KMS did not answer in time")?.context("ask Google Cloud KMS for the key")?,
    ))
}

#[cfg(not(feature = "gcp-kms"))]
async fn gcp(_: &str) -> anyhow::Result<Signer> {
    bail!("this relayer was built without the cargo feature gcp-kms")
}

/// A key version by its resource name.
#[cfg(feature = "gcp-kms")]
fn gcp_key(name: &str) -> anyhow::Result<alloy::signers::gcp::KeySpecifier> {
    use alloy::signers::gcp::{GcpKeyRingRef, KeySpecifier};

    let expected = "projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY/cryptoKeyVersions/NUMBER";
    let parts: Vec<&str> = name.split('/').collect();
    let ["projects", project, "locations", location, "keyRings", ring, "cryptoKeys", key, "cryptoKeyVersions", version] =
        parts[..]
    else {
        bail!("expected {expected}, got {name:?}");
    };
    let version = version.parse().with_context(|| format!("expected {expected}, got {name:?}"))?;
    Ok(KeySpecifier::new(GcpKeyRingRef::new(project, location, ring), key, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refusal(name: &str) -> String {
        of_name(name).await.err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    #[tokio::test]
    async fn a_name_that_is_no_key_is_refused() {
        for name in ["", "aws-kms", "aws-kms:", "file:/key", "gcp-kms"] {
            assert!(refusal(name).await.starts_with("--sender: expected aws-kms:KEY_ID"), "{name}");
        }
    }

    #[cfg(not(any(feature = "aws-kms", feature = "gcp-kms")))]
    #[tokio::test]
    async fn a_build_without_the_features_says_so() {
        assert!(refusal("aws-kms:alias/tidemark").await.contains("without the cargo feature aws-kms"));
        assert!(refusal("gcp-kms:projects/p").await.contains("without the cargo feature gcp-kms"));
    }

    #[cfg(feature = "gcp-kms")]
    #[test]
    fn a_google_key_is_named_with_its_version() {
        assert!(gcp_key("projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1").is_ok());
        for name in ["", "projects/p", "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/x"] {
            assert!(gcp_key(name).is_err(), "{name}");
        }
    }
}
