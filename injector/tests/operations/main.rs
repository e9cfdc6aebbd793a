//! Operations that fail: the built `injector` on real programs, on every kernel, since what a kernel lets fail differs.
//!
//! `victim` is a Python process that does each operation once by libc; `matrix` has all operations, `paths` says which files are meant,
//! `often` which of several calls, `nth` that it is exact on real file systems, `databases` what SQLite and PostgreSQL make of it. `delays` are
//! operations that take longer, `sleepers` what ends that; `harms` are those that are lost, come back wrong, or end their process, `full` those that fail from some time on;
//! `uring` is what comes by rings, libaio and splices; `uncertain` what is told of the clock; `events` are operations at which other faults begin;
//! `fallback` is what seccomp notifies where the kernel has nothing better; `fuzz` is all of it at random. Everything about
//! packets is in the end-to-end tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails fails its test"
)]

#[path = "../support/mod.rs"]
mod support;

mod databases;
mod delays;
mod events;
mod fallback;
mod full;
mod fuzz;
mod harms;
mod matrix;
mod nth;
mod often;
mod paths;
mod sleepers;
mod uncertain;
mod uring;
mod victim;

use std::io::Write as _;
use std::sync::OnceLock;

use support::{Cgroup, in_vm, injector, kernel_release, root_or_skip};

/// The exit status and the standard error of `plan`, for an operation that fails in a new cgroup.
fn planned(operation: &str) -> (Option<i32>, String) {
    let cgroup = Cgroup::new();
    let scenario = format!(
        "duration = \"1m\"\n[target.t]\ncgroup = \"{}\"\n[[fault]]\nid = \"f\"\ntarget = \"t\"\n{operation}\n",
        cgroup.path()
    );
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    file.write_all(scenario.as_bytes()).unwrap();
    let output = injector().arg("plan").arg(file.path()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Whether a fault can be had here, as `is_expected` says of the stock kernels. Where it can't, `plan` says it in these words.
fn can(fault: &str, is_expected: bool, words: &[&str]) -> bool {
    let (status, said) = planned(fault);
    if status == Some(0) {
        assert!(is_expected || !in_vm(), "a kernel that should not be able to is: {fault}");
        return true;
    }
    assert!(!is_expected || !in_vm(), "{said}");
    assert_eq!(status, Some(3), "{said}");
    for word in words {
        assert!(is_expected || said.contains(word), "no {word:?} in {said}");
    }
    false
}

/// Whether this is an emulated machine, where what takes milliseconds may take minutes: the longest tests are left out there, unless
/// `INJECTOR_ALL_TESTS` asks for them.
fn is_emulated() -> bool {
    in_vm() && std::env::var_os("INJECTOR_ALL_TESTS").is_none()
}

/// Whether operations can fail here. Where they can't, it shows that `plan` says so and why: a kernel that is locked down lets nobody
/// attach to its functions. The stock kernels in virtual machines let all.
fn is_able() -> bool {
    // Once for all tests: a plan that tries what the kernel can takes seconds in an emulated machine.
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(tries_to_fail)
}

fn tries_to_fail() -> bool {
    if !root_or_skip() {
        return false;
    }
    let (status, said) = planned("kind = \"io.error\"\noperations = \"read\"");
    if status == Some(0) {
        return true;
    }
    assert!(!in_vm(), "{said}");
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("the fault `f` can't be had on this kernel, read: BPF LSM: "), "{said}");
    false
}

/// Whether the results of system calls can be changed here: from Linux 7 on, as far as is known.
fn changes_syscalls() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(tries_syscalls)
}

fn tries_syscalls() -> bool {
    if !is_able() {
        return false;
    }
    let (status, said) = planned("kind = \"syscall.error\"\nsyscalls = \"getpgid\"\nerrno = \"EPERM\"");
    if kernel_release() >= (7, 0) {
        assert_eq!(status, Some(0), "{said}");
        return true;
    }
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("getpgid: fmod_ret at functions of system calls: EINVAL"), "{said}");
    false
}

#[test]
fn what_a_kernel_has_no_hook_for_is_refused_by_name() {
    if !is_able() || changes_syscalls() {
        return;
    }
    let (status, said) = planned("kind = \"io.error\"\noperations = [\"read\", \"fsync\", \"close\"]");
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("can't be had on this kernel, fsync, close: "), "{said}");
    assert!(
        said.contains("`__x64_sys_") || said.contains("not modifiable") || said.contains("EINVAL"),
        "{said}"
    );
}
