//! What a demonstration could leave on a machine, as other tools list it.

use crate::process;
use anyhow::{Context as _, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the tests call their namespaces and cgroups. Those of another clone may run meanwhile.
const TESTS: &str = "injt";
/// What injector calls the cgroups that it makes. Others' come and go on any machine with systemd.
const OURS: &str = "injector";

/// Names of things, by what they are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Traces(BTreeMap<&'static str, BTreeSet<String>>);

impl Traces {
    /// Looks at the machine.
    pub(super) fn find() -> Result<Self> {
        let (netns, qdiscs) = (listing("ip", &["netns", "list"])?, listing("tc", &["qdisc", "show"])?);
        let table = "/proc/self/mountinfo";
        let mounts = std::fs::read_to_string(table).with_context(|| format!("cannot read {table}"))?;
        let root = cgroup2_mount(&mounts).context("no cgroup v2 hierarchy is mounted")?;
        Ok(Self(BTreeMap::from([
            ("network namespace", namespaces(&netns)),
            ("queueing discipline", qdiscs.lines().map(|line| line.trim().to_owned()).collect()),
            ("cgroup", cgroups(&root)),
        ])))
    }

    /// What is there now and was not, and what was there and is not; a line each.
    pub(super) fn differences_from(&self, before: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (what, names) in &self.0 {
            let none = BTreeSet::new();
            let earlier = before.0.get(what).unwrap_or(&none);
            lines.extend(names.difference(earlier).map(|name| format!("  {what} `{name}` was left")));
            lines.extend(earlier.difference(names).map(|name| format!("  {what} `{name}` is gone")));
        }
        lines
    }
}

/// What a tool lists, also where an ordinary user's PATH lacks it.
fn listing(tool: &str, args: &[&str]) -> Result<String> {
    let path = process::find(tool);
    let path = path.with_context(|| format!("{tool} is not on this machine: run `cargo xtask setup`"))?;
    process::output(Command::new(path).args(args))
}

/// The names in `ip netns list`. Behind a name may be an id, which the kernel gives when it likes.
fn namespaces(list: &str) -> BTreeSet<String> {
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| !name.starts_with(TESTS)).map(str::to_owned).collect()
}

/// Where the version 2 hierarchy is mounted: not at `/sys/fs/cgroup` on a hybrid machine.
fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let place = fields.split(' ').nth(4)?;
        kind.starts_with("cgroup2 ").then(|| PathBuf::from(place))
    })
}

fn cgroups(root: &Path) -> BTreeSet<String> {
    let named = |entry: &walkdir::DirEntry, prefix| entry.file_name().to_string_lossy().starts_with(prefix);
    let walk = walkdir::WalkDir::new(root).into_iter().filter_entry(|entry| !named(entry, TESTS));
    // One that goes while it is looked at was nobody's trace.
    let ours = walk.flatten().filter(|entry| entry.file_type().is_dir() && named(entry, OURS));
    ours.map(|entry| entry.path().display().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_known_by_its_name_alone() {
        let names = namespaces("blue (id: 3)\ninjector-demo-7-client\ninjt4711-0 (id: 0)\n");
        assert_eq!(names, BTreeSet::from(["blue".to_owned(), "injector-demo-7-client".to_owned()]));
    }

    #[test]
    fn the_hierarchy_is_found_wherever_it_is() {
        let hybrid = "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(cgroup2_mount("24 1 0:22 / /proc rw - proc proc rw\n"), None);
    }

    #[test]
    fn only_our_cgroups_are_traces_and_none_of_a_test() {
        let root = tempfile::tempdir().unwrap();
        for path in ["system.slice", "system.slice/injector-1-run", "injtest-9/own/injector-2-run"] {
            std::fs::create_dir_all(root.path().join(path)).unwrap();
        }
        std::fs::write(root.path().join("injector-file"), "").unwrap();
        let own = root.path().join("system.slice/injector-1-run").display().to_string();
        assert_eq!(cgroups(root.path()), BTreeSet::from([own]));
    }

    #[test]
    fn what_came_and_what_went_are_told_apart() {
        let of = |names: &[&str]| {
            Traces(BTreeMap::from([("cgroup", names.iter().map(|name| (*name).to_owned()).collect())]))
        };
        assert!(of(&["a"]).differences_from(&of(&["a"])).is_empty());
        assert_eq!(
            of(&["a", "new"]).differences_from(&of(&["a", "old"])),
            ["  cgroup `new` was left", "  cgroup `old` is gone"]
        );
    }
}
