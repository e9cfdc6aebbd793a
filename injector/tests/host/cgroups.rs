//! Cgroups on the mounted hierarchy.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use injector::host::cgroup::{CgroupError, Hierarchy, MoveRefusal};

use crate::support::{Background, ScratchCgroup, eventually, own_pid, skipped_without_root};

#[test]
fn groups_are_opened_by_either_name_and_known_by_inode_and_level() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchCgroup::new("open");
    let inner = scratch.hierarchy.create_leaf(&scratch.cgroup, "inner").unwrap();
    let directory = scratch.directory().join("inner");
    assert_eq!((inner.id, inner.level), (fs::metadata(&directory).unwrap().ino(), 2));
    assert_eq!(scratch.hierarchy.open(&inner.path).unwrap(), inner);
    assert_eq!(scratch.hierarchy.open(directory.to_str().unwrap()).unwrap(), inner);
    assert!(scratch.cgroup.is_ancestor_of(&inner));
    assert_eq!(scratch.hierarchy.root().unwrap().level, 0);
    assert_eq!(scratch.hierarchy.children(&scratch.cgroup).unwrap(), [inner]);
}

#[test]
fn the_nearest_name_is_offered() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchCgroup::new("near");
    scratch.hierarchy.create_leaf(&scratch.cgroup, "postgresql.service").unwrap();
    let path = &scratch.cgroup.path;
    for wrong in ["postgres.service", "postgersql.service/deeper"] {
        let error = scratch.hierarchy.open(&format!("{path}/{wrong}")).unwrap_err();
        assert_eq!(error.hint().unwrap(), format!("did you mean `{path}/postgresql.service`?"), "{error}");
    }
}

#[test]
fn processes_are_moved_and_found_in_all_levels() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchCgroup::new("move");
    let hierarchy = &scratch.hierarchy;
    let inner = hierarchy.create_leaf(&scratch.cgroup, "inner").unwrap();
    let (one, two) = (Background::shell("sleep 60"), Background::shell("sleep 60"));
    hierarchy.move_process(one.pid(), &scratch.cgroup).unwrap();
    hierarchy.move_process(two.pid(), &inner).unwrap();
    assert_eq!(hierarchy.of_process(two.pid()).unwrap(), inner);
    let pids = hierarchy.procs(&scratch.cgroup).unwrap();
    assert!(pids.contains(&one.pid()) && pids.contains(&two.pid()), "{pids:?}");
    assert!(!hierarchy.own_procs(&scratch.cgroup).unwrap().contains(&two.pid()));
}

#[test]
fn dissolving_moves_everybody_up_even_those_who_keep_forking() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchCgroup::new("dissolve");
    let hierarchy = &scratch.hierarchy;
    let leaf = hierarchy.create_leaf(&scratch.cgroup, "leaf").unwrap();
    let below = hierarchy.create_leaf(&leaf, "below").unwrap();
    let forks = Background::shell("while :; do sleep 0.001 & wait; done");
    let sleeps = Background::shell("sleep 60");
    hierarchy.move_process(forks.pid(), &leaf).unwrap();
    hierarchy.move_process(sleeps.pid(), &below).unwrap();
    hierarchy.dissolve(&leaf).unwrap();
    assert!(matches!(hierarchy.open(&leaf.path), Err(CgroupError::Unknown { .. })));
    for pid in [forks.pid(), sleeps.pid()] {
        assert_eq!(hierarchy.of_process(pid).unwrap(), scratch.cgroup);
    }
    hierarchy.remove(&leaf.path).unwrap();
}

#[test]
fn a_group_in_use_is_not_removed() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchCgroup::new("busy");
    let process = Background::shell("sleep 60");
    scratch.hierarchy.move_process(process.pid(), &scratch.cgroup).unwrap();
    let error = scratch.hierarchy.remove(&scratch.cgroup.path).unwrap_err();
    assert!(error.to_string().contains("EBUSY"), "{error}");
    assert!(error.hint().unwrap().contains("still in it"));
}

