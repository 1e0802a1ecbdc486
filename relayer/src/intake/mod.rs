//! Intake: what came in, checked and made durable as a record and its events in one transaction.
//!
//! ```text
//!  api ─► register (Trace) ─┐                     ┌─► record, event (pending) ─► batch
//!  api ─► update   (Trace) ─┼─► one transaction ──┤
//!  api ─► submit   (upload)─┤                     └─► the answer, so that a retry gets the same one
//!  api ─► withdraw ─────────┘
//! ```

pub mod attestation;
pub mod budget;
pub mod check;
pub mod consent;
pub mod contents;
pub mod contributor;
pub mod erase;
pub mod event;
pub mod idempotency;
pub mod key;
pub mod personal;
pub mod policy;
pub mod provider;
pub mod record;
pub mod register;
pub mod submit;
pub mod update;
pub mod webhook;
pub mod withdraw;

use alloy::primitives::Address;

/// A provider that was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Its account on chain.
    pub account: Address,
    /// Its name on chain.
    pub name: String,
}

/// The transaction that intake runs in.
pub type Tx<'a> = sqlx::Transaction<'a, sqlx::Postgres>;

/// Unix seconds now.
pub fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A number for a `bigint` column; one that does not fit is a bug or an attack, and refused.
pub fn bigint(value: u64) -> anyhow::Result<i64> {
    i64::try_from(value).map_err(|_| anyhow::anyhow!("{value} does not fit into 63 bits"))
}
