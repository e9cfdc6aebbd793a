//! Doing what was resolved: leaves, and the processes moved into them. Everything is journalled first, and
//! taken back by the journal.

use std::process;

use super::{ResolvedTarget, Strike, TargetError};
use crate::host::cgroup::{Cgroup, CgroupError, Hierarchy, MoveRefusal, join};
use crate::host::link::{self, Device};
use crate::host::netlink::Netlink;
use crate::host::netns::{self, NetnsId};
use crate::host::process::{ProcessId, ProcessTable};
use crate::journal::{Entry, Journal, TargetKey};
use crate::kill_point::kill_point;

/// A process that forks while it is moved is asked for its children again, at most so often.
const MOVE_ROUNDS: u32 = 100;

/// A target that is ready to be struck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    /// A cgroup with all below it.
    Cgroup(Cgroup),
    /// A device.
    Interface {
        /// The namespace it is in.
        netns: NetnsId,
        /// The device.
        device: Box<Device>,
    },
}

/// Make a resolved target ready. What is made is in the journal: [`Journal::undo_all`] takes it back, also after
/// an error here.
pub fn acquire(target: &ResolvedTarget, journal: &mut Journal) -> Result<Acquired, TargetError> {
    match &target.strike {
        Strike::Cgroup(cgroup) => match Hierarchy::find()?.open(&cgroup.path) {
            Ok(now) if now.id == cgroup.id => Ok(Acquired::Cgroup(now)),
            Ok(_) | Err(CgroupError::Unknown { .. }) => {
                Err(TargetError::CgroupReplaced { path: cgroup.path.clone() })
            }
            Err(error) => Err(error.into()),
        },
        Strike::MoveToLeaf { process, from, leaf_name, .. } => {
            let hierarchy = Hierarchy::find()?;
            if !process.is_alive() || hierarchy.of_process(process.pid)?.id != from.id {
                return Err(TargetError::ProcessLeft { pid: process.pid, path: from.path.clone() });
            }
            let leaf = make_leaf(&hierarchy, from, leaf_name, journal)?;
            move_tree(&hierarchy, *process, from, &leaf, journal)?;
            Ok(Acquired::Cgroup(leaf))
        }
        Strike::Interface { netns, device } => {
            let gone = || TargetError::InterfaceGone { name: device.name.clone() };
            let namespace = netns::find(*netns)?.ok_or_else(gone)?;
            let mut netlink = Netlink::open_in(std::os::fd::AsFd::as_fd(&namespace))?;
            let now = link::get(&mut netlink, device.index)?.ok_or_else(gone)?;
            Ok(Acquired::Interface { netns: *netns, device: Box::new(now) })
        }
    }
}

/// Where the leaf for a launched command will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunLeaf {
    /// The groups to make it in, the first that takes it.
    pub parents: Vec<Cgroup>,
    /// Its name.
    pub leaf_name: String,
}

impl RunLeaf {
    /// By what it can be in the way of another experiment.
    #[must_use]
    pub fn key(&self) -> TargetKey {
        let parent = self.parents.first().map_or("/", |parent| &parent.path);
        TargetKey::Cgroup { path: join(parent, &self.leaf_name), id: None }
    }
}

/// Decide where the leaf of a launched command goes: below injector's own group, else below the root.
pub fn plan_run_leaf(experiment: &str) -> Result<RunLeaf, TargetError> {
    let hierarchy = Hierarchy::find()?;
    let own = hierarchy.of_process(process::id().cast_signed())?;
    let root = hierarchy.root()?;
    let mut parents = vec![own, root];
    parents.dedup();
    // Whether a group takes leaves can be read; that spares the change a refusal.
    if parents.len() > 1 && hierarchy.check_takes_leaves(&parents[0]).is_err() {
        parents.remove(0);
    }
    Ok(RunLeaf { parents, leaf_name: format!("injector-{experiment}-run") })
}

/// Make the leaf of a launched command. Whoever is left in it at the end, daemons say, is moved to the group
/// above when the journal is undone.
pub fn acquire_run_leaf(plan: &RunLeaf, journal: &mut Journal) -> Result<Cgroup, TargetError> {
    let hierarchy = Hierarchy::find()?;
    let mut refusal = None;
    for parent in &plan.parents {
        match make_leaf(&hierarchy, parent, &plan.leaf_name, journal) {
            Ok(leaf) => return Ok(leaf),
            Err(TargetError::Cgroup(error)) => refusal = refusal.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    let none = || CgroupError::BadPath { path: plan.leaf_name.clone(), why: "no group can hold it" };
    Err(refusal.unwrap_or_else(none).into())
}

/// The entry without an id covers a death around the making; the one with it is exact and replaces it.
fn make_leaf(
    hierarchy: &Hierarchy,
    parent: &Cgroup,
    name: &str,
    journal: &mut Journal,
) -> Result<Cgroup, TargetError> {
    let path = join(&parent.path, name);
    let intent = journal.append(Entry::CgroupMade { path: path.clone(), id: None })?;
    let made = hierarchy.create_leaf(parent, name);
    match &made {
        Ok(leaf) => {
            kill_point("leaf made");
            journal.append(Entry::CgroupMade { path, id: Some(leaf.id) })?;
            journal.undone(intent)?;
        }
        // Nothing was made. After any other error the intent stays, and the undoing looks for itself.
        Err(CgroupError::Create { .. } | CgroupError::BadPath { .. }) => journal.undone(intent)?,
        Err(_) => {}
    }
    Ok(made?)
}

/// Move a process and its descendants out of `from`, until a look finds none there.
fn move_tree(
    hierarchy: &Hierarchy,
    process: ProcessId,
    from: &Cgroup,
    leaf: &Cgroup,
    journal: &mut Journal,
) -> Result<(), TargetError> {
    for _ in 0..MOVE_ROUNDS {
        let table = ProcessTable::read()?;
        let mut family = table.descendants(process.pid);
        family.insert(process.pid);
        let neighbours = hierarchy.own_procs(from)?;
        let here: Vec<ProcessId> =
            family.intersection(&neighbours).filter_map(|pid| table.get(*pid)).map(|info| info.id).collect();
        if here.is_empty() {
            return Ok(());
        }
        for member in here {
            move_one(hierarchy, member, from, leaf, journal)?;
        }
    }
    Err(TargetError::ForksTooFast { pid: process.pid, path: from.path.clone() })
}

fn move_one(
    hierarchy: &Hierarchy,
    process: ProcessId,
    from: &Cgroup,
    leaf: &Cgroup,
    journal: &mut Journal,
) -> Result<(), TargetError> {
    let (from, to) = (from.path.clone(), leaf.path.clone());
    let index = journal.append(Entry::ProcessMoved { process, from, to })?;
    match hierarchy.move_process(process.pid, leaf) {
        Err(CgroupError::Move { refusal: MoveRefusal::ProcessGone, .. }) => Ok(journal.undone(index)?),
        moved => {
            kill_point("process moved");
            Ok(moved?)
        }
    }
}
