//! Fetches the files that final headers point to, verifies them, and lets valid ones into the tables and the ledger.
//!
//! A file that is not there blocks only what follows it: later batches of that provider, sales of that version. A file that
//! is not what was promised makes its batch or version invalid, and credits nobody.

mod batches;
pub mod disclosed;
mod fetch;
mod members;
mod mined;
pub mod perceptual;
mod record;
pub mod stored;
mod trace;
pub mod tree;
pub mod verify;

use sqlx::PgPool;
use tidemark::{chain::Deployment, store::Store};

pub use fetch::{Waiting, ask_again, waiting};
pub use mined::Mined;
pub use trace::fill as fill_trace;

/// Where files come from and go to.
#[derive(Clone)]
pub struct Files {
    /// The tables.
    pub pool: PgPool,
    /// The content store.
    pub store: Store,
    /// For EIP-712 domains.
    pub deployment: Deployment,
}

/// Why settling stopped; the next look tries again.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The database.
    #[error("write manifests")]
    Sql(#[from] sqlx::Error),
    /// A worker thread died.
    #[error("verify a manifest")]
    Worker(#[from] tokio::task::JoinError),
}

/// One file to fetch, verify and let in.
pub enum Job {
    /// A provider's next batches.
    Batches(batches::Run),
    /// A dataset version's members.
    Version(members::Next),
    /// Disclosures that were not there when their batch was settled.
    Late(batches::Late),
    /// A tree that is not kept yet.
    Tree(tree::Wanted),
}

impl Job {
    /// What may not run twice at once.
    pub fn key(&self) -> String {
        match self {
            Self::Batches(run) => run.what(),
            Self::Version(next) => next.what(),
            Self::Late(late) => late.what(),
            Self::Tree(wanted) => wanted.what(),
        }
    }

    /// Whether the file was asked for before, in vain.
    pub fn is_retry(&self) -> bool {
        match self {
            Self::Batches(run) => run.is_retry(),
            Self::Version(next) => next.is_retry,
            // what is new goes first
            Self::Late(_) | Self::Tree(_) => true,
        }
    }

    /// Does it; true where it waits no more.
    pub async fn run(self, files: &Files) -> Result<bool, SettleError> {
        match self {
            Self::Batches(run) => batches::settle(files, run).await,
            Self::Version(next) => members::settle(files, next).await,
            Self::Late(late) => batches::settle_late(files, late).await,
            Self::Tree(wanted) => tree::make(&files.pool, wanted).await,
        }
    }
}

/// What waits and is due, in the order of the chain, what was never asked for first.
pub async fn due(files: &Files) -> Result<Vec<Job>, SettleError> {
    let mut jobs: Vec<Job> = batches::due(files).await?.into_iter().map(Job::Batches).collect();
    jobs.extend(members::due(files).await?.into_iter().map(Job::Version));
    jobs.extend(batches::due_late(files).await?.into_iter().map(Job::Late));
    jobs.extend(tree::due(files).await?.into_iter().map(Job::Tree));
    jobs.sort_by_key(Job::is_retry);
    Ok(jobs)
}

/// One writer of a schema's tables at a time, so that credits and what waits for credits always see each other.
pub async fn lock_tables(connection: &mut sqlx::PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('tidemark/tables/' || current_schema(), 0))")
        .execute(connection)
        .await?;
    Ok(())
}

pub use members::settle_sales;
