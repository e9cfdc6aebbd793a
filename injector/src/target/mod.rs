//! From a selector to what is struck: a cgroup, a process in a leaf of its own, a device, a command.
//!
//! [`resolve`] reads the host and decides, and changes nothing; [`acquire`] does what it decided, each thing
//! journalled before it is made, so that the journal alone takes it back. Which faults strike the target, and
//! where their programs attach, is decided elsewhere.

mod error;
mod leaf;
mod resolve;
mod safety;

use std::collections::BTreeSet;
use std::fmt;

pub use error::TargetError;
pub use leaf::{Acquired, RunLeaf, acquire, acquire_run_leaf, plan_run_leaf};
pub use resolve::resolve;
pub use safety::{Danger, FORCE_FLAG, SafetyPolicy};

use crate::host::cgroup::{Cgroup, join};
use crate::host::link::Device;
use crate::host::netns::NetnsId;
use crate::host::process::ProcessId;
use crate::journal::TargetKey;

/// What a scenario names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetSpec {
    /// A cgroup by its path.
    Cgroup(String),
    /// A process by its pid, with all its descendants.
    Pid(i32),
    /// A device of this network namespace, by its name.
    Interface(String),
}

impl fmt::Display for TargetSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(path) => write!(formatter, "cgroup {path}"),
            Self::Pid(pid) => write!(formatter, "process {pid}"),
            Self::Interface(name) => write!(formatter, "interface {name}"),
        }
    }
}

/// What will be struck, and what must be done to the host for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strike {
    /// A cgroup that is there. Nothing is done.
    Cgroup(Cgroup),
    /// A process that shares its cgroup with others: it is moved into a leaf below, with its descendants, and
    /// back at the end.
    MoveToLeaf {
        /// The process.
        process: ProcessId,
        /// Its cgroup.
        from: Cgroup,
        /// The name of the leaf.
        leaf_name: String,
        /// Its descendants in the same cgroup at this moment.
        descendants: BTreeSet<i32>,
    },
    /// A device. Nothing is done.
    Interface {
        /// The namespace it is in.
        netns: NetnsId,
        /// The device.
        device: Box<Device>,
    },
}

/// A target as it was found on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedTarget {
    /// What was asked for.
    pub spec: TargetSpec,
    /// What will be struck.
    pub strike: Strike,
    /// What the operator should know.
    pub warnings: Vec<TargetWarning>,
}

impl ResolvedTarget {
    /// By what it can be in the way of another experiment.
    #[must_use]
    pub fn key(&self) -> TargetKey {
        match &self.strike {
            Strike::Cgroup(cgroup) => TargetKey::Cgroup { path: cgroup.path.clone(), id: Some(cgroup.id) },
            Strike::MoveToLeaf { from, leaf_name, .. } => {
                TargetKey::Cgroup { path: join(&from.path, leaf_name), id: None }
            }
            Strike::Interface { netns, device } => {
                TargetKey::Interface { netns: *netns, ifindex: device.index, ifname: device.name.clone() }
            }
        }
    }
}

impl fmt::Display for ResolvedTarget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.strike {
            Strike::Cgroup(cgroup) => write!(formatter, "cgroup {} (id {})", cgroup.path, cgroup.id),
            Strike::MoveToLeaf { process, from, leaf_name, descendants } => {
                let leaf = join(&from.path, leaf_name);
                write!(formatter, "process {}, moved into the new cgroup {leaf}", process.pid)?;
                if !descendants.is_empty() {
                    write!(formatter, " with {} descendants", descendants.len())?;
                }
                write!(formatter, " and back at the end")
            }
            Strike::Interface { device, .. } => {
                write!(formatter, "interface {} (index {})", device.name, device.index)
            }
        }
    }
}

/// Something about a target that is allowed, but that the operator may not expect.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetWarning {
    /// No process is in the cgroup now.
    EmptyCgroup {
        /// The cgroup.
        path: String,
    },
    /// A socket stays in the cgroup it was made in.
    OpenSocketsStay {
        /// The process that is moved.
        pid: i32,
        /// The cgroup where its open sockets stay.
        from: String,
    },
    /// Some descendants have cgroups of their own and are not moved.
    DescendantsElsewhere {
        /// The process.
        pid: i32,
        /// Those descendants.
        descendants: BTreeSet<i32>,
    },
    /// The device is down.
    InterfaceDown {
        /// Its name.
        name: String,
    },
    /// The policy lets through what would be refused.
    Forced {
        /// Why it would be.
        danger: Danger,
    },
}

impl fmt::Display for TargetWarning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyCgroup { path } => {
                write!(formatter, "cgroup {path} holds no process now: nothing is struck until one enters it")
            }
            Self::OpenSocketsStay { pid, from } => write!(
                formatter,
                "sockets that process {pid} has open stay in cgroup {from}: neither its present connections are \
                 struck nor those that it accepts from a socket that listens already, but only what it opens from \
                 now on"
            ),
            Self::DescendantsElsewhere { pid, descendants } => {
                let list: Vec<String> = descendants.iter().map(ToString::to_string).collect();
                let list = list.join(", ");
                write!(formatter, "descendants of process {pid} in other cgroups are not struck: {list}")
            }
            Self::InterfaceDown { name } => write!(formatter, "interface {name} is down"),
            Self::Forced { danger } => write!(formatter, "forced although {danger}"),
        }
    }
}
