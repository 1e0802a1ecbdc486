//! Wires the parts together, runs them, and ends them in order.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusBuilder;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tidemark::{chain::Deployment, nodes, service::serve_until_stopped, store::Store};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, App},
    config::ServeArgs,
    follow::follow,
    manifest::{self, Files},
    payout::{self, Payouts},
    status::Status,
    sync::{self, Mirror, fetch::Chain},
};

const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the workers may take to end.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// Connects to the database.
pub async fn connect(url: &str, connections: u32) -> anyhow::Result<PgPool> {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(CONNECT_TIME_MAX)
        .connect(url)
        .await
        .context("connect to Postgres: check --database-url, and that the database exists and takes connections")
}

/// Connects to the database and brings its tables up to date.
pub async fn open_database(url: &str, connections: u32) -> anyhow::Result<PgPool> {
    let pool = connect(url, connections).await?;
    sqlx::migrate!().run(&pool).await.context(
        "bring the tables up to date: the database must be this indexer's alone; give it an empty one where it is not",
    )?;
    Ok(pool)
}

/// Runs the indexer until a signal or `stop`.
pub async fn serve(args: ServeArgs, stop: CancellationToken) -> anyhow::Result<()> {
    // first of all, so that what is counted from here on is rendered
    let metrics = PrometheusBuilder::new().install_recorder().context("install the metrics recorder")?;
    let payout_config = args.payout.config()?;
    let deployment = Deployment::load(&args.deployment)?;
    let store = Store::open(&args.store)?;
    let (rpc, nodes) = nodes::connect(&args.rpc_urls, &deployment).await?;
    let pool = open_database(&args.database_url, args.database_connections).await?;
    sync::claim(&pool, &deployment).await?;
    manifest::ask_again(&pool).await?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("listen on {}: is another process using it? --listen takes another", args.listen))?;

    let status = Arc::new(Status::new(Duration::from_secs(args.behind_seconds_max)));
    let chain = Chain::new(nodes.clone(), rpc.clone(), deployment.clone(), args.verify);
    let mirror = Mirror::new(chain.clone(), pool.clone(), args.finality_blocks);
    let files = Files { pool: pool.clone(), store: store.clone(), deployment: deployment.clone() };
    let payouts = payout_config.map(|config| Payouts::new(pool.clone(), rpc, deployment.chain_id, config));
    let app = App { pool, chain, store, status: status.clone(), metrics };
    let router = api::router(app, payouts.clone());
    tracing::info!(
        listen = %listener.local_addr().context("read the listening address")?,
        chain_id = deployment.chain_id, provenance_log = %deployment.provenance_log, payouts = payouts.is_some(),
        "tidemark-indexer is up"
    );

    let (compared, until) = (nodes, stop.child_token());
    tokio::spawn(async move { compared.watch(&until).await });
    let following = tokio::spawn(follow(mirror, files, status, args.poll_interval(), stop.child_token()));
    let paying = payouts.map(|payouts| tokio::spawn(payout::run(payouts, stop.child_token())));
    serve_until_stopped(listener, router, stop.clone()).await.context("serve HTTP")?;
    stop.cancel();
    // both end at the next step; a transaction that is cut off rolls back
    let ended = tokio::time::timeout(DRAIN_TIME_MAX, async {
        following.await.context("the follower died")?;
        match paying {
            Some(paying) => paying.await.context("the payout worker died")?,
            None => Ok(()),
        }
    });
    match ended.await {
        Ok(ended) => ended,
        Err(_) => Ok(()),
    }
}
