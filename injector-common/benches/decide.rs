//! What the pure decision costs: whether a rule means a packet, and what becomes of it, without a kernel.
//!
//! `cargo bench --package injector-common`. The kernel's share is what `injector bench` measures.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use criterion::Criterion;
use injector_common::P32_ONE;
use injector_common::decide::{Memory, Outcome, Word, decide, is_meant};
use injector_common::draw::{PURPOSE_STRIKE, fault_number, stream};
use injector_common::frequency::Nth;
use injector_common::loss::{LossModel, MODEL_GILBERT_ELLIOTT};
use injector_common::matching::{
    AddressSets, KEY_PROTOCOL, KEY_REMOTE_PORT, MAX_PORT_RANGES, Match, PortRange,
};
use injector_common::packet::{Address, CLASSES, PACKET_HAS_PORTS, Packet};
use injector_common::rule::{FREQUENCY_MODEL, FREQUENCY_NTH, FREQUENCY_PROBABILITY, Rule};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The memory of a fault as the kernel has it: atomics, ordered as strictly.
struct Shared {
    words: [AtomicU64; 8],
    sequences: Vec<AtomicU64>,
}

impl Shared {
    fn new() -> Self {
        let sequences = (0..CLASSES).map(|_| AtomicU64::new(0)).collect();
        Self { words: [const { AtomicU64::new(0) }; 8], sequences }
    }
}

impl Memory for Shared {
    fn increment(&self, word: Word) -> u64 {
        self.words[word as usize].fetch_add(1, SeqCst)
    }
    fn next_sequence(&self, class: u32) -> u64 {
        self.sequences[class as usize].fetch_add(1, SeqCst)
    }
    fn not_before(&self, _class: u32, at_ns: u64) -> u64 {
        at_ns
    }
    fn load(&self, word: Word) -> u64 {
        self.words[word as usize].load(SeqCst)
    }
    fn replace(&self, word: Word, old: u64, new: u64) -> bool {
        self.words[word as usize].compare_exchange(old, new, SeqCst, SeqCst).is_ok()
    }
}

/// No rule here names addresses.
struct NoSets;

impl AddressSets for NoSets {
    fn contains(&self, _: u32, _: &Address) -> bool {
        false
    }
}

fn packet() -> Packet {
    Packet {
        local: Address::from_v4([10, 0, 0, 1]),
        remote: Address::from_v4([10, 0, 0, 2]),
        local_port: 40_000,
        remote_port: 5432,
        family: 4,
        protocol: TCP,
        tcp_flags: 0x10,
        length: 140,
        tcp_payload: 100,
        segments: 1,
        ifindex: 2,
        flags: PACKET_HAS_PORTS,
        ..Packet::default()
    }
}

fn of_protocol(protocol: u8) -> Match {
    Match { keys: KEY_PROTOCOL, protocols: [1 << protocol, 0, 0, 0], ..Match::default() }
}

/// The last of them has the packet's port, so that all are looked at.
fn of_many_ports() -> Match {
    let mut remote_ports = [PortRange { low: 1, high: 1 }; MAX_PORT_RANGES];
    remote_ports[MAX_PORT_RANGES - 1] = PortRange { low: 5000, high: 6000 };
    Match {
        keys: KEY_PROTOCOL | KEY_REMOTE_PORT,
        remote_ports,
        remote_port_count: MAX_PORT_RANGES as u32,
        ..of_protocol(TCP)
    }
}

/// The rules by what is measured of them; each loses a tenth of what it means.
fn rules() -> [(&'static str, Rule); 5] {
    let stream = stream(1, fault_number(b"bench"), PURPOSE_STRIKE);
    let always = Rule { stream, include: of_protocol(TCP), ..Rule::default() };
    let bernoulli = Rule { frequency: FREQUENCY_PROBABILITY, probability_p32: P32_ONE / 10, ..always };
    // A stay in the bad state begins with 1/36 and ends with 1/4: a tenth of the time is spent in it.
    let parameters = [P32_ONE / 36, P32_ONE / 4, 0, P32_ONE, 0];
    let model = LossModel { kind: MODEL_GILBERT_ELLIOTT, parameters, ..LossModel::default() };
    [
        ("no match", Rule { include: of_protocol(UDP), ..bernoulli }),
        ("bernoulli", bernoulli),
        ("gilbert-elliott", Rule { frequency: FREQUENCY_MODEL, model, ..always }),
        ("nth", Rule { frequency: FREQUENCY_NTH, nth: Nth { first: 1, last: u64::MAX, step: 10 }, ..always }),
        ("16 port ranges", Rule { include: of_many_ports(), ..bernoulli }),
    ]
}

/// What the kernel does with one rule.
fn outcome(rule: &Rule, packet: &Packet, elapsed_ns: u64, memory: &Shared) -> Outcome {
    if !is_meant(rule, packet, &NoSets) {
        return Outcome::NotMeant;
    }
    decide(rule, packet, elapsed_ns, memory)
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("decide");
    for (name, rule) in rules() {
        let (packet, memory) = (packet(), Shared::new());
        group.bench_function(name, |bencher| {
            bencher.iter(|| outcome(black_box(&rule), black_box(&packet), black_box(1_000_000), &memory));
        });
    }
    group.finish();
    criterion.final_summary();
}
