//! What each service is told; the only place of the launcher that knows their flags.

use std::path::PathBuf;

use anyhow::{Context, Result};
use tidemark::sealing::SecretKey;

use crate::{
    keys::{dev_key, dev_secret, role},
    services::Wiring,
    stack::{Options, PROVIDER_NAME},
};

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
    /// The run's folder.
    pub folder: PathBuf,
}

impl Wires {
    fn shared(&self) -> Vec<(&'static str, String)> {
        vec![
            ("TIDEMARK_RPC_URL", self.rpc_url.clone()),
            ("TIDEMARK_DEPLOYMENT", self.deployment.clone()),
            ("TIDEMARK_STORE", self.store.clone()),
        ]
    }

    fn wiring(&self, name: &str, program: &'static str, port: u16, own: Vec<(&'static str, String)>) -> Wiring {
        let environment = [self.shared(), own].concat();
        Wiring { name: name.into(), program, port, arguments: vec!["serve".into()], environment }
    }
}

/// The provider's key for the write API.
pub fn api_key() -> String {
    dev_secret("relayer API key of numo")
}

/// The attestor.
pub fn attestor(wires: &Wires, database: String, port: u16) -> Wiring {
    let own = vec![
        ("TIDEMARK_ATTESTOR_DATABASE_URL", database),
        ("TIDEMARK_ATTESTOR_LISTEN", listen(port)),
        ("TIDEMARK_ATTESTOR_KEY", dev_key(role::ATTESTOR).to_string()),
        ("TIDEMARK_ATTESTOR_TOKEN", attestor_token()),
    ];
    wires.wiring("attestor", "tidemark-attestor", port, own)
}

/// The relayer.
pub fn relayer(wires: &Wires, database: String, port: u16, attestor_url: &str, options: &Options) -> Result<Wiring> {
    let custodian = custodian_key()?.public_key().to_string();
    let own = vec![
        ("TIDEMARK_RELAYER_DATABASE_URL", database),
        ("TIDEMARK_RELAYER_LISTEN", listen(port)),
        ("TIDEMARK_RELAYER_KEY", dev_key(role::RELAYER).to_string()),
        ("TIDEMARK_RELAYER_STORAGE_KEY", dev_secret("storage key of the relayer")),
        ("TIDEMARK_RELAYER_PROVIDERS", format!("{PROVIDER_NAME}={}", api_key())),
        ("TIDEMARK_ATTESTOR_URL", attestor_url.into()),
        ("TIDEMARK_ATTESTOR_TOKEN", attestor_token()),
        ("TIDEMARK_CUSTODIAN_PUBLIC_KEY", custodian),
        ("TIDEMARK_RELAYER_BATCH_EVENTS_MAX", options.batch_events_max.to_string()),
        ("TIDEMARK_RELAYER_BATCH_AGE_MS_MAX", options.batch_age_ms_max.to_string()),
    ];
    Ok(wires.wiring("relayer", "tidemark-relayer", port, own))
}

/// An indexer; `name` also names its log.
pub fn indexer(wires: &Wires, name: &str, database: String, port: u16) -> Wiring {
    let own = vec![
        ("TIDEMARK_INDEXER_DATABASE_URL", database),
        ("TIDEMARK_INDEXER_LISTEN", listen(port)),
        ("TIDEMARK_INDEXER_POLL_INTERVAL_MS", "200".into()),
    ];
    wires.wiring(name, "tidemark-indexer", port, own)
}

/// The custodian.
pub fn custodian(wires: &Wires, database: String, port: u16) -> Wiring {
    let own = vec![
        ("TIDEMARK_CUSTODIAN_DATABASE_URL", database),
        ("TIDEMARK_CUSTODIAN_LISTEN", listen(port)),
        ("TIDEMARK_CUSTODIAN_KEY", dev_secret(role::CUSTODIAN)),
    ];
    wires.wiring("custodian", "tidemark-custodian", port, own)
}

fn listen(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn attestor_token() -> String {
    dev_secret("attestor token")
}

fn custodian_key() -> Result<SecretKey> {
    SecretKey::from_hex(&dev_secret(role::CUSTODIAN)).context("the custodian's development key is no key")
}
