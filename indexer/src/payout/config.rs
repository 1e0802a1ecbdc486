//! What payouts need to be told, and what is wrong where half of it is missing.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use alloy::{
    primitives::{Address, B256},
    signers::local::PrivateKeySigner,
};
use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Flags of `serve` for payouts. The five without a default come together or not at all.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Where the payout partner takes grants; switches payouts on.
    #[arg(long, env = "TIDEMARK_PAYOUT_RAIL_URL", value_name = "URL")]
    pub payout_rail_url: Option<String>,
    /// File with the bearer token that the partner asks for; none by default.
    #[arg(long, env = "TIDEMARK_PAYOUT_RAIL_TOKEN_FILE", value_name = "FILE")]
    pub payout_rail_token_file: Option<PathBuf>,
    /// Milliseconds to wait for the partner's answer before its outcome counts as unknown.
    #[arg(long, env = "TIDEMARK_PAYOUT_RAIL_TIMEOUT_MS", default_value_t = 10_000, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(10..=120_000))]
    pub payout_rail_timeout_ms: u64,
    /// The partner's promotion that pays.
    #[arg(long, env = "TIDEMARK_PAYOUT_PROMOTION_CODE", value_name = "CODE")]
    pub payout_promotion_code: Option<String>,
    /// File with the private key (hex) of the points treasuries' operator, which redeems on chain and pays the gas.
    #[arg(long, env = "TIDEMARK_PAYOUT_OPERATOR_KEY_FILE", value_name = "FILE")]
    pub payout_operator_key_file: Option<PathBuf>,
    /// Account that receives the redeemed tokens: the partner's settlement account.
    #[arg(long, env = "TIDEMARK_PAYOUT_SETTLEMENT", value_name = "ADDRESS")]
    pub payout_settlement: Option<Address>,
    /// Who may ask for payouts: provider name and SHA-256 (hex) of its bearer token; several, comma-separated.
    #[arg(long, env = "TIDEMARK_PAYOUT_PROVIDERS", value_delimiter = ',', value_name = "NAME=SHA256")]
    pub payout_provider: Vec<ProviderToken>,
    /// Payment-token units in one point.
    #[arg(long, env = "TIDEMARK_PAYOUT_UNITS_PER_POINT", default_value_t = 1_000_000, value_name = "UNITS",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub payout_units_per_point: u64,
    /// Milliseconds between two looks at open payouts.
    #[arg(long, env = "TIDEMARK_PAYOUT_POLL_INTERVAL_MS", default_value_t = 2_000, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub payout_poll_interval_ms: u64,
}

/// A provider's name and the digest of its bearer token.
#[derive(Clone, PartialEq, Eq)]
pub struct ProviderToken {
    /// The provider's name on chain.
    pub name: String,
    /// SHA-256 of the token.
    pub digest: B256,
}

impl fmt::Debug for ProviderToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…", self.name)
    }
}

impl FromStr for ProviderToken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected NAME=<64 hex digits, the SHA-256 of the token>";
        let (name, digest) = text.trim().split_once('=').ok_or(expected)?;
        let digest = B256::from_str(digest).map_err(|_| expected)?;
        if name.is_empty() {
            return Err(expected.into());
        }
        Ok(Self { name: name.into(), digest })
    }
}

/// What payouts run with.
#[derive(Clone)]
pub struct Config {
    /// Where the partner takes grants.
    pub rail_url: reqwest::Url,
    /// Bearer token for the partner.
    pub rail_token: Option<String>,
    /// After which an answer is not waited for.
    pub rail_timeout: Duration,
    /// The partner's promotion.
    pub promotion_code: String,
    /// Key of the points treasuries' operator.
    pub operator: PrivateKeySigner,
    /// Receives the redeemed tokens.
    pub settlement: Address,
    /// SHA-256 of each provider's bearer token, by provider name.
    pub provider_tokens: BTreeMap<String, B256>,
    /// Payment-token units in one point.
    pub units_per_point: u64,
    /// Between two looks at open payouts; also the first wait after a failure.
    pub poll_interval: Duration,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("operator", &self.operator.address())
            .field("settlement", &self.settlement)
            .field("providers", &self.provider_tokens.keys())
            .finish_non_exhaustive()
    }
}

