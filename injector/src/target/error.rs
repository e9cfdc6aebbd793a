//! What can go wrong with targets, and the remedy for each.

use super::{Danger, FORCE_FLAG, TargetSpec};
use crate::host::cgroup::CgroupError;
use crate::host::netlink::NetlinkError;
use crate::host::netns::NetnsError;
use crate::host::process::ProcessError;
use crate::journal::JournalError;

/// A target that cannot be struck.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Striking it may cost the operator the host.
    #[error("{target} is refused: {danger}")]
    Unsafe {
        /// What was asked for.
        target: TargetSpec,
        /// Why it is dangerous.
        danger: Danger,
    },
    /// No such device.
    #[error("there is no interface `{name}` in this network namespace")]
    UnknownInterface {
        /// The name asked for.
        name: String,
        /// The device whose name is most like it.
        nearest: Option<String>,
    },
    /// The cgroup was removed, or made anew, since it was resolved.
    #[error("cgroup {path} is not the one that was planned for: it was removed meanwhile")]
    CgroupReplaced {
        /// Its path.
        path: String,
    },
    /// The process left its cgroup since it was resolved.
    #[error("process {pid} is not in cgroup {path} any more")]
    ProcessLeft {
        /// Its pid.
        pid: i32,
        /// The cgroup it was in.
        path: String,
    },
    /// The process forks faster than it can be moved.
    #[error("process {pid} forks faster than its children can be moved out of cgroup {path}")]
    ForksTooFast {
        /// Its pid.
        pid: i32,
        /// Its cgroup.
        path: String,
    },
    /// The device was removed since it was resolved.
    #[error("interface `{name}` was removed meanwhile")]
    InterfaceGone {
        /// Its name.
        name: String,
    },
    /// A cgroup could not be read or changed.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A process could not be read.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The devices could not be listed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A network namespace could not be read.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The journal could not be written, so nothing was made.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl TargetError {
    /// The remedy, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unsafe { danger: Danger::KernelThread, .. } => "name a process of user space",
            Self::Unsafe { .. } => {
                return Some(format!(
                    "choose a narrower target, or strike it all the same with `{FORCE_FLAG}`"
                ));
            }
            Self::UnknownInterface { nearest: Some(nearest), .. } => {
                return Some(format!("did you mean `{nearest}`?"));
            }
            Self::UnknownInterface { .. } => "`ip link` lists the interfaces",
            Self::CgroupReplaced { .. } | Self::ProcessLeft { .. } | Self::InterfaceGone { .. } => {
                "start the experiment again"
            }
            Self::ForksTooFast { path, .. } => {
                return Some(format!("name its cgroup as the target: `{path}`"));
            }
            Self::Cgroup(error) => return error.hint(),
            Self::Process(error) => return error.hint(),
            Self::Netlink(error) => return error.hint(),
            Self::Netns(error) => return error.hint(),
            Self::Journal(error) => return error.hint(),
        };
        Some(hint.to_owned())
    }
}
