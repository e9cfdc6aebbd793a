//! The lines of a journal: pure data, and which experiments would be in each other's way.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::host::cgroup::is_below;
use crate::host::link_state::LinkState;
use crate::host::netns::NetnsId;
use crate::host::process::ProcessId;
use crate::host::qdisc_tree::Piece;
use crate::host::tc::Direction;

/// The version of the format, raised when an older injector would misread a newer journal.
pub const VERSION: u32 = 5;

/// The first line: whose journal it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of the format.
    pub version: u32,
    /// The experiment's id, also the name of its directory.
    pub id: String,
    /// The scenario's name.
    pub name: String,
    /// The process that runs it.
    pub controller: ProcessId,
    /// The boot it runs in: nothing in a journal outlives that.
    pub boot_id: String,
    /// When it started.
    pub started: Timestamp,
    /// When its programs stop acting, come what may.
    pub deadline: Timestamp,
    /// What it strikes.
    pub targets: Vec<TargetKey>,
}

/// What an experiment strikes, as far as two of them can be in each other's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum TargetKey {
    /// A cgroup with all below it.
    Cgroup {
        /// Its path in the hierarchy.
        path: String,
        /// Its id; none for one that is yet to be made.
        id: Option<u64>,
    },
    /// A device.
    Interface {
        /// The namespace it is in.
        netns: NetnsId,
        /// Its index there.
        ifindex: u32,
        /// Its name there.
        ifname: String,
    },
}

impl TargetKey {
    /// Whether a packet or process can belong to both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Cgroup { path: a, .. }, Self::Cgroup { path: b, .. }) => {
                a == b || is_below(a, b) || is_below(b, a)
            }
            (Self::Interface { netns: a, ifindex: i, .. }, Self::Interface { netns: b, ifindex: j, .. }) => {
                (a, i) == (b, j)
            }
            _ => false,
        }
    }
}

impl fmt::Display for TargetKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup { path, .. } => write!(formatter, "cgroup {path}"),
            Self::Interface { ifname, .. } => write!(formatter, "interface {ifname}"),
        }
    }
}

/// The pairs of targets that two experiments must not strike at once.
#[must_use]
pub fn conflicts(ours: &[TargetKey], theirs: &[TargetKey]) -> Vec<(TargetKey, TargetKey)> {
    let pairs = ours.iter().flat_map(|our| theirs.iter().map(move |their| (our, their)));
    pairs
        .filter(|(our, their)| our.overlaps(their))
        .map(|(our, their)| (our.clone(), their.clone()))
        .collect()
}

/// One thing on the host that would stay if nobody took it away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Entry {
    /// A clsact qdisc, made because the device had none.
    ClsactMade {
        /// The namespace of the device.
        netns: NetnsId,
        /// The device.
        ifindex: u32,
        /// Its name, for messages.
        ifname: String,
    },
    /// A BPF filter at a clsact hook.
    Filter {
        /// The namespace of the device.
        netns: NetnsId,
        /// The device.
        ifindex: u32,
        /// Its name, for messages.
        ifname: String,
        /// Which side of the hook.
        direction: Direction,
        /// Its preference, chosen before it is attached.
        pref: u16,
        /// Its handle, chosen before it is attached.
        handle: u32,
        /// The id of its program, by which it is known to be ours.
        program_id: u32,
    },
    /// A leaf cgroup.
    CgroupMade {
        /// Its path. Its name must contain the experiment's id.
        path: String,
        /// Its id; none where the entry was written before the group was made.
        id: Option<u64>,
    },
    /// A process in another cgroup than its own.
    ProcessMoved {
        /// The process.
        process: ProcessId,
        /// The path of the cgroup it came from.
        from: String,
        /// The path of the cgroup it is in.
        to: String,
    },
    /// An fq qdisc at the root of a device, in place of what was there.
    FqMade {
        /// The namespace of the device.
        netns: NetnsId,
        /// The device.
        ifindex: u32,
        /// Its name, for messages.
        ifname: String,
        /// The handle that we gave it, by which it is known to be ours.
        handle: u32,
        /// What lies further in the future is dropped, microseconds.
        horizon_us: u32,
        /// What somebody had configured in its place; empty for the kernel's default.
        replaced: Vec<Piece>,
    },
    /// An ifb, through which what arrives at a device takes its way round.
    IfbMade {
        /// The namespace it is in.
        netns: NetnsId,
        /// Its name, which contains the experiment's id.
        ifname: String,
    },
    /// The filter that sends what arrives at a device to an ifb.
    Redirect {
        /// The namespace of the device.
        netns: NetnsId,
        /// The device.
        ifindex: u32,
        /// Its name, for messages.
        ifname: String,
        /// Its preference, chosen before it is made.
        pref: u16,
        /// Its handle, by which it is known to be ours.
        handle: u32,
        /// Name of the ifb.
        ifb: String,
    },
    /// A device that is set down.
    LinkDown {
        /// The namespace of the device.
        netns: NetnsId,
        /// The device.
        ifindex: u32,
        /// Its name, for messages.
        ifname: String,
        /// What it had that went with it.
        state: LinkState,
    },
    /// A cgroup that is paused from time to time.
    Frozen {
        /// Its path.
        path: String,
        /// Its id.
        id: u64,
    },
    /// A cgroup whose processes are stopped from time to time.
    Stopped {
        /// Its path.
        path: String,
        /// Its id.
        id: u64,
        /// Who was stopped before, and stays so.
        spared: BTreeSet<ProcessId>,
    },
    /// A file of a cgroup that says something else from time to time.
    Limited {
        /// The cgroup's path.
        path: String,
        /// Its id.
        id: u64,
        /// Name of the file.
        file: String,
        /// What it said.
        previous: String,
        /// What we write.
        set: String,
    },
    /// Processes whose clocks are patched, wherever they are.
    Clocks {
        /// What they bear in their memory, by which they are known to be ours.
        mark: u64,
    },
    /// A controller that the children of a cgroup had not.
    ControllerEnabled {
        /// The cgroup's path.
        path: String,
        /// Its id.
        id: u64,
        /// Name of the controller.
        controller: String,
    },
    /// A device's limit of wire segments in one packet.
    GsoMaxSegs {
        /// The namespace of the device.
        netns: NetnsId,
        /// The device.
        ifindex: u32,
        /// Its name, for messages.
        ifname: String,
        /// The value it had.
        previous: u32,
        /// The value we gave it.
        set: u32,
    },
}

