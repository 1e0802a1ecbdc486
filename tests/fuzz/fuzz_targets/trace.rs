//! Looks for bytes that break the promise `writing::trace`.
#![no_main]
#![allow(missing_docs)]

tidemark_fuzz::fuzz!(writing, trace);
