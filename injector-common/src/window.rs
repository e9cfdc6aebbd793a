//! When a fault may strike: windows and the deadline, as functions of the time since the start.

use crate::{assert_layout, draw};

/// The windows of one fault (`when` in a scenario), in nanoseconds since the fault's origin.
///
/// The k-th window opens at `start_ns + k * every_ns + shift(k)` and stays open for `for_ns`, where
/// `shift(k)` is drawn uniformly from `0..jitter_ns`. The controller makes sure that
/// `for_ns + jitter_ns <= every_ns`, so windows never overlap.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The first window opens here.
    pub start_ns: u64,
    /// Length of a window; 0 is "to the end".
    pub for_ns: u64,
    /// Period; 0 is "one window only".
    pub every_ns: u64,
    /// Upper bound of the seeded shift of each window.
    pub jitter_ns: u64,
    /// Stream of the shifts, see [`draw::PURPOSE_WINDOW`].
    pub stream: u64,
}

assert_layout!(Window, size 40, align 8, { start_ns: 0, for_ns: 8, every_ns: 16, jitter_ns: 24, stream: 32 });

impl Window {
    /// Whether a window is open `elapsed_ns` after the origin.
    #[inline(always)]
    #[must_use]
    pub fn is_open(&self, elapsed_ns: u64) -> bool {
        if elapsed_ns < self.start_ns {
            return false;
        }
        let since_start_ns = elapsed_ns - self.start_ns;
        let (number, offset_ns) = match since_start_ns.checked_div(self.every_ns) {
            Some(number) => (number, since_start_ns % self.every_ns),
            None => (0, since_start_ns),
        };
        let shift_ns = self.shift_ns(number);
        offset_ns >= shift_ns && (self.for_ns == 0 || offset_ns - shift_ns < self.for_ns)
    }

    /// How much later than its period a window opens.
    #[inline(always)]
    fn shift_ns(&self, number: u64) -> u64 {
        if self.jitter_ns == 0 { 0 } else { draw::below(draw::draw(self.stream, 0, number), self.jitter_ns) }
    }

    /// When a window opens and closes, in nanoseconds since the origin; `None` if there is no such window. One that lasts to the end closes
    /// at `u64::MAX`.
    #[must_use]
    pub fn span_ns(&self, number: u64) -> Option<(u64, u64)> {
        if self.every_ns == 0 && number > 0 {
            return None;
        }
        let open_ns = self
            .every_ns
            .checked_mul(number)?
            .checked_add(self.start_ns)?
            .checked_add(self.shift_ns(number))?;
        Some((open_ns, if self.for_ns == 0 { u64::MAX } else { open_ns.saturating_add(self.for_ns) }))
    }

    /// Which of the windows it is that is open, or was last; from 0.
    #[inline(always)]
    #[must_use]
    pub fn number(&self, elapsed_ns: u64) -> u64 {
        elapsed_ns.saturating_sub(self.start_ns).checked_div(self.every_ns).unwrap_or(0)
    }

    /// Whether the window is always open, so that nobody needs to ask the clock.
    #[must_use]
    pub const fn is_always_open(&self) -> bool {
        self.start_ns == 0 && self.for_ns == 0 && self.jitter_ns == 0
    }
}

/// Whether the deadline of an experiment has passed. 0 is a deadline that has always passed, so a map
/// that was never filled is inert.
#[inline(always)]
#[must_use]
pub const fn is_over(now_ns: u64, deadline_ns: u64) -> bool {
    now_ns >= deadline_ns
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_plain_window_opens_and_closes() {
        let w = Window { start_ns: 5, for_ns: 3, ..Window::default() };
        let open: Vec<u64> = (0..20).filter(|&t| w.is_open(t)).collect();
        assert_eq!(open, [5, 6, 7]);
    }

    #[test]
    fn windows_are_numbered() {
        let w = Window { start_ns: 1, for_ns: 2, every_ns: 5, ..Window::default() };
        assert_eq!([0, 1, 5, 6, 12].map(|t| w.number(t)), [0, 0, 0, 1, 2]);
        assert_eq!(Window::default().number(1 << 60), 0);
    }

    #[test]
    fn a_periodic_window_repeats() {
        let w = Window { start_ns: 1, for_ns: 2, every_ns: 5, ..Window::default() };
        let open: Vec<u64> = (0..13).filter(|&t| w.is_open(t)).collect();
        assert_eq!(open, [1, 2, 6, 7, 11, 12]);
    }

    #[test]
    fn an_unfilled_map_is_over() {
        assert!(is_over(0, 0));
    }

    proptest! {
        /// Each period has exactly `for_ns` open nanoseconds, wherever the jitter puts them.
        #[test]
        fn jitter_moves_but_never_resizes(
            for_ns in 1_u64..40, jitter_ns in 0_u64..40, slack in 0_u64..20, stream: u64, k in 0_u64..50,
        ) {
            let every_ns = for_ns + jitter_ns + slack;
            let w = Window { start_ns: 7, for_ns, every_ns, jitter_ns, stream };
            let first = 7 + k * every_ns;
            let open: Vec<u64> = (first..first + every_ns).filter(|&t| w.is_open(t)).collect();
            prop_assert_eq!(open.len() as u64, for_ns);
            prop_assert_eq!(open[open.len() - 1] - open[0] + 1, for_ns);
        }

        /// What is told of a window is what it does.
        #[test]
        fn the_span_of_a_window_is_when_it_is_open(
            for_ns in 1_u64..40, jitter_ns in 0_u64..40, slack in 0_u64..20, stream: u64, k in 0_u64..50,
        ) {
            let w = Window { start_ns: 7, for_ns, every_ns: for_ns + jitter_ns + slack, jitter_ns, stream };
            let (open_ns, close_ns) = w.span_ns(k).unwrap();
            prop_assert!(w.is_open(open_ns) && w.is_open(close_ns - 1));
            prop_assert_eq!((w.number(open_ns), close_ns - open_ns), (k, for_ns));
            let once = Window { every_ns: 0, ..w };
            prop_assert_eq!(once.span_ns(1), None);
        }

        /// Nothing before it, everything from it on, whatever the clock shows; and what is over stays over.
        #[test]
        fn a_deadline_is_one_moment(deadline_ns: u64, before_ns: u64, later_ns: u64) {
            prop_assert!(is_over(deadline_ns, deadline_ns));
            prop_assert!(is_over(deadline_ns.saturating_add(later_ns), deadline_ns));
            if let Some(now_ns) = deadline_ns.checked_sub(before_ns.max(1)) {
                prop_assert!(!is_over(now_ns, deadline_ns));
            }
            let (now_ns, then_ns) = (before_ns.min(later_ns), before_ns.max(later_ns));
            prop_assert!(is_over(then_ns, deadline_ns) || !is_over(now_ns, deadline_ns));
        }

        #[test]
        fn without_a_length_it_stays_open(start_ns in 0_u64..1000, later in 0_u64..u64::MAX / 2) {
            let w = Window { start_ns, ..Window::default() };
            prop_assert!(w.is_open(start_ns + later));
        }
    }
}
