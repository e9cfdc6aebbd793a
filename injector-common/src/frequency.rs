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
        /// As counting up from the first ordinal by steps says it.
        #[test]
        fn nth_strikes_what_counting_comes_to(first in 1_u64..40, length in 0_u64..80, step in 1_u64..10, for_ever: bool) {
            let last = if for_ever { u64::MAX } else { first + length };
            let nth = Nth { first, last, step };
            let wanted: Vec<u64> = (first..=last.min(300)).step_by(step as usize).collect();
            let got: Vec<u64> = (0..=300).filter(|&n| nth.strikes(n)).collect();
            prop_assert_eq!(got, wanted);
        }

        /// Over the whole range of ordinals: nothing outside of the ends, and one strike in each step's length.
        #[test]
        fn nth_strikes_once_a_step_and_never_outside(first: u64, last: u64, step in 1_u64..=64, ordinal: u64) {
            let nth = Nth { first, last, step };
            prop_assert!(!nth.strikes(ordinal) || (first..=last).contains(&ordinal));
            let still = Nth { step: 0, ..nth };
            prop_assert!(!still.strikes(ordinal));
            prop_assert_eq!(nth.strikes(first), first <= last);
            let end = ordinal.saturating_add(step - 1);
            if ordinal >= first && end <= last && end - ordinal == step - 1 {
                prop_assert_eq!((ordinal..=end).filter(|&n| nth.strikes(n)).count(), 1);
            }
        }

        /// In the order of time, no period ever spends more than its count, and none less than it could.
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

        /// CPUs that looked at the clock earlier and come later are counted for the period that is on: the latest
        /// that anybody has spent in. None spends more than its count, and none less than it could.
        #[test]
        fn late_comers_count_for_the_period_that_is_on(
            count in 1_u64..20,
            period_ns in 1_u64..1000,
            mut times in prop::collection::vec((0_u64..5000, 0_u64..1500), 1..300),
        ) {
            // Each asks at the first time, and has looked at the clock up to the second before.
            times.sort_unstable();
            let looked = times.into_iter().map(|(at, ago)| at.saturating_sub(ago));
            let budget = Budget { count, period_ns };
            let (mut word, mut current) = (0, 0);
            let mut spent = std::collections::BTreeMap::<u64, u64>::new();
            let mut asked = std::collections::BTreeMap::<u64, u64>::new();
            for t in looked {
                current = current.max(t / period_ns);
                *asked.entry(current).or_default() += 1;
                if let Some(next) = budget.take(word, t) {
                    prop_assert_eq!(next >> 32, current);
                    word = next;
                    *spent.entry(current).or_default() += 1;
                    prop_assert_eq!(word & 0xffff_ffff, spent[&current]);
                }
            }
            for (period, n) in asked {
                prop_assert_eq!(spent.get(&period).copied().unwrap_or(0), n.min(count));
            }
        }

        /// From any word at any time: a strike moves the word forward, so no two strikes look alike to the
        /// compare-and-swap, and what a period has used stays within the count.
        #[test]
        fn a_strike_moves_the_word_forward(count in 1_u64..5, period_ns in 1_u64..1000, word: u64, elapsed_ns: u64) {
            let budget = Budget { count, period_ns };
            if let Some(next) = budget.take(word, elapsed_ns) {
                prop_assert!(next > word, "a strike must move the word: {word:#x}, {next:#x}");
                prop_assert!((1..=count).contains(&(next & 0xffff_ffff)));
            }
        }
    }
}
