//! Selectors on the live host: what they mean, what is refused, what is done and taken back.

use std::collections::BTreeSet;

use injector::host::cgroup::{CgroupError, Hierarchy};
use injector::host::process::ProcessTable;
use injector::journal::{Journal, Store, TargetKey};
use injector::target::{
    Acquired, Danger, SafetyPolicy, Strike, TargetError, TargetSpec, TargetWarning, acquire,
    acquire_run_leaf, plan_run_leaf, resolve,
};

use crate::support::{
    Background, ScratchCgroup, ScratchNetns, eventually, header, own_pid, skipped_without_root, unique,
};

const SAFE: SafetyPolicy = SafetyPolicy { force: false };

fn journal(id: &str) -> (tempfile::TempDir, Journal) {
    let base = tempfile::tempdir().unwrap();
    let journal = Store::open(base.path()).unwrap().register(header(id)).unwrap();
    (base, journal)
}

#[test]
fn dangerous_targets_are_refused_unless_forced() {
    let parent = std::os::unix::process::parent_id().cast_signed();
    // In a test machine the tests may be the children of process 1.
    let of_parent = if parent == 1 { Danger::Init } else { Danger::AncestorOfInjector };
    let refused = [
        (TargetSpec::Cgroup("/".to_owned()), Danger::RootCgroup),
        (TargetSpec::Pid(1), Danger::Init),
        (TargetSpec::Pid(own_pid()), Danger::Injector),
        (TargetSpec::Pid(parent), of_parent),
    ];
    for (spec, danger) in refused {
        let error = resolve(&spec, "t", "x", SAFE).unwrap_err();
        assert!(matches!(&error, TargetError::Unsafe { danger: found, .. } if *found == danger), "{error:?}");
        assert!(error.hint().unwrap().contains("--force-unsafe-target"), "{error}");
        let forced = resolve(&spec, "t", "x", SafetyPolicy { force: true }).unwrap();
        assert!(forced.warnings.contains(&TargetWarning::Forced { danger }), "{forced:?}");
    }
}

#[test]
fn a_kernel_thread_is_refused_also_by_force() {
    let table = ProcessTable::read().unwrap();
    let Some(thread) = table.pids().find(|pid| table.get(*pid).is_some_and(|info| info.kernel_thread)) else {
        // In a pid namespace of its own the test sees none: then 2 is no kernel thread either.
        assert!(table.get(2).is_none_or(|info| info.name != "kthreadd"));
        return;
    };
    for force in [false, true] {
        let error = resolve(&TargetSpec::Pid(thread), "t", "x", SafetyPolicy { force }).unwrap_err();
        assert!(matches!(error, TargetError::Unsafe { danger: Danger::KernelThread, .. }), "{error:?}");
    }
}

#[test]
fn unknown_targets_get_the_nearest_name() {
    if skipped_without_root() {
        return;
    }
    let error = resolve(&TargetSpec::Pid(1 << 23), "t", "x", SAFE).unwrap_err();
    assert_eq!(error.to_string(), format!("there is no process {}", 1 << 23));
    let scratch = ScratchCgroup::new("nearest");
    let typo = format!("{}x", scratch.cgroup.path);
    let error = resolve(&TargetSpec::Cgroup(typo), "t", "x", SAFE).unwrap_err();
    assert_eq!(error.hint().unwrap(), format!("did you mean `{}`?", scratch.cgroup.path));
    let netns = ScratchNetns::new("nearest");
    netns.ip("link add frontend0 type veth peer name v1");
    netns.enter(|| {
        let error = resolve(&TargetSpec::Interface("fronted0".to_owned()), "t", "x", SAFE).unwrap_err();
        assert_eq!(error.hint().unwrap(), "did you mean `frontend0`?");
    });
}

#[test]
fn a_cgroup_is_struck_as_it_is() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchCgroup::new("plain");
    let spec = TargetSpec::Cgroup(scratch.cgroup.path.clone());
    let resolved = resolve(&spec, "t", "x", SAFE).unwrap();
    assert_eq!(resolved.strike, Strike::Cgroup(scratch.cgroup.clone()));
    assert_eq!(resolved.warnings, [TargetWarning::EmptyCgroup { path: scratch.cgroup.path.clone() }]);
    let (_base, mut journal) = journal("x");
    assert_eq!(acquire(&resolved, &mut journal).unwrap(), Acquired::Cgroup(scratch.cgroup.clone()));
    assert!(journal.entries().is_empty());
}

