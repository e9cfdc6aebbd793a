//! From a valid scenario and a resolved world to numbers: what the maps hold, what is attached where.
//!
//! Everything here is pure. What the plan needs to know of the host comes in as a [`World`]; what it decides
//! goes out as an [`Image`](crate::kernel::Image) and as [`PlannedFault`]s. Nothing here attaches or reads.

mod addresses;
mod distribution;
mod dns;
mod error;
mod link;
mod lower;
mod matching;
mod partition;
mod rate;
mod spare;
mod treat;
mod xdp;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

pub use error::PlanError;
pub(crate) use lower::link_windows;
pub use lower::{Lowered, lower};
pub(crate) use matching::{check_devices, device_indices, names_devices};
pub(crate) use partition::check_nodes;
pub use partition::words;
pub use rate::requested;
pub use spare::{MAX_SPARED_PORTS, unspared_ports};
pub use xdp::{StruckInterface, XdpError, check_hooks};

use crate::kernel::attach::Rung;
use crate::kernel::xdp::Mode;
use crate::scenario::errno;
use crate::scenario::{Capacity, CorruptMode, Direction, Effect, Fault, InterfaceHook, Per, Rate, Scenario};

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
    /// Which way.
    pub direction: Direction,
    /// The hooks it needs.
    pub hooks: Vec<Hook>,
    /// Share of the matching packets that it was asked to strike; `None` where no share was asked for.
    pub requested_rate: Option<f64>,
    /// Whether devices must be told to send single segments.
    pub per_segment: bool,
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
            // On the way round the program is in front of the queue of the ifb.
            Hook::DeviceIngress if self.longest_ns > 0 => "ifb".to_owned(),
            Hook::DeviceIngress => format!("tc ingress ({})", rung.name()),
            Hook::CgroupIngress => "cgroup_skb ingress".to_owned(),
            Hook::CgroupConnect => "cgroup connect".to_owned(),
            Hook::CgroupBind => "cgroup bind".to_owned(),
            Hook::CgroupSendmsg => "cgroup sendmsg".to_owned(),
            Hook::DeviceXdp => format!("xdp ({})", mode.map_or("native, else generic", Mode::name)),
        };
        let mut names = self.hooks.iter().map(name).collect::<Vec<_>>();
        if self.longest_ns > 0 {
            names.push("fq".to_owned());
        }
        if self.hooks.is_empty() {
            names.push("rtnetlink".to_owned());
        }
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

/// The faults of a scenario as they will be, in the order of the file.
///
/// `kind_of` says of a target what it is.
#[must_use]
pub fn faults(scenario: &Scenario, seed: u64, kind_of: &dyn Fn(&str) -> TargetKind) -> Vec<PlannedFault> {
    let kinds = |fault: &Fault| fault.targets.iter().map(|target| kind_of(target)).collect::<Vec<_>>();
    let at_xdp = |target: &String| scenario.targets.get(target).is_some_and(|t| t.hook == InterfaceHook::Xdp);
    let planned = |fault: &Fault| planned(fault, seed, &kinds(fault), fault.targets.iter().any(at_xdp));
    scenario.faults.iter().map(planned).collect()
}

/// The hooks that a fault needs, on all its targets together.
fn hooks_of(fault: &Fault, kinds: &[TargetKind], at_xdp: bool) -> Vec<Hook> {
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
    for kind in kinds.iter().filter(|_| fault.effect != Effect::Link) {
        let interface = *kind != TargetKind::Cgroup;
        if fault.direction != Direction::Ingress {
            hooks.insert(if interface { Hook::DeviceEgress } else { Hook::CgroupEgress });
        }
        if fault.direction != Direction::Egress {
            hooks.insert(match interface {
                true if at_xdp => Hook::DeviceXdp,
                true => Hook::DeviceIngress,
                false => Hook::CgroupIngress,
            });
        }
    }
    Vec::from_iter(hooks)
}

fn planned(fault: &Fault, seed: u64, kinds: &[TargetKind], at_xdp: bool) -> PlannedFault {
    let hooks = hooks_of(fault, kinds, at_xdp);
    let mut notes = notes(&hooks, &fault.effect);
    notes.extend(xdp::notes(&hooks, kinds));
    if kinds.contains(&TargetKind::Loopback) && fault.direction == Direction::Both {
        notes.push("loopback: each packet leaves and arrives here, so in both directions it is decided twice, and what is asked for as 10% is 19%; take one direction to decide it once".to_owned());
    }
    PlannedFault {
        id: fault.id.clone(),
        kind: fault.effect.kind(),
        targets: fault.targets.clone(),
        cuts: partition::cuts(fault, seed),
        direction: fault.direction,
        requested_rate: requested(fault),
        per_segment: per_segment(&fault.effect),
        longest_ns: treat::longest_ns(&fault.effect),
        notes,
        hooks,
    }
}

