//! Looks for bytes that break the promise `protocol::payloads`.
#![no_main]
#![allow(missing_docs)]

tidemark_fuzz::fuzz!(protocol, payloads);
