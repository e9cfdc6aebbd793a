//! Taking one entry back: the one implementation, for the normal end and for cleaning up after a death.
//!
//! Each function checks that what it finds is what the journal means, and is content if it is gone.

use std::os::fd::AsFd as _;

use super::Entry;
use crate::host::cgroup::{CgroupError, Hierarchy, MoveRefusal};
use crate::host::link;
use crate::host::link_state::LinkState;
use crate::host::netlink::{Netlink, NetlinkError};
use crate::host::netns::{self, NetnsError, NetnsId};
use crate::host::process::ProcessId;
use crate::host::qdisc_tree::{self, RestoreError};
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
