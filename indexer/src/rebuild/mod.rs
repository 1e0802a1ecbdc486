//! Makes all tables that follow from the chain anew, beside the served ones and while those are served, and swaps them in at once.
//!
//! ```text
//!  public_next, mirror_next: made by the migrations ─► filled by the same path as ever ─► level ─► compared at one block
//!  ─► the writer is held ─► one transaction: checks, public to public_before, public_next to public ─► the writer goes on
//! ```
//!
//! Statements name these tables without a schema, so that the search path alone says which ones are meant; what a process has
//! prepared is parsed again by Postgres once a schema's name changes.

mod compare;
mod schema;
mod swap;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use sqlx::{PgConnection, PgPool, pool::PoolConnection};
use tidemark::{chain::Deployment, nodes, service::causes, store::Store};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::compare::{Comparison, behind, compare};
use crate::{
    config::{ChainArgs, RebuildArgs},
    follow,
    manifest::{self, Files},
    serve::{self, SEARCH_PATH, connect_with},
    status::Status,
    sync::{self, Mirror, fetch::Chain},
};

/// Places in the names of [`schema::SWAPPED`].
const NEXT: usize = 1;
const BEFORE: usize = 2;
const LOCK_TRIES_MAX: u32 = 15;
const BUILD_CONNECTIONS: u32 = 8;
/// How often it is looked how far the build is, and how often that is told.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
const TELL_EVERY: Duration = Duration::from_secs(10);
/// After so long without a block or a file more, the build gives up.
const STALL_TIME_MAX: Duration = Duration::from_secs(120);
/// How long who builds may take to end.
const STOP_TIME_MAX: Duration = Duration::from_secs(60);
const AGAIN: &str = "run the same command again: it goes on where it stopped";

/// What a run did.
#[derive(Debug)]
pub enum Done {
    /// What was half built is gone; false where there was nothing.
    Discarded(bool),
    /// What was there before the last swap is gone; false where there was nothing.
    Dropped(bool),
    /// The new tables are served.
    Swapped(Comparison),
}

/// Runs the command to its end.
pub async fn rebuild(args: RebuildArgs) -> anyhow::Result<Done> {
    // one connection has the lock, and makes the swap: who loses the one can't make the other
    let own = connect_with(&args.database_url, 1, [("search_path", SEARCH_PATH)]).await?;
    let mut own = own.acquire().await.context("connect to Postgres")?;
    lock(&mut own).await?;
    if args.discard {
        return Ok(Done::Discarded(schema::drop_schemas(&mut own, NEXT).await?));
    }
    if args.drop_old {
        return Ok(Done::Dropped(schema::drop_schemas(&mut own, BEFORE).await?));
    }
    let chain = args.chain.context("expected --rpc-url, --deployment and --store")?;
    let comparison = build_and_swap(own, &args.database_url, &chain).await?;
    Ok(Done::Swapped(comparison))
}

