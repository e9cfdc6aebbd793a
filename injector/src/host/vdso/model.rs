//! What a patched clock shows: a piecewise-linear function of the true time.

use super::VdsoError;

/// How many segments each of the two tables holds: what fits behind the smallest vDSO of the kernels tested.
pub const MAX_SEGMENTS: usize = 4;

/// From one moment on, what a clock shows; it holds until the next segment starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// The true time of the clock at which it begins, at least 0.
    pub start_ns: i64,
    /// What is added to the true time.
    pub add_ns: i64,
    /// How much faster the clock runs than it should, in units of 2⁻³²: `-(1 << 32)` freezes it.
    pub rate_q32: i64,
    /// If not 0, `add_ns` counts only in each other period, beginning with the first.
    pub period_ns: u64,
}

impl Segment {
    /// What a clock with these segments shows when it is really `true_ns`.
    ///
    /// This is what the machine code in the target computes. A time before the epoch is shown as the epoch.
    #[must_use]
    pub fn shown_ns(segments: &[Self], true_ns: i64) -> i64 {
        let current = segments.iter().rev().find(|segment| segment.start_ns <= true_ns);
        current.map_or(true_ns, |segment| segment.at(true_ns)).max(0)
    }

    fn at(&self, true_ns: i64) -> i64 {
        let elapsed_ns = true_ns.wrapping_sub(self.start_ns);
        let drift_ns = ((i128::from(elapsed_ns) * i128::from(self.rate_q32)) >> 32) as i64;
        let is_off = self.period_ns != 0 && (elapsed_ns.cast_unsigned() / self.period_ns) % 2 == 1;
        true_ns.wrapping_add(drift_ns).wrapping_add(if is_off { 0 } else { self.add_ns })
    }
}

/// What a process is to see of its clocks. An empty list leaves a clock true.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Clocks {
    /// Of `CLOCK_REALTIME`, its coarse and alarm forms, `CLOCK_TAI`, `gettimeofday` and `time`. Moments are
    /// those of `CLOCK_REALTIME`.
    pub realtime: Vec<Segment>,
    /// Of `CLOCK_MONOTONIC`, its raw and coarse forms, `CLOCK_BOOTTIME` and its alarm form. Moments are those
    /// of injector's own `CLOCK_MONOTONIC`, also for a process in another time namespace.
    pub monotonic: Vec<Segment>,
}

impl Clocks {
    /// Whether the patch can hold these.
    pub(super) fn check(&self) -> Result<(), VdsoError> {
        let refuse = |why| Err(VdsoError::Request { why });
        for segments in [&self.realtime, &self.monotonic] {
            if segments.len() > MAX_SEGMENTS {
                return refuse("a clock has more than 4 segments");
            }
            if segments.iter().any(|segment| segment.start_ns < 0 || segment.start_ns == i64::MAX) {
                return refuse("a segment starts before the epoch, or never");
            }
            if !segments.is_sorted_by(|one, next| one.start_ns < next.start_ns) {
                return refuse("the segments are not in the order of their starts");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn the_last_segment_that_began_counts() {
        let leap = [
            Segment { start_ns: 10 * SECOND, add_ns: -SECOND, ..Segment::default() },
            Segment { start_ns: 20 * SECOND, add_ns: 5 * SECOND, ..Segment::default() },
        ];
        for (true_s, shown_s) in [(9, 9), (10, 9), (19, 18), (20, 25), (30, 35)] {
            assert_eq!(Segment::shown_ns(&leap, true_s * SECOND), shown_s * SECOND);
        }
        assert_eq!(Segment::shown_ns(&[], 7), 7);
    }

    #[test]
    fn drift_freeze_and_strobe() {
        let drift = Segment { start_ns: 100, rate_q32: (1 << 32) / 10, ..Segment::default() };
        // Rounded down, as the rate is a little less than a tenth.
        assert_eq!(Segment::shown_ns(&[drift], 100 + SECOND), 100 + SECOND + SECOND / 10 - 1);
        let frozen = Segment { start_ns: 100, add_ns: 5, rate_q32: -(1 << 32), ..Segment::default() };
        assert_eq!(Segment::shown_ns(&[frozen], 100), Segment::shown_ns(&[frozen], 1 << 60));
        let strobe = Segment { start_ns: 100, add_ns: 1000, period_ns: 10, ..Segment::default() };
        let shown = [100, 109, 110, 119, 120].map(|now| Segment::shown_ns(&[strobe], now) - now);
        assert_eq!(shown, [1000, 1000, 0, 0, 1000]);
    }

    #[test]
    fn no_time_is_before_the_epoch() {
        let early = Segment { add_ns: -SECOND, ..Segment::default() };
        assert_eq!(Segment::shown_ns(&[early], 5), 0);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let at = |start_ns| Segment { start_ns, ..Segment::default() };
        let clocks = |realtime: &[Segment]| Clocks { realtime: realtime.to_vec(), monotonic: Vec::new() };
        for bad in [clocks(&[at(2), at(1)]), clocks(&[at(-1)]), clocks(&[1, 2, 3, 4, 5].map(at))] {
            assert!(matches!(bad.check(), Err(VdsoError::Request { .. })), "{bad:?}");
        }
        assert!(clocks(&[1, 2, 3, 4].map(at)).check().is_ok());
    }
}
