//! Wires the parts together, runs them, and ends them in order.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use sqlx::{PgPool, migrate::Migrator, postgres::PgConnectOptions};
use tidemark::{
    chain::Deployment,
    nodes,
    service::{metrics, pool_options, serve_until_stopped},
    store::Store,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, App},
    config::ServeArgs,
    feed::Feed,
    follow::follow,
    manifest::{self, Files},
    payout::{self, Payouts},
    replica,
    status::Status,
    sync::{self, Mirror, fetch::Chain},
};

/// What makes the tables.
pub(crate) static MIGRATIONS: Migrator = sqlx::migrate!();
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the workers may take to end.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// Where statements look for names without a schema. What follows from the chain is always named without one, so that a
/// rebuild fills other schemas by the same statements; what is the operator's own is always named `local.…`.
pub(crate) const SEARCH_PATH: &str = "public,mirror,types";

/// Connects to the database.
pub async fn connect(url: &str, connections: u32) -> anyhow::Result<PgPool> {
    connect_with(url, connections, [("search_path", SEARCH_PATH)]).await
}

pub(crate) async fn connect_with<const N: usize>(
    url: &str,
    connections: u32,
    options: [(&str, &str); N],
) -> anyhow::Result<PgPool> {
    let connect: PgConnectOptions = url.parse().context("read --database-url")?;
    pool_options()
        .max_connections(connections)
        .acquire_timeout(CONNECT_TIME_MAX)
        .connect_with(connect.options(options))
        .await
        .context("connect to Postgres: check --database-url, and that the database exists and takes connections")
}

/// Connects to a database that another indexer writes: every transaction is read-only, whatever the role may do. Refuses tables
/// of another version, and of another deployment.
async fn open_replica(url: &str, connections: u32, deployment: &Deployment) -> anyhow::Result<PgPool> {
    let pool =
        connect_with(url, connections, [("search_path", SEARCH_PATH), ("default_transaction_read_only", "on")]).await?;
    let known: Vec<i64> = MIGRATIONS.iter().map(|migration| migration.version).collect();
    let found: Vec<i64> = sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success ORDER BY version")
        .fetch_all(&pool)
        .await
        .context(
            "read the tables' version: --read-only wants a database that an indexer writes; start that one first",
        )?;
    anyhow::ensure!(
        found == known,
        "the tables' migrations are {found:?}, expected {known:?}: run the same version as the indexer that writes them, and start that one first"
    );
    sync::check_claim(&pool, deployment).await?;
    Ok(pool)
}

/// Connects to the database and brings its tables up to date.
pub async fn open_database(url: &str, connections: u32) -> anyhow::Result<PgPool> {
    let pool = connect(url, connections).await?;
    MIGRATIONS.run(&pool).await.context(
        "bring the tables up to date: the database must be this indexer's alone; give it an empty one where it is not",
    )?;
    Ok(pool)
}

/// Runs the indexer until a signal or `stop`.
pub async fn serve(args: ServeArgs, stop: CancellationToken) -> anyhow::Result<()> {
    // first of all, so that what is counted from here on is rendered
    let metrics = metrics()?;
    let payout_config = args.payout.config()?;
    let deployment = Deployment::load(&args.chain.deployment)?;
    let store = Store::open(&args.chain.store)?;
    let (rpc, nodes) = nodes::connect(&args.chain.rpc_urls, &deployment).await?;
    let pool = if args.read_only {
        anyhow::ensure!(
            payout_config.is_none(),
            "--read-only pays nothing out: give the --payout flags to the indexer that writes"
        );
        open_replica(&args.database_url, args.database_connections, &deployment).await?
    } else {
        let pool = open_database(&args.database_url, args.database_connections).await?;
        sync::claim(&pool, &deployment).await?;
        manifest::ask_again(&pool).await?;
        pool
    };
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("listen on {}: is another process using it? --listen takes another", args.listen))?;

    let status = Arc::new(Status::new(Duration::from_secs(args.behind_seconds_max)));
    let chain = Chain::new(nodes.clone(), rpc.clone(), deployment.clone(), args.chain.verify);
    let mirror = Mirror::new(chain.clone(), pool.clone(), args.chain.finality_blocks);
    let files = Files { pool: pool.clone(), store: store.clone(), deployment: deployment.clone() };
    let payouts = payout_config.map(|config| Payouts::new(pool.clone(), rpc, deployment.chain_id, config));
    let (replica_pool, replica_chain) = (pool.clone(), chain.clone());
    let logins = Arc::new(args.logins.clone());
    let listeners_max = usize::try_from(args.event_listeners_max).unwrap_or(usize::MAX);
    let feed = Feed::new(pool.clone(), deployment.clone(), listeners_max, stop.child_token());
    let looking = tokio::spawn(feed.clone().run(args.chain.poll_interval()));
    let app = App { pool, chain, store, status: status.clone(), metrics, logins, feed, read_only: args.read_only };
    let router = api::router(app, payouts.clone());
    tracing::info!(
        listen = %listener.local_addr().context("read the listening address")?,
        chain_id = deployment.chain_id, provenance_log = %deployment.provenance_log, payouts = payouts.is_some(), read_only = args.read_only,
        "tidemark-indexer is up"
    );

    let (compared, until) = (nodes, stop.child_token());
    tokio::spawn(async move { compared.watch(&until).await });
    let (poll, until) = (args.chain.poll_interval(), stop.child_token());
    let following = match args.read_only {
        true => tokio::spawn(replica::watch(replica_pool, replica_chain, status, poll, until)),
        false => tokio::spawn(follow(mirror, files, status, poll, until)),
    };
    let paying = payouts.map(|payouts| {
        let (until, end) = (stop.child_token(), stop.clone());
        tokio::spawn(async move {
            let ended = payout::run(payouts, until).await;
            if ended.is_err() {
                // else nobody would be paid, and nobody told
                end.cancel();
            }
            ended
        })
    });
    serve_until_stopped(listener, router, stop.clone()).await.context("serve HTTP")?;
    stop.cancel();
    // both end at the next step; a transaction that is cut off rolls back
    let ended = tokio::time::timeout(DRAIN_TIME_MAX, async {
        following.await.context("the follower died")?;
        looking.await.context("the feed died")?;
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
