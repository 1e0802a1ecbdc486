//! The write side: takes submissions in, checks them, batches them and anchors the batches.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod quality;
