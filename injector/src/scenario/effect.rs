//! What is done to a match: one variant for each way in which the kernel half can act.

use std::sync::Arc;

use super::clock::ClockFault;
use super::data::{Profile, Trace};
use super::dns::{Dns, DnsAnswer};
use super::harm::OperationFault;
use super::model::Direction;
use super::partition::Partition;
use super::process::ProcessFault;
use super::quantity::{BitRate, P32};
use super::reject::{Reject, Reset};

/// What is done to a match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The packet is lost as the network would lose it.
    Loss(Loss),
    /// The packet is dropped so that the sender's own stack notices.
    LocalDrop,
    /// The packet comes later.
    Delay(Delay),
    /// The packet is held back, so that later ones overtake it.
    Reorder(Reorder),
    /// The packet goes over a link of a given rate.
    Rate(Rate),
    /// The packet comes so many times more.
    Duplicate {
        /// Additional copies, 1 to 8.
        copies: u32,
    },
    /// Bits of the packet are flipped.
    Corrupt(Corrupt),
    /// The packet says that it met congestion.
    MarkEcn,
    /// The TCP segment offers another receive window.
    Window {
        /// The window field's value.
        size: u16,
    },
    /// Packets between the sides of a partition are lost.
    Partition(Partition),
    /// A call of the target fails, before there is any packet.
    Connect(Refusal),
    /// A DNS question gets another answer than the server's.
    Dns(Dns),
    /// The packet is lost, and its TCP connection is reset.
    Reset(Reset),
    /// The packet is lost, and its sender gets an ICMP error.
    Reject(Reject),
    /// Nothing: the packet is counted.
    Observe,
    /// The device is set down.
    Link,
    /// What the target's processes do is struck: I/O operations, system calls.
    Operations(OperationFault),
    /// What happens to the target's processes as a whole.
    Process(ProcessFault),
    /// The clocks of the target's processes go wrong.
    Clock(ClockFault),
}

