//! The attestor: a process of its own, with its own key and tables, that signs nothing it has not checked itself.
//!
//! ```text
//!  bytes, consent ─► sandbox: quality ─► verdicts ─► verdict, accepted content, seen consent
//!  header ─► batches: manifest re-read from the store, own verdicts, seen consents, hash chains, prices on chain ─► signature
//!  version ─► versions: members re-read from the store, own signed batches ─► signature
//! ```

pub mod api;
pub mod batches;
pub mod client;
pub mod sandbox;
pub mod verdicts;
pub mod versions;

use std::sync::Arc;

use alloy::{
    primitives::{Address, B256, Bytes},
    signers::{SignerSync, local::PrivateKeySigner},
};
use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgPool;
use tidemark::{
    chain::{Deployment, checked_reader},
    service::serve_until_stopped,
    store::Store,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::sandbox::Sandbox;
use crate::{app::open_database, chain::Chain, config, config::signer_file, http};

/// The attestor's tables.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations-attestor");

/// Header of the verdict question: the signed consent as JSON.
const CONSENT_HEADER: &str = "tidemark-consent";

/// What the attestor's handlers share.
pub struct Attestor {
    /// The attestor's database.
    pub db: PgPool,
    /// The chain, to read prices.
    pub chain: Chain,
    /// Where files are re-read from.
    pub store: Store,
    /// Judges files.
    pub sandbox: Sandbox,
    /// Bounds the files decoded at once.
    pub decodes: Arc<Semaphore>,
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    token: String,
    signer: PrivateKeySigner,
}

impl Attestor {
    /// Whose signatures these are.
    pub fn address(&self) -> Address {
        self.signer.address()
    }

    fn sign(&self, digest: B256) -> anyhow::Result<Bytes> {
        let signature = self.signer.sign_hash_sync(&digest).context("sign")?;
        Ok(signature.as_bytes().to_vec().into())
    }
}

/// Runs the attestor until SIGTERM or SIGINT.
pub async fn serve(config: config::Attestor) -> anyhow::Result<()> {
    let deployment = Deployment::load(&config.deployment)?;
    // what is counted before is lost
    let metrics = tidemark::service::metrics()?;
    let sandbox = Sandbox::this_program().await?;
    let provider = checked_reader(&config.rpc_url, &deployment).await?;
    let attestor = Arc::new(Attestor {
        db: open_database(&config.database_url, &MIGRATIONS).await?,
        chain: Chain::new(provider, deployment, config.finality_depth),
        store: Store::open(&config.store)?,
        sandbox,
        decodes: Arc::new(Semaphore::new(config.decodes_at_once as usize)),
        metrics,
        token: config.token,
        signer: signer_file(&config.key_file)?,
    });
    let listener = http::bind(config.listen).await?;
    tracing::info!(listen = %config.listen, attestor = %attestor.address(), "attestor starts");
    let router = http::dress(api::router(Arc::clone(&attestor)));
    let served = serve_until_stopped(listener, router, CancellationToken::new()).await;
    attestor.db.close().await;
    tracing::info!("attestor stops");
    served.context("serve HTTP")
}
