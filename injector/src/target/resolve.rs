//! Reading the host to decide what a selector means here. Nothing is changed.

use std::collections::BTreeSet;
use std::process;

use super::safety::{danger_of_cgroup, danger_of_process, danger_to_ssh};
use super::{Danger, ResolvedTarget, SafetyPolicy, Strike, TargetError, TargetSpec, TargetWarning};
use crate::host::cgroup::{Cgroup, CgroupError, Hierarchy, nearest_of};
use crate::host::link;
use crate::host::netlink::Netlink;
use crate::host::netns::NetnsId;
use crate::host::process::{ProcessError, ProcessTable};
use crate::host::ssh;

/// Find what a selector means on this host, and refuse what is dangerous.
///
/// `name` is the target's name in the scenario; with the experiment's id it names a leaf, if one is needed.
pub fn resolve(
    spec: &TargetSpec,
    name: &str,
    experiment: &str,
    policy: SafetyPolicy,
) -> Result<ResolvedTarget, TargetError> {
    let mut warnings = Vec::new();
    let mut check = |danger: Option<Danger>| match danger {
        // A kernel thread makes no system calls and stays in its cgroup: no force helps.
        Some(danger) if !policy.force || danger == Danger::KernelThread => {
            Err(TargetError::Unsafe { target: spec.clone(), danger })
        }
        Some(danger) => {
            warnings.push(TargetWarning::Forced { danger });
            Ok(())
        }
        None => Ok(()),
    };
    let (strike, more) = match spec {
        TargetSpec::Cgroup(path) => resolve_cgroup(path, &mut check)?,
        TargetSpec::Pid(pid) => resolve_pid(*pid, name, experiment, &mut check)?,
        TargetSpec::Interface(name) => resolve_interface(name)?,
    };
    warnings.extend(more);
    Ok(ResolvedTarget { spec: spec.clone(), strike, warnings })
}

type Check<'a> = &'a mut dyn FnMut(Option<Danger>) -> Result<(), TargetError>;
type Found = (Strike, Vec<TargetWarning>);

fn resolve_cgroup(path: &str, check: Check<'_>) -> Result<Found, TargetError> {
    let surroundings = Surroundings::read()?;
    let cgroup = surroundings.hierarchy.open(path)?;
    check(surroundings.danger_of(&cgroup))?;
    let inside = surroundings.hierarchy.procs(&cgroup)?;
    check(danger_to_ssh(&inside, &ssh::needed_servers()?))?;
    let empty = inside.is_empty();
    let warnings = empty.then(|| TargetWarning::EmptyCgroup { path: cgroup.path.clone() });
    Ok((Strike::Cgroup(cgroup), warnings.into_iter().collect()))
}

fn resolve_pid(pid: i32, name: &str, experiment: &str, check: Check<'_>) -> Result<Found, TargetError> {
    let surroundings = Surroundings::read()?;
    // Before the table, which must be young when it is held against the cgroups.
    let needed = ssh::needed_servers()?;
    let table = ProcessTable::read()?;
    let info = table.get(pid).ok_or(ProcessError::Gone { pid })?;
    let own = process::id().cast_signed();
    check(danger_of_process(pid, info.kernel_thread, own, &table.ancestors(own)))?;

    let mut family = table.descendants(pid);
    family.insert(pid);
    check(danger_to_ssh(&family, &needed))?;

    let hierarchy = &surroundings.hierarchy;
    let from = hierarchy.of_process(pid)?;
    if surroundings.danger_of(&from).is_none() && table.are_only(&hierarchy.procs(&from)?, pid) {
        return Ok((Strike::Cgroup(from), Vec::new()));
    }
    hierarchy.check_takes_leaves(&from)?;
    let neighbours = hierarchy.own_procs(&from)?;
    let (descendants, elsewhere): (_, BTreeSet<i32>) =
        table.descendants(pid).into_iter().partition(|pid| neighbours.contains(pid));
    let mut warnings = vec![TargetWarning::OpenSocketsStay { pid, from: from.path.clone() }];
    // `cgroup.procs` leaves out who is about to end, well before it is a zombie, and who has ended since
    // the table was read is in no cgroup: what counts is where the process itself says that it is.
    let is_elsewhere = |pid: &i32| {
        let lives = table.get(*pid).is_some_and(|info| info.id.is_alive());
        lives
            && match hierarchy.of_process(*pid) {
                Ok(cgroup) => cgroup != from,
                Err(CgroupError::NoSuchProcess { .. }) => false,
                Err(_) => true,
            }
    };
    let elsewhere: BTreeSet<i32> = elsewhere.into_iter().filter(is_elsewhere).collect();
    if !elsewhere.is_empty() {
        warnings.push(TargetWarning::DescendantsElsewhere { pid, descendants: elsewhere });
    }
    let leaf_name = leaf_name(experiment, name);
    Ok((Strike::MoveToLeaf { process: info.id, from, leaf_name, descendants }, warnings))
}

fn resolve_interface(name: &str) -> Result<Found, TargetError> {
    let devices = link::list(&mut Netlink::open()?)?;
    let Some(device) = devices.iter().find(|device| device.name == name) else {
        let nearest = nearest_of(name, devices.into_iter().map(|device| device.name));
        return Err(TargetError::UnknownInterface { name: name.to_owned(), nearest });
    };
    let down = (!device.up).then(|| TargetWarning::InterfaceDown { name: name.to_owned() });
    let strike = Strike::Interface { netns: NetnsId::of_self()?, device: Box::new(device.clone()) };
    Ok((strike, down.into_iter().collect()))
}

/// A target's name is free text; a directory's is not.
fn leaf_name(experiment: &str, target: &str) -> String {
    const MOST: usize = 64;
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || letter == '-' { letter } else { '_' };
    let target: String = target.chars().take(MOST).map(plain).collect();
    format!("injector-{experiment}-{target}")
}

/// The hierarchy, and where in it process 1 and injector are.
struct Surroundings {
    hierarchy: Hierarchy,
    init: Option<Cgroup>,
    own: Cgroup,
}

impl Surroundings {
    fn read() -> Result<Self, TargetError> {
        let hierarchy = Hierarchy::find()?;
        let own = hierarchy.of_process(process::id().cast_signed())?;
        let init = match hierarchy.of_process(1) {
            // Hidden by the mount or the pid namespace: then no cgroup that we can name holds it.
            Err(
                CgroupError::OutsideOfView { .. }
                | CgroupError::NoSuchProcess { .. }
                | CgroupError::NotInHierarchy { .. },
            ) => None,
            init => Some(init?),
        };
        Ok(Self { hierarchy, init, own })
    }

    fn danger_of(&self, cgroup: &Cgroup) -> Option<Danger> {
        danger_of_cgroup(cgroup, self.init.as_ref(), &self.own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_have_plain_names() {
        assert_eq!(leaf_name("4f2a", "db"), "injector-4f2a-db");
        assert_eq!(leaf_name("4f2a", "../my db\n"), "injector-4f2a-___my_db_");
        assert!(leaf_name("4f2a", &"ä".repeat(500)).len() < 100);
    }
}
