//! The Tidemark protocol: what is hashed, signed, sealed and proved, and how a stranger checks it.
//!
//! ```text
//!  submission ─► event ─► leaf ─► tree ─► batch header ─► ProvenanceLog   (event, merkle, batch)
//!                  │                └──► manifest ─► content store        (manifest, store)
//!  consent ────────┘   accepted records ─► members ─► dataset version     (consent, verdict, dataset)
//!  file ─► ciphertext + sealed key ─► partial decryption ─► file          (sealing, release)
//!  chain + content store ─► verdict of a stranger                         (chain, verify)
//! ```
//!
//! Nothing here reads a database, and nothing here depends on another room of the house.

#![cfg_attr(test, allow(clippy::cast_possible_truncation, reason = "test bytes are made out of counters"))]

pub mod batch;
pub mod canonical;
pub mod chain;
pub mod consent;
pub mod contracts;
pub mod dataset;
pub mod deploy;
pub mod download;
pub mod event;
pub mod history;
pub mod ids;
pub mod manifest;
pub mod merkle;
#[cfg(feature = "service")]
pub mod nodes;
pub mod payload;
pub mod publish;
pub mod release;
pub mod sealing;
#[cfg(feature = "service")]
pub mod service;
pub mod store;
mod table;
pub mod verdict;
pub mod verify;

/// Makes `ring` the process's TLS provider; call it first in every `main` and in tests that speak HTTP.
pub fn install_tls() {
    // a second call finds the first one's provider in place, which is the same
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
}