#[test]
fn a_cgroup_that_vanishes_or_is_made_anew_is_told() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchCgroup::new("vanish");
    let hierarchy = &scratch.hierarchy;
    let leaf = hierarchy.create_leaf(&scratch.cgroup, "leaf").unwrap();
    let resolved = resolve(&TargetSpec::Cgroup(leaf.path.clone()), "t", "x", SAFE).unwrap();
    let (_base, mut journal) = journal("x");
    hierarchy.remove(&leaf.path).unwrap();
    let error = acquire(&resolved, &mut journal).unwrap_err();
    assert!(matches!(error, TargetError::CgroupReplaced { .. }), "{error:?}");
    hierarchy.create_leaf(&scratch.cgroup, "leaf").unwrap();
    let error = acquire(&resolved, &mut journal).unwrap_err();
    assert!(matches!(error, TargetError::CgroupReplaced { .. }), "{error:?}");
}

#[test]
fn a_process_alone_in_its_cgroup_stays_there() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchCgroup::new("alone");
    let process = Background::shell("sleep 60 & sleep 60 & wait");
    scratch.hierarchy.move_process(process.pid(), &scratch.cgroup).unwrap();
    // Children that it forked before the move are where they were: move them too.
    eventually("two children", || ProcessTable::read().unwrap().descendants(process.pid()).len() == 2);
    for pid in ProcessTable::read().unwrap().descendants(process.pid()) {
        scratch.hierarchy.move_process(pid, &scratch.cgroup).unwrap();
    }
    let resolved = resolve(&TargetSpec::Pid(process.pid()), "t", "x", SAFE).unwrap();
    assert_eq!(resolved.strike, Strike::Cgroup(scratch.cgroup.clone()));
}

#[test]
fn a_process_among_others_is_moved_with_its_children_and_back_with_its_later_ones() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchCgroup::new("shared");
    let hierarchy = &scratch.hierarchy;
    let other = Background::shell("sleep 60");
    let gate = tempfile::tempdir().unwrap();
    let script = "sleep 60 & echo > $G/ready; until [ -e $G/go ]; do sleep 0.01; done; sleep 60 & echo > $G/gone; wait";
    let process = Background::shell(&script.replace("$G", gate.path().to_str().unwrap()));
    eventually("it has a child", || gate.path().join("ready").exists());
    hierarchy.move_process(other.pid(), &scratch.cgroup).unwrap();
    // It forks all the time: what it forked before it was moved is where it was.
    eventually("all of the family are in the cgroup", || {
        for pid in family(process.pid()) {
            let _ = hierarchy.move_process(pid, &scratch.cgroup);
        }
        family(process.pid())
            .into_iter()
            .all(|pid| hierarchy.of_process(pid).is_ok_and(|cgroup| cgroup.path == scratch.cgroup.path))
    });

    let resolved = resolve(&TargetSpec::Pid(process.pid()), "db", "e1", SAFE).unwrap();
    let leaf_path = format!("{}/injector-e1-db", scratch.cgroup.path);
    assert_eq!(resolved.key(), TargetKey::Cgroup { path: leaf_path.clone(), id: None });
    assert!(matches!(&resolved.warnings[..], [TargetWarning::OpenSocketsStay { .. }]), "{resolved:?}");
    assert!(resolved.to_string().contains("and back at the end"), "{resolved}");
    assert!(hierarchy.children(&scratch.cgroup).unwrap().is_empty(), "resolving changes nothing");

    let (_base, mut journal) = journal("e1");
    let Acquired::Cgroup(leaf) = acquire(&resolved, &mut journal).unwrap() else { unreachable!() };
    assert_eq!(leaf.path, leaf_path);
    assert_eq!(hierarchy.of_process(process.pid()).unwrap(), leaf);
    assert_eq!(hierarchy.of_process(other.pid()).unwrap(), scratch.cgroup);
    std::fs::write(gate.path().join("go"), "").unwrap();
    // Not by their number alone: the short sleeps between two looks count too, while there are any.
    eventually("the later child is there", || gate.path().join("gone").exists());
    eventually("three are in the leaf", || hierarchy.procs(&leaf).unwrap().len() == 3);

    let outcomes = journal.undo_all();
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()), "{outcomes:?}");
    assert!(hierarchy.children(&scratch.cgroup).unwrap().is_empty());
    let back = hierarchy.own_procs(&scratch.cgroup).unwrap();
    assert!(family(process.pid()).is_subset(&back), "{back:?}");
    journal.close().unwrap();
}

fn family(pid: i32) -> BTreeSet<i32> {
    let mut family = ProcessTable::read().unwrap().descendants(pid);
    family.insert(pid);
    family
}

