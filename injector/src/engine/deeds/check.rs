//! What of processes can't be struck here, before anything is changed. Reads alone.

use std::collections::BTreeMap;

use crate::engine::error::EngineError;
use crate::engine::prepare::TargetPlan;
use crate::host::cgroup::{Cgroup, CgroupError, Hierarchy, Mode};
use crate::journal::TargetKey;
use crate::plan::PlanError;
use crate::scenario::{Deed, Effect, Scenario};
use crate::target::Strike;

/// Refuses deeds that would be in each other's way, or that this host has no means for; what the operator should know is a warning.
pub(in crate::engine) fn check(
    scenario: &Scenario,
    targets: &BTreeMap<String, TargetPlan>,
) -> Result<Vec<String>, EngineError> {
    let mut warnings = Vec::new();
    let mut known: Vec<(&'static str, TargetKey, &String)> = Vec::new();
    for fault in &scenario.faults {
        let Effect::Process(process) = &fault.effect else { continue };
        for target in fault.targets.iter().filter_map(|name| targets.get(name)) {
            let (kind, key) = (process.kind(), target.key());
            let refused = |why: String| PlanError::Process { fault: fault.id.clone(), why };
            let other = known.iter().find(|(other, place, _)| *other == kind && place.overlaps(&key));
            if let Some((.., other)) = other {
                return Err(refused(format!("`{other}` is a `{kind}` of the same processes")).into());
            }
            known.push((kind, key, &fault.id));
            let hierarchy = Hierarchy::find()?;
            check_controller(&process.deed, &hierarchy)?;
            check_own(&process.deed, &hierarchy, target).map_err(&refused)?;
            let Some(cgroup) = present(target) else { continue };
            match &process.deed {
                Deed::Pause
                    if hierarchy.is_told_to_freeze(&cgroup.path)? || hierarchy.is_frozen(&cgroup.path)? =>
                {
                    return Err(refused(format!(
                        "cgroup {} is frozen already, and what somebody else has frozen would be thawed",
                        cgroup.path
                    ))
                    .into());
                }
                Deed::Stop => {
                    let stopped = hierarchy.stopped(cgroup)?;
                    if !stopped.is_empty() {
                        let pids: Vec<String> =
                            stopped.iter().map(|process| process.pid.to_string()).collect();
                        warnings.push(format!(
                            "processes of cgroup {} are stopped already, and stay so: {}",
                            cgroup.path,
                            pids.join(", ")
                        ));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(warnings)
}

/// Whoever is held can't let go, whatever is forced: neither this process nor the one that stands by.
fn check_own(deed: &Deed, hierarchy: &Hierarchy, target: &TargetPlan) -> Result<(), String> {
    if matches!(deed, Deed::Throttle(_) | Deed::Memory { .. }) {
        return Ok(());
    }
    let own = hierarchy.of_process(std::process::id().cast_signed()).ok();
    match (present(target), own) {
        (Some(cgroup), Some(own)) if cgroup.holds(&own) => {
            Err(format!("injector itself is in cgroup {}, and could not let it go on", cgroup.path))
        }
        _ => Ok(()),
    }
}

/// The cgroup of a target, if it is there by now.
fn present(target: &TargetPlan) -> Option<&Cgroup> {
    match target {
        TargetPlan::Found(found) => match &found.strike {
            Strike::Cgroup(cgroup) => Some(cgroup),
            Strike::MoveToLeaf { .. } | Strike::Interface { .. } => None,
        },
        TargetPlan::Run(_) => None,
    }
}

/// Limits are files of controllers, which a host may leave to cgroups of version 1.
fn check_controller(deed: &Deed, hierarchy: &Hierarchy) -> Result<(), EngineError> {
    let controller = match deed {
        Deed::Throttle(_) => "cpu",
        Deed::Memory { .. } => "memory",
        Deed::Pause | Deed::Stop | Deed::Kill(_) => return Ok(()),
    };
    match hierarchy.controllers() {
        Ok(found) if found.contains(controller) => Ok(()),
        Ok(_) | Err(CgroupError::Io { .. }) => {
            Err(EngineError::NoController { controller, is_hybrid: hierarchy.mode() == Mode::Hybrid })
        }
        Err(error) => Err(error.into()),
    }
}
