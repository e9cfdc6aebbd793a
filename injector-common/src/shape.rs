//! Where the rules of one experiment are, as far as it is known before the programs are loaded.
//!
//! As [`crate::needs`] it is frozen read-only data of the object, which the verifier takes for constants: an experiment with one
//! device or one cgroup pays a comparison in place of a lookup, and one rule is applied without a loop.

use crate::assert_layout;
use crate::layout::{Span, Target};
use crate::needs::Needs;
use crate::packet::Address;

/// Spared addresses that are compared one by one; where there are more, the trie has them.
pub const MAX_SPARED_ADDRESSES: usize = 4;

/// What of a packet some rule looks at; 0 is "nobody", 1 is "some may". Bytes and not bits: the verifier folds a branch, and leaves the
/// arithmetic in front of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wants {
    /// The time, but for the deadline.
    pub time: u8,
    /// All that can be known.
    pub whole: u8,
    /// Anything of it at all, beyond that it is IP.
    pub any: u8,
    /// Family, code point, congestion mark.
    pub header: u8,
    /// The protocol of the transport.
    pub protocol: u8,
    /// The header of the transport.
    pub transport: u8,
    /// The other side's address.
    pub remote: u8,
    /// The target's address.
    pub local: u8,
    /// The length.
    pub length: u8,
    /// The device.
    pub device: u8,
    /// The socket.
    pub socket: u8,
    /// 1: nothing but that it is IP, since all of it is lost.
    pub loses_all: u8,
    /// Zero.
    pub _pad: [u8; 4],
}

assert_layout!(Wants, size 16, align 1, {
    time: 0, whole: 1, any: 2, header: 3, protocol: 4, transport: 5, remote: 6, local: 7, length: 8, device: 9, socket: 10,
    loses_all: 11, _pad: 12,
});

impl Wants {
    /// What rules look at that have these needs.
    #[must_use]
    pub const fn of(needs: Needs) -> Self {
        Self {
            time: needs.time() as u8,
            whole: needs.whole_packet() as u8,
            any: needs.any() as u8,
            header: needs.header() as u8,
            protocol: needs.protocol() as u8,
            transport: needs.transport() as u8,
            remote: needs.remote() as u8,
            local: needs.local() as u8,
            length: needs.length() as u8,
            device: needs.device() as u8,
            socket: needs.socket() as u8,
            loses_all: needs.loses_all() as u8,
            _pad: [0; 4],
        }
    }
}

/// What is known of the maps' content.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Id of the only cgroup that is a target; 0: there are others, or none.
    pub cgroup: u64,
    /// Its rules.
    pub of_cgroup: Target,
    /// Rules of the only device that is a target.
    pub of_device: Target,
    /// Index of the only device that is a target; 0: there are others, or none.
    pub device: u32,
    /// 1: no target has more than one rule in any direction.
    pub single_rules: u32,
    /// Number of the set whose members `spared` has.
    pub spared_set: u32,
    /// How many of `spared` count; 0: the trie has them.
    pub spared_count: u32,
    /// The members of the set of spared addresses.
    pub spared: [Address; MAX_SPARED_ADDRESSES],
    /// What is read of a packet.
    pub wants: Wants,
}

assert_layout!(Shape, size 152, align 8, {
    cgroup: 0, of_cgroup: 8, of_device: 32, device: 56, single_rules: 60, spared_set: 64, spared_count: 68, spared: 72,
    wants: 136,
});

impl Shape {
    /// Nothing is known, so everything is looked up.
    pub const UNKNOWN: Self = {
        let none = Span { first: 0, count: 0 };
        let none = Target { egress: none, ingress: none, calls: none };
        Self {
            cgroup: 0,
            of_cgroup: none,
            of_device: none,
            device: 0,
            single_rules: 0,
            spared_set: 0,
            spared_count: 0,
            spared: [Address { words: [0; 4] }; MAX_SPARED_ADDRESSES],
            wants: Wants::of(Needs::ALL),
        }
    };
}
