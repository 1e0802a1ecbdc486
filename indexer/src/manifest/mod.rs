//! Fetches the files that final headers point to, verifies them, and lets valid ones into the tables and the ledger.
//!
//! A file that is not there blocks only what follows it: later batches of that provider, sales of that version. A file that
//! is not what was promised makes its batch or version invalid, and credits nobody.

mod batches;
pub mod disclosed;
mod fetch;
mod members;
mod mined;
mod record;
pub mod stored;
pub mod verify;

use sqlx::PgPool;
use tidemark::{chain::Deployment, store::Store};

pub use fetch::{Waiting, ask_again, waiting};
pub use mined::Mined;

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

/// Why settling stopped; the next poll tries again.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The database.
    #[error("write manifests")]
    Sql(#[from] sqlx::Error),
    /// A worker thread died.
    #[error("verify a manifest")]
    Worker(#[from] tokio::task::JoinError),
}

/// Settles what waits and is due: batches, members of versions, late disclosures. Gives how many moved.
pub async fn settle(files: &Files) -> Result<usize, SettleError> {
    let batches = batches::settle(files).await?;
    let versions = members::settle(files).await?;
    let late = batches::settle_late_disclosures(files).await?;
    Ok(batches + versions + late)
}

pub use members::settle_sales;
