//! How many blocks to ask for at once: fewer after a refusal, more after a quick answer, always bounded.

/// A span of blocks that adapts to what the node takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    blocks: u64,
}

const BLOCKS_MAX: u64 = 10_000;
/// An answer with more logs than this is large enough.
const LOGS_COMFORTABLE: usize = 2_000;

impl Default for Span {
    fn default() -> Self {
        Self { blocks: 1_000 }
    }
}

impl Span {
    /// The last block to ask for, from `from` and not above `to_max`.
    pub fn end(&self, from: u64, to_max: u64) -> u64 {
        from.saturating_add(self.blocks - 1).min(to_max)
    }

    /// After an answer.
    pub fn answered(&mut self, logs: usize) {
        self.blocks = match logs {
            0..=LOGS_COMFORTABLE => (self.blocks * 2).min(BLOCKS_MAX),
            _ => (self.blocks / 2).max(1),
        };
    }

    /// After a refusal or a timeout; false where one block is already too much.
    pub fn refused(&mut self) -> bool {
        let can_shrink = self.blocks > 1;
        self.blocks = (self.blocks / 4).max(1);
        can_shrink
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_stays_within_one_and_ten_thousand_blocks() {
        let mut span = Span::default();
        for _ in 0..20 {
            span.answered(0);
        }
        assert_eq!(span.end(5, u64::MAX), 5 + BLOCKS_MAX - 1);
        assert_eq!(span.end(5, 7), 7);
        while span.refused() {}
        assert_eq!(span.end(5, 100), 5);
        span.answered(LOGS_COMFORTABLE + 1);
        assert_eq!(span.end(5, 100), 5);
        span.answered(0);
        assert_eq!(span.end(5, 100), 6);
        assert_eq!(span.end(u64::MAX, u64::MAX), u64::MAX);
    }
}
