use super::*;
use crate::frequency::{Budget, Nth};
use crate::packet::Address;
use crate::rule::EGRESS;
use crate::window::Window;
use proptest::prelude::*;
use std::cell::Cell;

/// The memory of a fault in the model. `stubborn` refuses every replacement, as a busy CPU might.
#[derive(Default)]
struct Cells {
    words: [Cell<u64>; 8],
    sequence: Cell<u64>,
    stubborn: bool,
}

impl Memory for Cells {
    fn increment(&self, word: Word) -> u64 {
        self.words[word as usize].replace(self.words[word as usize].get() + 1)
    }
    fn next_sequence(&self, _class: u32) -> u64 {
        self.sequence.replace(self.sequence.get() + 1)
    }
    fn not_before(&self, _class: u32, at_ns: u64) -> u64 {
        at_ns
    }
    fn load(&self, word: Word) -> u64 {
        self.words[word as usize].get()
    }
    fn replace(&self, word: Word, old: u64, new: u64) -> bool {
        assert_eq!(self.load(word), old);
        self.words[word as usize].set(if self.stubborn { old } else { new });
        !self.stubborn
    }
    fn first_of(&self, _slot: u32) -> u64 {
        self.load(Word::First)
    }
}

struct NoSets;

impl AddressSets for NoSets {
    fn contains(&self, set: u32, _: &Address) -> bool {
        set == 1
    }
}

fn outcomes(rule: &Rule, times: impl IntoIterator<Item = u64>) -> Vec<Outcome> {
    let memory = Cells::default();
    times.into_iter().map(|t| decide(rule, &Packet::default(), t, &memory)).collect()
}

fn count(outcomes: &[Outcome], what: Outcome) -> usize {
    outcomes.iter().filter(|&&o| o == what).count()
}

#[test]
fn nth_counts_only_inside_the_window() {
    let window = Window { start_ns: 100, ..Window::default() };
    let nth = Nth { first: 2, last: 2, step: 1 };
    let rule = Rule { frequency: FREQUENCY_NTH, nth, window, ..Rule::default() };
    let got = outcomes(&rule, [0, 50, 99, 100, 101, 102]);
    use Outcome::{Injected, Matched, NotMeant};
    assert_eq!(got, [NotMeant, NotMeant, NotMeant, Matched, Injected, Matched]);
}

#[test]
fn the_budget_comes_before_the_limit() {
    let rule = Rule { limit: 3, budget: Budget { count: 2, period_ns: 10 }, ..Rule::default() };
    let got = outcomes(&rule, [0, 1, 2, 10, 11, 20]);
    use Outcome::{Injected, SparedByBudget, SparedByLimit};
    assert_eq!(got, [Injected, Injected, SparedByBudget, Injected, SparedByLimit, SparedByLimit]);
}

#[test]
fn a_fault_that_stays_strikes_until_its_window_ends_or_room_is_free() {
    let window = Window { for_ns: 50, every_ns: 100, ..Window::default() };
    let nth = Nth { first: 3, last: 3, step: 1 };
    let rule = Rule { frequency: FREQUENCY_NTH, nth, window, ..Rule::default() };
    let memory = Cells::default();
    let step = |elapsed_ns| {
        let has_struck = stays(&rule, elapsed_ns, &memory);
        let outcome =
            decide_or_stay(&rule, &Packet::default(), (elapsed_ns, elapsed_ns), &memory, has_struck);
        if outcome == Injected {
            stay(&rule, elapsed_ns, &memory);
        }
        outcome
    };
    use Outcome::{Injected, Matched, NotMeant};
    let all = |times: [u64; 6]| times.map(step);
    assert_eq!(all([0, 1, 2, 3, 4, 60]), [Matched, Matched, Injected, Injected, Injected, NotMeant]);
    free(&memory);
    assert_eq!(all([5, 6, 7, 8, 9, 60]), [Matched, Matched, Injected, Injected, Injected, NotMeant]);
    // Another window, in which the count goes on and nothing is the third any more.
    assert_eq!(all([100, 101, 102, 103, 104, 105]), [Matched; 6]);
}

