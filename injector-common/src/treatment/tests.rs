use super::*;
use crate::decide::Word;
use crate::link::transmission_ns;
use crate::rule::EGRESS;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

#[derive(Default)]
struct Cells {
    words: [Cell<u64>; 8],
    sequence: Cell<u64>,
    last: RefCell<BTreeMap<u32, u64>>,
}

impl Memory for Cells {
    fn increment(&self, _: Word) -> u64 {
        0
    }
    fn next_sequence(&self, _: u32) -> u64 {
        self.sequence.replace(self.sequence.get() + 1)
    }
    fn not_before(&self, class: u32, at_ns: u64) -> u64 {
        let mut last = self.last.borrow_mut();
        let last = last.entry(class).or_default();
        *last = at_ns.max(*last);
        *last
    }
    fn load(&self, word: Word) -> u64 {
        self.words[word as usize].get()
    }
    fn replace(&self, word: Word, _: u64, new: u64) -> bool {
        self.words[word as usize].set(new);
        true
    }
}

/// A table whose quantiles are 0 to 1 ms, uniformly.
struct Uniform;

impl Quantiles for Uniform {
    fn at(&self, index: u32) -> u64 {
        (crate::distribution::quantile_of(index) * 1e6) as u64
    }
}

impl Opportunities for Uniform {
    fn at_ms(&self, _: u32) -> u32 {
        u32::MAX
    }
}

fn packet(bytes: u32) -> Packet {
    Packet { wire_bytes: bytes, segments: 1, protocol: 17, ..Packet::default() }
}

/// When packets leave that arrive at the given times, `None` for those that are dropped.
fn leave(action: u32, treatment: &Treatment, bytes: u32, times: &[u64]) -> Vec<Option<u64>> {
    let memory = Cells::default();
    let one = |&at_ns: &u64| {
        let mut way = Way { at_ns, ..Way::default() };
        let treated = treat(action, treatment, &packet(bytes), EGRESS, &memory, &Uniform, &mut way);
        (treated == Treated::GoesOn).then_some(way.at_ns)
    };
    times.iter().map(one).collect()
}

/// 8 Mbit/s: a byte takes a microsecond.
const BYTE_PER_US: Treatment = Treatment { byte_ns_q16: 1000 << 16, queue: 1_000_000, ..ZERO };
const ZERO: Treatment = Treatment {
    stream: 0,
    delay_ns: 0,
    byte_ns_q16: 0,
    queue: 0,
    burst_ns: 0,
    table: 0,
    flags: 0,
    overhead: 0,
    count: 0,
    bits: 0,
    offset: 0,
    after_bytes: 0,
};

#[test]
fn a_link_sends_one_packet_after_the_other_and_drops_behind_its_queue() {
    // 500 us each. The third waits 1 ms, which the queue holds; the fourth would wait 1.5 ms.
    let left = leave(ACTION_RATE, &BYTE_PER_US, 500, &[0, 0, 0, 0, 3_000_000]);
    assert_eq!(left, [Some(500_000), Some(1_000_000), Some(1_500_000), None, Some(3_500_000)]);
}

#[test]
fn a_burst_is_sent_at_once_after_a_pause() {
    let burst = Treatment { burst_ns: 1_000_000, ..BYTE_PER_US };
    let left = leave(ACTION_RATE, &burst, 500, &[5_000_000; 4]);
    assert_eq!(left, [Some(5_000_000), Some(5_000_000), Some(5_500_000), Some(6_000_000)]);
}

#[test]
fn overhead_counts_for_each_segment() {
    let with = Treatment { overhead: 100, ..BYTE_PER_US };
    let two = Packet { segments: 2, ..packet(1000) };
    assert_eq!(transmission_ns(&with, &two), 1_200_000);
}

#[test]
fn order_is_kept_if_asked_for() {
    let jitter = Treatment { flags: TREAT_DISTRIBUTED, ..ZERO };
    let times: Vec<u64> = (0..1000).map(|n| n * 1000).collect();
    let unordered = leave(ACTION_DELAY, &jitter, 100, &times);
    assert!(!unordered.is_sorted());
    let ordered = Treatment { flags: TREAT_DISTRIBUTED | TREAT_KEEPS_ORDER, ..ZERO };
    assert!(leave(ACTION_DELAY, &ordered, 100, &times).is_sorted());
}

#[test]
fn copies_add_up_over_faults() {
    let twice = Treatment { count: 2, ..ZERO };
    let mut way = Way::default();
    for _ in 0..2 {
        treat(ACTION_DUPLICATE, &twice, &packet(1), EGRESS, &Cells::default(), &Uniform, &mut way);
    }
    assert_eq!(way.copies, 4);
    for _ in 0..3 {
        treat(ACTION_DUPLICATE, &twice, &packet(1), EGRESS, &Cells::default(), &Uniform, &mut way);
    }
    assert_eq!(way.copies, MAX_COPIES);
}

#[test]
fn packets_whose_times_are_drawn_wait_apart_and_others_in_one_line() {
    let hashes = |action, flags, byte_ns_q16| {
        let treatment = Treatment { flags, byte_ns_q16, delay_ns: 5, queue: u64::MAX, stream: 9, ..ZERO };
        let memory = Cells::default();
        let one = |_| {
            let mut way = Way::default();
            treat(action, &treatment, &packet(100), EGRESS, &memory, &Uniform, &mut way);
            way.hash
        };
        (0..100).map(one).collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(hashes(ACTION_DELAY, TREAT_DISTRIBUTED, 0), 100);
    assert_eq!(hashes(ACTION_DELAY, TREAT_DISTRIBUTED | TREAT_KEEPS_ORDER, 0), 1);
    assert_eq!(hashes(ACTION_DELAY, 0, 0), 1);
    assert_eq!(hashes(ACTION_RATE, 0, 1000 << 16), 1);
}

#[test]
fn only_what_is_capable_of_ecn_is_marked() {
    let mark = |ecn| {
        let mut way = Way::default();
        let packet = Packet { ecn, ..packet(100) };
        let treated = treat(ACTION_MARK_CE, &ZERO, &packet, EGRESS, &Cells::default(), &Uniform, &mut way);
        (treated, way.marks)
    };
    assert_eq!(mark(0), (Treated::NotCapable, 0));
    assert_eq!(mark(2), (Treated::GoesOn, MARK_CE));
}

proptest! {
    /// Over any busy stretch a link sends its rate, neither more nor less.
    #[test]
    fn a_busy_link_keeps_its_rate(sizes in prop::collection::vec(20_u32..65_000, 2..200), rate_kbit in 8_u64..10_000_000) {
        let treatment = Treatment {
            byte_ns_q16: (8_000_000 << 16) / rate_kbit, queue: u64::MAX, ..ZERO
        };
        let (memory, mut last) = (Cells::default(), 0);
        for &bytes in &sizes {
            let mut way = Way::default();
            treat(ACTION_RATE, &treatment, &packet(bytes), EGRESS, &memory, &Uniform, &mut way);
            prop_assert!(way.at_ns >= last);
            last = way.at_ns;
        }
        let bytes: u64 = sizes.iter().map(|&bytes| u64::from(bytes)).sum();
        let ideal_ns = bytes as f64 * 8e6 / rate_kbit as f64;
        // Each packet may be cut down to a nanosecond, and the fixed-point rate is exact to 2^-16 ns per byte.
        let slack = sizes.len() as f64 + bytes as f64 / 65_536.0 + 1.0;
        prop_assert!((last as f64 - ideal_ns).abs() <= slack, "{last} for {ideal_ns}");
    }
}
