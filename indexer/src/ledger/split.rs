//! The split of one sale by Hamilton's method, so that a member's part follows from the sale and the member alone.

use alloy::primitives::U256;

/// What the parts of a sale are made of: a row of `royalty_split`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Payment-token units that are split.
    pub share: u128,
    /// Sum of the weights of all members without a payee.
    pub weight: u128,
    /// Remainder of `share × weight of the member` by `weight` of the last member that gets a unit beyond its floor;
    /// `weight` where nobody does.
    pub cutoff_remainder: u128,
    /// Its place in the members manifest; 0 where nobody gets one.
    pub cutoff_position: i64,
}

impl Split {
    /// What a member gets beneath any unit beyond it, and what its exact part has beyond that, times the sum of weights.
    fn floor(&self, weight: u128) -> (U256, U256) {
        match self.weight {
            0 => (U256::ZERO, U256::ZERO),
            // both factors are below 2^128
            total => (U256::from(self.share) * U256::from(weight)).div_rem(U256::from(total)),
        }
    }

    /// Whether a remainder at a place comes before the cutoff or is it: larger ones first, of equal ones the earlier.
    fn gains(&self, remainder: U256, position: i64) -> bool {
        let cutoff = U256::from(self.cutoff_remainder);
        remainder > cutoff || (remainder == cutoff && position <= self.cutoff_position)
    }

    /// A member's part, payment-token units, as the view `royalty_part` has it.
    pub fn part(&self, weight: u128, position: i64) -> U256 {
        let (floor, remainder) = self.floor(weight);
        floor.saturating_add(U256::from(self.gains(remainder, position)))
    }
}

/// Goes through a version's members once and says whether a split is the one that they give. Needs no sorting: the members at or
/// above the cutoff are as many as the units that floors leave over, and the cutoff is one of them, only where it is right.
#[derive(Clone, Debug)]
pub struct Recount {
    split: Split,
    weight: U256,
    floors: U256,
    parts: U256,
    gaining: U256,
    /// The remainder at the cutoff's place.
    at_cutoff: Option<U256>,
}

impl Recount {
    /// Before the first member.
    pub fn new(split: Split) -> Self {
        let zero = U256::ZERO;
        Self { split, weight: zero, floors: zero, parts: zero, gaining: zero, at_cutoff: None }
    }

    /// Takes in a member that is paid in points.
    pub fn take(&mut self, weight: u128, position: i64) {
        let (floor, remainder) = self.split.floor(weight);
        let gains = U256::from(self.split.gains(remainder, position));
        self.weight = self.weight.saturating_add(U256::from(weight));
        self.floors = self.floors.saturating_add(floor);
        self.gaining = self.gaining.saturating_add(gains);
        self.parts = self.parts.saturating_add(floor).saturating_add(gains);
        if position == self.split.cutoff_position {
            self.at_cutoff = Some(remainder);
        }
    }

