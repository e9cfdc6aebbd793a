//! What is to happen when: the windows of all deeds, merged. Pure.

use injector_common::window::Window;

/// What comes this much too late is left out: the controller was stopped, or the machine slept.
const TOO_LATE_NS: u64 = 1_000_000_000;

/// Something that is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// When, in nanoseconds since the start.
    pub(super) at_ns: u64,
    /// To which of the deeds.
    pub(super) deed: usize,
    /// Whether it begins or ends.
    pub(super) begins: bool,
}

/// One deed's windows.
#[derive(Clone, Copy, Debug)]
struct Turn {
    window: Window,
    /// From when on its times count, in nanoseconds since the start; `None` is that this has not come yet.
    origin_ns: Option<u64>,
    number: u64,
    /// When it is to end, while it lasts.
    ends_ns: Option<u64>,
}

/// The windows of all deeds.
#[derive(Clone, Debug)]
pub(super) struct Agenda {
    turns: Vec<Turn>,
    duration_ns: u64,
}

impl Agenda {
    /// Nothing has begun. Each window with whether its times count from the start; if not, from [`Self::release`].
    pub(super) fn new(windows: impl IntoIterator<Item = (Window, bool)>, duration_ns: u64) -> Self {
        let turn = |(window, is_free): (Window, bool)| {
            let origin_ns = is_free.then_some(0);
            Turn { window, origin_ns, number: 0, ends_ns: None }
        };
        Self { turns: windows.into_iter().map(turn).collect(), duration_ns }
    }

    /// The times of a deed count from now.
    pub(super) fn release(&mut self, deed: usize, now_ns: u64) {
        if let Some(turn) = self.turns.get_mut(deed) {
            turn.origin_ns.get_or_insert(now_ns);
        }
    }

    /// What comes next; of what comes at once the ends are first.
    pub(super) fn next(&mut self, now_ns: u64) -> Option<Step> {
        let duration_ns = self.duration_ns;
        let steps = self.turns.iter_mut().enumerate().filter_map(|(deed, turn)| {
            if let Some(ends_ns) = turn.ends_ns {
                return Some(Step { at_ns: ends_ns, deed, begins: false });
            }
            let at_ns = turn.upcoming(now_ns, duration_ns)?;
            Some(Step { at_ns, deed, begins: true })
        });
        steps.min_by_key(|step| (step.at_ns, step.begins))
    }

    /// Notes that a deed has begun, at a time at which it may have been due for some time: what it lasts counts from there.
    pub(super) fn begun(&mut self, deed: usize, now_ns: u64) {
        let Some(turn) = self.turns.get_mut(deed) else { return };
        let lasts_ns = if turn.window.for_ns == 0 { u64::MAX } else { turn.window.for_ns };
        turn.ends_ns = Some(now_ns.saturating_add(lasts_ns).min(self.duration_ns));
    }

    /// Notes that a deed has ended.
    pub(super) fn ended(&mut self, deed: usize) {
        if let Some(turn) = self.turns.get_mut(deed) {
            (turn.ends_ns, turn.number) = (None, turn.number + 1);
        }
    }

    /// What lasts now.
    pub(super) fn lasting(&self) -> Vec<usize> {
        (0..self.turns.len()).filter(|&deed| self.turns[deed].ends_ns.is_some()).collect()
    }

    /// When the first is to end of those that last now and that are asked for.
    pub(super) fn next_end_ns(&self, is_asked: impl Fn(usize) -> bool) -> Option<u64> {
        let asked = self.turns.iter().enumerate().filter(|(deed, _)| is_asked(*deed));
        asked.filter_map(|(_, turn)| turn.ends_ns).min()
    }
}

impl Turn {
    /// When the next window opens that is not long past.
    fn upcoming(&mut self, now_ns: u64, duration_ns: u64) -> Option<u64> {
        let origin_ns = self.origin_ns?;
        loop {
            let span_ns = self.window.span_ns(self.number);
            let span_ns =
                span_ns.map(|(from, to)| (from.saturating_add(origin_ns), to.saturating_add(origin_ns)));
            let (open_ns, close_ns) = span_ns.filter(|(open_ns, _)| *open_ns < duration_ns)?;
            if close_ns.max(open_ns.saturating_add(TOO_LATE_NS)) > now_ns {
                return Some(open_ns);
            }
            self.number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn every(start_ns: u64, for_ns: u64, every_ns: u64) -> Window {
        Window { start_ns, for_ns, every_ns, ..Window::default() }
    }

    /// What happens if everything is done when it is due.
    fn all(mut agenda: Agenda) -> Vec<(u64, usize, bool)> {
        let mut done: Vec<(u64, usize, bool)> = Vec::new();
        while let Some(step) = agenda.next(done.last().map_or(0, |(at_ns, ..)| *at_ns)) {
            if step.begins {
                agenda.begun(step.deed, step.at_ns);
            } else {
                agenda.ended(step.deed);
            }
            done.push((step.at_ns, step.deed, step.begins));
        }
        done
    }

    #[test]
    fn windows_of_several_deeds_are_merged_and_end_with_the_experiment() {
        let agenda =
            Agenda::new([every(S, S, 3 * S), every(2 * S, 0, 0)].map(|window| (window, true)), 5 * S);
        let expected = [
            (S, 0, true),
            (2 * S, 0, false),
            (2 * S, 1, true),
            (4 * S, 0, true),
            (5 * S, 0, false),
            (5 * S, 1, false),
        ];
        assert_eq!(all(agenda), expected);
    }

    #[test]
    fn what_begins_late_lasts_as_long_as_it_should() {
        let mut agenda = Agenda::new([(every(S, 10, 0), true)], 5 * S);
        let step = agenda.next(S + 7).unwrap();
        assert_eq!((step.at_ns, step.begins), (S, true));
        agenda.begun(0, S + 7);
        assert_eq!(agenda.next_end_ns(|_| true), Some(S + 17));
        assert_eq!(agenda.next_end_ns(|_| false), None);
        assert_eq!(agenda.next(S + 7), Some(Step { at_ns: S + 17, deed: 0, begins: false }));
        agenda.ended(0);
        assert_eq!(agenda.next(S + 17), None);
    }

    #[test]
    fn what_waits_for_another_counts_from_there() {
        let mut agenda = Agenda::new([(every(10, 5, 0), false)], 50 * S);
        assert_eq!(agenda.next(20 * S), None);
        agenda.release(0, 20 * S);
        agenda.release(0, 30 * S);
        assert_eq!(agenda.next(20 * S), Some(Step { at_ns: 20 * S + 10, deed: 0, begins: true }));
    }

    #[test]
    fn what_is_long_past_is_left_out() {
        let mut agenda = Agenda::new([(every(0, 10, 100), true)], 50 * S);
        let step = agenda.next(20 * S).unwrap();
        assert!(step.at_ns + TOO_LATE_NS > 20 * S && step.at_ns < 20 * S, "{step:?}");
        assert_eq!(Agenda::new([(every(0, 10, 0), true)], 50 * S).next(2 * S), None);
    }
}
