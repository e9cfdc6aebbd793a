//! From a valid scenario to everything that is decided before the host is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, ToSocketAddrs as _};

use ipnet::IpNet;

use super::error::EngineError;
use super::probe::{departure_queue, filters, tc_rung, way_round, way_round_of_cgroups};
use super::{clocks, deeds, links, nodes, operations, survey, takeover};
use crate::host::facts::Facts;
use crate::host::{netlink::Netlink, route, ssh};
use crate::journal::TargetKey;
use crate::kernel::attach::Rung;
use crate::kernel::functions::Mechanism;
use crate::plan::{self, Hook, MAX_SPARED_PORTS, PlanError, PlannedFault, StruckInterface, TargetKind};
use crate::scenario::{Direction, Effect, Fault, PeerAddress, Scenario, Selector};
use crate::target::{ResolvedTarget, RunLeaf, SafetyPolicy, Strike, TargetSpec, plan_run_leaf, resolve};

/// The port of `sshd` where nobody has said otherwise.
const SSH_PORT: u16 = 22;

/// What the command line says beside the scenario.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Strike dangerous targets all the same.
    pub force: bool,
    /// Take this rung instead of the best one.
    pub rung: Option<Rung>,
    /// Take this mechanism for operations instead of the best one.
    pub operations: Option<Mechanism>,
    /// Write each decision to the ring.
    pub trace: bool,
}

/// How a target will be had.
#[derive(Clone, Debug)]
pub enum TargetPlan {
    /// It is there.
    Found(Box<ResolvedTarget>),
    /// It will be the cgroup of the command of `run`.
    Run(RunLeaf),
}

impl TargetPlan {
    /// By what it can be in the way of another experiment.
    #[must_use]
    pub fn key(&self) -> TargetKey {
        match self {
            Self::Found(target) => target.key(),
            Self::Run(leaf) => leaf.key(),
        }
    }

    fn kind(&self) -> TargetKind {
        match self {
            Self::Found(target) => match &target.strike {
                Strike::Interface { device, .. } if device.loopback => TargetKind::Loopback,
                Strike::Interface { .. } => TargetKind::Device,
                Strike::Cgroup(_) | Strike::MoveToLeaf { .. } => TargetKind::Cgroup,
            },
            Self::Run(_) => TargetKind::Cgroup,
        }
    }

    pub(super) fn is_interface(&self) -> bool {
        self.kind() != TargetKind::Cgroup
    }
}

impl std::fmt::Display for TargetPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Found(target) => target.fmt(f),
            Self::Run(leaf) => match leaf.key() {
                TargetKey::Cgroup { path, .. } => write!(f, "the command, in the new cgroup {path}"),
                TargetKey::Interface { ifname, .. } => write!(f, "interface {ifname}"),
            },
        }
    }
}

/// An experiment that is ready to begin.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Id of the experiment, new for each.
    pub id: String,
    /// The scenario.
    pub scenario: Scenario,
    /// The scenario's seed, or a fresh one.
    pub seed: u64,
    /// The targets that faults strike, by name.
    pub targets: BTreeMap<String, TargetPlan>,
    /// The faults as they will be.
    pub faults: Vec<PlannedFault>,
    /// How traffic-control programs are attached.
    pub rung: Rung,
    /// Networks of `[peers]`.
    pub peers: BTreeMap<String, Vec<IpNet>>,
    /// The addresses of the nodes of partitions.
    pub nodes: BTreeMap<String, Vec<IpNet>>,
    /// TCP ports that interface-wide faults spare.
    pub spared_ports: Vec<u16>,
    /// Addresses that interface-wide faults spare.
    pub spared_addresses: Vec<IpAddr>,
    /// Release of the kernel.
    pub kernel: String,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// What the command line says.
    pub options: Options,
}

