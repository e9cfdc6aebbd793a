//! A controller that died leaves things behind; its journal alone takes them back.

use std::path::Path;

use injector::host::Undone;
use injector::host::cgroup::Hierarchy;
use injector::host::link;
use injector::host::tc::{self, Direction};
use injector::journal::{Entry, JournalError, Store, clean};
use injector::target::{SafetyPolicy, TargetSpec, acquire, resolve};

use crate::support::{
    Background, ScratchCgroup, ScratchNetns, attach, header, load_classifier, skipped_without_root, unique,
};

const HANDLE: u32 = 0x10;

/// What an experiment makes, step by step, with a kill between any two.
struct Scene {
    netns: ScratchNetns,
    home: ScratchCgroup,
    process: Background,
    _other: Background,
}

impl Scene {
    fn new() -> Self {
        let (netns, home) = (ScratchNetns::new("clean"), ScratchCgroup::new("clean"));
        let (process, other) = (Background::shell("sleep 60"), Background::shell("sleep 60"));
        for pid in [process.pid(), other.pid()] {
            home.hierarchy.move_process(pid, &home.cgroup).unwrap();
        }
        Self { netns, home, process, _other: other }
    }

    /// Whatever could be left, as other tools show it.
    fn listing(&self) -> String {
        let directories = |path: &Path| {
            let entries = std::fs::read_dir(path).unwrap().flatten();
            entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.path()).collect::<Vec<_>>()
        };
        format!(
            "{}{}{}{}{:?}{:?}",
            self.netns.tc("qdisc show dev lo"),
            self.netns.tc("filter show dev lo egress"),
            self.netns.tc("filter show dev lo ingress"),
            self.netns.ip("-d link show lo"),
            directories(&self.home.directory()),
            self.home.hierarchy.own_procs(&self.home.cgroup).unwrap(),
        )
    }

    /// Do the first `steps` of eight; a journal entry and what it announces are steps of their own.
    fn play(&self, store: &Store, id: &str, steps: usize) {
        let mut journal = store.register(header(id)).unwrap();
        let mut netlink = self.netns.netlink();
        let (program, program_id) = load_classifier();
        let (netns, ifindex, ifname) = (self.netns.id, 1, "lo".to_owned());
        let previous = link::get(&mut netlink, 1).unwrap().unwrap().gso_max_segs;
        for step in 0..steps {
            match step {
                0 => {
                    journal.append(Entry::ClsactMade { netns, ifindex, ifname: ifname.clone() }).unwrap();
                }
                1 => {
                    self.netns.tc("qdisc add dev lo clsact");
                }
                2 => {
                    let (direction, pref, handle) = (Direction::Egress, 1, HANDLE);
                    let ifname = ifname.clone();
                    let entry = Entry::Filter { netns, ifindex, ifname, direction, pref, handle, program_id };
                    journal.append(entry).unwrap();
                }
                3 => attach(&mut netlink, ifindex, Direction::Egress, 1, HANDLE, &program),
                4 => {
                    let ifname = ifname.clone();
                    journal.append(Entry::GsoMaxSegs { netns, ifindex, ifname, previous, set: 1 }).unwrap();
                }
                5 => link::set_gso_max_segs(&mut netlink, ifindex, 1).unwrap(),
                6 => {
                    let path = format!("{}/injector-{id}-early", self.home.cgroup.path);
                    journal.append(Entry::CgroupMade { path, id: None }).unwrap();
                }
                _ => {
                    let spec = TargetSpec::Pid(self.process.pid());
                    let resolved = resolve(&spec, "db", id, SafetyPolicy::default()).unwrap();
                    acquire(&resolved, &mut journal).unwrap();
                }
            }
        }
        // Dropping the journal gives up its lock, as a SIGKILL does, and removes nothing.
    }
}

#[test]
fn a_death_after_any_step_is_cleaned_up() {
    if skipped_without_root() {
        return;
    }
    let scene = Scene::new();
    let before = scene.listing();
    for steps in 0..=8 {
        let base = tempfile::tempdir().unwrap();
        let store = Store::open(base.path()).unwrap();
        let id = unique(&format!("steps{steps}"));
        scene.play(&store, &id, steps);
        if steps > 1 {
            assert_ne!(scene.listing(), before, "{steps} steps leave something");
        }
        let report = clean(&store).unwrap();
        assert!(report.is_clean(), "{steps} steps: {report:?}");
        assert_eq!(report.experiments[0].id, id);
        assert_eq!(scene.listing(), before, "{steps} steps");
        assert!(!base.path().join(&id).exists());
        assert!(clean(&store).unwrap().experiments.is_empty());
    }
}

