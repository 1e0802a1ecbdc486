//! Looks for bytes that break the promise `writing::signatures`.
#![no_main]
#![allow(missing_docs)]

tidemark_fuzz::fuzz!(writing, signatures);
