//! What each parser of foreign bytes promises, as a function of bytes: it returns where the promise holds and panics where
//! it is broken. `scripts/fuzz` looks for bytes that break one; `cargo test` replays the corpus.
//!
//! A promise is more than "does not stop": what is read is written and read again as the same, a refusal is the sender's
//! fault and never ours, and what comes out is bounded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic says that a promise is broken")]

pub mod protocol;
pub mod reading;
pub mod writing;

#[cfg(feature = "libfuzzer")]
pub use libfuzzer_sys;

/// A promise about bytes.
pub type Target = fn(&[u8]);

/// All of them by name, which is also that of the program and of the corpus' folder.
pub const TARGETS: [(&str, Target); 14] = [
    ("blocks", protocol::blocks),
    ("canonical", protocol::canonical),
    ("events", protocol::events),
    ("merkle", protocol::merkle),
    ("payloads", protocol::payloads),
    ("release", protocol::release),
    ("tables", protocol::tables),
    ("texts", protocol::texts),
    ("documents", writing::documents),
    ("forms", writing::forms),
    ("media", writing::media),
    ("signatures", writing::signatures),
    ("trace", writing::trace),
    ("queries", reading::queries),
];

/// The program of a target.
#[cfg(feature = "libfuzzer")]
#[macro_export]
macro_rules! fuzz {
    ($module:ident, $name:ident) => {
        // a panic of a library that is caught in our code is no broken promise: the hook that ends the process at once
        // is taken out, and a panic that reaches the program still does
        $crate::libfuzzer_sys::fuzz_target!(
            init: drop(std::panic::take_hook()),
            |data: &[u8]| tidemark_fuzz::$module::$name(data)
        );
    };
}
