//! A rule: one fault in one direction, as the kernel sees it.

use crate::assert_layout;
use crate::frequency::{Budget, Nth};
use crate::loss::LossModel;
use crate::matching::Match;
use crate::treatment::Treatment;
use crate::window::Window;

/// `Rule::action`: lose the packet as the network would.
pub const ACTION_LOSS: u32 = 1;
/// `Rule::action`: drop the packet so that the sender's own stack notices.
pub const ACTION_LOCAL_DROP: u32 = 2;
/// `Rule::action`: the packet comes later.
pub const ACTION_DELAY: u32 = 3;
/// `Rule::action`: the packet goes over a link of a given rate, with a bounded queue in front.
pub const ACTION_RATE: u32 = 4;
/// `Rule::action`: the packet comes more than once.
pub const ACTION_DUPLICATE: u32 = 5;
/// `Rule::action`: bits of the packet are flipped.
pub const ACTION_CORRUPT: u32 = 6;
/// `Rule::action`: the packet says that it met congestion (RFC 3168).
pub const ACTION_MARK_CE: u32 = 7;
/// `Rule::action`: the TCP segment offers another window.
pub const ACTION_WINDOW: u32 = 8;
/// `Rule::action`: the packet is lost, and the TCP connection that it belongs to is reset.
pub const ACTION_RESET: u32 = 9;
/// `Rule::action`: the packet is lost, and its sender gets an ICMP error.
pub const ACTION_REJECT: u32 = 10;
/// `Rule::action`: a DNS question gets a wrong answer or none, and goes no further, see [`crate::dns`].
pub const ACTION_DNS: u32 = 11;
/// `Rule::action`: a call of the target fails.
pub const ACTION_CONNECT: u32 = 12;
/// `Rule::action`: an I/O operation or a system call of the target fails, see [`crate::operation`].
pub const ACTION_OPERATION: u32 = 13;
/// `Rule::action`: an I/O operation or a system call of the target takes longer.
pub const ACTION_SLEEP: u32 = 14;
/// `Rule::action`: who makes an I/O operation or a system call gets a signal.
pub const ACTION_SIGNAL: u32 = 15;
/// `Rule::action`: what is written is said to be written, and is not.
pub const ACTION_LOSE: u32 = 16;
/// `Rule::action`: bits of what was read are flipped.
pub const ACTION_ROT: u32 = 17;
/// `Rule::action`: what adjtimex(2) says of the clock is changed.
pub const ACTION_UNCERTAINTY: u32 = 18;
/// `Rule::action`: nothing is done but to count, to packets as to operations. What strikes is what others may follow.
pub const ACTION_OBSERVE: u32 = 19;
/// The actions that operations can meet.
pub const OPERATION_ACTIONS: u64 = 1 << ACTION_OPERATION
    | 1 << ACTION_SLEEP
    | 1 << ACTION_SIGNAL
    | 1 << ACTION_LOSE
    | 1 << ACTION_ROT
    | 1 << ACTION_UNCERTAINTY
    | 1 << ACTION_OBSERVE;

/// `Rule::frequency`: every matching packet is struck.
pub const FREQUENCY_ALWAYS: u32 = 0;
/// `Rule::frequency`: each matching packet is struck with `Rule::probability_p32`.
pub const FREQUENCY_PROBABILITY: u32 = 1;
/// `Rule::frequency`: `Rule::nth` says which.
pub const FREQUENCY_NTH: u32 = 2;
/// `Rule::frequency`: `Rule::model` says which.
pub const FREQUENCY_MODEL: u32 = 3;

/// `Rule::direction`: leaves the target.
pub const EGRESS: u32 = 0;
/// `Rule::direction`: arrives at the target.
pub const INGRESS: u32 = 1;
/// `Rule::direction`: no packet yet, but a call of the target, see [`crate::call`].
pub const CALL: u32 = 2;
/// `Rule::direction`: no packet at all, but an operation of the target, see [`crate::operation`].
pub const OPERATION: u32 = 3;

/// `Rule::flags`: `exclude` is given.
pub const RULE_EXCLUDES: u32 = 1 << 0;
/// `Rule::flags`: IPv6 neighbour discovery is spared (RFC 4861, ICMPv6 133 to 137).
pub const RULE_SPARES_NEIGHBOURS: u32 = 1 << 1;
/// `Rule::flags`: the addresses of `spared_set` are spared.
pub const RULE_SPARES_GATEWAYS: u32 = 1 << 2;
/// `Rule::flags`: TCP on a local port of `spared_ports` is spared.
pub const RULE_SPARES_PORTS: u32 = 1 << 3;
/// `Rule::flags`: the rule asked for single segments (`per = "segment"`).
pub const RULE_PER_SEGMENT: u32 = 1 << 4;

/// `Rule::flags`: its subject asks for a device or a kind of file system.
pub const RULE_NAMES_DEVICES: u32 = 1 << 5;
/// `Rule::flags`: its subject stays once it has struck.
pub const RULE_STAYS: u32 = 1 << 6;
/// `Rule::flags`: it follows another fault, or another one follows it.
pub const RULE_LINKED: u32 = 1 << 7;

/// `Rule::limit` that never ends a fault.
pub const NO_LIMIT: u64 = u64::MAX;

/// One fault in one direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// One of the `ACTION_` constants; 0 does nothing.
    pub action: u32,
    /// `RULE_` bits.
    pub flags: u32,
    /// Slot of the fault: index of its state, and base of its sequences.
    pub fault: u32,
    /// `EGRESS`, `INGRESS`, `CALL` or `OPERATION`.
    pub direction: u32,
    /// One of the `FREQUENCY_` constants.
    pub frequency: u32,
    /// Number of the set of spared addresses.
    pub spared_set: u32,
    /// TCP ports that are spared; 0 is none.
    pub spared_ports: [u16; 4],
    /// Slot of the fault from whose first strike on the window counts, and one; 0 is the start of the experiment.
    pub follows: u32,
    /// 1: others follow this fault, so its first strike is noted.
    pub is_followed: u32,
    /// Stream of the draws, made of the seed and the fault's id, see [`crate::draw::stream`].
    pub stream: u64,
    /// Probability in units of 2^-32.
    pub probability_p32: u64,
    /// Which matching packets are struck.
    pub nth: Nth,
    /// So many injections at most, both directions together.
    pub limit: u64,
    /// So many injections per period at most.
    pub budget: Budget,
    /// When the fault strikes.
    pub window: Window,
    /// Loss model.
    pub model: LossModel,
    /// The packets that are meant.
    pub include: Match,
    /// The packets that are not meant (`not`).
    pub exclude: Match,
    /// What is done to a packet that is struck and not merely dropped.
    pub treatment: Treatment,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            action: 0,
            flags: 0,
            fault: 0,
            direction: EGRESS,
            frequency: FREQUENCY_ALWAYS,
            spared_set: 0,
            spared_ports: [0; 4],
            follows: 0,
            is_followed: 0,
            stream: 0,
            probability_p32: 0,
            nth: Nth::EVERY,
            limit: NO_LIMIT,
            budget: Budget::default(),
            window: Window::default(),
            model: LossModel::default(),
            include: Match::default(),
            exclude: Match::default(),
            treatment: Treatment::default(),
        }
    }
}

assert_layout!(Rule, size 840, align 8, {
    action: 0, flags: 4, fault: 8, direction: 12, frequency: 16, spared_set: 20, spared_ports: 24, follows: 32,
    is_followed: 36, stream: 40, probability_p32: 48, nth: 56, limit: 80, budget: 88, window: 104, model: 144,
    include: 192, exclude: 480, treatment: 768,
});
