//! Looks for bytes that break the promise `protocol::release`.
#![no_main]
#![allow(missing_docs)]

tidemark_fuzz::fuzz!(protocol, release);