    /// After the last member: what does not hold, in words.
    pub fn finish(self) -> Result<(), String> {
        let Split { share, weight, cutoff_remainder, cutoff_position } = self.split;
        if self.weight != U256::from(weight) {
            return Err(format!("points_weight: expected {} by the members, got {weight}", self.weight));
        }
        // floors of weights that sum to the whole are no more than the share
        let left = U256::from(share).saturating_sub(self.floors);
        if self.gaining != left {
            return Err(format!(
                "expected {left} members with a unit beyond their floor, got {} at or above the cutoff: the parts sum to {}, and \
                 the share is {share}",
                self.gaining, self.parts
            ));
        }
        let is_there = match left.is_zero() {
            true => cutoff_remainder == weight && cutoff_position == 0,
            false => self.at_cutoff == Some(U256::from(cutoff_remainder)),
        };
        match is_there {
            true => Ok(()),
            false => Err(format!(
                "expected as cutoff the last member that gets a unit, or {weight} at place 0 where none does; got \
                 {cutoff_remainder} at place {cutoff_position}"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use tidemark::dataset::split_points;

    use super::*;

    /// By sorting, as the method is told.
    fn split(share: u128, weights: &[u128]) -> Split {
        let weight = weights.iter().sum();
        let mut split = Split { share, weight, cutoff_remainder: weight, cutoff_position: 0 };
        let mut order: Vec<(U256, i64)> =
            weights.iter().zip(0..).map(|(weight, position)| (split.floor(*weight).1, position)).collect();
        order.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let floors: U256 = weights.iter().map(|weight| split.floor(*weight).0).sum();
        let left: usize = (U256::from(share) - floors).to();
        if let Some((remainder, position)) = left.checked_sub(1).map(|last| order[last]) {
            (split.cutoff_remainder, split.cutoff_position) = (remainder.to(), position);
        }
        split
    }

    fn recount(split: Split, weights: &[u128]) -> Result<(), String> {
        let mut recount = Recount::new(split);
        weights.iter().zip(0..).for_each(|(weight, position)| recount.take(*weight, position));
        recount.finish()
    }

    fn check(share: u128, weights: &[u128]) {
        let split = split(share, weights);
        let parts: Vec<U256> =
            weights.iter().zip(0..).map(|(weight, position)| split.part(*weight, position)).collect();
        let expected: Vec<U256> = split_points(share, weights).unwrap().into_iter().map(U256::from).collect();
        assert_eq!(parts, expected, "{share} by {weights:?}");
        assert_eq!(recount(split, weights), Ok(()), "{share} by {weights:?}");
        // no other cutoff does, not even one that gives the same parts
        let at = split.cutoff_position;
        for (cutoff_remainder, cutoff_position) in [
            (split.cutoff_remainder - 1, at),
            (split.cutoff_remainder.wrapping_add(1), at),
            (split.cutoff_remainder, at + 1),
            (split.cutoff_remainder, at - 1),
        ] {
            let other = Split { cutoff_remainder, cutoff_position, ..split };
            assert!(recount(other, weights).is_err(), "{share} by {weights:?}: {other:?}");
        }
    }

    #[test]
    fn a_part_by_the_cutoff_is_the_part_by_the_sorted_remainders() {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for round in 0..2_000u32 {
            let count = next() % 40 + 1;
            // few weights, so that many tie; or any; zeros among them
            let bits = [2, 3, 16, 64, 120][round as usize % 5];
            let mut weights: Vec<u128> =
                (0..count).map(|_| ((u128::from(next()) << 64) | u128::from(next())) & ((1u128 << bits) - 1)).collect();
            weights.push(1);
            let share = match round % 4 {
                0 => u128::from(next() % 50) + 1,
                1 => u128::from(next()) + 1,
                2 => u128::MAX - u128::from(next() % 3),
                _ => (u128::from(next()) << 64) | 1,
            };
            check(share, &weights);
        }
    }

    #[test]
    fn ties_zero_weights_and_the_largest_numbers_are_split_exactly() {
        check(10, &[1, 1, 1]);
        check(3, &[1, 2, 3]);
        check(1, &[0, 5]);
        check(1, &[0, 0, 5, 5, 0]);
        check(7, &[7]);
        check(u128::MAX, &[u128::MAX]);
        check(u128::MAX, &[1, u128::MAX - 1]);
        check(u128::MAX, &[u128::MAX / 3, u128::MAX / 3, u128::MAX / 3]);
        check(u128::MAX - 1, &[u128::MAX / 2, u128::MAX / 2, 1]);
        check(1, &[1; 1_000]);
        check(999, &[1; 1_000]);
    }

    #[test]
    fn a_split_of_other_members_is_told_apart() {
        let right = split(100, &[1, 2, 3, 5]);
        assert!(recount(right, &[1, 2, 3]).unwrap_err().starts_with("points_weight"));
        assert!(recount(right, &[5, 2, 3, 1]).is_err(), "another order");
        assert!(recount(Split { weight: 0, ..right }, &[]).is_err());
    }
}