/// Resolves targets and peers, tries what the kernel can do, and decides. Changes nothing.
pub fn prepare(scenario: Scenario, options: Options) -> Result<Prepared, EngineError> {
    let facts = Facts::read()?;
    check_capabilities(&facts)?;
    let id = format!("{:08x}", random()? as u32);
    let seed = match scenario.seed {
        Some(seed) => seed,
        // Short enough to be typed again.
        None => random()? >> 32,
    };
    let scenario = plan::with_ends(scenario, seed);
    let targets = resolve_targets(&scenario, &id, options)?;
    if plan::names_devices(&scenario) {
        plan::check_devices(&scenario, &survey::device_names(&targets)?)?;
    }
    let kind_of = |name: &str| targets.get(name).map_or(TargetKind::Cgroup, TargetPlan::kind);
    let mut faults = plan::faults(&scenario, seed, &kind_of);
    operations::choose(&scenario, options.operations, &mut faults)?;
    plan::check_hooks(&interfaces(&scenario, &targets)).map_err(PlanError::Xdp)?;
    plan::check_longest(&faults)?;
    if faults.iter().any(|fault| fault.longest_ns > 0) {
        departure_queue()?;
    }
    let waits = |hook| faults.iter().any(|fault| fault.longest_ns > 0 && fault.hooks.contains(&hook));
    if waits(Hook::DeviceIngress) {
        way_round()?;
    }
    if waits(Hook::CgroupArrival) {
        way_round_of_cgroups()?;
    }
    let rung = match options.rung {
        Some(rung) => rung,
        None => tc_rung()?,
    };
    if rung == Rung::Clsact {
        filters()?;
    }
    let mut warnings: Vec<String> = targets.values().flat_map(warnings_of).collect();
    warnings.extend(links::check(&scenario, &targets, SafetyPolicy { force: options.force })?);
    warnings.extend(deeds::check(&scenario, &targets)?);
    warnings.extend(clocks::check(&scenario, &targets)?);
    warnings.extend(takeover::check(&scenario, &targets, &mut faults)?);
    let (spared_ports, spared_addresses) = spared(&targets, &mut warnings)?;
    warnings.extend(unspared(&scenario, &targets, &spared_ports));
    warnings.extend(spares_nothing(&scenario, &targets));
    let peers = resolve_peers(&scenario)?;
    Ok(Prepared {
        nodes: nodes::addresses(&scenario, &targets, &peers)?,
        peers,
        rung,
        kernel: facts.kernel_release,
        id,
        seed,
        targets,
        faults,
        spared_ports,
        spared_addresses,
        warnings,
        options,
        scenario,
    })
}

fn random() -> Result<u64, EngineError> {
    getrandom::u64().map_err(|error| EngineError::Runtime(std::io::Error::other(error.to_string())))
}

/// Fails with what the caller lacks of the privileges that every experiment needs.
pub fn check_capabilities(facts: &Facts) -> Result<(), EngineError> {
    let missing: Vec<String> = facts
        .capabilities
        .iter()
        .filter(|(_, fact)| !fact.is_yes())
        .map(|(capability, _)| capability.to_string())
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(EngineError::Privileges { missing }) }
}

fn resolve_targets(
    scenario: &Scenario,
    id: &str,
    options: Options,
) -> Result<BTreeMap<String, TargetPlan>, EngineError> {
    let used: BTreeSet<&String> = scenario.faults.iter().flat_map(|fault| &fault.targets).collect();
    let mut targets = BTreeMap::new();
    for (name, target) in scenario.targets.iter().filter(|(name, _)| used.contains(name)) {
        let spec = match &target.selector {
            Selector::Cgroup(path) => TargetSpec::Cgroup(path.clone()),
            Selector::Pid(pid) => TargetSpec::Pid(*pid),
            Selector::Interface(device) => TargetSpec::Interface(device.clone()),
            Selector::Command => {
                targets.insert(name.clone(), TargetPlan::Run(plan_run_leaf(id)?));
                continue;
            }
        };
        let found = resolve(&spec, name, id, SafetyPolicy { force: options.force })?;
        targets.insert(name.clone(), TargetPlan::Found(Box::new(found)));
    }
    Ok(targets)
}

/// The interfaces among the targets.
fn interfaces<'a>(
    scenario: &'a Scenario,
    targets: &'a BTreeMap<String, TargetPlan>,
) -> Vec<StruckInterface<'a>> {
    let interface = |(name, plan): (&'a String, &'a TargetPlan)| {
        let TargetPlan::Found(found) = plan else { return None };
        let Strike::Interface { device, .. } = &found.strike else { return None };
        Some(StruckInterface {
            target: name,
            device: &device.name,
            index: device.index,
            is_ethernet: device.is_ethernet(),
            is_loopback: device.loopback,
            rejected_by: rejecting(scenario, name),
            hook: scenario.targets.get(name).map(|target| target.hook).unwrap_or_default(),
        })
    };
    targets.iter().filter_map(interface).collect()
}

