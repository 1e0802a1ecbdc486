//! What each service is told; the only place of the launcher that knows their flags.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use tidemark::sealing::SecretKey;

use crate::{
    keys::{dev_address, dev_secret, role},
    services::Wiring,
    stack::{Options, PROVIDER_NAME},
};

/// The development promotion that pays points out.
pub const PROMOTION_CODE: &str = "TIDEMARK-DEV";

/// What all services share.
#[derive(Clone, Debug)]
pub struct Wires {
    /// Node of the chain.
    pub rpc_url: String,
    /// Deployment file.
    pub deployment: String,
    /// Content store.
    pub store: String,
    /// Payout partner.
    pub partner_url: String,
    /// Folder of the key files.
    pub keys: PathBuf,
}

type Environment = Vec<(&'static str, String)>;

impl Wires {
    fn shared(&self) -> Environment {
        vec![
            ("TIDEMARK_RPC_URL", self.rpc_url.clone()),
            ("TIDEMARK_DEPLOYMENT", self.deployment.clone()),
            ("TIDEMARK_STORE", self.store.clone()),
        ]
    }

    fn wiring(&self, name: &str, program: &'static str, arguments: &[&str], port: u16, own: Environment) -> Wiring {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Wiring { name: name.into(), program, port, arguments, environment: [self.shared(), own].concat() }
    }

    fn key_file(&self, role: &str) -> String {
        key_file(&self.keys, role).display().to_string()
    }
}

/// Where [`write_keys`] puts a development key.
pub fn key_file(keys: &Path, role: &str) -> PathBuf {
    keys.join(format!("{}.key", role.replace(' ', "-")))
}

const STORAGE_KEY: &str = "relayer storage";
const ATTESTOR_TOKEN: &str = "attestor token";

/// Writes the key files of all roles, readable by their owner only.
pub fn write_keys(keys: &Path) -> Result<()> {
    fs::create_dir_all(keys).with_context(|| format!("failed to create {}", keys.display()))?;
    let roles = [
        role::DEPLOYER,
        role::PROVIDER,
        role::ATTESTOR,
        role::RELAYER,
        role::TREASURY_OPERATOR,
        role::CUSTODIAN,
        role::BUYER,
        STORAGE_KEY,
        ATTESTOR_TOKEN,
    ];
    for role in roles {
        let path = key_file(keys, role);
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        let mut file = file.with_context(|| format!("failed to create {}", path.display()))?;
        writeln!(file, "{}", dev_secret(role)).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

/// What the attestor wants to be told by its callers.
pub fn attestor_token() -> String {
    dev_secret(ATTESTOR_TOKEN)
}

/// What the indexer wants to be told by the provider that asks for payouts.
pub fn payout_token() -> String {
    dev_secret("payout token of numo")
}

/// The attestor.
pub fn attestor(wires: &Wires, database: String, port: u16) -> Wiring {
    let own = vec![
        ("DATABASE_URL", database),
        ("TIDEMARK_ATTESTOR_LISTEN", listen(port)),
        ("TIDEMARK_ATTESTOR_KEY_FILE", wires.key_file(role::ATTESTOR)),
        ("TIDEMARK_ATTESTOR_TOKEN", attestor_token()),
    ];
    wires.wiring("attestor", "tidemark-attestor", &[], port, own)
}

/// The relayer.
pub fn relayer(wires: &Wires, database: String, port: u16, attestor_url: &str, options: &Options) -> Result<Wiring> {
    let custodian = SecretKey::from_hex(&dev_secret(role::CUSTODIAN)).context("the custodian's development key")?;
    let own = vec![
        ("DATABASE_URL", database),
        ("TIDEMARK_RELAYER_LISTEN", listen(port)),
        ("TIDEMARK_SENDER_KEY_FILE", wires.key_file(role::RELAYER)),
        ("TIDEMARK_STORAGE_KEY_FILE", wires.key_file(STORAGE_KEY)),
        ("TIDEMARK_ATTESTOR_URL", attestor_url.into()),
        ("TIDEMARK_ATTESTOR_TOKEN", attestor_token()),
        ("TIDEMARK_CUSTODIAN_KEY", custodian.public_key().to_string()),
        ("TIDEMARK_BATCH_EVENTS_MAX", options.batch_events_max.to_string()),
        ("TIDEMARK_BATCH_AGE_MS_MAX", options.batch_age_ms_max.to_string()),
        ("TIDEMARK_BACKLOG_EVENTS_MAX", options.backlog_events_max.to_string()),
        ("TIDEMARK_POLL_MS", options.poll_ms.to_string()),
        // tests and benchmarks ask as fast as they can
        ("TIDEMARK_REQUESTS_PER_MINUTE", "0".into()),
        // one that was killed and starts again waits for its own lease
        ("TIDEMARK_LEASE_MS", "1500".into()),
        // receivers of the tests listen on this machine, and nobody waits for a day
        ("TIDEMARK_WEBHOOK_ALLOW_PRIVATE", "true".into()),
        ("TIDEMARK_WEBHOOK_RETRY_MS", "100".into()),
        ("TIDEMARK_WEBHOOK_ATTEMPTS_MAX", "4".into()),
    ];
    Ok(wires.wiring("relayer", "tidemark-relayer", &["serve"], port, own))
}

/// The command that lets the provider in and prints its API key.
pub fn relayer_add_provider(relayer: &Wiring) -> Result<Wiring> {
    let account = dev_address(role::PROVIDER)?.to_string();
    Ok(relayer_command(relayer, &["provider", "add", "--name", PROVIDER_NAME, "--account", &account]))
}

/// Another command of the relayer's program, in the relayer's environment.
pub fn relayer_command(relayer: &Wiring, arguments: &[&str]) -> Wiring {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    Wiring { name: "relayer-command".into(), arguments, ..relayer.clone() }
}

/// An indexer; `name` also names its log.
pub fn indexer(wires: &Wires, name: &str, database: String, port: u16, options: &Options) -> Result<Wiring> {
    let own = vec![
        ("TIDEMARK_INDEXER_DATABASE_URL", database),
        ("TIDEMARK_INDEXER_LISTEN", listen(port)),
        ("TIDEMARK_INDEXER_POLL_INTERVAL_MS", options.poll_ms.to_string()),
    ];
    Ok(wires.wiring(name, "tidemark-indexer", &["serve"], port, own))
}

/// What makes an indexer the one that pays points out; a stranger's indexer has none of it.
pub fn payouts(wires: &Wires, options: &Options) -> Result<Environment> {
    let token = hex::encode(Sha256::digest(payout_token().as_bytes()));
    Ok(vec![
        ("TIDEMARK_PAYOUT_RAIL_URL", wires.partner_url.clone()),
        ("TIDEMARK_PAYOUT_PROMOTION_CODE", PROMOTION_CODE.into()),
        ("TIDEMARK_PAYOUT_OPERATOR_KEY_FILE", wires.key_file(role::TREASURY_OPERATOR)),
        ("TIDEMARK_PAYOUT_SETTLEMENT", dev_address(role::PARTNER)?.to_string()),
        ("TIDEMARK_PAYOUT_PROVIDERS", format!("{PROVIDER_NAME}={token}")),
        ("TIDEMARK_PAYOUT_POLL_INTERVAL_MS", options.poll_ms.to_string()),
        ("TIDEMARK_PAYOUT_RAIL_TIMEOUT_MS", "2000".into()),
    ])
}

/// The custodian.
pub fn custodian(wires: &Wires, database: String, port: u16) -> Wiring {
    let own = vec![
        ("TIDEMARK_CUSTODIAN_DATABASE_URL", database),
        ("TIDEMARK_CUSTODIAN_LISTEN", listen(port)),
        ("TIDEMARK_CUSTODIAN_KEY_FILE", wires.key_file(role::CUSTODIAN)),
    ];
    wires.wiring("custodian", "tidemark-custodian", &["serve"], port, own)
}

fn listen(port: u16) -> String {
    format!("127.0.0.1:{port}")
}
