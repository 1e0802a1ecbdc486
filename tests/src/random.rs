//! Random numbers that a seed repeats: every random test prints its seed, and `TIDEMARK_SEED` sets it.

use std::env;

/// xorshift64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From the environment's seed, else from a new one; prints which.
    #[expect(clippy::print_stdout, reason = "a failure is repeated with what is printed here")]
    pub fn from_environment() -> Self {
        let given = env::var("TIDEMARK_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
        println!("TIDEMARK_SEED={seed}");
        Self::new(seed)
    }

    /// From a seed; zero, which xorshift can't leave, counts as one.
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From 0 to less than `bound`, which is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Any 16 bits.
    pub fn sample(&mut self) -> u16 {
        let [low, high, ..] = self.next().to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let at = self.below(u64::try_from(of.len()).unwrap_or(u64::MAX));
        usize::try_from(at).ok().and_then(|at| of.get(at))
    }

    /// The same in another order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = usize::try_from(self.below(last as u64 + 1)).unwrap_or(last);
            items.swap(last, other);
        }
    }

    /// Another stream, for something that runs beside.
    pub fn fork(&mut self) -> Self {
        Self::new(self.next())
    }
}
