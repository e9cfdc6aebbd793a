//! What somebody has configured at the root of a device where an fq is to be: whether it can be put back, and who says that it
//! may go if it can't.
//!
//! Whether the kernel takes a configuration as it shows it is never guessed from its kind: it is tried, on a device of a new
//! network namespace that nobody uses.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;

use super::error::EngineError;
use super::prepare::TargetPlan;
use super::probe::in_new_namespace;
use super::survey;
use crate::host::link::{self, Device, attach_points};
use crate::host::netlink::{Netlink, NetlinkError};
use crate::host::netns::{NetnsId, namespaces_of};
use crate::host::qdisc;
use crate::host::qdisc_tree::{self, Piece, Tree};
use crate::journal::{Entry, Store};
use crate::plan::{Hook, PlannedFault};
use crate::scenario::Scenario;
use crate::target::Strike;

/// Name of the device on which several queues are tried.
const STAGE: &str = "stage";

/// What an fq takes the place of.
#[derive(Debug)]
pub(super) struct Replaced {
    /// Its pieces, and how each comes back.
    pub(super) pieces: Vec<Piece>,
    /// What does not come back, each in words.
    lost: Vec<String>,
}

impl Replaced {
    /// What is configured at the root of a device of the socket's namespace; `None` if nothing is.
    pub(super) fn find(netlink: &mut Netlink, ifindex: u32) -> Result<Option<Self>, EngineError> {
        let Some(tree) = qdisc_tree::capture(netlink, ifindex)? else { return Ok(None) };
        let Some(device) = link::get(netlink, ifindex)? else { return Ok(None) };
        let pieces = in_new_namespace(|| rehearse(&tree, &device))??;
        let lost = tree.hidden.into_iter().chain(qdisc_tree::lost(&pieces)).collect();
        Ok(Some(Self { pieces, lost }))
    }

    /// Whether nothing of it has changed.
    pub(super) fn is_still_there(&self, netlink: &mut Netlink, ifindex: u32) -> Result<bool, NetlinkError> {
        let tree = qdisc_tree::capture(netlink, ifindex)?;
        Ok(tree.is_some_and(|tree| qdisc_tree::is_all(&self.pieces, &tree.pieces)))
    }

    /// Itself, if it comes back as it was, or if who owns the experiment has said that it need not.
    pub(super) fn allowed(self, takeover: bool, netns: NetnsId, device: &str) -> Result<Self, EngineError> {
        if takeover || self.lost.is_empty() {
            return Ok(self);
        }
        Err(EngineError::LastingQdisc {
            device: device.to_owned(),
            namespace: netns.inode,
            qdisc: self.root(),
            lost: self.lost,
        })
    }

    /// What is lost with it, in a sentence.
    pub(super) fn warning(&self, device: &str) -> Option<String> {
        (!self.lost.is_empty()).then(|| {
            format!(
                "takeover: the root qdisc {} of {device} makes way for fq, and at the end it comes back without this: {}",
                self.root(),
                self.lost.join("; ")
            )
        })
    }

    fn note(&self, device: &str) -> String {
        let root = self.root();
        format!(
            "fq takes the place of the configured root qdisc {root} of {device}, which is put back; its counters begin at 0, and what waits in it then is dropped"
        )
    }

    fn root(&self) -> String {
        self.pieces.first().map(ToString::to_string).unwrap_or_default()
    }
}

/// Tries a tree on a device of the current network namespace that is like its own.
fn rehearse(tree: &Tree, device: &Device) -> Result<Vec<Piece>, EngineError> {
    let mut netlink = Netlink::open()?;
    let name = if let Some(queues) = tree.queues() {
        link::make_veth(&mut netlink, STAGE, queues)?;
        STAGE
    } else {
        "lo"
    };
    let stage = link::list(&mut netlink)?.into_iter().find(|stage| stage.name == name);
    let index = stage.map_or(1, |stage| stage.index);
    // Some kinds complain to the kernel's log of what is below the device's MTU.
    link::set_mtu(&mut netlink, index, device.mtu)?;
    Ok(qdisc_tree::rehearse(&mut netlink, index, tree)?)
}

/// Processes by which the namespaces of cgroup targets are found.
#[derive(Debug, Default)]
pub(super) struct Users {
    /// All of them.
    pub(super) pids: BTreeSet<i32>,
    /// Those of targets that have `takeover`.
    pub(super) consenting: BTreeSet<i32>,
}

impl Users {
    /// Adds the processes of one target.
    pub(super) fn extend(&mut self, pids: &BTreeSet<i32>, takeover: bool) {
        self.pids.extend(pids);
        if takeover {
            self.consenting.extend(pids);
        }
    }

    /// While there is none, this process stands in, for any of the targets.
    pub(super) fn or_self(mut self, takeover: bool) -> Self {
        if self.pids.is_empty() {
            self.extend(&BTreeSet::from([std::process::id().cast_signed()]), takeover);
        }
        self
    }
}

