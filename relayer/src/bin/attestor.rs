//! To be wired.
fn main() {}
