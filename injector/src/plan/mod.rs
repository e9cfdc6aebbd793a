//! From a valid scenario and a resolved world to numbers: what the maps hold, what is attached where.
//!
//! Everything here is pure. What the plan needs to know of the host comes in as a [`World`]; what it decides
//! goes out as an [`Image`](crate::kernel::Image) and as [`PlannedFault`]s. Nothing here attaches or reads.

mod addresses;
mod distribution;
mod dns;
mod ends;
mod error;
mod link;
mod lower;
mod matching;
#[cfg(test)]
mod mechanism_tests;
mod notes;
pub mod operations;
mod partition;
mod rate;
mod spare;
mod treat;
mod xdp;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

pub use ends::with_ends;
pub use error::PlanError;
pub(crate) use lower::own_windows;
pub use lower::{Lowered, lower};
pub(crate) use matching::{check_devices, device_indices, names_devices};
pub(crate) use partition::check_nodes;
pub use partition::words;
pub use rate::requested;
pub use spare::{MAX_SPARED_PORTS, unspared_ports};
pub use xdp::{StruckInterface, XdpError, check_hooks};

use crate::kernel::attach::Rung;
use crate::kernel::functions::Function;
use crate::kernel::xdp::Mode;
use crate::scenario::{
    Direction, Effect, Fault, InterfaceHook, Per, Scenario, SyscallName, keeps_back_what_arrives,
};

/// Where a target is, once it is found (or made).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A cgroup and all below it.
    Cgroup {
        /// Path from the root of the hierarchy, such as `/app/db`.
        path: String,
        /// Its id, as `bpf_skb_ancestor_cgroup_id` gives it.
        id: u64,
        /// Its depth; the root is 0.
        level: u32,
    },
    /// A device in the controller's network namespace.
    Interface {
        /// Its name.
        name: String,
        /// Its index.
        index: u32,
        /// Whether its frames begin with an Ethernet header.
        is_ethernet: bool,
    },
}

/// What a plan must know of the host.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Where each target of the scenario is.
    pub places: BTreeMap<String, Place>,
    /// The networks of each `[peers]` set, names resolved.
    pub peers: BTreeMap<String, Vec<IpNet>>,
    /// The addresses of each node of a partition.
    pub nodes: BTreeMap<String, Vec<IpNet>>,
    /// Indices of the devices that scenarios name, in all namespaces of the targets.
    pub devices: BTreeMap<String, Vec<u32>>,
    /// TCP ports that interface-wide faults spare: the operator's SSH, the most important first.
    pub spared_ports: Vec<u16>,
    /// Addresses that interface-wide faults spare: the default gateways.
    pub spared_addresses: Vec<IpAddr>,
    /// Whether each decision is written to the ring.
    pub trace: bool,
    /// The positions of the faults that are decided by notifications of seccomp: the kernel half has no part in them.
    pub notified: BTreeSet<usize>,
}

/// The longest time for which all faults together may keep a packet back: fq counts microseconds in 32 bits.
const MAX_KEPT_BACK_NS: u64 = 70 * 60 * 1_000_000_000;

/// Refuses faults that keep packets back for longer than their queue can.
pub fn check_longest(faults: &[PlannedFault]) -> Result<(), PlanError> {
    let longest_ns = faults.iter().fold(0_u64, |sum, fault| sum.saturating_add(fault.longest_ns));
    if longest_ns > MAX_KEPT_BACK_NS { Err(PlanError::TooLong { longest_ns }) } else { Ok(()) }
}

/// A hook that a fault needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Traffic control, egress, on every device of the target's network namespaces.
    CgroupEgress,
    /// The socket filters of a cgroup.
    CgroupIngress,
    /// Traffic control, ingress, on every device of the target's network namespaces, by the socket that a packet will reach.
    CgroupArrival,
    /// Traffic control, egress, of one device.
    DeviceEgress,
    /// Traffic control, ingress, of one device.
    DeviceIngress,
    /// The connect(2) of a cgroup's processes.
    CgroupConnect,
    /// The bind(2) of a cgroup's processes.
    CgroupBind,
    /// The UDP sends of a cgroup's processes that name an address.
    CgroupSendmsg,
    /// XDP of one device.
    DeviceXdp,
}

impl Hook {
    /// The hooks of calls instead of packets.
    pub const CALLS: [Self; 3] = [Self::CgroupConnect, Self::CgroupBind, Self::CgroupSendmsg];
}

