//! Processor time and memory, by the controllers of cgroups, where the host has left them to version 2.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{
    Cgroup, Experiment, Located as _, in_vm, injector, python, root_or_skip, sh, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn limited(cgroup: &Cgroup, fault: &str) -> String {
    format!(
        "version = 1\nduration = \"1m\"\n[target.t]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"t\"\n{fault}\n",
        cgroup.path()
    )
}

fn mount() -> std::path::PathBuf {
    crate::support::mount_point()
}

/// Whether the host has left a controller to version 2. Where it has not, it shows that `plan` says so, with the remedy.
fn has(controller: &str, cgroup: &Cgroup, fault: &str) -> bool {
    let text = std::fs::read_to_string(mount().join("cgroup.controllers")).unwrap();
    if text.split_whitespace().any(|word| word == controller) {
        return true;
    }
    assert!(!in_vm(), "the machines of the tests have all controllers: {text}");
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::io::Write::write_all(&mut file, limited(cgroup, fault).as_bytes()).unwrap();
    let output = injector().arg("plan").arg(file.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains(&format!("this host has no `{controller}` controller of cgroup version 2")),
        "{said}"
    );
    assert!(said.contains("systemd.unified_cgroup_hierarchy=1"), "{said}");
    false
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

/// Seconds of processor time that a process has had.
fn cpu_seconds(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

/// The share of a processor that a process gets over some seconds.
fn share(pid: i32) -> f64 {
    let (begin, before) = (Instant::now(), cpu_seconds(pid));
    std::thread::sleep(Duration::from_secs(4));
    (cpu_seconds(pid) - before) / begin.elapsed().as_secs_f64()
}

#[test]
fn the_target_gets_the_share_asked_for_and_all_of_it_back() {
    const FAULT: &str = "kind = \"process.throttle\"\ncpu = \"20%\"";
    if !root_or_skip() {
        return;
    }
    let (cgroup, neighbour) = (Cgroup::new(), Cgroup::new());
    if !has("cpu", &cgroup, FAULT) {
        return;
    }
    let before = read(&mount().join("cgroup.subtree_control"));
    let victim = sh("while :; do :; done").in_cgroup(&cgroup).background();
    let other = sh("while :; do :; done").in_cgroup(&neighbour).background();
    let free = share(victim.pid());
    let experiment = Experiment::apply(&limited(&cgroup, FAULT));
    let (with, beside) = (share(victim.pid()), share(other.pid()));
    assert!((0.15..0.26).contains(&with), "{with} instead of 0.2");
    // Two that want all may share one processor.
    assert!(free > 0.35 && beside > 0.5, "{free} before, {beside} for the neighbour");
    assert_eq!(read(&cgroup.directory().join("cpu.max")), "20000 100000");
    assert_eq!(experiment.end().only().injected, 1);
    assert_eq!(read(&mount().join("cgroup.subtree_control")), before);
    let again = share(victim.pid());
    assert!(again > 0.35, "{again}");
}

#[test]
fn a_target_under_memory_pressure_waits_for_its_pages() {
    const FAULT: &str = "kind = \"process.memory\"\nhigh = \"16MiB\"";
    if !root_or_skip() {
        return;
    }
    let cgroup = Cgroup::new();
    if !has("memory", &cgroup, FAULT) {
        return;
    }
    // A file that is read again and again, of which less than half may stay in memory.
    let script = r#"
import os, sys, time
name = sys.argv[1]
with open(name, "wb") as file:
    file.write(os.urandom(1 << 20) * 48)
print("runs", flush=True)
while True:
    with open(name, "rb") as file:
        while file.read(1 << 20):
            pass
    time.sleep(0.01)
"#;
    let folder = tempfile::tempdir().unwrap();
    let experiment = Experiment::apply(&limited(&cgroup, FAULT));
    let high_is_set = || read(&cgroup.directory().join("memory.high")) == (16 << 20).to_string();
    wait_until(PATIENCE, "the limit is set", high_is_set);
    let mut victim = python(script).arg(folder.path().join("f")).in_cgroup(&cgroup).background();
    // An initramfs has no other place for a file than memory: then the kernel makes it wait all the same.
    let events = || read(&cgroup.directory().join("memory.events"));
    let high = || -> u64 {
        let text = events();
        let line = text.lines().find(|line| line.starts_with("high ")).unwrap();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    };
    wait_until(PATIENCE, "the limit is met", || high() > 0);
    assert!(victim.is_running(), "nobody is killed: {}", events());
    drop(victim);
    assert_eq!(experiment.end().only().injected, 1);
}

#[test]
fn a_limit_comes_and_goes_with_its_windows() {
    const FAULT: &str = "kind = \"process.throttle\"\ncpu = \"50%\"\nfor = \"1s\"\nevery = \"2s\"";
    if !root_or_skip() {
        return;
    }
    let cgroup = Cgroup::new();
    if !has("cpu", &cgroup, FAULT) {
        return;
    }
    let experiment = Experiment::apply(&limited(&cgroup, FAULT));
    for expected in ["50000 100000", "max 100000", "50000 100000"] {
        wait_until(PATIENCE, expected, || read(&cgroup.directory().join("cpu.max")) == expected);
    }
    assert!(experiment.end().only().injected >= 2);
}
