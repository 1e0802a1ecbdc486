//! Key release.
