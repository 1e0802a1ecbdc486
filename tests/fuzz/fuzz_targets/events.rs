//! Looks for bytes that break the promise `protocol::events`.
#![no_main]
#![allow(missing_docs)]

tidemark_fuzz::fuzz!(protocol, events);
