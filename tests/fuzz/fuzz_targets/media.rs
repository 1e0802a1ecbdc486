//! Looks for bytes that break the promise `writing::media`.
#![no_main]
#![allow(missing_docs)]

tidemark_fuzz::fuzz!(writing, media);