/// What a fault will be: what `injector plan` prints.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedFault {
    /// Its id.
    pub id: String,
    /// Its kind.
    pub kind: &'static str,
    /// The names of its targets: one, or the nodes of a partition.
    pub targets: Vec<String>,
    /// The pairs of nodes that a partition cuts off from each other.
    pub cuts: Vec<[String; 2]>,
    /// The fault for whose first strike it waits.
    pub after: Option<String>,
    /// Which way.
    pub direction: Direction,
    /// By what injector does it, where no program does.
    pub done_by: Option<String>,
    /// The hooks it needs.
    pub hooks: Vec<Hook>,
    /// The functions of the kernel at which it is decided, if it strikes operations.
    pub functions: BTreeSet<Function>,
    /// The system calls whose notifications it is decided by, where there is nothing better.
    pub notified: Vec<SyscallName>,
    /// Share of the matching packets that it was asked to strike; `None` where no share was asked for.
    pub requested_rate: Option<f64>,
    /// Whether devices must be told to send single segments.
    pub per_segment: bool,
    /// Whether it answers packets.
    pub answers: bool,
    /// Whether what arrives goes round by an ifb, for this fault or for another one of the same interface, and is decided there.
    pub goes_round: bool,
    /// The longest time that it keeps a packet back; more than 0 takes a queue that keeps departure times.
    pub longest_ns: u64,
    /// What it does not do here, in sentences.
    pub notes: Vec<String>,
}

impl PlannedFault {
    /// The hooks by their names, such as `tc egress (tcx) + cgroup_skb ingress`. `mode` is that of XDP, once it is known.
    #[must_use]
    pub fn mechanism(&self, rung: Rung, mode: Option<Mode>) -> String {
        let name = |hook: &Hook| match hook {
            Hook::CgroupEgress | Hook::DeviceEgress => format!("tc egress ({})", rung.name()),
            // On the way round all that arrives is decided in front of the queue of the ifb.
            Hook::DeviceIngress if self.goes_round => "ifb egress (redirected ingress)".to_owned(),
            Hook::DeviceIngress => format!("tc ingress ({})", rung.name()),
            Hook::CgroupIngress => "cgroup_skb ingress".to_owned(),
            Hook::CgroupArrival if self.longest_ns > 0 => {
                format!("tc ingress ({}) by socket + ifb", rung.name())
            }
            Hook::CgroupArrival => format!("tc ingress ({}) by socket", rung.name()),
            Hook::CgroupConnect => "cgroup connect".to_owned(),
            Hook::CgroupBind => "cgroup bind".to_owned(),
            Hook::CgroupSendmsg => "cgroup sendmsg".to_owned(),
            Hook::DeviceXdp => format!("xdp ({})", mode.map_or("native, else generic", Mode::name)),
        };
        let mut names = self.hooks.iter().map(name).collect::<Vec<_>>();
        if self.longest_ns > 0 {
            names.push("fq".to_owned());
        }
        if !self.functions.is_empty() {
            names.push(operations::mechanism(&self.functions));
        }
        if !self.notified.is_empty() {
            names.push(operations::notified::mechanism(&self.notified));
        }
        names.extend(self.done_by.clone());
        names.join(" + ")
    }
}

/// What a target is, as far as hooks depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// A cgroup, however it was named.
    Cgroup,
    /// A device.
    Device,
    /// A loopback device, on which what leaves arrives too.
    Loopback,
}

/// Whether what arrives at cgroups is struck where it arrives: some fault asks for more than to let it pass or drop it, which is all
/// that the socket's filter can do. Then all rules of what arrives at cgroups are applied there, in the order of the file.
fn strikes_on_arrival(scenario: &Scenario, kind_of: &dyn Fn(&str) -> TargetKind) -> bool {
    let changes = |effect: &Effect| effect.changes() && *effect != Effect::MarkEcn;
    scenario.faults.iter().any(|fault| {
        fault.direction != Direction::Egress
            && (fault.effect.keeps_back() || changes(&fault.effect))
            && fault.targets.iter().any(|target| kind_of(target) == TargetKind::Cgroup)
    })
}

/// The faults of a scenario as they will be, in the order of the file.
///
/// `kind_of` says of a target what it is.
#[must_use]
pub fn faults(scenario: &Scenario, seed: u64, kind_of: &dyn Fn(&str) -> TargetKind) -> Vec<PlannedFault> {
    let kinds = |fault: &Fault| fault.targets.iter().map(|target| kind_of(target)).collect::<Vec<_>>();
    let at_xdp = |target: &String| scenario.targets.get(target).is_some_and(|t| t.hook == InterfaceHook::Xdp);
    let cgroup =
        if strikes_on_arrival(scenario, kind_of) { Hook::CgroupArrival } else { Hook::CgroupIngress };
    let ingress = |fault: &Fault| Ingress {
        cgroup,
        device: if fault.targets.iter().any(at_xdp) { Hook::DeviceXdp } else { Hook::DeviceIngress },
    };
    let planned = |fault: &Fault| {
        let planned = planned(fault, seed, &kinds(fault), ingress(fault));
        let goes_round = planned.hooks.contains(&Hook::DeviceIngress)
            && keeps_back_what_arrives(&scenario.targets, &scenario.faults, fault);
        PlannedFault { goes_round, ..planned }
    };
    scenario.faults.iter().map(planned).collect()
}

/// The hooks for what arrives.
#[derive(Clone, Copy)]
struct Ingress {
    cgroup: Hook,
    device: Hook,
}