#[test]
fn what_others_put_in_our_place_stays() {
    if skipped_without_root() {
        return;
    }
    let scene = Scene::new();
    let base = tempfile::tempdir().unwrap();
    let store = Store::open(base.path()).unwrap();
    let id = unique("foreign");
    scene.play(&store, &id, 8);
    let mut netlink = scene.netns.netlink();
    // Others replace our filter at the very same place, and set the limit to a value of theirs.
    let (theirs, their_id) = load_classifier();
    scene.netns.tc("filter del dev lo egress");
    attach(&mut netlink, 1, Direction::Egress, 1, HANDLE, &theirs);
    link::set_gso_max_segs(&mut netlink, 1, 7).unwrap();

    let report = clean(&store).unwrap();
    assert!(report.is_clean(), "{report:?}");
    let spared = report.experiments[0]
        .outcomes
        .iter()
        .filter(|outcome| matches!(outcome.result, Ok(Undone::NotOurs { .. })))
        .count();
    assert_eq!(spared, 3, "the filter, the qdisc under it, the limit: {report:?}");
    let filters = tc::filters(&mut netlink, 1, Direction::Egress).unwrap();
    assert_eq!(filters.iter().map(|filter| filter.program_id).collect::<Vec<_>>(), [Some(their_id)]);
    assert_eq!(link::get(&mut netlink, 1).unwrap().unwrap().gso_max_segs, 7);
}

#[test]
fn a_namespace_that_is_gone_took_everything_with_it() {
    if skipped_without_root() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let store = Store::open(base.path()).unwrap();
    let netns = ScratchNetns::new("gone");
    let id = netns.id;
    let mut journal = store.register(header("x")).unwrap();
    journal.append(Entry::ClsactMade { netns: id, ifindex: 1, ifname: "lo".to_owned() }).unwrap();
    drop((journal, netns));
    let report = clean(&store).unwrap();
    assert!(matches!(report.experiments[0].outcomes[0].result, Ok(Undone::AlreadyGone)), "{report:?}");
    assert!(report.is_clean());
}

#[test]
fn a_cgroup_of_the_same_path_but_not_ours_stays() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchCgroup::new("same");
    let path = scratch.cgroup.path.clone();
    let base = tempfile::tempdir().unwrap();
    let store = Store::open(base.path()).unwrap();
    let mut journal = store.register(header("x")).unwrap();
    journal.append(Entry::CgroupMade { path: path.clone(), id: Some(scratch.cgroup.id + 1) }).unwrap();
    journal.append(Entry::CgroupMade { path: path.clone(), id: None }).unwrap();
    journal.append(Entry::CgroupMade { path: "/".to_owned(), id: Some(1) }).unwrap();
    drop(journal);
    let report = clean(&store).unwrap();
    for outcome in &report.experiments[0].outcomes {
        assert!(matches!(outcome.result, Ok(Undone::NotOurs { .. })), "{outcome:?}");
    }
    assert!(scratch.directory().is_dir());
}

#[test]
fn what_fails_is_reported_with_its_errno_and_tried_again() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchCgroup::new("retry");
    let id = unique("retry");
    let base = tempfile::tempdir().unwrap();
    let store = Store::open(base.path()).unwrap();
    let mut journal = store.register(header(&id)).unwrap();
    let netns = ScratchNetns::new("retry");
    journal.append(Entry::ClsactMade { netns: netns.id, ifindex: 1, ifname: "lo".to_owned() }).unwrap();
    let leaf = scratch.hierarchy.create_leaf(&scratch.cgroup, &format!("injector-{id}-db")).unwrap();
    journal.append(Entry::CgroupMade { path: leaf.path.clone(), id: Some(leaf.id) }).unwrap();
    drop(journal);
    netns.tc("qdisc add dev lo clsact");

    // A thread whose cgroup mount is read-only can't remove the leaf, but can do the rest.
    let there = store.clone();
    let report = std::thread::spawn(move || {
        make_cgroups_read_only();
        clean(&there).unwrap()
    })
    .join()
    .unwrap();
    let experiment = &report.experiments[0];
    assert!(matches!(experiment.problem, Some(JournalError::Outstanding { count: 1, .. })), "{report:?}");
    let error = experiment.outcomes[0].result.as_ref().unwrap_err();
    assert!(error.to_string().contains("EROFS"), "{error}");
    assert!(error.hint().unwrap().contains("read-write"));
    assert!(matches!(experiment.outcomes[1].result, Ok(Undone::Removed)), "{report:?}");
    let left = store.list().unwrap().experiments;
    assert!(!left[0].alive && left[0].entries[0].undone && !left[0].entries[1].undone);

    let report = clean(&store).unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.experiments[0].outcomes.len(), 1, "what was taken back is not looked for again");
    assert!(!scratch.hierarchy.directory(&leaf.path).exists());
}

fn make_cgroups_read_only() {
    use nix::mount::{MsFlags, mount};
    let none = None::<&str>;
    let hierarchy = Hierarchy::find().unwrap();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(none, hierarchy.mount(), none, flags, none).unwrap();
}
