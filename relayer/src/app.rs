//! The running relayer: everything that handlers and loops share, and the start of both.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tidemark::{
    chain::{Deployment, checked_reader},
    sealing::PublicKey,
    service::serve_until_stopped,
    store::Store,
};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    anchor::Sender,
    attestor::client::AttestorClient,
    chain::Chain,
    config::{Serve, secret_file, signer_file},
    http,
    intake::{contents::Trees, contributor::StorageKey},
};

/// What the relayer's handlers and loops share.
pub struct App {
    /// The relayer's database.
    pub db: PgPool,
    /// The chain, to read.
    pub chain: Chain,
    /// The chain, to write.
    pub sender: Sender,
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
    /// Bounds the large bodies in memory.
    pub bodies: Semaphore,
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    /// Thresholds and intervals.
    pub config: Serve,
}

/// Connections that a process takes of its database at most.
pub const CONNECTIONS_MAX: u32 = 16;

/// Opens a database and brings its tables up to date.
pub async fn open_database(url: &str, migrator: &sqlx::migrate::Migrator) -> anyhow::Result<PgPool> {
    let db = PgPoolOptions::new()
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
    let provider = checked_reader(&config.base.rpc_url, &deployment).await?;
    let db = open_database(&config.base.database_url, &MIGRATIONS).await?;
    let app = Arc::new(App {
        sender: Sender::new(provider.clone(), deployment.chain_id, signer_file(&config.sender_key_file)?, &config),
        chain: Chain::new(provider, deployment.clone()),
        store: Store::open(&config.store)?,
        attestor: AttestorClient::new(&config.attestor_url, &config.attestor_token, deployment.batch_domain())?,
        custodian: config.custodian_key,
        storage_key: StorageKey::new(&*secret_file(&config.storage_key_file)?),
        trees: Trees::default(),
        bodies: Semaphore::new(config.bodies_at_once as usize),
        metrics: http::metrics()?,
        db,
        config,
    });
    let listener = http::bind(app.config.listen).await?;
    let operator_listener = match app.config.operator_listen {
        Some(address) => Some(http::bind(address).await?),
        None => None,
    };
    tracing::info!(listen = %app.config.listen, sender = %app.sender.address(), "relayer starts");

    let webhooks = crate::outbox::deliver::Client::new(app.config.webhook_allow_private)?;
    let mut loops = JoinSet::new();
    loops.spawn(crate::batch::run(Arc::clone(&app), stop.clone()));
    loops.spawn(crate::anchor::run(Arc::clone(&app), stop.clone()));
    loops.spawn(crate::dwell::run(Arc::clone(&app), stop.clone()));
    loops.spawn(crate::intake::erase::run(Arc::clone(&app), stop.clone()));
    loops.spawn(crate::outbox::run(Arc::clone(&app), webhooks, stop.clone()));
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
        serve_until_stopped(listener, router, stop.clone()).await
    };
    let (served, operated, ()) = tokio::join!(served, operated, watched);
    app.db.close().await;
    operated.context("serve HTTP to operators")?;
    tracing::info!("relayer stops");
    served.context("serve HTTP")
}
