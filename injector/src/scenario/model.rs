//! What a valid scenario means: plain values, every default filled in, every number in its unit.
//!
//! Nothing here knows of files or of the host. Host names, cgroup paths and process ids are as they were written;
//! whether they exist is found out when targets are resolved.

use std::collections::BTreeMap;
use std::fmt;

use ipnet::IpNet;

use super::effect::Effect;
use super::matching::Match;
use super::quantity::{Budget, Nth, P32};

/// One experiment: who is hit, by what, when, and what must have been seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// Name, for reports; the file's name without its ending if the file gives none.
    pub name: String,
    /// Every random draw derives from it; `None` means that the controller picks one and reports it.
    pub seed: Option<u64>,
    /// Upper bound of the experiment, enforced in the kernel; more than 0.
    pub duration_ns: u64,
    /// Who can be hit, by name.
    pub targets: BTreeMap<String, Target>,
    /// Named sets of addresses.
    pub peers: BTreeMap<String, Vec<PeerAddress>>,
    /// What happens; at least one.
    pub faults: Vec<Fault>,
    /// What must have been seen at the end.
    pub expectations: Vec<Expectation>,
}

/// Somebody that faults can hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name in the scenario.
    pub name: String,
    /// How it is found on the host.
    pub selector: Selector,
    /// Where what arrives at an interface is struck; of other selectors always `Tc`, which then means nothing.
    pub hook: InterfaceHook,
    /// Whether a configured root qdisc may be lost to faults that keep packets back.
    pub takeover: bool,
    /// Whether the operator's SSH, the gateways and neighbour discovery are spared at an interface.
    pub spares: bool,
}

/// Where what arrives at an interface is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InterfaceHook {
    /// At traffic control.
    #[default]
    Tc,
    /// At XDP, before there is a socket buffer.
    Xdp,
}

/// How a target is found on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// A cgroup with all below it: an absolute path from the root of the cgroup v2 hierarchy.
    Cgroup(String),
    /// A process, with its later children.
    Pid(i32),
    /// Everything that passes a network interface.
    Interface(String),
    /// The command that `injector run` starts.
    Command,
}

/// One address of a `[peers]` set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerAddress {
    /// An address or a network.
    Net(IpNet),
    /// A host name, resolved on the host when the experiment is planned.
    Name(String),
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Unique in the scenario; `<kind>-<n>` if the file gives none.
    pub id: String,
    /// Names of what it strikes: one target, or the nodes of a partition.
    pub targets: Vec<String>,
    /// What is done to a match.
    pub effect: Effect,
    /// Which way the packets go, seen from the target.
    pub direction: Direction,
    /// Which packets are meant.
    pub matcher: Match,
    /// Which of those are not meant after all (`not`).
    pub exclude: Option<Match>,
    /// How often a match is struck. Loss models that are not memoryless have their own, and then this is "always".
    pub frequency: Frequency,
    /// At most so many injections.
    pub limit: Option<u64>,
    /// At most so many injections per period.
    pub budget: Option<Budget>,
    /// When the fault may strike.
    pub when: When,
    /// The fault from whose first strike on the times count; `None` is from the start of the experiment.
    pub after: Option<String>,
    /// The fault from the end of whose window on the times count, until the plan makes a time of it.
    pub after_end: Option<String>,
}

/// Which way packets go, seen from the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// They leave the target.
    #[default]
    Egress,
    /// They arrive at the target.
    Ingress,
    /// Either.
    Both,
}

/// How often a match is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frequency {
    /// Each match by itself, with this probability.
    Probability(P32),
    /// Matches by their number.
    Nth(Nth),
}

impl Default for Frequency {
    fn default() -> Self {
        Self::Probability(P32::ONE)
    }
}

/// When a fault may strike, in nanoseconds since the experiment's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct When {
    /// The first window opens here.
    pub start_ns: u64,
    /// Length of a window; `None` is to the end.
    pub for_ns: Option<u64>,
    /// Distance of two windows; `None` is one window only. Only with `for_ns`.
    pub every_ns: Option<u64>,
    /// Each window opens later by a seeded time below this.
    pub jitter_ns: u64,
}

/// What a fault must have done at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// Id of the fault.
    pub fault: String,
    /// What is looked at.
    pub metric: Metric,
    /// How it is compared.
    pub comparison: Comparison,
    /// With what.
    pub value: Expected,
}

/// What an expectation looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Matches, struck or not.
    Matched,
    /// Injections.
    Injected,
    /// Injections in segments on the wire.
    SegmentsInjected,
    /// Injections per match.
    RealisedRate,
}

impl Metric {
    /// Name of the key in a scenario and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Matched => "matched",
            Self::Injected => "injected",
            Self::SegmentsInjected => "segments_injected",
            Self::RealisedRate => "realised_rate",
        }
    }
}

/// The value that an expectation compares with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// A number of events, for the counters.
    Count(u64),
    /// A share of the matches, for `realised_rate`.
    Rate(P32),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Rate(rate) => rate.fmt(f),
        }
    }
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
}

impl Comparison {
    /// The operator as it is written.
    #[must_use]
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Eq => "==",
            Self::Ne => "!=",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
        }
    }

    /// Whether `left` compares so with `right`.
    #[must_use]
    pub fn holds<T: PartialOrd>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Eq => left == right,
            Self::Ne => left != right,
            Self::Lt => left < right,
            Self::Le => left <= right,
            Self::Gt => left > right,
            Self::Ge => left >= right,
        }
    }
}
