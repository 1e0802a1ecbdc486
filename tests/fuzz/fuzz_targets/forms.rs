//! Looks for bytes that break the promise `writing::forms`.
#![no_main]
#![allow(missing_docs)]

tidemark_fuzz::fuzz!(writing, forms);
