//! The read side: mirrors chain and manifests into Postgres, keeps the points ledger, serves the API and the explorer.
//!
//! ```text
//!  chain ─► sync ─► project ─► manifest ─► ledger ─► read ─► api, explorer
//!                      │  content store ─┘    ▲
//!                      └── redemptions ───────┴── payout ◄── provider
//! ```
//!
//! Schema `public` is a pure function of chain and content store; anyone may run an indexer and must get the same rows.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api;
pub mod checksum;
pub mod config;
pub mod explorer;
pub mod feed;
pub mod follow;
pub mod groups;
pub mod ledger;
pub mod login;
pub mod manifest;
pub mod payout;
pub mod problem;
pub mod project;
pub mod read;
pub mod rebuild;
pub mod replica;
pub mod serve;
pub mod status;
pub mod sync;
pub mod trace;

pub use api::openapi;
