//! The demo's story, step by step, through public interfaces only; tests share its helpers.
