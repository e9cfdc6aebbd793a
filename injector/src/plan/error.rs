//! Why a valid scenario can't be planned.

use super::{MAX_KEPT_BACK_NS, XdpError};
use crate::scenario::quantity::format_ns;

/// Why a valid scenario can't be planned on this host.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// Targets at more depths of the cgroup tree than one program looks at.
    #[error(
        "the targets live at {levels} different depths of the cgroup tree, and {max} is the most\n\nhint: split the scenario, or target a common ancestor"
    )]
    TooManyLevels {
        /// Depths found.
        levels: usize,
        /// Depths allowed.
        max: usize,
    },
    /// More rules on one target, in one direction, than one packet may walk through.
    #[error(
        "{rules} rules strike the target `{target}`, and {max} is the most in one direction\n\nhint: join faults whose `match` lists can be one"
    )]
    TooManyRules {
        /// Target.
        target: String,
        /// Rules found.
        rules: usize,
        /// Rules allowed.
        max: usize,
    },
    /// A device name that means different devices, whose index another device bears elsewhere.
    #[error(
        "the fault `{fault}` names the device `{device}`, which is number {index} in one network namespace, where `{other}` bears that number in another\n\nhint: leave `interface` and `device_exclude` out, or give the targets scenarios of their own"
    )]
    AmbiguousDevice {
        /// Fault.
        fault: String,
        /// Device that it names.
        device: String,
        /// Index that they share.
        index: u32,
        /// The other device.
        other: String,
    },
    /// More devices bear the names of one list than a rule holds.
    #[error(
        "the fault `{fault}` means {devices} devices by {}, in all network namespaces of the targets together, and {max} is the most\n\nhint: name fewer devices, or give the targets scenarios of their own",
        quoted(.names)
    )]
    TooManyDevices {
        /// Fault.
        fault: String,
        /// The names of the list that some device bears.
        names: Vec<String>,
        /// Devices that bear them.
        devices: usize,
        /// Devices allowed.
        max: usize,
    },
    /// A node of a partition whose addresses nobody can tell.
    #[error(
        "the fault `{fault}`: the addresses of the node `{node}` are not known: {why}\n\nhint: say how the others reach it: `[peers.{node}]` with `addresses`"
    )]
    UnknownAddresses {
        /// Fault.
        fault: String,
        /// Node.
        node: String,
        /// Why not.
        why: &'static str,
    },
    /// An interface can't be struck at XDP as asked.
    #[error(transparent)]
    Xdp(XdpError),
    /// Two nodes of a partition in one network namespace.
    #[error(
        "the fault `{fault}`: the nodes `{}` and `{}` share a network namespace, so no address is of one alone\n\nhint: say how the others reach each of them: `[peers.{}]` and `[peers.{}]` with `addresses`",
        .nodes[0], .nodes[1], .nodes[0], .nodes[1]
    )]
    SharedNamespace {
        /// Fault.
        fault: String,
        /// The nodes.
        nodes: [String; 2],
    },
    /// Two nodes of a partition with an address in common.
    #[error(
        "the fault `{fault}`: the nodes `{}` and `{}` share the address {address}, so a packet to it is to neither alone\n\nhint: say how the others reach each of them: `[peers.{}]` and `[peers.{}]` with `addresses`",
        .nodes[0], .nodes[1], .nodes[0], .nodes[1]
    )]
    SharedAddress {
        /// Fault.
        fault: String,
        /// The nodes.
        nodes: [String; 2],
        /// The address.
        address: String,
    },
    /// Two nodes of a partition of which one is the other, or a part of it.
    #[error(
        "the fault `{fault}`: the nodes `{}` and `{}` are not apart: what one sends the other sends too\n\nhint: name targets of which none holds another",
        .nodes[0], .nodes[1]
    )]
    NestedNodes {
        /// Fault.
        fault: String,
        /// The nodes.
        nodes: [String; 2],
    },
    /// A device that can't be set down, or not be put back.
    #[error(
        "the fault `{fault}`: {why}\n\nhint: to lose all packets of an `interface` or a cgroup, use `network.loss`"
    )]
    Link {
        /// Fault.
        fault: String,
        /// Why not.
        why: String,
    },
    /// Processes that can't be struck.
    #[error("the fault `{fault}`: {why}")]
    Process {
        /// Fault.
        fault: String,
        /// Why not.
        why: String,
    },
    /// The faults together keep packets back for longer than any queue does.
    #[error("the faults keep a packet back for up to {} together, and {} is the most\n\nhint: shorten delays and queues; a low rate takes long for one large packet",
        format_ns(*.longest_ns), format_ns(MAX_KEPT_BACK_NS))]
    TooLong {
        /// The longest time, all faults together.
        longest_ns: u64,
    },
    /// The target was not resolved, which is an error of injector.
    #[error("the target `{0}` was not resolved")]
    Unresolved(String),
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
