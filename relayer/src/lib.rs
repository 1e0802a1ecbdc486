//! The write side: takes submissions in, has them judged, batches them and anchors the batches.
//!
//! ```text
//!  api ─► intake ─► batch ─► anchor ─► chain          (tidemark-relayer)
//!           │         ├─ each change of state ─► outbox ─► providers' webhooks
//!           ▼         ▼
//!  attestor: quality gate, signatures over verdicts, batches, dataset versions   (tidemark-attestor)
//! ```
//!
//! The two processes share no table and no key: the attestor re-reads what it signs from the content store.
#![allow(unused_qualifications, reason = "utoipa's macros repeat paths")]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod anchor;
pub mod api;
pub mod app;
pub mod attestor;
pub mod backlog;
pub mod batch;
pub mod chain;
pub mod config;
pub mod doctor;
pub mod dwell;
pub mod http;
pub mod intake;
pub mod lease;
pub mod outbox;
pub mod problem;
pub mod quality;
pub mod signer;
pub mod storage_key;

pub use api::openapi;
