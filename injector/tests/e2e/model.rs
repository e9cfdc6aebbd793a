//! What a user-space model of a fault says of a flow, without asking the kernel.
//!
//! It uses the decision code that both halves share. That this code is right is shown by its own tests; here
//! it is shown that the kernel runs it, on every packet, in the order of the packets.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use injector_common::decide::{Memory, Outcome, Word, decide};
use injector_common::draw::{PURPOSE_STRIKE, fault_number, stream};
use injector_common::packet::{Address, Packet};
use injector_common::rule::Rule;

/// Units of 2^-32, as a rule has a probability.
pub(crate) fn p32(probability: f64) -> u64 {
    (probability * 4_294_967_296.0).round() as u64
}

/// A fault's memory while there is one CPU.
#[derive(Default)]
struct Cells {
    words: [Cell<u64>; 7],
    sequences: RefCell<BTreeMap<u32, u64>>,
}

impl Memory for Cells {
    fn increment(&self, word: Word) -> u64 {
        let cell = &self.words[word as usize];
        cell.replace(cell.get() + 1)
    }

    fn next_sequence(&self, class: u32) -> u64 {
        let mut sequences = self.sequences.borrow_mut();
        let next = sequences.entry(class).or_default();
        *next += 1;
        *next - 1
    }

    fn not_before(&self, _class: u32, at_ns: u64) -> u64 {
        at_ns
    }

    fn load(&self, word: Word) -> u64 {
        self.words[word as usize].get()
    }

    fn replace(&self, word: Word, _old: u64, new: u64) -> bool {
        self.words[word as usize].set(new);
        true
    }
}

/// The numbers of the packets of one UDP flow that the fault loses, of `count`.
#[allow(clippy::large_types_passed_by_value, reason = "each caller makes its rule for this call")]
pub(crate) fn lost(seed: u64, fault: &str, rule: Rule, remote: (&str, u16), count: u32) -> Vec<u32> {
    let rule = Rule { stream: stream(seed, fault_number(fault.as_bytes()), PURPOSE_STRIKE), ..rule };
    let address: Ipv4Addr = remote.0.parse().unwrap();
    let packet = Packet {
        remote: Address::from_v4(address.octets()),
        // The sender's own port is an ephemeral one, and the class must not depend on it.
        local_port: u16::MAX,
        remote_port: remote.1,
        family: 4,
        protocol: 17,
        ..Packet::default()
    };
    let memory = Cells::default();
    (0..count).filter(|_| decide(&rule, &packet, 0, &memory) == Outcome::Injected).collect()
}
