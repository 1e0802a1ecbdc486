//! The two modules of `core2`, from the standard library itself.
pub use std::{error, io};
