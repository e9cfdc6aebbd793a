//! What a user-space model of a fault says of a flow, without asking the kernel.
//!
//! It uses the decision code that both halves share. That this code is right is shown by its own tests; here
//! it is shown that the kernel runs it, on every packet, in the order of the packets.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use injector_common::decide::{Memory, Outcome, Word, decide};
use injector_common::draw::{PURPOSE_STRIKE, PURPOSE_VALUE, draw, fault_number, stream};
use injector_common::packet::{Address, Packet};
use injector_common::rule::{EGRESS, Rule};

/// Units of 2^-32, as a rule has a probability.
pub(crate) fn p32(probability: f64) -> u64 {
    (probability * 4_294_967_296.0).round() as u64
}

/// A fault's memory while there is one CPU.
#[derive(Default)]
struct Cells {
    words: [Cell<u64>; 8],
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

/// IP's numbers of the protocols.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// A packet of a flow to a remote address and port, which is 0 where the protocol has none.
fn packet(protocol: u8, remote: (&str, u16)) -> Packet {
    let address: Ipv4Addr = remote.0.parse().unwrap();
    Packet {
        remote: Address::from_v4(address.octets()),
        // The sender's own port is an ephemeral one, and the class must not depend on it.
        local_port: if remote.1 == 0 { 0 } else { u16::MAX },
        remote_port: remote.1,
        family: 4,
        protocol,
        ..Packet::default()
    }
}

/// What a fault draws for the n-th packet of a flow that leaves, as a share of 1: of its values, which are delays.
pub(crate) fn share(seed: u64, fault: &str, protocol: u8, remote: (&str, u16), n: u64) -> f64 {
    let values = stream(seed, fault_number(fault.as_bytes()), PURPOSE_VALUE);
    draw(values, packet(protocol, remote).class(EGRESS), n) as f64 / 2.0_f64.powi(64)
}

/// The numbers of the packets of one UDP flow that the fault loses, of `count`.
#[allow(clippy::large_types_passed_by_value, reason = "each caller makes its rule for this call")]
pub(crate) fn lost(seed: u64, fault: &str, rule: Rule, remote: (&str, u16), count: u32) -> Vec<u32> {
    let rule = Rule { stream: stream(seed, fault_number(fault.as_bytes()), PURPOSE_STRIKE), ..rule };
    let (packet, memory) = (packet(UDP, remote), Cells::default());
    (0..count).filter(|_| decide(&rule, &packet, 0, &memory) == Outcome::Injected).collect()
}