fn per_segment(effect: &Effect) -> bool {
    matches!(effect, Effect::Loss(loss) if loss.per == Per::Segment)
}

/// What each hook can't see, so that nobody takes a silence for a proof.
fn notes(hooks: &[Hook], effect: &Effect) -> Vec<String> {
    let mut notes = Vec::new();
    if hooks.contains(&Hook::CgroupEgress) {
        notes.push("egress: resets of closed ports, ICMP errors and the last ACKs of TIME-WAIT have no socket of the target and are not hit".to_owned());
    }
    if hooks.contains(&Hook::CgroupIngress) && *effect != Effect::MarkEcn {
        notes.push("ingress: dropped at the socket, so the receiver's UDP counts it in InErrors; segments for TIME-WAIT and closed ports are not hit".to_owned());
    }
    if effect.keeps_back() && hooks.iter().any(|hook| matches!(hook, Hook::CgroupEgress | Hook::DeviceEgress))
    {
        notes.push("fq takes the place of the root qdisc on each device by which packets leave, for all who send there; it is taken away again".to_owned());
    }
    if effect.keeps_back() && hooks.contains(&Hook::DeviceIngress) {
        notes.push("ingress: all that arrives at the device, and that no other filter takes, goes through an ifb of ours and waits there in an fq; captures see it before it waits".to_owned());
    }
    if let Some(refusal) = effect.calls() {
        notes.push(format!("calls fail with {}, before anything else is done; sockets that were made in another cgroup are not hit", errno::name(refusal.errno)));
    }
    for (hook, note) in [
        (
            Hook::CgroupConnect,
            "connect: TCP and UDP, blocking or not, by whatever call it is made; no packet leaves, and connections that are there go on",
        ),
        (
            Hook::CgroupBind,
            "bind: TCP and UDP sockets; the port that a socket gets by itself when it connects or sends is no bind",
        ),
        (
            Hook::CgroupSendmsg,
            "sendmsg: UDP sends that name an address; what goes out on a connected UDP socket, by send or write, does not come by",
        ),
    ] {
        if hooks.contains(&hook) {
            notes.push(note.to_owned());
        }
    }
    match effect {
        Effect::Rate(Rate { capacity: Capacity::Trace(trace), .. }) => notes.push(link::note(trace)),
        Effect::Corrupt(corrupt) if corrupt.mode == CorruptMode::Wire => notes.push("wire: the checksum of the IPv4 header is broken, or the version of IPv6; where a super-packet is segmented behind us, in hardware or by the stack, the header is written anew and is right again (`ip link set DEV gso_max_segs 1` avoids it)".to_owned()),
        Effect::Corrupt(_) => notes.push("silent: TCP, UDP and ICMP that carry at least 2 bytes; other packets are counted as not treated".to_owned()),
        Effect::Reset(_) => notes.push("the reset that takes the place of a segment is in the receiver's window if all before it has arrived; else the next segment strikes again, as long as `limit` and `when` let it".to_owned()),
        Effect::Reject(_) => notes.push("ICMP errors, resets, later fragments, and what goes to a group are lost without an answer (RFC 1122, 3.2.2)".to_owned()),
        Effect::Link => notes.push("set down and up by injector itself, to a tenth of a second; a second process of it sets the device up if the first is killed, or misses the deadline".to_owned()),
        Effect::MarkEcn => notes.push("only packets of connections with ECN can be marked; others match and are not struck".to_owned()),
        Effect::Dns(dns) => notes.extend(dns::notes(dns)),
        _ => {}
    }
    if per_segment(effect) {
        notes.push("per segment: the devices' gso_max_segs is set to 1 while the experiment runs, which costs throughput".to_owned());
        if hooks.iter().any(|hook| matches!(hook, Hook::CgroupIngress | Hook::DeviceIngress)) {
            notes.push("per segment, ingress: what another host or namespace sends merged, or what GRO merges, is still decided at once; `unsplit` in the report counts it".to_owned());
        }
    }
    notes
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
    fn both_directions_of_a_loopback_decide_twice() {
        assert!(notes_of("both", TargetKind::Loopback).contains("decided twice"));
        assert!(!notes_of("egress", TargetKind::Loopback).contains("decided twice"));
        assert!(!notes_of("both", TargetKind::Device).contains("decided twice"));
    }
}
