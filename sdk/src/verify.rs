//! What a stranger checks against chain and content store, and nothing else.
