//! The steps by which an experiment begins: its entry in the journal, its targets, its attachments.
//!
//! Each is given what it needs and keeps nothing; [`Session`](super::Session) has their order, and holds what they made.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use jiff::Timestamp;

use super::attachments::{AtXdp, Attachments, CgroupWays, Hands, StruckDevice};
use super::detour::Detour;
use super::error::EngineError;
use super::prepare::{Prepared, TargetPlan};
use super::queue::Queue;
use super::sleep::Sleeper;
use crate::host::cgroup::{Cgroup, Hierarchy, is_below};
use crate::host::facts::boot_id;
use crate::host::netns::NetnsId;
use crate::host::process::ProcessId;
use crate::host::tc::Direction;
use crate::journal::{self, Header, Journal};
use crate::kernel::{Kernel, programs};
use crate::plan::{Hook, Place, World, operations};
use crate::target::{Acquired, acquire, acquire_run_leaf};

/// What the rules are made from, with the devices that there are by now.
pub(super) fn world(
    prepared: &Prepared,
    places: &BTreeMap<String, Place>,
    devices: BTreeMap<String, Vec<u32>>,
) -> World {
    World {
        places: places.clone(),
        peers: prepared.peers.clone(),
        nodes: prepared.nodes.clone(),
        devices,
        spared_ports: prepared.spared_ports.clone(),
        spared_addresses: prepared.spared_addresses.clone(),
        trace: prepared.options.trace,
        notified: operations::notified::positions(&prepared.faults),
    }
}

/// The first line of the experiment's journal.
pub(super) fn header(prepared: &Prepared) -> Result<Header, EngineError> {
    let started = Timestamp::now();
    let duration = jiff::SignedDuration::from_nanos(prepared.scenario.duration_ns.cast_signed());
    Ok(Header {
        version: journal::VERSION,
        id: prepared.id.clone(),
        name: prepared.scenario.name.clone(),
        controller: ProcessId::of_self()?,
        boot_id: boot_id()?,
        started,
        deadline: started.checked_add(duration).unwrap_or(Timestamp::MAX),
        targets: prepared.targets.values().map(TargetPlan::key).collect(),
    })
}

/// The mark of an experiment's decided packets; never 0, which is what other packets have. The highest bit is the kernel
/// half's, for the clones of devices.
pub(super) fn mark_of(id: &str) -> u16 {
    (injector_common::draw::fault_number(id.as_bytes()) as u16 & 0x7fff).max(1)
}

/// Where packets wait that the experiment's faults keep back, one after the other.
pub(super) fn queue_of(prepared: &Prepared) -> Option<Queue> {
    let longest_ns = prepared.faults.iter().fold(0_u64, |sum, fault| sum.saturating_add(fault.longest_ns));
    (longest_ns > 0).then(|| Queue::new(mark_of(&prepared.id), longest_ns))
}

/// The process by which programs sleep, if some do.
pub(super) fn sleeper(prepared: &Prepared, kernel: &mut Kernel) -> Result<Option<Sleeper>, EngineError> {
    let sleep = prepared.faults.iter().any(|fault| operations::sleep(&fault.functions));
    sleep.then(|| Sleeper::start(kernel)).transpose()
}

/// How the cgroup targets are struck at devices.
pub(super) fn cgroup_ways(prepared: &Prepared) -> CgroupWays {
    let has = |hook| prepared.faults.iter().any(|fault| fault.hooks.contains(&hook));
    let waits = |hook| {
        let mut faults = prepared.faults.iter();
        let waits = faults.any(|fault| fault.longest_ns > 0 && fault.hooks.contains(&hook));
        queue_of(prepared).filter(|_| waits)
    };
    CgroupWays {
        egress: has(Hook::CgroupEgress),
        arrival: has(Hook::CgroupArrival),
        per_segment: prepared.faults.iter().any(|fault| fault.per_segment),
        queue: waits(Hook::CgroupEgress),
        detour: waits(Hook::CgroupArrival).map(|queue| Detour::of_cgroups(&prepared.id, queue)),
    }
}

/// Makes every target ready, and the cgroup of the command of `run`.
pub(super) fn acquire_targets(
    prepared: &Prepared,
    journal: &mut Journal,
) -> Result<(BTreeMap<String, Place>, Option<Cgroup>), EngineError> {
    let mut places = BTreeMap::new();
    let mut run_leaf: Option<Cgroup> = None;
    for (name, target) in &prepared.targets {
        let place = match target {
            TargetPlan::Found(found) => match acquire(found, journal)? {
                Acquired::Cgroup(cgroup) => place_of(&cgroup),
                Acquired::Interface { device, .. } => Place::Interface {
                    name: device.name.clone(),
                    index: device.index,
                    is_ethernet: device.is_ethernet(),
                },
            },
            TargetPlan::Run(plan) => {
                let leaf = match run_leaf.take() {
                    Some(leaf) => leaf,
                    None => acquire_run_leaf(plan, journal)?,
                };
                place_of(run_leaf.insert(leaf))
            }
        };
        places.insert(name.clone(), place);
    }
    Ok((places, run_leaf))
}

