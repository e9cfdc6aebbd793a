//! The sockets that a cgroup target has when an experiment begins: each gets a note of whose it is.
//!
//! The kernel tells what a socket's cgroup is to programs of that cgroup alone. So the sockets are borrowed from the processes that hold
//! them, and asked for an option that no protocol has: the kernel runs the target's program for those that belong to the target.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use super::error::EngineError;
use super::prepare::Prepared;
use crate::host::cgroup::{CgroupError, Hierarchy};
use crate::host::socket;
use crate::kernel::{Kernel, attach};
use crate::plan::{Hook, Place};

/// Notes the sockets of the cgroup targets where what arrives is told by them. What could not be borrowed is a warning: it gets
/// its note from the first packet that arrives at it.
pub(super) fn note_old(
    prepared: &Prepared,
    places: &BTreeMap<String, Place>,
    kernel: &mut Kernel,
) -> Result<Option<String>, EngineError> {
    if !prepared.faults.iter().any(|fault| fault.hooks.contains(&Hook::CgroupArrival)) {
        return Ok(None);
    }
    let hierarchy = Hierarchy::find()?;
    let mut cgroups: Vec<(u32, u64, &String)> = places
        .values()
        .filter_map(|place| match place {
            Place::Cgroup { path, id, level } => Some((*level, *id, path)),
            Place::Interface { .. } => None,
        })
        .collect();
    // Outer ones first: a socket keeps the last note, which is to be that of the innermost target.
    cgroups.sort_unstable();
    let mut out_of_reach = BTreeSet::new();
    for (_, id, path) in cgroups {
        kernel.set_owner(id)?;
        let directory = File::open(hierarchy.directory(path)).map_err(EngineError::Runtime)?;
        let _asked = attach::cgroup_options(kernel, &directory, path)?;
        let cgroup = match hierarchy.open(path) {
            Err(CgroupError::Unknown { .. }) => continue,
            opened => opened?,
        };
        for pid in hierarchy.procs(&cgroup)? {
            out_of_reach.extend(socket::ask_all_of(pid));
        }
    }
    Ok((!out_of_reach.is_empty()).then(|| {
        format!(
            "{} sockets of the targets' processes could not be looked at: of those, the first packet that arrives is not hit",
            out_of_reach.len()
        )
    }))
}
