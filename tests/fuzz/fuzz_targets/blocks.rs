//! Looks for bytes that break the promise `protocol::blocks`.
#![no_main]
#![allow(missing_docs)]

tidemark_fuzz::fuzz!(protocol, blocks);
