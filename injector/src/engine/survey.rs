//! The devices that an experiment will meet, as far as they are there before it begins. Reads alone.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;

use super::error::EngineError;
use super::prepare::TargetPlan;
use crate::host::cgroup::Hierarchy;
use crate::host::link;
use crate::host::netlink::Netlink;
use crate::host::netns::namespaces_of;
use crate::target::Strike;

/// Names and indices of the devices in each network namespace that the targets use.
pub(super) fn device_names(
    targets: &BTreeMap<String, TargetPlan>,
) -> Result<Vec<Vec<(String, u32)>>, EngineError> {
    let mut devices = Vec::new();
    for namespace in namespaces_of(pids(targets)?)?.values() {
        let list = link::list(&mut Netlink::open_in(namespace.as_fd())?)?;
        devices.push(list.into_iter().map(|device| (device.name, device.index)).collect());
    }
    Ok(devices)
}

/// The targets' processes, and injector itself where it stands in: for a device, which is in its namespace, and
/// for targets that nobody is in yet.
fn pids(targets: &BTreeMap<String, TargetPlan>) -> Result<BTreeSet<i32>, EngineError> {
    let own = std::process::id().cast_signed();
    let mut pids = BTreeSet::new();
    for target in targets.values() {
        match target {
            TargetPlan::Found(found) if matches!(found.strike, Strike::Interface { .. }) => {
                pids.insert(own);
            }
            _ => pids.extend(processes(target)?),
        }
    }
    if pids.is_empty() {
        pids.insert(own);
    }
    Ok(pids)
}

/// The processes of a target, as far as there are any yet.
pub(super) fn processes(target: &TargetPlan) -> Result<BTreeSet<i32>, EngineError> {
    let TargetPlan::Found(found) = target else { return Ok(BTreeSet::new()) };
    Ok(match &found.strike {
        Strike::Cgroup(cgroup) => Hierarchy::find()?.procs(cgroup)?,
        Strike::MoveToLeaf { process, descendants, .. } => {
            descendants.iter().copied().chain([process.pid]).collect()
        }
        Strike::Interface { .. } => BTreeSet::new(),
    })
}
