//! Looks for bytes that break the promise `protocol::canonical`.
#![no_main]
#![allow(missing_docs)]

tidemark_fuzz::fuzz!(protocol, canonical);
