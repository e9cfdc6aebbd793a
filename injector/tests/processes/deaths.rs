//! Whoever is paused runs again when injector dies, and when it is stopped.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{
    Cgroup, Experiment, Located as _, children, in_vm, injector, kernel_release, root_or_skip, wait_until,
};
use crate::victim::{found, is_frozen, resting, state};

const PATIENCE: Duration = Duration::from_secs(30);
/// The variable of `kill_point`, which names the step after which the controller kills itself.
const KILL_AT: &str = "INJECTOR_KILL_AT";

/// How soon the target runs again. An emulated machine may take a second to run the other process at all.
fn soon() -> Duration {
    if in_vm() { Duration::from_secs(3) } else { Duration::from_millis(100) }
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// A target that is struck by a kind that holds it.
struct Held {
    kind: &'static str,
    cgroup: Cgroup,
    victim: crate::support::Background,
}

impl Held {
    fn new(kind: &'static str) -> Self {
        let cgroup = Cgroup::new();
        let victim = resting(&cgroup, 60, Duration::from_millis(500));
        Self { kind, cgroup, victim }
    }

    fn scenario(&self, keys: &str) -> String {
        format!(
            "duration = \"2m\"\n[target.t]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"t\"\nkind = \"{}\"\n{keys}\n",
            self.cgroup.path(),
            self.kind
        )
    }

    fn apply(&self, keys: &str) -> Experiment {
        let experiment = Experiment::apply(&self.scenario(keys));
        wait_until(PATIENCE, "held", || self.is_held());
        experiment
    }

    fn is_held(&self) -> bool {
        match self.kind {
            "process.stop" => state(self.victim.pid()) == Some('T'),
            _ => is_frozen(&self.cgroup),
        }
    }

    fn assert_runs_within(&self, within: Duration, when: &str) {
        let begin = Instant::now();
        wait_until(within, &format!("{}: {when}", self.kind), || !self.is_held());
        assert!(begin.elapsed() <= within);
    }
}

const HOLDING: [&str; 2] = ["process.pause", "process.stop"];

#[test]
fn a_controller_that_is_killed_lets_its_target_go_on_at_once() {
    if !root_or_skip() {
        return;
    }
    for kind in HOLDING {
        let held = Held::new(kind);
        let experiment = held.apply("");
        signal(experiment.pid(), Signal::SIGKILL);
        held.assert_runs_within(soon(), "after a kill of the controller");
        drop(experiment);
        let cleaned = injector().arg("clean").text();
        assert!(!cleaned.contains("took back"), "{cleaned}");
    }
}

#[test]
fn a_controller_that_is_stopped_does_not_make_a_pause_longer() {
    if !root_or_skip() {
        return;
    }
    for kind in HOLDING {
        let mut held = Held::new(kind);
        let experiment = held.apply("for = \"2s\"");
        signal(experiment.pid(), Signal::SIGSTOP);
        wait_until(PATIENCE, "it runs again", || !held.is_held());
        signal(experiment.pid(), Signal::SIGCONT);
        let report = experiment.end();
        assert_eq!(report.only().injected, 1);
        held.victim.signal(Signal::SIGKILL);
        let (text, _) = held.victim.outcome(PATIENCE);
        let longest = text.lines().filter_map(|line| line.parse().ok()).fold(0.0, f64::max);
        // Peers of the target must not notice more than 50 ms.
        let allowed_ms = if in_vm() { 1500.0 } else { 50.0 };
        assert!((1900.0..2000.0 + allowed_ms).contains(&longest), "{kind}: {longest}");
    }
}

#[test]
fn clean_lets_go_on_whom_nobody_stands_by() {
    if !root_or_skip() {
        return;
    }
    for (kind, said) in [("process.pause", "frozen"), ("process.stop", "stopped")] {
        let held = Held::new(kind);
        let experiment = held.apply("");
        let family = children(experiment.pid());
        assert_eq!(family.len(), 1, "{family:?}");
        // It would start another one.
        signal(experiment.pid(), Signal::SIGSTOP);
        for pid in [family[0], experiment.pid()] {
            signal(pid, Signal::SIGKILL);
        }
        drop(experiment);
        std::thread::sleep(soon());
        assert!(held.is_held(), "nobody was left who could have let it go on");
        let cleaned = injector().arg("clean").text();
        assert!(cleaned.contains("took back") && cleaned.contains(said), "{cleaned}");
        assert!(!held.is_held());
    }
}

#[test]
fn a_process_that_stood_by_and_was_killed_is_replaced() {
    if !root_or_skip() {
        return;
    }
    let held = Held::new("process.pause");
    let experiment = held.apply("");
    let first = children(experiment.pid());
    assert_eq!(first.len(), 1, "{first:?}");
    signal(first[0], Signal::SIGKILL);
    wait_until(PATIENCE, "another one", || {
        let now = children(experiment.pid());
        now.len() == 1 && now != first && state(now[0]) != Some('Z')
    });
    // It has begun by then.
    std::thread::sleep(Duration::from_millis(if in_vm() { 3000 } else { 200 }));
    signal(experiment.pid(), Signal::SIGKILL);
    held.assert_runs_within(soon(), "after a kill of the controller");
    drop(experiment);
    injector().arg("clean").text();
}

#[test]
fn the_end_lets_the_target_go_on() {
    if !root_or_skip() {
        return;
    }
    for kind in HOLDING {
        let mut held = Held::new(kind);
        let experiment = held.apply("");
        std::thread::sleep(Duration::from_millis(700));
        experiment.end();
        assert!(!held.is_held());
        // One gap, from the beginning to the end.
        let gap: f64 = held.victim.line().parse().unwrap();
        assert!(gap > 600.0, "{gap}");
    }
}

#[test]
fn a_controller_killed_at_any_step_leaves_nobody_held() {
    if !root_or_skip() {
        return;
    }
    // Every step here, some on each kernel where one takes seconds.
    let (major, minor) = kernel_release();
    let (first, stride) = if in_vm() { (1 + (major + minor) % 8, 8) } else { (1, 1) };
    for kind in HOLDING {
        let held = Held::new(kind);
        let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
        let scenario = held.scenario("for = \"60ms\"\nevery = \"100ms\"").replace("2m", "250ms");
        std::io::Write::write_all(&mut file, format!("version = 1\n{scenario}").as_bytes()).unwrap();
        let mut completed = false;
        for step in (first..100).step_by(stride) {
            let output =
                injector().arg("apply").arg(file.path()).env(KILL_AT, step.to_string()).output().unwrap();
            completed = output.status.success();
            held.assert_runs_within(soon(), &format!("after a kill at step {step}"));
            injector().arg("clean").text();
            assert!(!held.is_held());
            if completed {
                break;
            }
        }
        assert!(completed, "it never ends");
    }
}

#[test]
fn a_gap_is_no_longer_after_the_death_of_the_controller() {
    if !root_or_skip() {
        return;
    }
    let cgroup = Cgroup::new();
    let mut victim = resting(&cgroup, if in_vm() { 40 } else { 4 }, Duration::from_millis(250));
    let scenario = format!(
        "duration = \"1m\"\n[target.t]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"t\"\nkind = \"process.pause\"\nfor = \"10s\"\nwhen.start = \"300ms\"\n",
        cgroup.path()
    );
    let experiment = Experiment::apply(&scenario);
    wait_until(PATIENCE, "held", || is_frozen(&cgroup));
    std::thread::sleep(Duration::from_millis(400));
    signal(experiment.pid(), Signal::SIGKILL);
    drop(experiment);
    let gaps = found(&mut victim);
    let allowed_ms = if in_vm() { 4000.0 } else { 1000.0 };
    assert!(gaps.iter().all(|gap| *gap < allowed_ms) && !gaps.is_empty(), "{gaps:?}");
    injector().arg("clean").text();
}
