//! What a fault makes a clock show, as segments of the time that it would show without. Pure.

use crate::host::vdso::Segment;
use crate::scenario::{ClockChange, ClockFault, When};

/// A clock's rate of -100 %, in units of 2^-32.
const STANDING: i64 = -(1 << 32);
const SECOND_NS: i64 = 1_000_000_000;

/// The segments of one clock that shows `now_ns` when the experiment starts. The last one is the end of it: the patch itself is true from then
/// on, whoever is there to take it back.
pub(super) fn segments(fault: &ClockFault, when: &When, duration_ns: u64, now_ns: i64) -> Vec<Segment> {
    let at = |since_start_ns: u64| now_ns.saturating_add(since_start_ns.min(duration_ns).cast_signed());
    let ends_ns = at(when.for_ns.map_or(duration_ns, |for_ns| when.start_ns.saturating_add(for_ns)));
    let one = |segment: Segment| vec![Segment { start_ns: at(when.start_ns), ..segment }];
    let mut segments = match fault.change {
        ClockChange::Offset { add_ns } => one(Segment { add_ns, ..Segment::default() }),
        ClockChange::Drift { rate_q32 } => one(Segment { rate_q32, ..Segment::default() }),
        ClockChange::Freeze => one(Segment { rate_q32: STANDING, ..Segment::default() }),
        ClockChange::Strobe { add_ns, period_ns } => one(Segment { add_ns, period_ns, ..Segment::default() }),
        ClockChange::Leap { at_ns, smear_ns: None } => {
            vec![Segment { start_ns: at(at_ns), add_ns: -SECOND_NS, ..Segment::default() }]
        }
        ClockChange::Leap { at_ns, smear_ns: Some(over_ns) } => {
            let rate_q32 = (i128::from(SECOND_NS) << 32) / i128::from(over_ns.max(1));
            vec![
                Segment {
                    start_ns: at(at_ns.saturating_sub(over_ns / 2)),
                    rate_q32: -(rate_q32 as i64),
                    ..Segment::default()
                },
                Segment {
                    start_ns: at(at_ns.saturating_add(over_ns / 2)),
                    add_ns: -SECOND_NS,
                    ..Segment::default()
                },
            ]
        }
    };
    segments.retain(|segment| segment.start_ns < ends_ns);
    segments.push(Segment { start_ns: ends_ns, ..Segment::default() });
    segments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Affected;

    const NOW: i64 = 1_800_000_000 * SECOND_NS;
    const HOUR_NS: u64 = 3_600_000_000_000;

    /// What is shown so many ns after the start of an experiment of an hour, less what should be.
    fn off(change: ClockChange, when: When, since_start_ns: i64) -> i64 {
        let fault = ClockFault { change, clocks: Affected { realtime: true, monotonic: false } };
        let segments = segments(&fault, &when, HOUR_NS, NOW);
        Segment::shown_ns(&segments, NOW + since_start_ns) - (NOW + since_start_ns)
    }

    #[test]
    fn an_offset_begins_and_ends_with_its_window_or_the_experiment() {
        let change = ClockChange::Offset { add_ns: -5 * SECOND_NS };
        let when = When { start_ns: 10, for_ns: Some(20), ..When::default() };
        assert_eq!([9, 10, 29, 30].map(|at| off(change, when, at)), [0, -5 * SECOND_NS, -5 * SECOND_NS, 0]);
        let end = HOUR_NS.cast_signed();
        assert_eq!(
            [0, end - 1, end].map(|at| off(change, When::default(), at)),
            [-5 * SECOND_NS, -5 * SECOND_NS, 0]
        );
    }

    #[test]
    fn drift_grows_and_a_frozen_clock_stands() {
        let drift = ClockChange::Drift { rate_q32: 1 << 31 };
        assert_eq!([0, 100, 200].map(|at| off(drift, When::default(), at)), [0, 50, 100]);
        assert_eq!([0, 100, 200].map(|at| off(ClockChange::Freeze, When::default(), at)), [0, -100, -200]);
    }

    #[test]
    fn a_strobe_begins_on_the_other_side() {
        let strobe = ClockChange::Strobe { add_ns: 7, period_ns: 10 };
        assert_eq!([0, 9, 10, 19, 20].map(|at| off(strobe, When::default(), at)), [7, 7, 0, 0, 7]);
    }

    #[test]
    fn a_leap_second_comes_twice_or_is_smeared() {
        let leap = ClockChange::Leap { at_ns: 1000, smear_ns: None };
        assert_eq!([999, 1000].map(|at| off(leap, When::default(), at)), [0, -SECOND_NS]);
        let smear = ClockChange::Leap { at_ns: 60_000_000_000, smear_ns: Some(20_000_000_000) };
        let found = [49, 50, 60, 70, 80].map(|at_s| off(smear, When::default(), at_s * SECOND_NS));
        // Rounded down, by less than the rate's own step makes of ten seconds.
        for (found, expected) in found.into_iter().zip([0, 0, -SECOND_NS / 2, -SECOND_NS, -SECOND_NS]) {
            assert!((found - expected).abs() <= 5, "{found} instead of {expected}");
        }
    }

    #[test]
    fn segments_are_in_order_and_few() {
        let at_end = ClockChange::Leap { at_ns: HOUR_NS, smear_ns: Some(HOUR_NS / 2) };
        let fault = ClockFault { change: at_end, clocks: Affected { realtime: true, monotonic: false } };
        let all = segments(&fault, &When::default(), HOUR_NS, NOW);
        assert!(all.is_sorted_by(|one, next| one.start_ns < next.start_ns), "{all:?}");
        assert_eq!(all.len(), 2);
    }
}