#[test]
fn children_in_other_cgroups_are_named_and_left() {
    if skipped_without_root() {
        return;
    }
    let (home, away) = (ScratchCgroup::new("home"), ScratchCgroup::new("away"));
    let hierarchy = &home.hierarchy;
    let other = Background::shell("sleep 60");
    let process = Background::shell("sleep 60 & wait");
    eventually("it has a child", || family(process.pid()).len() == 2);
    let child = *ProcessTable::read().unwrap().descendants(process.pid()).first().unwrap();
    hierarchy.move_process(other.pid(), &home.cgroup).unwrap();
    hierarchy.move_process(process.pid(), &home.cgroup).unwrap();
    hierarchy.move_process(child, &away.cgroup).unwrap();
    let resolved = resolve(&TargetSpec::Pid(process.pid()), "db", "e2", SAFE).unwrap();
    let elsewhere =
        TargetWarning::DescendantsElsewhere { pid: process.pid(), descendants: BTreeSet::from([child]) };
    assert!(resolved.warnings.contains(&elsewhere), "{resolved:?}");
    let (_base, mut journal) = journal("e2");
    acquire(&resolved, &mut journal).unwrap();
    assert_eq!(hierarchy.of_process(child).unwrap(), away.cgroup);
    assert!(journal.undo_all().iter().all(|outcome| outcome.result.is_ok()));
}

#[test]
fn an_interface_that_is_down_is_a_warning_and_one_that_goes_an_error() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchNetns::new("iface");
    scratch.ip("link add v0 type veth peer name v1");
    let resolved =
        scratch.enter(|| resolve(&TargetSpec::Interface("v0".to_owned()), "t", "x", SAFE).unwrap());
    assert_eq!(resolved.warnings, [TargetWarning::InterfaceDown { name: "v0".to_owned() }]);
    let Strike::Interface { netns, device } = &resolved.strike else { unreachable!() };
    assert_eq!((*netns, device.name.as_str()), (scratch.id, "v0"));
    let (_base, mut journal) = journal("x");
    assert!(matches!(acquire(&resolved, &mut journal).unwrap(), Acquired::Interface { .. }));
    scratch.ip("link del v0");
    let error = acquire(&resolved, &mut journal).unwrap_err();
    assert!(matches!(error, TargetError::InterfaceGone { .. }), "{error:?}");
}

#[test]
fn daemons_left_in_the_leaf_of_a_command_are_moved_out() {
    if skipped_without_root() {
        return;
    }
    let hierarchy = Hierarchy::find().unwrap();
    let own = hierarchy.of_process(own_pid()).unwrap();
    let id = unique("run");
    let plan = plan_run_leaf(&id).unwrap();
    assert!(matches!(plan.key(), TargetKey::Cgroup { path, id: None } if path.ends_with(&plan.leaf_name)));
    let (_base, mut journal) = journal(&id);
    let leaf = acquire_run_leaf(&plan, &mut journal).unwrap();
    assert!(own.holds(&leaf) || leaf.level == 1, "{leaf:?}");
    let daemon = Background::shell("sleep 60");
    hierarchy.move_process(daemon.pid(), &leaf).unwrap();
    assert!(journal.undo_all().iter().all(|outcome| outcome.result.is_ok()));
    assert!(matches!(hierarchy.open(&leaf.path), Err(CgroupError::Unknown { .. })));
    assert_eq!(hierarchy.of_process(daemon.pid()).unwrap(), plan.parents[0]);
}

#[test]
fn a_full_journal_makes_no_leaf() {
    if skipped_without_root() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let path = base.path().to_owned();
    let made = std::thread::spawn(move || {
        use nix::mount::{MsFlags, mount};
        let none = None::<&str>;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(none, &path, Some("tmpfs"), MsFlags::empty(), Some("size=8k,mode=0700")).unwrap();
        let id = unique("full");
        let mut journal = Store::open(&path).unwrap().register(header(&id)).unwrap();
        let plan = plan_run_leaf(&id).unwrap();
        // The second page goes here, and then the first one, which the header has begun, to its end.
        let _ = std::fs::write(path.join("filler"), vec![1; 1 << 16]);
        let big = "x".repeat(200);
        let fill = injector::journal::Entry::CgroupMade { path: format!("/{big}"), id: Some(1) };
        while journal.append(fill.clone()).is_ok() {}
        let last = injector::journal::Entry::CgroupMade { path: "/x".to_owned(), id: None };
        while journal.append(last.clone()).is_ok() {}
        let error = acquire_run_leaf(&plan, &mut journal).unwrap_err();
        assert!(error.to_string().contains("ENOSPC"), "{error}");
        plan
    })
    .join()
    .unwrap();
    for parent in made.parents {
        let directory = Hierarchy::find().unwrap().directory(&parent.path).join(&made.leaf_name);
        assert!(!directory.exists(), "{}", directory.display());
    }
}