#[test]
fn who_follows_counts_from_the_first_strike_of_another() {
    let memory = Cells::default();
    let first = Rule { flags: RULE_LINKED, is_followed: 1, ..Rule::default() };
    let window = Window { start_ns: 10, for_ns: 5, ..Window::default() };
    let second = Rule { flags: RULE_LINKED, follows: 1, window, ..Rule::default() };
    let step = |elapsed_ns| decide(&second, &Packet::default(), elapsed_ns, &memory);
    use Outcome::{Injected, NotMeant};
    assert_eq!([0, 10, 12].map(step), [NotMeant; 3], "nobody has struck");
    note_strike(&first, 100, &memory);
    note_strike(&first, 105, &memory);
    assert_eq!([99, 109, 110, 114, 115].map(step), [NotMeant, NotMeant, Injected, Injected, NotMeant]);
    // Who is not followed notes nothing.
    let alone = Cells::default();
    note_strike(&Rule { is_followed: 0, ..first }, 100, &alone);
    assert_eq!(alone.load(Word::First), 0);
    // The strike itself, at the very start, is one too.
    note_strike(&first, 0, &alone);
    let at_once = Rule { window: Window::default(), ..second };
    assert_eq!(decide(&at_once, &Packet::default(), 0, &alone), Injected);
}

#[test]
fn a_state_that_cannot_be_changed_lets_the_packet_go() {
    let memory = Cells { stubborn: true, ..Cells::default() };
    let model = Rule { frequency: FREQUENCY_MODEL, ..Rule::default() };
    let budget = Rule { budget: Budget { count: 1, period_ns: 1 }, ..Rule::default() };
    assert_eq!(decide(&model, &Packet::default(), 0, &memory), Outcome::Contended);
    assert_eq!(decide(&budget, &Packet::default(), 0, &memory), Outcome::Contended);
}

#[test]
fn the_allow_list_spares_only_what_it_names() {
    let spare = RULE_SPARES_NEIGHBOURS | RULE_SPARES_PORTS | RULE_SPARES_GATEWAYS;
    let rule = Rule { flags: spare, spared_ports: [22, 0, 0, 0], spared_set: 2, ..Rule::default() };
    let at =
        |protocol, icmp_type, local_port| Packet { local_port, protocol, icmp_type, ..Packet::default() };
    assert!(!is_meant(&rule, &at(58, 135, 0), &NoSets), "neighbour solicitation");
    assert!(is_meant(&rule, &at(58, 128, 0), &NoSets), "echo request");
    assert!(!is_meant(&rule, &at(6, 0, 22), &NoSets), "ssh");
    assert!(is_meant(&rule, &at(17, 0, 22), &NoSets), "UDP port 22");
    assert!(is_meant(&rule, &at(6, 0, 0), &NoSets), "no port is not a spared port");
    assert!(!is_meant(&Rule { spared_set: 1, ..rule }, &at(6, 0, 80), &NoSets), "gateway");
    assert!(is_meant(&Rule { flags: 0, ..rule }, &at(6, 0, 22), &NoSets), "named in match");
}

proptest! {
    #[test]
    fn a_limit_is_exact(limit in 0_u64..50, packets in 0_usize..100) {
        let rule = Rule { limit, ..Rule::default() };
        let got = outcomes(&rule, (0..packets as u64).map(|t| t * 7));
        prop_assert_eq!(count(&got, Outcome::Injected), packets.min(limit as usize));
    }

    /// The same seed decides the same, whatever the time and the packet's other fields are.
    #[test]
    fn the_seed_alone_decides(seed: u64, length: u32, later in 0_u64..1_000_000) {
        let stream = draw::stream(seed, 1, draw::PURPOSE_STRIKE);
        let rule = Rule { frequency: FREQUENCY_PROBABILITY, probability_p32: 1 << 31, stream, direction: EGRESS, ..Rule::default() };
        let (a, b) = (Cells::default(), Cells::default());
        for t in 0..200 {
            let one = decide(&rule, &Packet::default(), t, &a);
            let two = decide(&rule, &Packet { length, ..Packet::default() }, t + later, &b);
            prop_assert_eq!(one, two);
        }
    }
}