/// The hooks that a fault needs, on all its targets together.
fn hooks_of(fault: &Fault, kinds: &[TargetKind], ingress: Ingress) -> Vec<Hook> {
    if let Some(refusal) = fault.effect.calls() {
        let given = [refusal.connect, refusal.bind, refusal.sendmsg];
        return Hook::CALLS
            .into_iter()
            .zip(given)
            .filter(|(_, fails)| *fails)
            .map(|(hook, _)| hook)
            .collect();
    }
    let mut hooks = BTreeSet::new();
    let is_of_packets = !fault.effect.is_done_by_injector() && !fault.effect.strikes_operations();
    for kind in kinds.iter().filter(|_| is_of_packets) {
        let interface = *kind != TargetKind::Cgroup;
        if fault.direction != Direction::Ingress {
            hooks.insert(if interface { Hook::DeviceEgress } else { Hook::CgroupEgress });
        }
        if fault.direction != Direction::Egress {
            hooks.insert(if interface { ingress.device } else { ingress.cgroup });
        }
    }
    Vec::from_iter(hooks)
}

fn planned(fault: &Fault, seed: u64, kinds: &[TargetKind], ingress: Ingress) -> PlannedFault {
    let hooks = hooks_of(fault, kinds, ingress);
    let mut notes = notes::notes(&hooks, &fault.effect);
    notes.extend(xdp::notes(&hooks, kinds, &fault.effect));
    if kinds.contains(&TargetKind::Loopback) && fault.direction == Direction::Both {
        notes.push("loopback: each packet leaves and arrives here, so in both directions it is decided twice, and what is asked for as 10% is 19%; take one direction to decide it once".to_owned());
    }
    PlannedFault {
        id: fault.id.clone(),
        kind: fault.effect.kind(),
        targets: fault.targets.clone(),
        cuts: partition::cuts(fault, seed),
        after: fault.after.clone(),
        direction: fault.direction,
        done_by: fault.effect.done_by(),
        functions: BTreeSet::new(),
        notified: Vec::new(),
        requested_rate: requested(fault),
        per_segment: per_segment(&fault.effect),
        answers: fault.effect.answers(),
        goes_round: false,
        longest_ns: treat::longest_ns(&fault.effect),
        notes,
        hooks,
    }
}

fn per_segment(effect: &Effect) -> bool {
    matches!(effect, Effect::Loss(loss) if loss.per == Per::Segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes_of(direction: &str, kind: TargetKind) -> String {
        let text = format!(
            "duration = \"1s\"\n[target.t]\ninterface = \"lo\"\n[[fault]]\ntarget = \"t\"\nkind = \"network.loss\"\n\
             direction = \"{direction}\"\n"
        );
        let source = crate::scenario::Source::text("t.toml", text);
        let scenario = crate::scenario::load(&source, &crate::scenario::Overrides::default()).unwrap();
        faults(&scenario, 1, &|_| kind)[0].notes.join("\n")
    }

    #[test]
    fn what_arrives_at_a_cgroup_is_struck_at_its_socket_unless_some_fault_asks_for_more() {
        let hooks = |faults: &str| {
            let text = format!("duration = \"1s\"\n[target.t]\ncgroup = \"/t\"\n{faults}");
            let source = crate::scenario::Source::text("t.toml", text);
            let scenario = crate::scenario::load(&source, &crate::scenario::Overrides::default()).unwrap();
            let planned = faults_of(&scenario);
            planned.into_iter().flat_map(|fault| fault.hooks).collect::<Vec<_>>()
        };
        let fault = |keys: &str| format!("[[fault]]\ntarget = \"t\"\nkind = \"network.{keys}\n");
        let loss = fault("loss\"\ndirection = \"ingress\"");
        let mark = fault("mark-ecn\"\ndirection = \"ingress\"");
        assert_eq!(hooks(&format!("{loss}{mark}")), [Hook::CgroupIngress; 2]);
        // Then all of them, or they would not be struck in the order of the file.
        let delay = fault("delay\"\ndelay = \"1ms\"\ndirection = \"ingress\"");
        let window = fault("window\"\nsize = 0\nmatch = { protocol = \"tcp\" }\ndirection = \"ingress\"");
        for asks_for_more in [delay, window] {
            assert_eq!(hooks(&format!("{loss}{asks_for_more}{mark}")), [Hook::CgroupArrival; 3]);
        }
        let sent = fault("delay\"\ndelay = \"1ms\"");
        assert_eq!(hooks(&format!("{loss}{sent}")), [Hook::CgroupIngress, Hook::CgroupEgress]);
    }

    fn faults_of(scenario: &Scenario) -> Vec<PlannedFault> {
        faults(scenario, 1, &|_| TargetKind::Cgroup)
    }

    #[test]
    fn both_directions_of_a_loopback_decide_twice() {
        assert!(notes_of("both", TargetKind::Loopback).contains("decided twice"));
        assert!(!notes_of("egress", TargetKind::Loopback).contains("decided twice"));
        assert!(!notes_of("both", TargetKind::Device).contains("decided twice"));
    }
}
