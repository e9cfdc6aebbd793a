//! What can go wrong with cgroups, and the remedy for each.

use std::fmt;
use std::path::PathBuf;

use nix::errno::Errno;

/// A cgroup operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// No cgroup v2 hierarchy is mounted.
    #[error("no cgroup v2 hierarchy is mounted{}", if *v1 { ": this host uses cgroup v1 alone" } else { "" })]
    NotMounted {
        /// Whether v1 controllers are mounted.
        v1: bool,
    },
    /// This process sees only a part of the hierarchy.
    #[error("the cgroup hierarchy at {} does not start at the host's root cgroup", mount.display())]
    Namespaced {
        /// Where the part is mounted.
        mount: PathBuf,
    },
    /// No such group.
    #[error("there is no cgroup `{path}`")]
    Unknown {
        /// The path asked for.
        path: String,
        /// The existing group whose name is most like it.
        nearest: Option<String>,
    },
    /// The text is not the path of a group.
    #[error("`{path}` is not the path of a cgroup: {why}")]
    BadPath {
        /// The text given.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No such process.
    #[error("there is no process {pid}")]
    NoSuchProcess {
        /// Its pid.
        pid: i32,
    },
    /// The process has no place in the v2 hierarchy.
    #[error("process {pid} is in no cgroup of the v2 hierarchy")]
    NotInHierarchy {
        /// Its pid.
        pid: i32,
    },
    /// The process is in a group that this mount does not show.
    #[error("process {pid} is in cgroup `{path}`, which the mount at {} does not show", mount.display())]
    OutsideOfView {
        /// Its pid.
        pid: i32,
        /// Its group.
        path: String,
        /// The mount looked at.
        mount: PathBuf,
    },
    /// A process could not be moved.
    #[error("process {pid} cannot be moved into cgroup `{to}`: {refusal}: {source}")]
    Move {
        /// Its pid.
        pid: i32,
        /// The group it was to enter.
        to: String,
        /// What the errno means here.
        refusal: MoveRefusal,
        /// What the kernel said.
        source: Errno,
    },
    /// A group could not be made.
    #[error("cgroup `{path}` cannot be made: {source}")]
    Create {
        /// The path of the new group.
        path: String,
        /// What the kernel said.
        source: Errno,
    },
    /// A new group is not a normal one that takes any process.
    #[error("cgroup `{path}` takes no processes: its type is `{kind}`")]
    NotADomain {
        /// The group.
        path: String,
        /// The content of its `cgroup.type`.
        kind: String,
    },
    /// A group could not be removed.
    #[error("cgroup `{path}` cannot be removed: {source}")]
    Remove {
        /// The group.
        path: String,
        /// What the kernel said.
        source: Errno,
    },
    /// A file of the hierarchy could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
}

/// Why the kernel refuses to move a process into a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MoveRefusal {
    /// The group hands controllers to its children, so that only its leaves hold processes.
    InternalProcesses,
    /// The group belongs to a threaded subtree.
    Threaded,
    /// The process has ended.
    ProcessGone,
    /// The group has been removed.
    GroupGone,
    /// It is a kernel thread that is bound to its group.
    KernelThread,
    /// The caller may not do it.
    NotPermitted,
    /// Any other errno.
    Other,
}

impl MoveRefusal {
    pub(super) fn of(errno: Errno) -> Self {
        match errno {
            Errno::EBUSY => Self::InternalProcesses,
            Errno::EOPNOTSUPP => Self::Threaded,
            Errno::ESRCH => Self::ProcessGone,
            Errno::ENOENT | Errno::ENODEV => Self::GroupGone,
            Errno::EINVAL => Self::KernelThread,
            Errno::EPERM | Errno::EACCES => Self::NotPermitted,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for MoveRefusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::InternalProcesses => {
                "the group has controllers enabled for its children, so only its leaves may hold processes"
            }
            Self::Threaded => "the group is threaded, or below a threaded one, and takes threads only",
            Self::ProcessGone => "the process has ended",
            Self::GroupGone => "the group has been removed",
            Self::KernelThread => "a kernel thread stays in its group",
            Self::NotPermitted => "this needs root, and write access to both groups",
            Self::Other => "the kernel refused",
        })
    }
}

impl CgroupError {
    /// The remedy, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotMounted { v1: true } => {
                "boot with `systemd.unified_cgroup_hierarchy=1`, or mount version 2 beside version 1: \
                 `mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified`"
            }
            Self::NotMounted { v1: false } => "mount it: `mount -t cgroup2 none /sys/fs/cgroup`",
            Self::Namespaced { .. } => {
                "run injector in the host's cgroup namespace, for example with `docker run --cgroupns=host` and \
                 the host's /sys/fs/cgroup mounted"
            }
            Self::Unknown { nearest: Some(nearest), .. } => {
                return Some(format!("did you mean `{nearest}`?"));
            }
            Self::Unknown { nearest: None, .. } => "`systemd-cgls` lists the cgroups of this host",
            Self::BadPath { .. } => {
                "give it as in /proc/PID/cgroup, for example `/system.slice/nginx.service`"
            }
            Self::NotInHierarchy { .. } => "it may be ending: give a live process",
            Self::OutsideOfView { .. } => "mount the whole hierarchy: `mount -t cgroup2 none DIRECTORY`",
            Self::Move { refusal: MoveRefusal::InternalProcesses, .. } => {
                "choose a leaf cgroup, one with an empty `cgroup.subtree_control`"
            }
            Self::Move { refusal: MoveRefusal::Threaded, .. } | Self::NotADomain { .. } => {
                "name the domain cgroup above the threaded ones as the target"
            }
            Self::Create { source: Errno::EAGAIN, .. } => {
                "raise `cgroup.max.descendants` or `cgroup.max.depth` of a cgroup above it"
            }
            Self::Remove { source: Errno::EBUSY, .. } => "processes or child groups are still in it",
            Self::Move { refusal: MoveRefusal::NotPermitted, .. }
            | Self::Create { source: Errno::EACCES | Errno::EPERM | Errno::EROFS, .. }
            | Self::Remove { source: Errno::EACCES | Errno::EPERM | Errno::EROFS, .. }
            | Self::Io { source: Errno::EACCES | Errno::EPERM | Errno::EROFS, .. } => {
                "run as root, with the cgroup file system mounted read-write"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
