//! Providers: who was let in, and how far their own words about their metadata count.

use std::str::FromStr;

use alloy::primitives::Address;
use anyhow::{bail, ensure};
use clap::ValueEnum;
use reqwest::Url;
use sqlx::{PgPool, Row};

use super::{
    Provider,
    key::{self, NewKey, Scope},
};
use crate::{chain::Chain, outbox::address::is_public};

const KEY_URL_BYTES_MAX: usize = 2048;

/// Who asks, by an API key.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Whom the key was issued to.
    pub provider: Provider,
    /// How the provider's metadata is checked.
    pub settings: Settings,
    /// What the key may do.
    pub scopes: Vec<Scope>,
}

/// How a provider's metadata is checked, beyond what holds for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its signatures under metadata.
    pub attestation: Attestations,
    /// Where its keys are published; there where attestations or signed requests are looked at.
    pub key_url: Option<String>,
    /// Whether its requests have to be signed.
    pub signed_requests: bool,
    /// The policies that its metadata names.
    pub policies: Policies,
}

/// What is done with `attestation` in metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attestations {
    /// Not looked at.
    None,
    /// Checked, and the finding kept.
    Record,
    /// Checked; metadata without a valid one is refused.
    Enforce,
}

/// What is done with `contributor.consent.{tos_hash,privacy_policy_hash}` in metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Policies {
    /// Compared with the policies that the provider registered, and the finding kept.
    Record,
    /// The same; one that was never registered is refused.
    Enforce,
}

impl Attestations {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Record => "record",
            Self::Enforce => "enforce",
        }
    }
}

impl Policies {
    fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Enforce => "enforce",
        }
    }
}

impl FromStr for Attestations {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        <Self as ValueEnum>::from_str(text, false).map_err(anyhow::Error::msg)
    }
}

impl FromStr for Policies {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        <Self as ValueEnum>::from_str(text, false).map_err(anyhow::Error::msg)
    }
}

/// Whether a provider of this name was let in.
pub async fn is_known(db: &PgPool, name: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM provider WHERE name = $1)").bind(name).fetch_one(db).await
}

/// The account of a provider that was let in.
pub async fn account_of(db: &PgPool, name: &str) -> anyhow::Result<Address> {
    let found: Option<[u8; 20]> =
        sqlx::query_scalar("SELECT account FROM provider WHERE name = $1").bind(name).fetch_optional(db).await?;
    match found {
        Some(account) => Ok(Address::from(account)),
        None => bail!("provider {name:?}: expected one that was let in with `provider add`"),
    }
}

/// Every provider that was let in, by name.
pub async fn all(db: &PgPool) -> sqlx::Result<Vec<Provider>> {
    let rows = sqlx::query("SELECT account, name FROM provider ORDER BY name").fetch_all(db).await?;
    rows.iter()
        .map(|row| Ok(Provider { account: Address::from(row.try_get::<[u8; 20], _>(0)?), name: row.try_get(1)? }))
        .collect()
}

/// Lets a provider in that the chain knows under this name and account, and issues an API key.
pub async fn add(db: &PgPool, chain: &Chain, name: &str, account: Address) -> anyhow::Result<String> {
    let holder = chain.provider_named(name).await?;
    ensure!(
        holder == Some(account),
        "provider {name}: expected the chain to name {account}, got {}; register it with ProvenanceLog.registerProvider first",
        holder.map_or("nobody".into(), |holder| holder.to_string())
    );
    let Some(on_chain) = chain.provider_of(account).await? else {
        anyhow::bail!("provider {account}: not registered on chain");
    };
    let mut tx = db.begin().await?;
    sqlx::query("INSERT INTO provider (account, name) VALUES ($1, $2) ON CONFLICT (account) DO NOTHING")
        .bind(account.0.0)
        .bind(name)
        .execute(&mut *tx)
        .await?;
    crate::batch::start_lane(&mut tx, account, on_chain.nextBatch).await?;
    let key = key::issue(&mut tx, account, &NewKey::unlimited()).await?;
    tx.commit().await?;
    Ok(key)
}

