//! The demo's story, step by step, through public interfaces only; tests share its helpers.
//!
//! ```text
//!  world: token, provider, policy, tasks ─► samples ─► doors: uploads and Trace records ─► finality
//!      ─► market: dataset, offer, licence, claims ─► payout ─► strangers: verify, download, second indexer
//!      ─► table: what is printed at the end, each claim checked
//! ```

pub mod closing;
pub mod doors;
pub mod finality;
pub mod market;
pub mod money;
pub mod pages;
pub mod payout;
pub mod people;
pub mod run;
pub mod samples;
pub mod strangers;
pub mod table;
pub mod transactions;
pub mod world;
