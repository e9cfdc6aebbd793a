//! What ends a sleep before its time: signals that kill, the end of the experiment, and the death of what it needs.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::delays::{delay, folder, sleeps_at_hooks};
use crate::is_emulated;
use crate::support::{Background, Cgroup, Experiment, Located as _, children, injector, python, wait_until};
use crate::victim::Folder;

/// How soon a sleep of a minute ends that something ends.
const SOON: Duration = Duration::from_secs(5);

/// Opens a file, and prints how many seconds that took, and how often it got a signal meanwhile.
const SLEEPER: &str = r#"
import os, signal, sys, time
handled = []
signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))
print("opens", flush=True)
start = time.monotonic()
os.open(sys.argv[1], os.O_RDONLY)
print(time.monotonic() - start, len(handled), flush=True)
"#;

/// A folder and a cgroup in which opening the file `long` takes a minute, and `short` three seconds.
struct Bench {
    folder: Folder,
    cgroup: Cgroup,
}

impl Bench {
    fn new() -> Self {
        Self { folder: folder(&["long", "short"]), cgroup: Cgroup::new() }
    }

    fn apply(&self, first: &str) -> Experiment {
        let long = delay(
            &self.cgroup,
            &format!("delay = \"60s\"\npath = \"{}\"\nid = \"long\"", self.folder.at("long")),
        );
        let fault = long.find("[[fault]]").map(|at| &long[at..]).unwrap();
        let short = fault.replace("long", "short").replace("60s", "3s");
        Experiment::apply(&format!("{first}{long}\n{short}"))
    }

    /// A process that sleeps as it opens a file.
    fn sleeper(&self, experiment: &Experiment, file: &str) -> Background {
        let injected = || experiment.live().fault(file).injected;
        let before = injected();
        let mut sleeper = python(SLEEPER).arg(self.folder.at(file)).in_cgroup(&self.cgroup).background();
        sleeper.wait_for_line("opens");
        wait_until(Duration::from_secs(60), "the sleep", || injected() > before);
        // It was counted just before it fell asleep.
        std::thread::sleep(Duration::from_millis(300));
        assert!(sleeper.is_running());
        sleeper
    }
}

/// Seconds that a sleeper slept, and how many signals it handled. It ends soon.
fn woken(sleeper: &mut Background) -> (f64, u32) {
    let text = sleeper.finish(SOON);
    let (seconds, handled) = text.trim().split_once(' ').unwrap();
    (seconds.parse().unwrap(), handled.parse().unwrap())
}

/// The process by which operations of an experiment are delayed, and its child, whose pages come late.
fn helpers(experiment: &Experiment) -> (i32, i32) {
    let is_sleeper = |pid: &i32| {
        let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split('\0').any(|word| word == "sleeper")
    };
    let found: Vec<i32> = children(experiment.pid()).into_iter().filter(is_sleeper).collect();
    let [server] = found[..] else { panic!("{found:?}") };
    let holders = children(server);
    let [holder] = holders[..] else { panic!("{holders:?}") };
    (server, holder)
}

fn are_gone(pids: &[i32]) {
    let is_there = |pid: &i32| Path::new(&format!("/proc/{pid}")).exists();
    wait_until(SOON, "the end of injector's processes", || !pids.iter().any(is_there));
}

/// Nothing of an experiment is left, neither to see nor to take back.
fn nothing_is_left(controller: i32) {
    let listing = injector().args(["--json", "status"]).text();
    assert!(!listing.contains(&format!("\"controller\":{controller}")), "{listing}");
    injector().arg("clean").text();
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

#[test]
fn who_is_killed_sleeps_no_longer_and_who_handles_a_signal_does() {
    if !sleeps_at_hooks() {
        return;
    }
    let bench = Bench::new();
    let experiment = bench.apply("");
    for ends in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut sleeper = bench.sleeper(&experiment, "long");
        sleeper.signal(ends);
        let (_, status) = sleeper.outcome(SOON);
        assert_eq!(status.signal(), Some(ends as i32), "{status}");
    }
    let mut sleeper = bench.sleeper(&experiment, "short");
    sleeper.signal(Signal::SIGUSR1);
    let (seconds, handled) = woken(&mut sleeper);
    assert_eq!(handled, 1);
    assert!((2.9..4.5).contains(&seconds), "{seconds}");
    let report = experiment.end();
    assert_eq!((report.fault("long").injected, report.fault("short").injected), (2, 1));
}

#[test]
fn the_end_of_an_experiment_wakes_who_sleeps() {
    if !sleeps_at_hooks() {
        return;
    }
    let bench = Bench::new();
    // By its user.
    let experiment = bench.apply("");
    let (server, holder) = helpers(&experiment);
    let mut sleeper = bench.sleeper(&experiment, "long");
    let controller = experiment.pid();
    signal(controller, Signal::SIGINT);
    assert!(woken(&mut sleeper).0 < 50.0);
    assert_eq!(experiment.wait(Duration::from_secs(60)).status, Some(130), "as shells have it");
    are_gone(&[server, holder]);
    // By a SIGKILL.
    let experiment = bench.apply("");
    let (server, holder) = helpers(&experiment);
    let mut sleeper = bench.sleeper(&experiment, "long");
    let controller = experiment.pid();
    signal(controller, Signal::SIGKILL);
    assert!(woken(&mut sleeper).0 < 50.0);
    are_gone(&[server, holder]);
    drop(experiment);
    injector().arg("clean").text();
    nothing_is_left(controller);
}

#[test]
fn the_deadline_wakes_who_sleeps() {
    if !sleeps_at_hooks() {
        return;
    }
    let bench = Bench::new();
    let experiment = bench.apply("duration = \"15s\"\n");
    let mut sleeper = bench.sleeper(&experiment, "long");
    // A controller that is stopped takes nothing back: the program itself sleeps no longer than that.
    signal(experiment.pid(), Signal::SIGSTOP);
    let text = sleeper.finish(Duration::from_secs(25));
    let seconds: f64 = text.split_whitespace().next().unwrap().parse().unwrap();
    println!("it slept {seconds} s of 15");
    assert!((1.0..25.0).contains(&seconds), "{seconds}");
    signal(experiment.pid(), Signal::SIGCONT);
    assert_eq!(experiment.wait(Duration::from_secs(60)).status, Some(0));
}

#[test]
fn what_sleeps_need_is_killed_and_the_experiment_fails() {
    if is_emulated() || !sleeps_at_hooks() {
        return;
    }
    let bench = Bench::new();
    let gone = "the process by which operations are delayed has ended";
    // Who ends naps, and who has the pages that come late.
    for is_holder in [false, true] {
        let experiment = bench.apply("");
        let (server, holder) = helpers(&experiment);
        let mut sleeper = bench.sleeper(&experiment, "long");
        signal(if is_holder { holder } else { server }, Signal::SIGKILL);
        assert!(woken(&mut sleeper).0 < 50.0);
        wait_until(Duration::from_secs(60), gone, || experiment.talk().contains(gone));
        let controller = experiment.pid();
        let report = experiment.wait(Duration::from_secs(60));
        assert!(report.status.is_some_and(|status| status != 0), "{:?}: {}", report.status, report.object);
        are_gone(&[server, holder, controller]);
        nothing_is_left(controller);
    }
}
