//! Looks for bytes that break the promise `protocol::texts`.
#![no_main]
#![allow(missing_docs)]

tidemark_fuzz::fuzz!(protocol, texts);