/// The fault that rejects what arrives at a target, if one does.
fn rejecting<'a>(scenario: &'a Scenario, target: &String) -> Option<&'a str> {
    let rejects = |fault: &&Fault| {
        matches!(fault.effect, Effect::Reject(_))
            && fault.direction != Direction::Egress
            && fault.targets.contains(target)
    };
    scenario.faults.iter().find(rejects).map(|fault| fault.id.as_str())
}

fn warnings_of(target: &TargetPlan) -> Vec<String> {
    match target {
        TargetPlan::Found(target) => target.warnings.iter().map(ToString::to_string).collect(),
        TargetPlan::Run(_) => Vec::new(),
    }
}

/// The addresses of the named peers, now. A name that changes its address later keeps the old one.
fn resolve_peers(scenario: &Scenario) -> Result<BTreeMap<String, Vec<IpNet>>, EngineError> {
    let mut peers = BTreeMap::new();
    for (set, addresses) in &scenario.peers {
        let mut networks = Vec::new();
        for address in addresses {
            match address {
                PeerAddress::Net(network) => networks.push(*network),
                PeerAddress::Name(name) => networks.extend(addresses_of(name)?),
            }
        }
        peers.insert(set.clone(), networks);
    }
    Ok(peers)
}

fn addresses_of(name: &str) -> Result<Vec<IpNet>, EngineError> {
    let found = (name, 0)
        .to_socket_addrs()
        .map_err(|error| EngineError::Peer { name: name.to_owned(), detail: error.to_string() })?;
    Ok(found.map(|address| IpNet::from(address.ip())).collect())
}

/// What interface-wide faults spare by default: SSH, and the default gateways.
fn spared(
    targets: &BTreeMap<String, TargetPlan>,
    warnings: &mut Vec<String>,
) -> Result<(Vec<u16>, Vec<IpAddr>), EngineError> {
    if !targets.values().any(TargetPlan::is_interface) {
        return Ok((Vec::new(), Vec::new()));
    }
    let mut ports = ssh::ports().unwrap_or_else(|error| {
        warnings.push(format!(
            "the operator's SSH session could not be looked up ({error}): only port {SSH_PORT} is spared"
        ));
        Vec::new()
    });
    // Last: a port that is in use matters more than one that might be.
    if !ports.contains(&SSH_PORT) {
        ports.push(SSH_PORT);
    }
    let gateways = route::default_gateways(&mut Netlink::open()?)?;
    Ok((ports, gateways.into_iter().map(|gateway| gateway.address).collect()))
}

/// The interfaces at which nothing is spared, a sentence each.
fn spares_nothing(scenario: &Scenario, targets: &BTreeMap<String, TargetPlan>) -> Vec<String> {
    let own = targets.keys().filter_map(|name| scenario.targets.get(name)).filter(|target| !target.spares);
    own.map(|target| {
        format!(
            "the target `{}` spares nothing (`spare = false`): SSH by this interface is struck too",
            target.name
        )
    })
    .collect()
}

/// The faults that have no room to spare all of the operator's ports, a sentence each.
fn unspared(scenario: &Scenario, targets: &BTreeMap<String, TargetPlan>, ports: &[u16]) -> Vec<String> {
    let spares = |name: &String| scenario.targets.get(name).is_none_or(|target| target.spares);
    let is_interface =
        |name: &String| targets.get(name).is_some_and(TargetPlan::is_interface) && spares(name);
    let on_interface = |fault: &&Fault| fault.targets.iter().any(is_interface);
    let warning = |fault: &Fault| {
        let left_out = plan::unspared_ports(fault, ports);
        let list = left_out.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        (!left_out.is_empty()).then(|| {
            format!(
                "the fault `{}` spares {MAX_SPARED_PORTS} SSH ports by itself, and strikes SSH on these: {list}. To spare them too: \
                 `match.not = {{ protocol = \"tcp\", local_port = [{list}] }}`",
                fault.id
            )
        })
    };
    let of_packets = scenario.faults.iter().filter(|fault| !fault.effect.is_done_by_injector());
    of_packets.filter(on_interface).filter_map(warning).collect()
}
