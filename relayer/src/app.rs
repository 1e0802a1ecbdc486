//! The running relayer: everything that handlers and loops share, and the start of both.

use std::{sync::Arc, time::Duration};

use alloy::providers::DynProvider;
use anyhow::{Context, ensure};
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgPool;
use tidemark::{
    chain::Deployment,
    nodes::{self, Nodes},
    sealing::PublicKey,
    service::{pool_options, serve_until_stopped},
    store::Store,
};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    anchor::Sender,
    api::gate::Rates,
    attestor::client::AttestorClient,
    backlog::Backlog,
    chain::Chain,
    config::Serve,
    http,
    intake::{attestation::Keys, contents::Trees},
    lease::Leases,
    signer,
    storage_key::StorageKey,
};

/// Keys that may be given.
const SENDERS_MAX: usize = 16;

/// What the relayer's handlers and loops share.
pub struct App {
    /// The relayer's database.
    pub db: PgPool,
    /// Nodes of the chain.
    pub nodes: Nodes,
    /// The chain, to read.
    pub chain: Chain,
    /// The chain, to write: a lane a key.
    pub senders: Vec<Sender>,
    /// What this process may work at, of several on one database.
    pub leases: Leases,
    /// Where files go.
    pub store: Store,
    /// Who judges and signs.
    pub attestor: AttestorClient,
    /// Content keys are sealed to it.
    pub custodian: PublicKey,
    /// Contributors' secrets are sealed under it.
    pub storage_key: StorageKey,
    /// For inclusion proofs.
    pub trees: Trees,
    /// Bounds what waits for the chain.
    pub backlog: Backlog,
    /// Bounds the large bodies in memory.
    pub bodies: Arc<Semaphore>,
    /// Providers' keys, which sign metadata.
    pub keys: Keys,
    /// Bounds each provider's requests, where they are bounded.
    pub rates: Option<Rates>,
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    /// Thresholds and intervals.
    pub config: Serve,
}

/// Connections that a process takes of its database at most.
pub const CONNECTIONS_MAX: u32 = 16;

/// Opens a database and brings its tables up to date.
pub async fn open_database(url: &str, migrator: &sqlx::migrate::Migrator) -> anyhow::Result<PgPool> {
    let db = pool_options()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(Duration::from_secs(10))
        .connect(url)
        .await
        .context("connect to Postgres; is it running, and is DATABASE_URL right?")?;
    migrator.run(&db).await.context("bring the tables up to date")?;
    Ok(db)
}

/// The relayer's tables.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Runs the relayer until SIGTERM or SIGINT.
pub async fn serve(config: Serve) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let deployment = Deployment::load(&config.base.deployment)?;
    // installed first: breakers have gauges
    let metrics = tidemark::service::metrics()?;
    let (provider, nodes) = nodes::connect(&config.base.rpc_urls, &deployment).await?;
    let db = open_database(&config.base.database_url, &MIGRATIONS).await?;
    let app = Arc::new(App {
        senders: senders(&config, &provider, deployment.chain_id).await?,
        leases: Leases::new(db.clone(), Duration::from_millis(config.lease_ms))?,
        chain: Chain::new(provider, deployment.clone(), config.base.finality_depth),
        store: Store::open(&config.store)?,
        attestor: AttestorClient::new(&config.attestor_url, &config.attestor_token, deployment.batch_domain())?,
        custodian: config.custodian_key,
        storage_key: config.storage_key.load()?,
        trees: Trees::default(),
        backlog: Backlog::new(config.backlog_events_max),
        bodies: Arc::new(Semaphore::new(config.bodies_at_once as usize)),
        keys: Keys::new()?,
        rates: Rates::new(config.requests_per_minute, config.requests_at_once),
        metrics,
        nodes,
        db,
        config,
    });
    let listener = http::bind(app.config.listen).await?;
    let operator_listener = match app.config.operator_listen {
        Some(address) => Some(http::bind(address).await?),
        None => None,
    };
    let signers: Vec<String> = app.senders.iter().map(|sender| sender.address().to_string()).collect();
    tracing::info!(listen = %app.config.listen, senders = signers.join(","), "relayer starts");

    let webhooks = crate::outbox::deliver::Client::new(app.config.webhook_allow_private)?;
    let mut loops = JoinSet::new();
    loops.spawn(crate::batch::run(Arc::clone(&app), stop.clone()));
    loops.spawn(crate::backlog::run(Arc::clone(&app), stop.clone()));
    loops.spawn(crate::intake::idempotency::run(Arc::clone(&app), stop.clone()));
    for lane in 0..app.senders.len() {
        loops.spawn(crate::anchor::run(Arc::clone(&app), lane, stop.clone()));
    }
    let (renewed, until) = (Arc::clone(&app), stop.clone());
    loops.spawn(async move { renewed.leases.renew(&until).await });
    loops.spawn(crate::dwell::run(Arc::clone(&app), stop.clone()));
    loops.spawn(crate::intake::erase::run(Arc::clone(&app), stop.clone()));
    loops.spawn(crate::outbox::run(Arc::clone(&app), webhooks, stop.clone()));
    let (compared, until) = (app.nodes.clone(), stop.clone());
    loops.spawn(async move { compared.watch(&until).await });
    let router = http::dress(crate::api::router(Arc::clone(&app)));
    let watched = async {
        while let Some(ended) = loops.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a loop ended by itself; the relayer stops, so that whoever runs it starts it again");
                stop.cancel();
            }
        }
    };
    let served = async {
        let served = serve_until_stopped(listener, router, stop.clone()).await;
        // where the server fails, the loops end too
        stop.cancel();
        served
    };
    let operated = async {
        let Some(listener) = operator_listener else { return Ok(()) };
        let router = http::dress(crate::api::operator_router(Arc::clone(&app)));
        let served = serve_until_stopped(listener, router, stop.clone()).await;
        stop.cancel();
        served
    };
    let (served, operated, ()) = tokio::join!(served, operated, watched);
    if let Err(error) = app.leases.release_all().await {
        tracing::warn!(%error, "leases were not given up: another relayer has to wait until their time is up");
    }
    app.db.close().await;
    operated.context("serve HTTP to operators")?;
    tracing::info!("relayer stops");
    served.context("serve HTTP")
}

async fn senders(config: &Serve, provider: &DynProvider, chain_id: u64) -> anyhow::Result<Vec<Sender>> {
    let count = config.sender_key_files.len() + config.senders.len();
    ensure!(count <= SENDERS_MAX, "--sender-key-file, --sender: expected at most {SENDERS_MAX} keys, got {count}");
    let mut signers = Vec::new();
    for file in &config.sender_key_files {
        signers.push((file.display().to_string(), signer::of_file(file)?));
    }
    for name in &config.senders {
        signers.push((name.clone(), signer::of_name(name).await?));
    }
    let mut senders: Vec<Sender> = Vec::new();
    for (name, signer) in signers {
        let sender = Sender::new(provider.clone(), chain_id, signer, config);
        let is_new = senders.iter().all(|other| other.address() != sender.address());
        ensure!(is_new, "--sender-key-file, --sender: {name} is a key that was given before");
        senders.push(sender);
    }
    Ok(senders)
}
