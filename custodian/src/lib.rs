//! One share holder: reads the chain, then answers with a partial decryption.
//!
//! ```text
//!  request ─► api ─► check (form, proof, deadline) ─► chain (facts at the latest block) ─► check (facts)
//!                                                                                             │
//!  holder ◄── partial, encrypted to it ◄── audit (a row before the answer leaves) ◄───────────┘
//! ```
//!
//! The custodian trusts nobody's word but its own node's: not the relayer's, not the indexer's, not the holder's.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api;
pub mod audit;
pub mod chain;
pub mod check;
pub mod problem;

pub use api::{Custodian, openapi, router};
