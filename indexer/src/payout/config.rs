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

use super::{
    bank::BankConfig,
    pain::{self, Debtor},
    rails::RailName,
    token::TokenConfig,
};

/// Flags of `serve` for payouts: operator's key, settlement account, providers and at least one rail, or none of them. A rail
/// is a partner (URL and promotion code), a bank (folder, name, IBAN and currency) or a token (address and key).
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Where the payout partner takes grants; switches that rail on.
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
    /// ISO 4217 code of what the partner pays, by the rates that are set; left out, it pays points.
    #[arg(long, env = "TIDEMARK_PAYOUT_PARTNER_CURRENCY", value_name = "CODE")]
    pub payout_partner_currency: Option<String>,
    /// Folder shared with the bank's gateway (ready, outgoing, reports; one file system): pain.001 files go out there, pain.002
    /// reports come in; switches that rail on.
    #[arg(long, env = "TIDEMARK_PAYOUT_BANK_FOLDER", value_name = "FOLDER")]
    pub payout_bank_folder: Option<PathBuf>,
    /// Name of the account that the bank pays from, in the letters of SEPA.
    #[arg(long, env = "TIDEMARK_PAYOUT_BANK_NAME", value_name = "NAME")]
    pub payout_bank_name: Option<String>,
    /// IBAN of that account, without spaces.
    #[arg(long, env = "TIDEMARK_PAYOUT_BANK_IBAN", value_name = "IBAN")]
    pub payout_bank_iban: Option<String>,
    /// BIC of that bank, where it wants to read it.
    #[arg(long, env = "TIDEMARK_PAYOUT_BANK_BIC", value_name = "BIC")]
    pub payout_bank_bic: Option<String>,
    /// ISO 4217 code of what the bank pays, by the rates that are set.
    #[arg(long, env = "TIDEMARK_PAYOUT_BANK_CURRENCY", value_name = "CODE")]
    pub payout_bank_currency: Option<String>,
    /// Address of an ERC-20 token to pay in, by the rates that are set; switches that rail on.
    #[arg(long, env = "TIDEMARK_PAYOUT_TOKEN", value_name = "ADDRESS")]
    pub payout_token: Option<Address>,
    /// File with the private key (hex) that holds these tokens and pays the gas; of no other use.
    #[arg(long, env = "TIDEMARK_PAYOUT_TOKEN_KEY_FILE", value_name = "FILE")]
    pub payout_token_key_file: Option<PathBuf>,
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

/// A partner over HTTP.
#[derive(Clone)]
pub struct PartnerConfig {
    /// Where it takes grants.
    pub url: reqwest::Url,
    /// Bearer token for it.
    pub token: Option<String>,
    /// After which an answer is not waited for.
    pub timeout: Duration,
    /// Its promotion that pays.
    pub promotion_code: String,
    /// What it pays where that is not points.
    pub currency: Option<String>,
}

/// What payouts run with.
#[derive(Clone)]
pub struct Config {
    /// Pays points.
    pub partner: Option<PartnerConfig>,
    /// Pays by files.
    pub bank: Option<BankConfig>,
    /// Pays on the chain.
    pub token: Option<TokenConfig>,
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
    /// Rails that are on.
    pub fn rails(&self) -> Vec<RailName> {
        let on = [
            (RailName::Partner, self.partner.is_some()),
            (RailName::Bank, self.bank.is_some()),
            (RailName::Token, self.token.is_some()),
        ];
        on.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect()
    }