/// New settings, where they are given.
#[derive(Clone, Debug)]
pub struct Change {
    /// See [`Settings`].
    pub attestation: Option<Attestations>,
    /// See [`Settings`].
    pub key_url: Option<String>,
    /// See [`Settings`].
    pub policies: Option<Policies>,
    /// See [`Settings`].
    pub signed_requests: Option<bool>,
}

/// Changes what is given and leaves the rest; tells what holds from now on.
pub async fn set(db: &PgPool, name: &str, change: &Change) -> anyhow::Result<String> {
    let Change { attestation, key_url, policies, signed_requests } = change;
    let key_url = key_url.as_deref();
    if let Some(url) = key_url {
        check_key_url(url)?;
    }
    let account = account_of(db, name).await?;
    let mut tx = db.begin().await?;
    let before: Option<String> =
        sqlx::query_scalar("SELECT key_url FROM provider WHERE account = $1 FOR NO KEY UPDATE")
            .bind(account.0.0)
            .fetch_one(&mut *tx)
            .await?;
    let needs_keys =
        matches!(attestation, Some(Attestations::Record | Attestations::Enforce)) || *signed_requests == Some(true);
    ensure!(
        !needs_keys || key_url.or(before.as_deref()).is_some(),
        "--attestation, --signed-requests: expected --key-url with them, where the provider publishes its keys"
    );
    let now: String = sqlx::query_scalar(
        "UPDATE provider SET attestation = coalesce($2, attestation), key_url = coalesce($3, key_url),
                             policies = coalesce($4, policies), signed_requests = coalesce($5, signed_requests)
         WHERE account = $1
         RETURNING concat('attestation ', attestation, coalesce(' by ' || key_url, ''), ', policies ', policies,
                          CASE WHEN signed_requests THEN ', signed requests' END)",
    )
    .bind(account.0.0)
    .bind(attestation.map(Attestations::name))
    .bind(key_url)
    .bind(policies.map(Policies::name))
    .bind(*signed_requests)
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(now)
}

/// HTTPS, or plain HTTP to this machine for development; without credentials, which would end up in public metadata.
fn check_key_url(text: &str) -> anyhow::Result<()> {
    let expected =
        "expected an https address with a host of the public internet (development: http://127.0.0.1 or http://[::1])";
    ensure!(text.len() <= KEY_URL_BYTES_MAX, "--key-url: expected at most {KEY_URL_BYTES_MAX} bytes");
    let url = Url::parse(text).map_err(|error| anyhow::anyhow!("--key-url: {expected}, got {text:?}: {error}"))?;
    let is_loopback = matches!(url.host_str(), Some("127.0.0.1" | "[::1]"));
    let is_allowed = url.scheme() == "https" || (url.scheme() == "http" && is_loopback);
    // a literal address is never looked up, so it is checked here; a name where it is resolved
    let literal = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse().ok());
    let is_inside = !is_loopback && literal.is_some_and(|address| !is_public(address));
    ensure!(is_allowed && url.host_str().is_some() && !is_inside, "--key-url: {expected}, got {text:?}");
    let is_plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    ensure!(is_plain, "--key-url: expected no user, password or #fragment");
    ensure!(url.as_str() == text, "--key-url: expected the address in its normal form, {url}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_https_or_from_this_machine() {
        for good in ["https://numo.example/.well-known/keys.json", "http://127.0.0.1:99/k", "http://[::1]/k"] {
            assert!(check_key_url(good).is_ok(), "{good}");
        }
        for bad in [
            "http://numo.example/keys",
            "http://169.254.169.254/latest",
            "https://10.0.0.1/keys",
            "http://localhost:1/",
            "http://127.0.0.1.nip.io/",
            "ftp://a/b",
            "keys.json",
            "https://user@a.example/",
            "https://user:pass@a.example/",
            "https://a.example/#k",
            "https://A.example/",
            "file:///etc/k",
            "https://a.example",
        ] {
            assert!(check_key_url(bad).is_err(), "{bad}");
        }
    }
}
