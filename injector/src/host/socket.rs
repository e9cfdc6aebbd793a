//! Sockets that other processes hold: borrowed by `pidfd_getfd`, asked, and given back.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use injector_common::layout::ASK_LEVEL;
use nix::libc;
use procfs::process::{FDTarget, Process};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Asks every socket of a process for an option that it does not have, so that programs which look at options see it. Returns
/// the inodes of those that could not be asked. A process that has ended meanwhile has none.
#[must_use]
pub fn ask_all_of(pid: i32) -> Vec<u64> {
    let sockets = sockets_of(pid);
    let Some(process) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return Vec::new();
    };
    let refused = |(inode, fd): (u64, RawFd)| match pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()) {
        Ok(socket) => {
            ask(&socket);
            None
        }
        // Closed, or its process has ended.
        Err(rustix::io::Errno::BADF | rustix::io::Errno::SRCH) => None,
        Err(_) => Some(inode),
    };
    sockets.into_iter().filter_map(refused).collect()
}

/// The sockets of a process by inode, with one descriptor of each.
fn sockets_of(pid: i32) -> BTreeMap<u64, RawFd> {
    let Ok(open) = Process::new(pid).and_then(|process| process.fd()) else { return BTreeMap::new() };
    open.flatten()
        .filter_map(|file| match file.target {
            FDTarget::Socket(inode) => Some((inode, file.fd)),
            _ => None,
        })
        .collect()
}

fn ask(socket: &OwnedFd) {
    let mut value = 0_u32;
    let mut length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value`, and the new length; the descriptor is open. What it answers does
    // not matter: it has no such option.
    unsafe {
        libc::getsockopt(socket.as_raw_fd(), ASK_LEVEL, 0, (&raw mut value).cast(), &raw mut length);
    }
}
