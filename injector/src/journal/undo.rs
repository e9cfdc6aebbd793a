//! Taking one entry back: the one implementation, for the normal end and for cleaning up after a death.
//!
//! Each function checks that what it finds is what the journal means, and is content if it is gone.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;

use super::Entry;
use crate::host::cgroup::{Cgroup, CgroupError, Hierarchy, MoveRefusal, SignalError, knobs};
use crate::host::link;
use crate::host::link_state::LinkState;
use crate::host::netlink::{Netlink, NetlinkError};
use crate::host::netns::{self, NetnsError, NetnsId};
use crate::host::process::{ProcessError, ProcessId, ProcessTable};
use crate::host::qdisc_tree::{self, RestoreError};
use crate::host::vdso::{self, Restored, VdsoError};
use crate::host::{Undone, ifb, tc};

/// An entry that could not be taken back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UndoError {
    /// A filter that could not be taken away leads to it.
    #[error("a filter leads to it that could not be taken away, and what arrives would be lost")]
    InUse,
    /// Its namespace could not be reached.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// Its device could not be read or changed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// What it had replaced is not there again.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// Its cgroup could not be read or changed.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The processes of the host could not be listed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The clocks of a process could not be put right.
    #[error(transparent)]
    Vdso(#[from] VdsoError),
    /// Its processes could not be signalled.
    #[error(transparent)]
    Signal(#[from] SignalError),
}

impl UndoError {
    /// The remedy, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::InUse => Some("`injector clean` tries again".to_owned()),
            Self::Netns(error) => error.hint(),
            Self::Netlink(error) | Self::Restore(RestoreError::Netlink(error)) => error.hint(),
            Self::Restore(RestoreError::Differs { .. }) => {
                Some("see what is there: `tc qdisc show`".to_owned())
            }
            Self::Cgroup(error) => error.hint(),
            Self::Signal(error) => error.hint(),
            Self::Process(error) => error.hint(),
            Self::Vdso(error) => error.hint(),
        }
    }
}

/// Take back what an entry of the given experiment stands for. Doing it twice does no harm.
pub fn undo(entry: &Entry, experiment: &str) -> Result<Undone, UndoError> {
    match entry {
        Entry::ClsactMade { netns, ifindex, .. } => {
            in_namespace(*netns, |netlink| tc::delete_clsact_if_empty(netlink, *ifindex))
        }
        Entry::Filter { netns, ifindex, direction, pref, handle, program_id, .. } => {
            in_namespace(*netns, |netlink| {
                tc::delete_filter(netlink, *ifindex, *direction, *pref, *handle, *program_id)
            })
        }
        Entry::GsoMaxSegs { netns, ifindex, previous, set, .. } => {
            in_namespace(*netns, |netlink| restore_gso(netlink, *ifindex, *previous, *set))
        }
        Entry::FqMade { netns, ifindex, handle, replaced, .. } => {
            in_namespace(*netns, |netlink| qdisc_tree::put_back(netlink, *ifindex, *handle, replaced))
        }
        Entry::IfbMade { netns, ifname } => in_namespace(*netns, |netlink| ifb::delete(netlink, ifname)),
        Entry::Redirect { netns, ifindex, pref, handle, .. } => {
            in_namespace(*netns, |netlink| ifb::delete_redirect(netlink, *ifindex, (*pref, *handle)))
        }
        Entry::LinkDown { netns, ifindex, state, .. } => {
            in_namespace(*netns, |netlink| set_up_again(netlink, *ifindex, state))
        }
        Entry::Frozen { path, id } => in_cgroup(path, *id, thaw),
        Entry::Stopped { path, id, spared } => in_cgroup(path, *id, |hierarchy, cgroup| {
            let count = hierarchy.continue_all(cgroup, spared, &BTreeSet::new())?;
            Ok(if count > 0 { Undone::Removed } else { Undone::AlreadyGone })
        }),
        Entry::Limited { path, id, file, previous, set } => {
            in_cgroup(path, *id, |hierarchy, _| unlimit(hierarchy, path, file, (previous, set)))
        }
        Entry::Clocks { mark } => restore_clocks(*mark),
        Entry::ControllerEnabled { path, id, controller } => in_cgroup(path, *id, |hierarchy, _| {
            if !hierarchy.has_controller(path, controller)? {
                return Ok(Undone::AlreadyGone);
            }
            hierarchy.set_controller(path, controller, false)?;
            Ok(Undone::Removed)
        }),
        Entry::CgroupMade { path, id } => remove_cgroup(path, *id, experiment),
        Entry::ProcessMoved { process, from, to } => move_back(*process, from, to),
    }
}

/// A namespace that is gone took its devices with it.
fn in_namespace<E: Into<UndoError>>(
    id: NetnsId,
    work: impl FnOnce(&mut Netlink) -> Result<Undone, E>,
) -> Result<Undone, UndoError> {
    let Some(namespace) = netns::find(id)? else { return Ok(Undone::AlreadyGone) };
    let mut netlink = Netlink::open_in(namespace.as_fd())?;
    work(&mut netlink).map_err(Into::into)
}