impl Config {
    /// The provider that a bearer token belongs to. Takes the same time whichever it is.
    pub fn provider_of(&self, token: &str) -> Option<&str> {
        let digest = Sha256::digest(token.as_bytes());
        let mut found = None;
        for (name, expected) in &self.provider_tokens {
            if bool::from(expected.as_slice().ct_eq(digest.as_slice())) {
                found = Some(name.as_str());
            }
        }
        found
    }
}

impl Args {
    /// `None` where no flag of payouts is given; an error that names what is missing where only some are.
    pub fn config(&self) -> anyhow::Result<Option<Config>> {
        let (Some(rail_url), Some(promotion_code), Some(key_file), Some(settlement), false) = (
            &self.payout_rail_url,
            &self.payout_promotion_code,
            &self.payout_operator_key_file,
            self.payout_settlement,
            self.payout_provider.is_empty(),
        ) else {
            return self.switched_off();
        };
        let url = reqwest::Url::parse(rail_url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let mut provider_tokens = BTreeMap::new();
        for provider in &self.payout_provider {
            if provider_tokens.insert(provider.name.clone(), provider.digest).is_some() {
                bail!("--payout-provider names {:?} twice; give each provider one token", provider.name);
            }
        }
        Ok(Some(Config {
            rail_url: url.context("--payout-rail-url: expected http(s)://…")?,
            rail_token: self.payout_rail_token_file.as_deref().map(read_secret).transpose()?,
            rail_timeout: Duration::from_millis(self.payout_rail_timeout_ms),
            promotion_code: promotion_code.clone(),
            operator: read_key(key_file)?,
            settlement,
            provider_tokens,
            units_per_point: self.payout_units_per_point,
            poll_interval: Duration::from_millis(self.payout_poll_interval_ms),
        }))
    }

    fn switched_off(&self) -> anyhow::Result<Option<Config>> {
        let given = [
            ("--payout-rail-url", self.payout_rail_url.is_some()),
            ("--payout-promotion-code", self.payout_promotion_code.is_some()),
            ("--payout-operator-key-file", self.payout_operator_key_file.is_some()),
            ("--payout-settlement", self.payout_settlement.is_some()),
            ("--payout-provider", !self.payout_provider.is_empty()),
        ];
        if given.iter().all(|(_, given)| !given) {
            return Ok(None);
        }
        let missing: Vec<&str> = given.iter().filter(|(_, given)| !given).map(|(flag, _)| *flag).collect();
        bail!("payouts are half configured: also give {}, or none of the payout flags", missing.join(", "))
    }
}

fn read_secret(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let text = text.trim();
    if text.is_empty() {
        bail!("{} is empty", path.display());
    }
    Ok(text.to_owned())
}

fn read_key(path: &Path) -> anyhow::Result<PrivateKeySigner> {
    // the parser's error may repeat what it read
    read_secret(path)?
        .parse()
        .map_err(|_| anyhow::anyhow!("{}: expected a private key as 64 hex digits", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    fn parse(arguments: &[&str]) -> Args {
        Program::parse_from([&["indexer"], arguments].concat()).args
    }

    #[test]
    fn payouts_are_on_with_all_flags_off_with_none_and_refused_with_some() {
        assert!(parse(&[]).config().unwrap().is_none());
        let error = parse(&["--payout-rail-url", "http://127.0.0.1:1"]).config().unwrap_err().to_string();
        assert!(error.contains("--payout-settlement") && !error.contains("--payout-rail-url"), "{error}");
    }

    #[test]
    fn a_token_names_its_provider_and_no_other() {
        let digest = hex::encode(Sha256::digest(b"secret"));
        let folder = std::env::temp_dir().join(format!("tidemark-payout-{}", std::process::id()));
        std::fs::write(&folder, "11".repeat(32)).unwrap();
        let config = parse(&[
            "--payout-rail-url=http://127.0.0.1:1",
            "--payout-promotion-code=P",
            "--payout-settlement=0x00000000000000000000000000000000000000aa",
            &format!("--payout-provider=numo={digest}"),
            &format!("--payout-operator-key-file={}", folder.display()),
        ])
        .config()
        .unwrap()
        .unwrap();
        std::fs::remove_file(folder).unwrap();
        assert_eq!(config.provider_of("secret"), Some("numo"));
        assert_eq!(config.provider_of("secret2"), None);
        assert!("numo".parse::<ProviderToken>().is_err() && "numo=12".parse::<ProviderToken>().is_err());
    }
}
