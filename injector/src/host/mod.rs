//! What the host is and has: cgroups, network namespaces, devices, TC filters, processes, facts.
//!
//! Each module reads the kernel's own interface (cgroupfs, procfs, rtnetlink) and changes only what its
//! caller asks for, one object at a time. Which objects an experiment needs is decided in `target` and in
//! the plan; what was made is remembered by `journal`. No scenario, no eBPF and no policy lives here.

pub mod address;
pub mod cgroup;
pub mod facts;
pub mod ifb;
pub mod link;
pub mod link_state;
pub mod module;
pub mod netlink;
pub mod netns;
pub mod process;
pub mod qdisc;
pub mod qdisc_tree;
pub mod route;
pub mod socket;
pub mod ssh;
pub mod tc;
pub mod vdso;
pub mod xdp;

use std::io;

pub use nix::errno::Errno;

/// What came of taking one thing away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undone {
    /// It was there, and is not any more.
    Removed,
    /// It was gone already.
    AlreadyGone,
    /// Something is there, but not what we made: it stays.
    NotOurs {
        /// How it differs.
        why: String,
    },
}

/// The errno behind an [`io::Error`], so that messages can name it.
///
/// An error that no system call gave (a decoding error, say) has none and becomes `EIO`.
#[must_use]
pub fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
