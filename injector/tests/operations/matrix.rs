//! Every operation with several errnos, and what must not fail: the neighbour's, and those on other files.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{Cgroup, Experiment};
use crate::victim::{Folder, errnos};
use crate::{changes_syscalls, is_able};

/// Those that have a path, and the kernels' hooks for them.
const WITH_PATH: &str = "read write open create rename unlink mkdir rmdir link symlink mknod truncate fallocate chmod chown \
                         stat readdir mmap ioctl lock fcntl exec";
/// Those that have none.
pub(crate) const WITHOUT_PATH: &str = "setxattr getxattr listxattr removexattr fork socket connect bind listen accept send recv shutdown \
                            setsockopt getsockopt";
/// The same, where only the function of the system call can be had.
const BY_SYSCALL: &str = "fsync fdatasync sync_file_range syncfs close";
pub(crate) const BY_SYSCALL_WITHOUT_PATH: &str = "msync";

const EINTR: i32 = 4;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn list(names: &BTreeSet<&str>) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

/// The operations that can fail here: with a path, and without.
fn operations() -> (BTreeSet<&'static str>, BTreeSet<&'static str>) {
    let mut with: BTreeSet<&str> = WITH_PATH.split_whitespace().collect();
    let mut without: BTreeSet<&str> = WITHOUT_PATH.split_whitespace().collect();
    if changes_syscalls() {
        with.extend(BY_SYSCALL.split_whitespace());
        without.extend(BY_SYSCALL_WITHOUT_PATH.split_whitespace());
    }
    (with, without)
}

fn check(flags: &[&str], mechanism: &str, errnos_wanted: &[i32], is_asked: impl Fn(&str) -> bool) {
    let folder = Folder::new();
    let (mut with, mut without) = operations();
    with.retain(|name| is_asked(name));
    without.retain(|name| is_asked(name));
    let mut scenario = "seed = 1\n".to_owned();
    let cgroups: Vec<(i32, Cgroup)> = errnos_wanted.iter().map(|errno| (*errno, Cgroup::new())).collect();
    for (errno, cgroup) in &cgroups {
        scenario += &format!("[target.t{errno}]\ncgroup = \"{}\"\n", cgroup.path());
        for (id, operations, path) in [
            ("files", &with, format!("path = \"{}\"\n", folder.at("struck/**"))),
            ("others", &without, String::new()),
        ] {
            scenario += &format!(
                "[[fault]]\nid = \"{id}{errno}\"\ntarget = \"t{errno}\"\nkind = \"io.error\"\nerrno = {errno}\noperations = {}\n{path}",
                list(operations)
            );
        }
    }
    let experiment = Experiment::apply_with(&scenario, |command| command.args(flags));
    let struck = folder.path().join("struck");
    for (errno, cgroup) in &cgroups {
        let expected = |all: &BTreeMap<String, i32>, files: i32| -> BTreeMap<String, i32> {
            let errno_of = |name: &String| match name.as_str() {
                name if with.contains(name) => files,
                name if without.contains(name) => *errno,
                _ => 0,
            };
            all.keys().map(|name| (name.clone(), errno_of(name))).collect()
        };
        let found = errnos(&struck, Some(cgroup));
        assert_eq!(found, expected(&found, *errno), "struck, {errno}");
        let found = errnos(&folder.path().join("spared"), Some(cgroup));
        assert_eq!(found, expected(&found, 0), "other files, {errno}");
    }
    let found = errnos(&struck, None);
    assert_eq!(found, found.keys().map(|name| (name.clone(), 0)).collect(), "the neighbour");
    let report = experiment.end();
    for fault in report.object["faults"].as_array().unwrap() {
        let is_of_files = fault["id"].as_str().unwrap().starts_with("files");
        assert!(!is_of_files || fault["mechanism"].as_str().unwrap().contains(mechanism), "{fault}");
        assert_eq!(fault["matched"], fault["injected"], "{fault}");
    }
    // Nothing is left of it.
    let (_, cgroup) = &cgroups[0];
    let found = errnos(&struck, Some(cgroup));
    assert_eq!(found, found.keys().map(|name| (name.clone(), 0)).collect(), "after the end");
}

#[test]
fn each_operation_fails_with_the_errno_for_the_target_and_its_files_alone() {
    if is_able() {
        check(&[], "lsm file_permission", &[EIO, ENOSPC, EINTR], |_| true);
    }
}

/// Where `bpf` is not among the active LSMs, as on Ubuntu.
#[test]
fn the_functions_in_front_of_the_lsms_do_the_same() {
    if is_able() {
        // One of each shape of arguments, and the two whose functions have other names than their hooks.
        let some = "read write open exec mmap stat create rename link fork socket connect send";
        let is_asked = |name: &str| some.split(' ').any(|one| one == name);
        check(&["--operations", "fmod-ret"], "fmod_ret security_file_permission", &[EIO], is_asked);
    }
}