fn place_of(cgroup: &Cgroup) -> Place {
    Place::Cgroup { path: cgroup.path.clone(), id: cgroup.id, level: cgroup.level }
}

/// Attaches the programs of cgroups, each to the outermost ones that are struck by its hook: the program finds the
/// innermost target itself, and must not run twice.
pub(super) fn attach_cgroups(
    prepared: &Prepared,
    places: &BTreeMap<String, Place>,
    hands: &mut Hands<'_>,
    attachments: &mut Attachments,
) -> Result<(), EngineError> {
    let hierarchy = Hierarchy::find()?;
    let open = |path| File::open(hierarchy.directory(path)).map_err(EngineError::Runtime);
    for path in outermost(prepared, places, Hook::CgroupIngress) {
        attachments.attach_cgroup(hands.kernel, &open(path)?, path)?;
    }
    for path in outermost(prepared, places, Hook::CgroupArrival) {
        attachments.attach_sockets(hands.kernel, &open(path)?, path)?;
    }
    for (hook, pair) in Hook::CALLS.into_iter().zip([programs::CONNECT, programs::BIND, programs::SENDMSG]) {
        for path in outermost(prepared, places, hook) {
            let directory = open(path)?;
            for program in pair {
                attachments.attach_call(hands.kernel, program, (&directory, path))?;
            }
        }
    }
    Ok(())
}

/// Attaches to the functions at which operations are decided; each once, whoever asks for it.
pub(super) fn attach_functions(
    prepared: &Prepared,
    kernel: &Kernel,
    attachments: &mut Attachments,
) -> Result<(), EngineError> {
    for function in operations::merged(prepared.faults.iter().flat_map(|fault| &fault.functions)) {
        attachments.attach_function(kernel, &function)?;
    }
    Ok(())
}

/// The cgroups that are struck by a hook, but for those below another one.
fn outermost<'a>(prepared: &Prepared, places: &'a BTreeMap<String, Place>, hook: Hook) -> Vec<&'a String> {
    let struck: BTreeSet<&String> = prepared
        .faults
        .iter()
        .filter(|fault| fault.hooks.contains(&hook))
        .flat_map(|fault| &fault.targets)
        .filter_map(|target| match places.get(target) {
            Some(Place::Cgroup { path, .. }) => Some(path),
            _ => None,
        })
        .collect();
    let is_inner = |path: &str| struck.iter().any(|other| is_below(other, path));
    struck.iter().copied().filter(|path| !is_inner(path)).collect()
}

/// Attaches to the devices that are struck as a whole.
pub(super) fn attach_devices(
    prepared: &Prepared,
    places: &BTreeMap<String, Place>,
    hands: &mut Hands<'_>,
    attachments: &mut Attachments,
) -> Result<(), EngineError> {
    // By index: two targets may name one device, whose packets walk through the rules of both in one pass.
    let queue = queue_of(prepared);
    let mut devices = BTreeMap::<u32, StruckDevice>::new();
    for (number, (target, place)) in places.iter().enumerate() {
        let Place::Interface { name, index, is_ethernet } = place else { continue };
        let device = devices.entry(*index).or_insert_with(|| StruckDevice {
            name: name.clone(),
            index: *index,
            ways: BTreeSet::new(),
            per_segment: false,
            queue: None,
            takeover: false,
            at_xdp: None,
            detour: None,
        });
        device.takeover |= prepared.scenario.targets.get(target).is_some_and(|target| target.takeover);
        for fault in prepared.faults.iter().filter(|fault| fault.targets.contains(target)) {
            device.per_segment |= fault.per_segment;
            if fault.longest_ns > 0 && fault.hooks.contains(&Hook::DeviceEgress) {
                device.queue = queue;
            }
            if fault.longest_ns > 0 && fault.hooks.contains(&Hook::DeviceIngress) {
                device.detour = queue.map(|queue| Detour::new(&prepared.id, number, *is_ethernet, queue));
            }
            if fault.hooks.contains(&Hook::DeviceXdp) {
                let done = if fault.answers { AtXdp::SendsBack } else { AtXdp::Takes };
                device.at_xdp = device.at_xdp.max(Some(done));
            }
            if fault.hooks.contains(&Hook::DeviceEgress) {
                device.ways.insert((Direction::Egress, programs::DEVICE_OUT.for_device(*is_ethernet)));
            }
            if fault.hooks.contains(&Hook::DeviceIngress) {
                device.ways.insert((Direction::Ingress, programs::DEVICE_IN.for_device(*is_ethernet)));
            }
        }
    }
    for device in devices.values_mut() {
        // On the way round all rules of what arrives are applied, in their order.
        if device.detour.is_some() {
            device.ways.retain(|(way, _)| *way != Direction::Ingress);
        }
        attachments.attach_device(hands, NetnsId::of_self()?, device)?;
    }
    Ok(())
}