/// One rebuild at a time; the server sees a moment later that the last one has ended.
async fn lock(own: &mut PgConnection) -> anyhow::Result<()> {
    for _ in 0..LOCK_TRIES_MAX {
        let free: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtextextended('tidemark/rebuild', 0))")
            .fetch_one(&mut *own)
            .await
            .context("take the lock of rebuilds")?;
        if free {
            return Ok(());
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    anyhow::bail!(
        "another rebuild is at work on this database, or what it asked last has not ended yet: wait for it, or end it \
         (pg_locks, locktype advisory, says which process)"
    )
}

async fn build_and_swap(
    mut own: PoolConnection<sqlx::Postgres>,
    url: &str,
    args: &ChainArgs,
) -> anyhow::Result<Comparison> {
    let deployment = Deployment::load(&args.deployment)?;
    let store = Store::open(&args.store)?;
    let (rpc, nodes) = nodes::connect(&args.rpc_urls, &deployment).await?;
    let served = serve::connect(url, 2).await?;
    let otherwise =
        "start `serve` of this version on the database, so that it brings its tables up to date, then begin again";
    schema::check_version(&mut own, "public", otherwise).await?;
    sync::check_claim(&served, &deployment).await.context("the served tables")?;
    schema::check_owner(&mut own).await?;
    prepare(&mut own).await?;

    let pool = connect_with(url, BUILD_CONNECTIONS, [("search_path", schema::NEXT_PATH)]).await.context(AGAIN)?;
    sync::claim(&pool, &deployment).await.context("the new tables").context(AGAIN)?;
    manifest::ask_again(&pool).await.context("ask for missing files again").context(AGAIN)?;
    sqlx::query(ASK_FOR_DISCLOSURES).execute(&pool).await.context("ask for missing files again").context(AGAIN)?;
    let chain = Chain::new(nodes, rpc.clone(), deployment.clone(), args.verify);
    let mirror = Mirror::new(chain, pool.clone(), args.finality_blocks);
    let builder = Builder::start(mirror, Files { pool, store, deployment }, args.poll_interval());
    let comparison = async {
        builder.until_level(&served).await?;
        tracing::info!("the new tables are as far as the served ones: summing both");
        sqlx::raw_sql(ANALYZE).execute(&served).await.context("analyze the new tables")?;
        let comparison = compare(&served).await?;
        tell(&comparison);
        anyhow::Ok(comparison)
    };
    let comparison = match comparison.await {
        Ok(comparison) => comparison,
        Err(error) => {
            builder.stop().await;
            return Err(error.context(AGAIN));
        }
    };
    tracing::info!("swapping");
    swap::swap(&mut own, &rpc, async || builder.stop().await).await.map_err(|error| {
        // some say already what has to be done before
        if format!("{error:#}").contains("run the same command again") { error } else { error.context(AGAIN) }
    })?;
    tracing::info!("the new tables are served; those from before are kept in public_before and mirror_before");
    Ok(comparison)
}

/// Makes the new schemas, or finds that they are there.
async fn prepare(own: &mut PgConnection) -> anyhow::Result<()> {
    if schema::exists(own, "public_next").await.context("look for schema public_next")? {
        let otherwise = "what is half built was begun by another version: run `rebuild --discard`, then begin again";
        schema::check_version(own, "public_next", otherwise).await?;
        schema::check_alike(own).await?;
        tracing::info!("going on with what is half built");
        return Ok(());
    }
    schema::make(own).await?;
    tracing::info!("new tables are made beside the served ones");
    Ok(())
}

/// Disclosures that a run before this one gave up on.
const ASK_FOR_DISCLOSURES: &str = "INSERT INTO missing_file (what, cid, attempts, last_error, next_attempt_at)
    SELECT 'disclosures/0x' || encode(b.provider, 'hex') || '/' || b.number, b.disclosures_cid, 1, 'asked for again', now()
    FROM batch AS b WHERE b.state = 'valid' AND b.disclosures_cid IS NOT NULL
      AND NOT EXISTS (SELECT FROM disclosure AS d WHERE (d.provider, d.number) = (b.provider, b.number))
    ON CONFLICT DO NOTHING";

/// Plans are made by what a table is known to hold.
const ANALYZE: &str = "DO $$
DECLARE
    name TEXT;
BEGIN
    FOR name IN SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('public_next', 'mirror_next') AND c.relkind = 'r'
    LOOP
        EXECUTE 'ANALYZE ' || name;
    END LOOP;
END $$";

/// Who writes the new tables.
#[derive(Debug)]
struct Builder {
    pool: PgPool,
    status: Arc<Status>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Builder {
    fn start(mirror: Mirror, files: Files, poll: Duration) -> Self {
        let status = Arc::new(Status::new(STALL_TIME_MAX));
        let stop = CancellationToken::new();
        let (pool, seen, until) = (files.pool.clone(), status.clone(), stop.clone());
        let task = tokio::spawn(async move { follow::fill(mirror, &files, &seen, poll, &until).await });
        Self { pool, status, stop, task }
    }

    /// Waits until the new tables are as far as the served ones.
    async fn until_level(&self, served: &PgPool) -> anyhow::Result<()> {
        let (mut told, mut moved_at, mut last) = (Instant::now(), Instant::now(), String::new());
        loop {
            let mut connection = served.acquire().await.context("connect to Postgres")?;
            let behind = behind(&mut connection).await.context("see how far the new tables are")?;
            drop(connection);
            let Some(behind) = behind else { return Ok(()) };
            let seen = self.status.seen();
            if let Some(halted) = seen.halted {
                anyhow::bail!("the build has ended: {halted}");
            }
            if behind != last {
                (moved_at, last) = (Instant::now(), behind.clone());
            }
            let error = seen.last_error.or(seen.files_error);
            let because = error.as_ref().map(|error| format!("; last error: {error}")).unwrap_or_default();
            anyhow::ensure!(
                moved_at.elapsed() < STALL_TIME_MAX,
                "the new tables have not come on for {} s: {behind}{because}",
                STALL_TIME_MAX.as_secs()
            );
            anyhow::ensure!(!self.task.is_finished(), "who builds the new tables has ended: {behind}{because}");
            if told.elapsed() > TELL_EVERY {
                told = Instant::now();
                tracing::info!("building: {behind}{because}");
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Ends it and its connections; what it was in the middle of rolls back.
    async fn stop(self) {
        self.stop.cancel();
        match tokio::time::timeout(STOP_TIME_MAX, self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = causes(&error), "who built the new tables died"),
            Err(_) => tracing::warn!("who built the new tables does not end: its transaction is waited for"),
        }
        self.pool.close().await;
    }
}

fn tell(comparison: &Comparison) {
    match comparison.block {
        None => tracing::warn!("both were never at one block with the same files: not compared"),
        Some(block) => {
            let (tables, differences) = (comparison.tables, comparison.differences.len());
            tracing::info!(block, tables, differences, "compared");
        }
    }
}

impl Done {
    /// What to tell who ran it, line by line.
    pub fn lines(&self) -> Vec<String> {
        let comparison = match self {
            Self::Discarded(true) => return vec!["what was half built is gone".into()],
            Self::Discarded(false) => return vec!["nothing is half built".into()],
            Self::Dropped(true) => return vec!["the tables from before the last swap are gone".into()],
            Self::Dropped(false) => return vec!["there are no tables from before".into()],
            Self::Swapped(comparison) => comparison,
        };
        let mut lines = Vec::new();
        match comparison.block {
            None => lines.push("not compared: both were never at one block with the same files".into()),
            Some(block) => {
                for difference in &comparison.differences {
                    let (before, now) = (&difference.before, &difference.now);
                    lines.push(format!(
                        "DIFFERS {} at block {block}: {} rows {} before, {} rows {} now",
                        before.table, before.rows, before.checksum, now.rows, now.checksum
                    ));
                }
                let (tables, differ) = (comparison.tables, comparison.differences.len());
                lines.push(format!("block {block}: {tables} tables, {differ} differ from before"));
            }
        }
        lines.push("the new tables are served; `rebuild --drop-old` drops the old ones, kept in public_before and mirror_before".into());
        lines
    }
}