    /// What a rail pays; none where that is points.
    pub fn currency(&self, rail: RailName) -> Option<String> {
        match rail {
            RailName::Partner => self.partner.as_ref()?.currency.clone(),
            RailName::Bank => Some(self.bank.as_ref()?.currency.clone()),
            RailName::Token => Some(self.token.as_ref()?.currency()),
        }
    }

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
        let (partner, bank, token) = (self.partner()?, self.bank()?, self.token()?);
        let common = [
            ("--payout-operator-key-file", self.payout_operator_key_file.is_some()),
            ("--payout-settlement", self.payout_settlement.is_some()),
            ("--payout-provider", !self.payout_provider.is_empty()),
            (
                "--payout-rail-url, --payout-bank-folder or --payout-token",
                partner.is_some() || bank.is_some() || token.is_some(),
            ),
        ];
        if !is_whole("payouts", &common)? {
            return Ok(None);
        }
        let (Some(key_file), Some(settlement)) = (&self.payout_operator_key_file, self.payout_settlement) else {
            return Ok(None);
        };
        let mut provider_tokens = BTreeMap::new();
        for provider in &self.payout_provider {
            if provider_tokens.insert(provider.name.clone(), provider.digest).is_some() {
                bail!("--payout-provider names {:?} twice; give each provider one token", provider.name);
            }
        }
        let operator = read_key(key_file)?;
        if token.as_ref().is_some_and(|token| token.signer.address() == operator.address()) {
            bail!(
                "--payout-token-key-file: expected another key than the operator's, which uses its nonces for redemptions"
            );
        }
        Ok(Some(Config {
            partner,
            bank,
            token,
            operator,
            settlement,
            provider_tokens,
            units_per_point: self.payout_units_per_point,
            poll_interval: Duration::from_millis(self.payout_poll_interval_ms),
        }))
    }

    fn partner(&self) -> anyhow::Result<Option<PartnerConfig>> {
        let flags = [
            ("--payout-rail-url", self.payout_rail_url.is_some()),
            ("--payout-promotion-code", self.payout_promotion_code.is_some()),
        ];
        is_whole("the partner's rail", &flags)?;
        let (Some(url), Some(promotion_code)) = (&self.payout_rail_url, &self.payout_promotion_code) else {
            return Ok(None);
        };
        let url = reqwest::Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        Ok(Some(PartnerConfig {
            url: url.context("--payout-rail-url: expected http(s)://…")?,
            token: self.payout_rail_token_file.as_deref().map(read_secret).transpose()?,
            timeout: Duration::from_millis(self.payout_rail_timeout_ms),
            promotion_code: promotion_code.clone(),
            currency: match &self.payout_partner_currency {
                Some(code) => Some(read_currency("--payout-partner-currency", code)?),
                None => None,
            },
        }))
    }

    fn bank(&self) -> anyhow::Result<Option<BankConfig>> {
        let flags = [
            ("--payout-bank-folder", self.payout_bank_folder.is_some()),
            ("--payout-bank-name", self.payout_bank_name.is_some()),
            ("--payout-bank-iban", self.payout_bank_iban.is_some()),
            ("--payout-bank-currency", self.payout_bank_currency.is_some()),
        ];
        is_whole("the bank's rail", &flags)?;
        let (Some(folder), Some(name), Some(iban), Some(currency)) =
            (&self.payout_bank_folder, &self.payout_bank_name, &self.payout_bank_iban, &self.payout_bank_currency)
        else {
            return Ok(None);
        };
        if !pain::is_name(name) {
            bail!(
                "--payout-bank-name {name:?}: expected 1 to 70 of a-z A-Z 0-9 / - ? : ( ) . , ' + and spaces between them"
            );
        }
        if let Some(bic) = self.payout_bank_bic.as_ref().filter(|bic| !pain::is_bic(bic)) {
            bail!("--payout-bank-bic {bic:?}: expected a BIC of 8 or 11 characters");
        }
        let iban = pain::read_iban(iban).context("--payout-bank-iban: expected an IBAN without spaces")?;
        Ok(Some(BankConfig {
            folder: folder.clone(),
            debtor: Debtor { name: name.clone(), iban, bic: self.payout_bank_bic.clone() },
            currency: read_currency("--payout-bank-currency", currency)?,
        }))
    }

    fn token(&self) -> anyhow::Result<Option<TokenConfig>> {
        let flags = [
            ("--payout-token", self.payout_token.is_some()),
            ("--payout-token-key-file", self.payout_token_key_file.is_some()),
        ];
        is_whole("the token's rail", &flags)?;
        let (Some(token), Some(key_file)) = (self.payout_token, &self.payout_token_key_file) else { return Ok(None) };
        Ok(Some(TokenConfig { token, signer: read_key(key_file)? }))
    }
}

/// Whether all of these are given, or none; an error that names what is missing where only some are.
fn is_whole(what: &str, flags: &[(&str, bool)]) -> anyhow::Result<bool> {
    let missing: Vec<&str> = flags.iter().filter(|(_, given)| !given).map(|(flag, _)| *flag).collect();
    if missing.is_empty() || missing.len() == flags.len() {
        return Ok(missing.is_empty());
    }
    bail!("{what} is half configured: also give {}, or none of these flags", missing.join(", "))
}

/// A currency that has amounts.
pub(super) fn read_currency(flag: &str, code: &str) -> anyhow::Result<String> {
    match pain::decimals(code) {
        Some(_) => Ok(code.to_owned()),
        None => bail!("{flag} {code:?}: expected an ISO 4217 code such as EUR or KRW"),
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
        assert!(error.contains("--payout-promotion-code") && !error.contains("--payout-rail-url"), "{error}");
        let whole = ["--payout-rail-url", "http://127.0.0.1:1", "--payout-promotion-code", "P"];
        let error = parse(&whole).config().unwrap_err().to_string();
        assert!(error.contains("--payout-settlement") && !error.contains("--payout-rail-url"), "{error}");
    }

    #[test]
    fn a_bank_has_an_account_that_can_be_and_a_currency_that_is() {
        let bank = |name: &str, iban: &str, currency: &str| {
            let flags = [
                "--payout-bank-folder=/tmp/none".to_owned(),
                format!("--payout-bank-name={name}"),
                format!("--payout-bank-iban={iban}"),
                format!("--payout-bank-currency={currency}"),
            ];
            parse(&flags.each_ref().map(String::as_str)).bank().map(Option::unwrap)
        };
        assert_eq!(bank("Numo Ltd.", "DE89370400440532013000", "EUR").unwrap().currency, "EUR");
        for (name, iban, currency, flag) in [
            ("N\u{fc}mo", "DE89370400440532013000", "EUR", "--payout-bank-name"),
            ("Numo", "DE88370400440532013000", "EUR", "--payout-bank-iban"),
            ("Numo", "DE89 3704 0044 0532 0130 00", "EUR", "--payout-bank-iban"),
            ("Numo", "DE89370400440532013000", "EUX", "--payout-bank-currency"),
            ("Numo", "DE89370400440532013000", "XAU", "--payout-bank-currency"),
        ] {
            assert!(bank(name, iban, currency).unwrap_err().to_string().contains(flag), "{flag}");
        }
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
