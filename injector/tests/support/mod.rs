//! What tests from outside need: the built `injector`, and cgroups, network namespaces and processes that go
//! away with their owner.
//!
//! Nothing here knows how injector works inside: only its command line, its `--json` object and the kernel's
//! own interfaces are used. Include it by `#[path = "../support/mod.rs"] mod support;`.
#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(unused_imports, reason = "each test program uses its own part")]

mod cgroup;
mod experiment;
mod netns;
mod process;

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

pub(crate) use cgroup::{Cgroup, mount_point};
pub(crate) use experiment::{Experiment, Fault, Report, injector};
pub(crate) use netns::{CLIENT_V4, CLIENT_V6, DEVICE, Netns, Pair, SERVER_V4, SERVER_V6};
pub(crate) use process::{Background, Located, children, python, run, sh};

/// True for root. For anybody else it shows that the kernel refuses what every test here needs, and is false:
/// `if !root_or_skip() { return; }`.
pub(crate) fn root_or_skip() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let refused = unshare(CloneFlags::CLONE_NEWNET);
    assert_eq!(refused, Err(Errno::EPERM), "only a lack of root is a reason to skip");
    false
}

/// Whether this is one of the emulated machines, where time goes slower.
pub(crate) fn in_vm() -> bool {
    std::env::var_os("INJECTOR_VM").is_some()
}

/// Whether time passes evenly: on a real machine, and in an emulated one whose clock counts instructions. Otherwise a
/// machine stands still for milliseconds while its clock goes on.
pub(crate) fn clock_is_even() -> bool {
    !in_vm() || std::env::var_os("INJECTOR_CLOCK").is_some_and(|clock| clock == "counted")
}

/// Major and minor number of the running kernel.
pub(crate) fn kernel_release() -> (u32, u32) {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// A name that no other test of this or another process has. Short enough for a device.
pub(crate) fn unique(prefix: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// Waits until the condition holds, and fails with `what` if it does not in time.
#[track_caller]
pub(crate) fn wait_until(timeout: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + timeout;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {timeout:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
