//! Looks for bytes that break the promise `protocol::merkle`.
#![no_main]
#![allow(missing_docs)]

tidemark_fuzz::fuzz!(protocol, merkle);