/// A cgroup that is gone took its settings with it, and one that was made anew under its name has its own.
fn in_cgroup(
    path: &str,
    id: u64,
    work: impl FnOnce(&Hierarchy, &Cgroup) -> Result<Undone, UndoError>,
) -> Result<Undone, UndoError> {
    let hierarchy = Hierarchy::find()?;
    match hierarchy.open(path) {
        Ok(cgroup) if cgroup.id == id => work(&hierarchy, &cgroup),
        Ok(_) | Err(CgroupError::Unknown { .. }) => Ok(Undone::AlreadyGone),
        Err(error) => Err(error.into()),
    }
}

fn thaw(hierarchy: &Hierarchy, cgroup: &Cgroup) -> Result<Undone, UndoError> {
    if !hierarchy.is_told_to_freeze(&cgroup.path)? {
        return Ok(Undone::AlreadyGone);
    }
    hierarchy.write_knob(&cgroup.path, knobs::FREEZE, "0")?;
    Ok(Undone::Removed)
}

fn unlimit(
    hierarchy: &Hierarchy,
    path: &str,
    file: &str,
    (previous, set): (&str, &str),
) -> Result<Undone, UndoError> {
    match hierarchy.read_knob(path, file)? {
        now if now == previous => Ok(Undone::AlreadyGone),
        now if now != set => {
            Ok(Undone::NotOurs { why: format!("{file} is {now}, not the {set} that was set") })
        }
        _ => {
            hierarchy.write_knob(path, file, previous)?;
            Ok(Undone::Removed)
        }
    }
}

/// Who was patched may be in another cgroup by now, or be the child of one.
fn restore_clocks(mark: u64) -> Result<Undone, UndoError> {
    let (mut undone, mut failed) = (Undone::AlreadyGone, None);
    for process in ProcessTable::read()?.pids().filter_map(|pid| ProcessId::of(pid).ok()) {
        // What has no clocks to patch has none that are.
        if !matches!(vdso::mark(process), Ok(Some(found)) if found == mark) {
            continue;
        }
        match vdso::restore(process, mark) {
            Ok(Restored::Removed) => undone = Undone::Removed,
            Ok(Restored::NotPatched | Restored::Gone) => {}
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(undone), |error| Err(error.into()))
}

fn set_up_again(netlink: &mut Netlink, ifindex: u32, state: &LinkState) -> Result<Undone, NetlinkError> {
    let Some(device) = link::get(netlink, ifindex)? else { return Ok(Undone::AlreadyGone) };
    state.restore(netlink, &device)?;
    Ok(if device.up { Undone::AlreadyGone } else { Undone::Removed })
}

fn restore_gso(netlink: &mut Netlink, ifindex: u32, previous: u32, set: u32) -> Result<Undone, NetlinkError> {
    match link::get(netlink, ifindex)? {
        None => Ok(Undone::AlreadyGone),
        Some(device) if device.gso_max_segs == previous => Ok(Undone::AlreadyGone),
        Some(device) if device.gso_max_segs != set => {
            let why = format!("gso_max_segs is {}, not the {set} that was set", device.gso_max_segs);
            Ok(Undone::NotOurs { why })
        }
        Some(_) => link::set_gso_max_segs(netlink, ifindex, previous).map(|()| Undone::Removed),
    }
}

fn remove_cgroup(path: &str, id: Option<u64>, experiment: &str) -> Result<Undone, UndoError> {
    let hierarchy = Hierarchy::find()?;
    let cgroup = match hierarchy.open(path) {
        Err(CgroupError::Unknown { .. }) => return Ok(Undone::AlreadyGone),
        opened => opened?,
    };
    let named = path.rsplit('/').next().is_some_and(|name| name.contains(experiment));
    let ours = match id {
        Some(id) => id == cgroup.id,
        // The controller died around the making; the experiment's id in the name is proof enough.
        None => named,
    };
    if !ours || cgroup.is_root() {
        return Ok(Undone::NotOurs { why: format!("cgroup {path} is another one, with id {}", cgroup.id) });
    }
    hierarchy.dissolve(&cgroup)?;
    Ok(Undone::Removed)
}

fn move_back(process: ProcessId, from: &str, to: &str) -> Result<Undone, UndoError> {
    if !process.is_alive() {
        return Ok(Undone::AlreadyGone);
    }
    let hierarchy = Hierarchy::find()?;
    let now = match hierarchy.of_process(process.pid) {
        Err(CgroupError::NoSuchProcess { .. }) => return Ok(Undone::AlreadyGone),
        now => now?.path,
    };
    if now == from {
        return Ok(Undone::AlreadyGone);
    }
    if now != to {
        return Ok(Undone::NotOurs { why: format!("process {} is in cgroup {now} by now", process.pid) });
    }
    match hierarchy.move_to_or_above(process.pid, from) {
        Err(CgroupError::Move { refusal: MoveRefusal::ProcessGone, .. }) => Ok(Undone::AlreadyGone),
        moved => Ok(moved.map(|()| Undone::Removed)?),
    }
}