impl Effect {
    /// Name of the kind in a scenario.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Loss(_) => "network.loss",
            Self::LocalDrop => "network.local-drop",
            Self::Delay(_) => "network.delay",
            Self::Reorder(_) => "network.reorder",
            Self::Rate(_) => "network.rate",
            Self::Duplicate { .. } => "network.duplicate",
            Self::Corrupt(_) => "network.corrupt",
            Self::MarkEcn => "network.mark-ecn",
            Self::Window { .. } => "network.window",
            Self::Partition(_) => "network.partition",
            Self::Connect(_) => "network.connect",
            Self::Dns(_) => "network.dns",
            Self::Reset(_) => "network.reset",
            Self::Reject(_) => "network.reject",
            Self::Observe => "network.observe",
            Self::Link => "network.link",
            Self::Operations(fault) => fault.kind(),
            Self::Process(fault) => fault.kind(),
            Self::Clock(fault) => fault.kind(),
        }
    }

    /// The targets that its own keys name, in place of `target`.
    #[must_use]
    pub fn nodes(&self) -> Option<&[String]> {
        match self {
            Self::Partition(Partition::Nodes { nodes, .. }) => Some(nodes),
            _ => None,
        }
    }

    /// The direction that its own keys say.
    #[must_use]
    pub fn direction(&self) -> Option<Direction> {
        match self {
            Self::Partition(Partition::Peers { from, to }) => Some(match (from.is_empty(), to.is_empty()) {
                (false, true) => Direction::Ingress,
                (true, _) => Direction::Egress,
                (false, false) => Direction::Both,
            }),
            // Each node drops what it sends, so that what is lost is decided once.
            Self::Partition(Partition::Nodes { .. }) => Some(Direction::Egress),
            _ => None,
        }
    }

    /// Whether packets wait for their time, which takes a queue that keeps it.
    #[must_use]
    pub const fn keeps_back(&self) -> bool {
        matches!(self, Self::Delay(_) | Self::Reorder(_) | Self::Rate(_))
    }

    /// The calls that it strikes instead of packets.
    #[must_use]
    pub const fn calls(&self) -> Option<&Refusal> {
        match self {
            Self::Connect(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether it strikes what the target's processes do, and no packets.
    #[must_use]
    pub const fn strikes_operations(&self) -> bool {
        matches!(self, Self::Operations(_))
    }

    /// Whether it strikes processes, whatever they do.
    #[must_use]
    pub const fn strikes_processes(&self) -> bool {
        matches!(self, Self::Process(_) | Self::Clock(_))
    }

    /// Whether the kernel half has no part in it: injector itself does it, at its times.
    #[must_use]
    pub const fn is_done_by_injector(&self) -> bool {
        matches!(self, Self::Link | Self::Process(_) | Self::Clock(_))
    }

    /// Whether it can begin when another fault strikes.
    #[must_use]
    pub const fn waits_for_others(&self) -> bool {
        !matches!(self, Self::Link | Self::Clock(_))
    }

    /// By what it is done, if injector does it.
    #[must_use]
    pub fn done_by(&self) -> Option<String> {
        match self {
            Self::Link => Some("rtnetlink".to_owned()),
            Self::Process(fault) => Some(fault.mechanism()),
            Self::Clock(_) => Some("vDSO patch".to_owned()),
            _ => None,
        }
    }

    /// Whether further packets are sent: copies, answers.
    #[must_use]
    pub fn sends(&self) -> bool {
        match self {
            Self::Duplicate { .. } | Self::Reset(_) | Self::Reject(_) => true,
            Self::Dns(dns) => dns.answer != DnsAnswer::Silence,
            _ => false,
        }
    }

    /// Whether something else is sent in the packet's place.
    #[must_use]
    pub const fn answers(&self) -> bool {
        matches!(self, Self::Reset(_) | Self::Reject(_))
    }

    /// Whether the packet is changed or copied.
    #[must_use]
    pub fn changes(&self) -> bool {
        if let Self::Dns(dns) = self {
            return dns.answer != DnsAnswer::Silence;
        }
        matches!(self, Self::Duplicate { .. } | Self::Corrupt(_) | Self::MarkEcn | Self::Window { .. })
    }
}

/// How packets are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Which packets.
    pub model: LossModel,
    /// What counts as a packet.
    pub per: Per,
}

/// What counts as one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Per {
    /// What the stack handles at once, also if that is a GSO super-packet of many segments.
    #[default]
    Packet,
    /// What goes over the wire.
    Segment,
}

/// Which packets are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossModel {
    /// Each by itself, as the fault's `frequency` says.
    Bernoulli,
    /// Two states, good and bad (Gilbert 1960, Elliott 1963).
    ///
    /// A packet meets the state that it finds; then the state moves.
    GilbertElliott {
        /// Chance to go from good to bad.
        p: P32,
        /// Chance to go from bad to good.
        r: P32,
        /// Chance of a packet to be delivered in the bad state.
        h: P32,
        /// Chance of a packet to be delivered in the good state.
        k: P32,
    },
    /// The four-state chain of netem's `loss state` (`loss_4state` in `net/sched/sch_netem.c`).
    ///
    /// Salsano, Ludovici, Ordine and Giannuzzi, "Definition of a general and intuitive loss model for packet networks
    /// and its implementation in the Netem module in the Linux kernel" (2012). The states are 1: delivered, in a gap
    /// between bursts; 2: delivered, within a burst; 3: lost, within a burst; 4: lost alone, in a gap. It starts in 1.
    /// For each packet the state moves first, and the packet meets the new one:
    ///
    /// - 1 goes to 3 with `p13`, to 4 with `p14`, else stays, so `p13 + p14 <= 100 %`;
    /// - 2 goes to 3 with `p23`, else stays;
    /// - 3 goes to 1 with `p31`, to 2 with `p32`, else stays, so `p31 + p32 <= 100 %`;
    /// - 4 always goes back to 1, and that packet is delivered.
    Markov {
        /// Chance that a burst begins.
        p13: P32,
        /// Chance that a burst ends after a lost packet.
        p31: P32,
        /// Chance that a burst goes on with a delivered packet.
        p32: P32,
        /// Chance that the next packet within a burst is lost again.
        p23: P32,
        /// Chance of a single loss between bursts.
        p14: P32,
    },
    /// `up` packets are delivered, then `down` are lost, and so on.
    PeriodicPackets {
        /// Delivered packets of a period, at least 1.
        up: u64,
        /// Lost packets of a period, at least 1.
        down: u64,
    },
    /// All is delivered for `up_ns`, then all is lost for `down_ns`, and so on.
    PeriodicTime {
        /// Nanoseconds of a period in which all is delivered, at least 1.
        up_ns: u64,
        /// Nanoseconds of a period in which all is lost, at least 1.
        down_ns: u64,
    },
}

