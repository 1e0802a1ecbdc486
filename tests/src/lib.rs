//! What needs more than one room: the local stack, the demo's story, end to end tests, faults and benchmarks.
//!
//! ```text
//!  Options ─► Stack::start: chain ─► contracts ─► attestor, relayer, indexer, custodian ─► /ready     (stack)
//!                           Postgres ─┘  one database a service
//!  story: sponsor, provider, contributors, buyer and strangers, through public interfaces only        (story)
//! ```
//!
//! The demo, the tests and the benchmarks all start the same stack, and nothing of it outlives the process that
//! started it: see [`process`] for how.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod anvil;
pub mod campaign;
pub mod chain;
pub mod faulty_node;
pub mod folder;
pub mod forge;
pub mod geth;
pub mod keys;
pub mod login;
pub mod partner;
pub mod postgres;
pub mod process;
pub mod progress;
pub mod random;
pub mod services;
pub mod signal;
pub mod stack;
pub mod story;
pub mod wirings;
pub mod write_side;

pub use stack::{Options, Stack};