/// Refuses devices whose root qdisc would be lost, of those that are there by now. Of the others it adds to the faults' notes
/// what makes way, and returns what is lost because somebody has said that it may be.
pub(super) fn check(
    scenario: &Scenario,
    targets: &BTreeMap<String, TargetPlan>,
    faults: &mut [PlannedFault],
) -> Result<Vec<String>, EngineError> {
    let keeps_back = |fault: &PlannedFault, hook| fault.longest_ns > 0 && fault.hooks.contains(&hook);
    let takeover = |name: &String| scenario.targets.get(name).is_some_and(|target| target.takeover);
    let mut survey = Survey::default();
    for (name, plan) in targets {
        let TargetPlan::Found(found) = plan else { continue };
        let Strike::Interface { netns, device } = &found.strike else { continue };
        if faults.iter().any(|fault| fault.targets.contains(name) && keeps_back(fault, Hook::DeviceEgress)) {
            survey.look(&mut Netlink::open()?, *netns, device, takeover(name))?;
        }
    }
    if faults.iter().any(|fault| keeps_back(fault, Hook::CgroupEgress)) {
        let mut users = Users::default();
        for (name, plan) in targets.iter().filter(|(_, plan)| !plan.is_interface()) {
            users.extend(&survey::processes(plan)?, takeover(name));
        }
        let users = users.or_self(targets.iter().any(|(name, plan)| !plan.is_interface() && takeover(name)));
        let consenting = namespaces_of(users.consenting)?;
        for (netns, fd) in namespaces_of(users.pids)? {
            let mut netlink = Netlink::open_in(fd.as_fd())?;
            for device in attach_points(&link::list(&mut netlink)?) {
                survey.look(&mut netlink, netns, &device, consenting.contains_key(&netns))?;
            }
        }
    }
    for fault in faults
        .iter_mut()
        .filter(|fault| keeps_back(fault, Hook::DeviceEgress) || keeps_back(fault, Hook::CgroupEgress))
    {
        fault.notes.extend(survey.notes.iter().cloned());
    }
    Ok(survey.warnings.into_iter().collect())
}

/// What is found before anything is changed.
#[derive(Debug, Default)]
struct Survey {
    notes: BTreeSet<String>,
    warnings: BTreeSet<String>,
}

impl Survey {
    fn look(
        &mut self,
        netlink: &mut Netlink,
        netns: NetnsId,
        device: &Device,
        takeover: bool,
    ) -> Result<(), EngineError> {
        let Some(root) = qdisc::root(netlink, device.index)?.filter(|root| !root.is_default()) else {
            return Ok(());
        };
        // An experiment's own is shared, and who made it knows what was there before.
        if root.kind == "fq" && is_an_experiments(netns, device.index, root.handle)? {
            return Ok(());
        }
        let Some(replaced) = Replaced::find(netlink, device.index)? else { return Ok(()) };
        let replaced = replaced.allowed(takeover, netns, &device.name)?;
        match replaced.warning(&device.name) {
            Some(warning) => self.warnings.insert(warning),
            None => self.notes.insert(replaced.note(&device.name)),
        };
        Ok(())
    }
}

fn is_an_experiments(netns: NetnsId, ifindex: u32, handle: u32) -> Result<bool, EngineError> {
    let experiments = Store::open_default()?.list()?.experiments;
    let mut left = experiments.iter().flat_map(|one| &one.entries).filter(|recorded| !recorded.undone);
    Ok(left.any(|recorded| {
        matches!(&recorded.entry, Entry::FqMade { netns: n, ifindex: i, handle: h, .. }
            if (*n, *i, *h) == (netns, ifindex, handle))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tc(arguments: &str) {
        let output = std::process::Command::new("tc").args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn a_qdisc_for_each_queue_is_tried_with_as_many() {
        let found = in_new_namespace(|| {
            let mut netlink = Netlink::open().unwrap();
            link::make_veth(&mut netlink, "many", 4).unwrap();
            let many = link::list(&mut netlink).unwrap().into_iter().find(|device| device.name == "many");
            let index = many.unwrap().index;
            assert!(Replaced::find(&mut netlink, index).unwrap().is_none());
            tc("qdisc add dev many root handle 17: mq");
            tc("qdisc add dev many parent 17:2 handle 18: pfifo limit 7");
            Replaced::find(&mut netlink, index).unwrap().unwrap()
        });
        let found = match found {
            Err(error) if !nix::unistd::geteuid().is_root() => {
                assert!(
                    error.to_string().contains("EPERM"),
                    "only a lack of root is a reason to skip: {error}"
                );
                return;
            }
            found => found.unwrap(),
        };
        assert_eq!((found.lost.as_slice(), found.pieces.len()), (&[][..], 5));
        assert_eq!(found.warning("many"), None);
        assert!(found.note("many").contains("root qdisc mq 17: of many"));
    }

    #[test]
    fn what_would_be_lost_is_refused_or_said() {
        let netns = NetnsId { dev: 0, inode: 77, cookie: 0 };
        let replaced = |lost: &[&str]| Replaced {
            pieces: Vec::new(),
            lost: lost.iter().map(|what| (*what).to_owned()).collect(),
        };
        assert!(replaced(&[]).allowed(false, netns, "eth0").is_ok());
        let taken = replaced(&["the filters of htb 17:"]).allowed(true, netns, "eth0").unwrap();
        assert!(taken.warning("eth0").unwrap().ends_with("without this: the filters of htb 17:"));
        let refused = replaced(&["this", "that"]).allowed(false, netns, "eth0").unwrap_err();
        assert!(refused.to_string().ends_with("which can't be put back as it is: this; that"), "{refused}");
        assert!(refused.hint().unwrap().contains("`takeover = true` in the target"));
    }

    #[test]
    fn who_stands_in_for_nobody_speaks_for_all_targets() {
        let own = std::process::id().cast_signed();
        let mut users = Users::default();
        users.extend(&BTreeSet::from([4]), false);
        users.extend(&BTreeSet::from([5]), true);
        let users = users.or_self(true);
        assert_eq!((users.pids, users.consenting), (BTreeSet::from([4, 5]), BTreeSet::from([5])));
        for takeover in [false, true] {
            let users = Users::default().or_self(takeover);
            assert_eq!((users.pids.contains(&own), users.consenting.contains(&own)), (true, takeover));
        }
    }
}