/// How much later packets come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delay {
    /// The delays of single packets.
    pub times: Times,
    /// Whether a packet may overtake another one of its flow.
    pub reorder: bool,
}

/// Where the delays of single packets come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Times {
    /// A formula.
    Spread {
        /// The delay, or its mean.
        delay_ns: u64,
        /// Its spread, as the distribution has it; 0 is none.
        jitter_ns: u64,
        /// How they are spread around the mean.
        distribution: Distribution,
    },
    /// A measurement.
    Measured(Arc<Profile>),
}

/// How delays are spread around their mean. `delay` is the mean of each and `jitter` the standard deviation, but for
/// the uniform distribution, where it is half the width (as netem has it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Distribution {
    /// From `delay - jitter` to `delay + jitter`.
    #[default]
    Uniform,
    /// Gauss's, cut at 0.
    Normal,
    /// Pareto's with the shape 3: a sharp minimum `delay - jitter / sqrt(3)` and a heavy tail.
    Pareto,
    /// A quarter of a normal and three quarters of a Pareto variable, scaled to the standard deviation.
    ParetoNormal,
    /// From `delay - jitter` on, falling off exponentially.
    Exponential,
}

/// How packets are held back for others to overtake them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reorder {
    /// For how long.
    pub delay_ns: u64,
    /// Every `gap`-th match is held back; `None` leaves it to the fault's frequency.
    pub gap: Option<u64>,
}

/// A link with a queue in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    /// What it carries: IP packets and their overhead.
    pub capacity: Capacity,
    /// The longest wait for the link.
    pub queue: Queue,
    /// Bytes of the link's own around each packet.
    pub overhead_bytes: u32,
}

/// What a link carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capacity {
    /// The same at all times.
    Constant {
        /// Bits per second.
        rate: BitRate,
        /// Bytes that are sent at once after a pause.
        burst_bytes: u64,
    },
    /// What a recording says.
    Trace(Arc<Trace>),
}

/// What bounds a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// The wait for the link.
    TimeNs(u64),
    /// The bytes that wait.
    Bytes(u64),
    /// So many full packets, of 1500 bytes and the overhead each.
    Packets(u64),
}

/// How bits are flipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corrupt {
    /// Whether anybody can notice.
    pub mode: CorruptMode,
    /// Bits to flip, 1 to 64.
    pub bits: u32,
    /// Byte of the payload at which the flips begin; `None` draws each.
    pub offset: Option<u32>,
}

/// Calls that fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// With which errno, 1 to 133.
    pub errno: i32,
    /// connect(2) fails.
    pub connect: bool,
    /// bind(2) fails.
    pub bind: bool,
    /// UDP sends that name an address fail.
    pub sendmsg: bool,
}

/// Whether a corruption is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CorruptMode {
    /// A checksum fails, and the receiver drops the packet.
    #[default]
    Wire,
    /// The checksums are right, and the application gets wrong bytes.
    Silent,
}
