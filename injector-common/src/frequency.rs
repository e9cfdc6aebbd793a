//! How often a matching event is struck: `nth` and `budget`.

use crate::assert_layout;

/// Which matching events are struck, counted from 1: `first`, `first + step`, ... up to `last`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nth {
    /// The first ordinal that is struck.
    pub first: u64,
    /// The last ordinal that may be struck; `u64::MAX` is "for ever".
    pub last: u64,
    /// Distance of two strikes, at least 1.
    pub step: u64,
}

assert_layout!(Nth, size 24, align 8, { first: 0, last: 8, step: 16 });

impl Nth {
    /// Every event.
    pub const EVERY: Self = Self { first: 1, last: u64::MAX, step: 1 };

    /// Whether the event with this ordinal (counted from 1) is struck. A step of 0 strikes nothing.
    #[inline(always)]
    #[must_use]
    pub const fn strikes(&self, ordinal: u64) -> bool {
        if ordinal < self.first || ordinal > self.last || self.step == 0 {
            return false;
        }
        (ordinal - self.first).is_multiple_of(self.step)
    }
}

/// At most `count` injections in each period of `period_ns` nanoseconds since the experiment's start.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Injections that one period allows, below 2^32.
    pub count: u64,
    /// Length of a period; 0 is "no budget".
    pub period_ns: u64,
}

assert_layout!(Budget, size 16, align 8, { count: 0, period_ns: 8 });

impl Budget {
    /// The state word after one more injection at `elapsed_ns`, or `None` if the period's budget is spent.
    ///
    /// The word holds the period's number in its upper half and what the period has used in its lower
    /// half, so one compare-and-swap moves both.
    #[inline(always)]
    #[must_use]
    pub const fn take(&self, word: u64, elapsed_ns: u64) -> Option<u64> {
        if self.period_ns == 0 {
            return Some(word);
        }
        let period = (elapsed_ns / self.period_ns) & 0xffff_ffff;
        // A CPU that looked at the clock earlier may come later: it counts for the period that is on.
        let (current, spent) = (word >> 32, word & 0xffff_ffff);
        let (period, used) = if current >= period { (current, spent) } else { (period, 0) };
        if used >= self.count { None } else { Some(period << 32 | (used + 1)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn struck(nth: Nth) -> Vec<u64> {
        (0..=12).filter(|&n| nth.strikes(n)).collect()
    }

    #[test]
    fn nth_forms_of_the_scenario_language() {
        assert_eq!(struck(Nth { first: 3, last: 3, step: 1 }), [3]);
        assert_eq!(struck(Nth { first: 3, last: u64::MAX, step: 2 }), [3, 5, 7, 9, 11]);
        assert_eq!(struck(Nth { first: 3, last: 10, step: 1 }), [3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(struck(Nth { first: 1, last: u64::MAX, step: 0 }), [0_u64; 0]);
    }

    proptest! {
        /// In any order of times, no period ever spends more than its count, and none less than it could.
        #[test]
        fn a_period_never_overspends(count in 1_u64..20, period_ns in 1_u64..1000, mut times in prop::collection::vec(0_u64..5000, 1..300)) {
            times.sort_unstable();
            let budget = Budget { count, period_ns };
            let mut word = 0;
            let mut spent = std::collections::BTreeMap::<u64, u64>::new();
            let mut asked = std::collections::BTreeMap::<u64, u64>::new();
            for t in times {
                *asked.entry(t / period_ns).or_default() += 1;
                if let Some(next) = budget.take(word, t) {
                    word = next;
                    *spent.entry(t / period_ns).or_default() += 1;
                }
            }
            for (period, n) in asked {
                prop_assert_eq!(spent.get(&period).copied().unwrap_or(0), n.min(count));
            }
        }
    }
}
