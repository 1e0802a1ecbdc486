//! Looks for bytes that break the promise `protocol::tables`.
#![no_main]
#![allow(missing_docs)]

tidemark_fuzz::fuzz!(protocol, tables);