impl Entry {
    /// Whether it goes on striking without anybody's doing, so that somebody must take it back at once.
    #[must_use]
    pub const fn strikes_on(&self) -> bool {
        matches!(
            self,
            Self::LinkDown { .. }
                | Self::Frozen { .. }
                | Self::Stopped { .. }
                | Self::Limited { .. }
                | Self::Clocks { .. }
        )
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClsactMade { ifname, netns, .. } => {
                write!(formatter, "clsact qdisc on {ifname} in net:[{}]", netns.inode)
            }
            Self::Filter { netns, ifname, direction, pref, handle, .. } => {
                let inode = netns.inode;
                write!(
                    formatter,
                    "{direction} filter pref {pref} handle {handle:#x} on {ifname} in net:[{inode}]"
                )
            }
            Self::CgroupMade { path, .. } => write!(formatter, "cgroup {path}"),
            Self::ProcessMoved { process, from, to } => {
                write!(formatter, "process {} moved from cgroup {from} to {to}", process.pid)
            }
            Self::FqMade { netns, ifname, handle, replaced, .. } => {
                write!(formatter, "fq qdisc {:x}: ", handle >> 16)?;
                if let Some(root) = replaced.first() {
                    write!(formatter, "in place of {root} ")?;
                }
                write!(formatter, "on {ifname} in net:[{}]", netns.inode)
            }
            Self::IfbMade { netns, ifname } => write!(formatter, "ifb {ifname} in net:[{}]", netns.inode),
            Self::Redirect { netns, ifname, pref, .. } => {
                write!(formatter, "ingress redirection pref {pref} on {ifname} in net:[{}]", netns.inode)
            }
            Self::LinkDown { netns, ifname, .. } => {
                write!(formatter, "{ifname} set down in net:[{}]", netns.inode)
            }
            Self::Frozen { path, .. } => write!(formatter, "cgroup {path} frozen"),
            Self::Stopped { path, .. } => write!(formatter, "processes of cgroup {path} stopped"),
            Self::Limited { path, file, set, .. } => write!(formatter, "{file} {set} of cgroup {path}"),
            Self::Clocks { mark } => write!(formatter, "clocks of processes with the mark {mark:#x}"),
            Self::ControllerEnabled { path, controller, .. } => {
                write!(formatter, "controller {controller} of the children of cgroup {path}")
            }
            Self::GsoMaxSegs { netns, ifname, set, .. } => {
                write!(formatter, "gso_max_segs {set} of {ifname} in net:[{}]", netns.inode)
            }
        }
    }
}

/// An entry as a journal holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// What was made, or about to be.
    pub entry: Entry,
    /// Whether it has been taken away again.
    pub undone: bool,
}

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "kebab-case")]
pub(super) enum Line {
    Header { header: Header },
    Made { entry: Entry },
    Undone { index: usize },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup(path: &str) -> TargetKey {
        TargetKey::Cgroup { path: path.to_owned(), id: None }
    }

    fn interface(inode: u64, ifindex: u32) -> TargetKey {
        let netns = NetnsId { dev: 4, inode, cookie: inode };
        TargetKey::Interface { netns, ifindex, ifname: format!("eth{ifindex}") }
    }

    #[test]
    fn cgroups_overlap_with_themselves_and_with_what_is_above_and_below() {
        for other in ["/a/b", "/a", "/", "/a/b/c"] {
            assert_eq!(conflicts(&[cgroup("/a/b")], &[cgroup(other)]).len(), 1, "{other}");
        }
        for other in ["/a/c", "/a/bc", "/b"] {
            assert!(conflicts(&[cgroup("/a/b")], &[cgroup(other)]).is_empty(), "{other}");
        }
    }

    #[test]
    fn devices_overlap_only_with_themselves() {
        assert_eq!(conflicts(&[interface(1, 2)], &[interface(1, 2)]).len(), 1);
        assert!(conflicts(&[interface(1, 2)], &[interface(1, 3), interface(2, 2), cgroup("/a")]).is_empty());
    }

    #[test]
    fn every_pair_is_named() {
        let pairs = conflicts(&[cgroup("/a"), cgroup("/b")], &[cgroup("/a/x"), cgroup("/c"), cgroup("/b")]);
        let pairs: Vec<String> = pairs.iter().map(|(our, their)| format!("{our}, {their}")).collect();
        assert_eq!(pairs, ["cgroup /a, cgroup /a/x", "cgroup /b, cgroup /b"]);
    }

    #[test]
    fn lines_are_tagged_by_kind() {
        let entry = Entry::CgroupMade { path: "/a".to_owned(), id: Some(7) };
        let text = serde_json::to_string(&Line::Made { entry }).unwrap();
        assert_eq!(text, r#"{"line":"made","entry":{"kind":"cgroup-made","path":"/a","id":7}}"#);
    }
}
