//! What the host shows: devices, qdiscs, filters, cgroups with who is in them, journals, BPF objects.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::bench::Bench;
use crate::support::{Netns, wait_until};

/// How long the kernel may take to free what nobody holds any more.
const RECLAIMED: Duration = Duration::from_secs(60);

/// The host as commands show it, in named parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listing(BTreeMap<String, String>);

impl Listing {
    /// Fails with the parts that differ.
    #[track_caller]
    pub(crate) fn assert_same_as(&self, before: &Self, when: &str) {
        let mut differences = String::new();
        for part in before.0.keys().chain(self.0.keys()).collect::<BTreeSet<_>>() {
            let [was, is] =
                [before, self].map(|listing| listing.0.get(part).map_or("(none)", String::as_str));
            if was != is {
                let _ = writeln!(differences, "==== {part}, before:\n{was}\n==== {part}, {when}:\n{is}");
            }
        }
        assert!(differences.is_empty(), "{differences}");
    }

    /// One part; all of them are named in `Bench::listing`.
    #[track_caller]
    pub(crate) fn part(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("no part {name} in {:?}", self.0.keys()))
    }
}

impl Bench {
    /// Everything of this corner that an experiment could change, but BPF objects, which are the host's.
    pub(crate) fn listing(&self) -> Listing {
        let mut parts = BTreeMap::new();
        for (side, netns) in [("near", Some(&self.netns)), ("far", self.far.as_ref())] {
            let Some(netns) = netns else { continue };
            // One line a device, whose limits of segments are in it.
            parts.insert(format!("{side} devices"), netns.ip("-d -o link show"));
            parts.insert(format!("{side} qdiscs"), without_counters(&netns.tc("qdisc show")));
            parts.insert(format!("{side} filters"), filters(netns));
        }
        let mut tree = String::new();
        show_tree(self.home.directory(), &mut tree);
        parts.insert("cgroups".to_owned(), tree);
        parts.insert("journals".to_owned(), journals(&self.run_directory()));
        Listing(parts)
    }
}

/// htb shows a counter of packets among its parameters.
fn without_counters(qdiscs: &str) -> String {
    let mut parts = qdiscs.split("direct_packets_stat ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + "direct_packets_stat" + part.trim_start_matches(char::is_numeric))
}

fn filters(netns: &Netns) -> String {
    let devices = netns.ip("-br link show");
    let mut text = String::new();
    for device in devices.lines().filter_map(|line| line.split([' ', '@']).next()) {
        for hook in ["", "egress", "ingress"] {
            let mut tc = Command::new("tc");
            tc.args(["-n", netns.name(), "filter", "show", "dev", device]);
            // Without a qdisc some versions fail and some say nothing: both are "no filter".
            let output = tc.args(hook.split_whitespace()).output().unwrap();
            let shown = String::from_utf8_lossy(&output.stdout);
            let _ = write!(text, "{device} {hook}:\n{shown}");
        }
    }
    text
}

/// A cgroup and what is below it, each with its processes.
fn show_tree(directory: &Path, text: &mut String) {
    let procs = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let pids: BTreeSet<u32> = procs.lines().filter_map(|pid| pid.parse().ok()).collect();
    let _ = writeln!(text, "{} {pids:?}", directory.display());
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let below: BTreeSet<_> = entries.map(|e| e.path()).filter(|path| path.is_dir()).collect();
    for path in below {
        show_tree(&path, text);
    }
}

/// The experiments of a directory of journals: names of directories. The lock of the directory itself stays.
fn journals(directory: &Path) -> String {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names: BTreeSet<_> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
    names.into_iter().filter(|name| name != "lock").collect::<Vec<_>>().join("\n")
}

/// The host's BPF links, programs and maps: `prog 12 injector_egress`.
pub(crate) fn bpf_objects() -> BTreeSet<String> {
    ["link", "prog", "map"].into_iter().flat_map(bpf_objects_of).collect()
}

fn bpf_objects_of(kind: &str) -> Vec<String> {
    // An object that goes away while bpftool walks makes it fail: others live on this host too.
    for _ in 0..50 {
        let output = Command::new("bpftool").args(["-j", kind, "show"]).output().unwrap();
        let Ok(list) = serde_json::from_slice::<Vec<serde_json::Value>>(&output.stdout) else { continue };
        if output.status.success() {
            let show = |object: &serde_json::Value| {
                format!("{kind} {} {}", object["id"], object["name"].as_str().unwrap_or("-"))
            };
            return list.iter().map(show).collect();
        }
    }
    panic!("bpftool {kind} show fails again and again");
}

/// What processes hold by descriptor.
fn held_bpf_objects() -> BTreeSet<(&'static str, String)> {
    let mut held = BTreeSet::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        for info in fs::read_dir(process.path().join("fdinfo")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(info.path()).unwrap_or_default();
            for line in text.lines() {
                let named = [("link", "link_id:"), ("prog", "prog_id:"), ("map", "map_id:")];
                for (kind, key) in named {
                    if let Some(id) = line.strip_prefix(key) {
                        held.insert((kind, id.trim().to_owned()));
                    }
                }
            }
        }
    }
    held
}

/// BPF objects that were not there before and that no process holds: what an experiment left behind. Others'
/// experiments on this host may own some for a moment.
fn orphans(before: &BTreeSet<String>) -> Vec<String> {
    let objects = bpf_objects();
    let held = held_bpf_objects();
    let is_held = |object: &&String| {
        let mut words = object.split(' ');
        let (kind, id) = (words.next().unwrap(), words.next().unwrap());
        held.iter().any(|(held_kind, held_id)| *held_kind == kind && held_id == id)
    };
    objects.difference(before).filter(|object| !is_held(object)).cloned().collect()
}

/// Fails if a BPF object stays that was not there before.
#[track_caller]
pub(crate) fn assert_no_bpf_objects_since(before: &BTreeSet<String>, when: &str) {
    let mut left = Vec::new();
    let clean = || {
        left = orphans(before);
        left.is_empty()
    };
    let mut clean = clean;
    let deadline = std::time::Instant::now() + RECLAIMED;
    while !clean() {
        assert!(std::time::Instant::now() < deadline, "{when} there still are {:?}", orphans(before));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Fails unless a kind of object of this name appears.
#[track_caller]
pub(crate) fn assert_bpf_objects_since(before: &BTreeSet<String>, wanted: &[(&str, &str)]) {
    for (kind, name) in wanted {
        let seen = || bpf_objects().difference(before).any(|o| o.starts_with(kind) && o.ends_with(name));
        wait_until(RECLAIMED, &format!("a {kind} {name}"), seen);
    }
}
