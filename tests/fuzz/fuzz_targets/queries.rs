//! Looks for bytes that break the promise `reading::queries`.
#![no_main]
#![allow(missing_docs)]

tidemark_fuzz::fuzz!(reading, queries);
