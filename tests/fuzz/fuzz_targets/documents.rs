//! Looks for bytes that break the promise `writing::documents`.
#![no_main]
#![allow(missing_docs)]

tidemark_fuzz::fuzz!(writing, documents);
