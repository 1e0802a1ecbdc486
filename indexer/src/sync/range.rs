//! How many blocks to ask a node for at once: what it refuses is halved or cut to what it suggests, good answers make it grow.

/// Logs of an answer that is large enough: a megabyte or two.
const LOGS_WANTED: u64 = 2_000;
const BLOCKS_FIRST: u64 = 16;
const BLOCKS_MAX: u64 = 1_000;
/// Good answers after which a length that was refused is tried again.
const ANSWERS_UNTIL_TRIED_AGAIN: u32 = 200;

/// How many blocks one node is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    blocks: u64,
    /// What it does not pass for a while, since the node refused more.
    ceiling: u64,
    answers: u32,
}

impl Default for Span {
    fn default() -> Self {
        Self { blocks: BLOCKS_FIRST, ceiling: BLOCKS_MAX, answers: 0 }
    }
}

impl Span {
    /// The last block to ask for, from `from` and not above `to_max`.
    pub fn end(&self, from: u64, to_max: u64) -> u64 {
        from.saturating_add(self.blocks - 1).min(to_max)
    }

    /// After an answer with so many logs in so many blocks.
    pub fn answered(&mut self, blocks: u64, logs: usize) {
        self.answers = self.answers.saturating_add(1);
        if self.answers >= ANSWERS_UNTIL_TRIED_AGAIN {
            (self.ceiling, self.answers) = (BLOCKS_MAX, 0);
        }
        let logs = u64::try_from(logs).unwrap_or(u64::MAX).max(1);
        let wanted = (blocks.saturating_mul(LOGS_WANTED) / logs).clamp((blocks / 2).max(1), blocks.saturating_mul(2));
        // of several answers to earlier, shorter questions, none makes it shorter
        self.blocks = if wanted > blocks { self.blocks.max(wanted) } else { self.blocks.min(wanted) }.min(self.ceiling);
    }

    /// After a refusal of so many blocks.
    pub fn refused(&mut self, blocks: u64, suggested: Option<u64>) {
        let fewer = suggested.filter(|suggested| (1..blocks).contains(suggested)).unwrap_or(blocks / 2).max(1);
        (self.blocks, self.ceiling, self.answers) = (self.blocks.min(fewer), fewer, 0);
    }
}

/// How many blocks from `from` on a node that refuses says would do: "try with [0x64, 0xc8]", "limited to a 10,000 range".
pub fn suggested(message: &str, from: u64) -> Option<u64> {
    let message = message.to_lowercase().replace(',', "");
    let numbers = |text: &str| -> Vec<u64> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words
            .filter_map(|word| match word.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).ok(),
                None => word.parse().ok(),
            })
            .collect()
    };
    for pair in numbers(&message).windows(2) {
        if let [first, last] = pair
            && *first == from
            && last >= first
        {
            return Some(last - first + 1);
        }
    }
    // beside "results" a number is one of those, not of blocks
    let is_of_blocks = message.contains("range") && !message.contains("result");
    numbers(&message).into_iter().next().filter(|limit| is_of_blocks && *limit > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_grows_to_its_bound_and_aims_at_a_number_of_logs() {
        let mut span = Span::default();
        assert_eq!(span.end(5, u64::MAX), 5 + BLOCKS_FIRST - 1);
        for _ in 0..20 {
            let blocks = span.end(1, u64::MAX);
            span.answered(blocks, 0);
        }
        assert_eq!(span.end(5, u64::MAX), 5 + BLOCKS_MAX - 1);
        assert_eq!(span.end(5, 7), 7);
        for _ in 0..20 {
            let blocks = span.end(1, u64::MAX);
            span.answered(blocks, usize::try_from(blocks * 50).unwrap());
        }
        assert_eq!(span.end(1, u64::MAX), LOGS_WANTED / 50);
        assert_eq!(span.end(u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn a_refusal_halves_and_what_was_refused_is_not_tried_again_soon() {
        let mut span = Span::default();
        span.refused(16, None);
        assert_eq!(span.end(1, u64::MAX), 8);
        span.answered(8, 0);
        assert_eq!(span.end(1, u64::MAX), 8, "16 were refused");
        for _ in 0..ANSWERS_UNTIL_TRIED_AGAIN {
            span.answered(8, 0);
        }
        assert_eq!(span.end(1, u64::MAX), 16);
        span.refused(16, Some(3));
        assert_eq!(span.end(1, u64::MAX), 3);
        span.refused(3, Some(7));
        assert_eq!(span.end(1, u64::MAX), 1, "a suggestion of more than was asked is none");
        span.refused(1, None);
        assert_eq!(span.end(1, u64::MAX), 1);
    }

    #[test]
    fn what_nodes_suggest_is_read() {
        let told = |message| suggested(message, 100);
        assert_eq!(told("query returned more than 10000 results. Try with this block range [0x64, 0xc8]."), Some(101));
        assert_eq!(told("this block range should work: [0x64, 0x65]"), Some(2));
        assert_eq!(told("query exceeds max results 20000, retry with the range 100-199"), Some(100));
        assert_eq!(told("eth_getLogs is limited to a 10,000 range"), Some(10_000));
        assert_eq!(told("exceed maximum block range: 5000"), Some(5_000));
        assert_eq!(told("query returned more than 10000 results"), None);
        assert_eq!(told("the moon is full"), None);
    }
}