#[test]
fn a_group_that_hands_controllers_down_takes_no_process() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchCgroup::new("internal");
    let hierarchy = &scratch.hierarchy;
    let root = hierarchy.directory("/");
    let available = fs::read_to_string(root.join("cgroup.controllers")).unwrap();
    // The rule is of controllers that see domains; threaded ones (cpu, cpuset, pids) take processes anywhere.
    let Some(controller) = available.split_whitespace().find(|name| ["memory", "io"].contains(name)) else {
        // A hybrid host has given both to version 1: then no group can hand them down.
        let v1 = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(v1.contains(" - cgroup cgroup rw,memory"), "neither memory nor io is anywhere: {v1}");
        return;
    };
    let before = fs::read_to_string(root.join("cgroup.subtree_control")).unwrap();
    let enabled = before.split_whitespace().any(|name| name == controller);
    fs::write(root.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
    let inner = hierarchy.create_leaf(&scratch.cgroup, "inner").unwrap();
    fs::write(scratch.directory().join("cgroup.subtree_control"), format!("+{controller}")).unwrap();

    let process = Background::shell("sleep 60");
    let error = hierarchy.move_process(process.pid(), &scratch.cgroup).unwrap_err();
    // A process that may not go back to its group goes to the next one above it.
    hierarchy.move_process(process.pid(), &inner).unwrap();
    hierarchy.move_to_or_above(process.pid(), &format!("{}/gone", scratch.cgroup.path)).unwrap();
    let landed = hierarchy.of_process(process.pid()).unwrap();

    drop(scratch);
    if !enabled {
        fs::write(root.join("cgroup.subtree_control"), format!("-{controller}")).unwrap();
    }
    assert!(matches!(error, CgroupError::Move { refusal: MoveRefusal::InternalProcesses, .. }), "{error:?}");
    assert!(error.to_string().contains("EBUSY"), "{error}");
    assert!(error.hint().unwrap().contains("leaf"));
    assert!(landed.is_root(), "{landed:?}");
}

#[test]
fn threaded_groups_are_told() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchCgroup::new("threaded");
    let hierarchy = &scratch.hierarchy;
    let inner = hierarchy.create_leaf(&scratch.cgroup, "inner").unwrap();
    fs::write(scratch.directory().join("inner/cgroup.type"), "threaded").unwrap();
    for group in [&inner, &scratch.cgroup] {
        let error = hierarchy.check_takes_leaves(group).unwrap_err();
        assert!(matches!(error, CgroupError::NotADomain { .. }), "{error:?}");
        let error = hierarchy.create_leaf(group, "leaf").unwrap_err();
        assert!(matches!(error, CgroupError::NotADomain { .. }), "{error:?}");
        assert!(!hierarchy.directory(&group.path).join("leaf").exists(), "the refused leaf is removed");
    }
    fs::create_dir(scratch.directory().join("invalid")).unwrap();
    let invalid = hierarchy.open(&format!("{}/invalid", scratch.cgroup.path)).unwrap();
    let process = Background::shell("sleep 60");
    let error = hierarchy.move_process(process.pid(), &invalid).unwrap_err();
    assert!(matches!(error, CgroupError::Move { refusal: MoveRefusal::Threaded, .. }), "{error:?}");
    assert!(error.to_string().contains("EOPNOTSUPP"), "{error}");
    // A threaded group does not list processes, yet the one of its thread is found.
    hierarchy.move_process(process.pid(), &inner).unwrap();
    assert!(hierarchy.own_procs(&inner).unwrap().contains(&process.pid()));
}

#[test]
fn a_child_enters_by_the_file() {
    use std::os::unix::process::CommandExt as _;
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchCgroup::new("enter");
    let mut file = scratch.hierarchy.open_procs_file(&scratch.cgroup).unwrap();
    let mut command = std::process::Command::new("cat");
    // SAFETY: between fork and exec the closure only writes to a file that is open already.
    unsafe { command.pre_exec(move || std::io::Write::write_all(&mut file, b"0")) };
    let output = command.arg("/proc/self/cgroup").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().any(|line| line == format!("0::{}", scratch.cgroup.path)), "{text}");
    eventually("the child is gone", || scratch.hierarchy.procs(&scratch.cgroup).unwrap().is_empty());
}

#[test]
fn processes_that_are_gone_are_told() {
    // The largest pid that a kernel can be set to give is 2^22.
    let error = Hierarchy::find().unwrap().of_process(1 << 23).unwrap_err();
    assert!(matches!(error, CgroupError::NoSuchProcess { .. }), "{error:?}");
    assert!(Hierarchy::find().unwrap().of_process(own_pid()).is_ok());
}
