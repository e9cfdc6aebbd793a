//! Clocks go wrong for the target alone, as far as asked for, and are right again.
//!
//! A victim prints what its wall clock shows less what its monotonic clock shows, which is the same for all processes that see true time.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::support::{
    Background, Cgroup, Experiment, Located as _, children, in_vm, injector, python, root_or_skip, sh,
    wait_until,
};
use crate::times_are_true;

const PATIENCE: Duration = Duration::from_secs(60);

/// Prints the distance of its clocks in seconds, again and again, and the monotonic time.
const READER: &str = r"
import sys, time
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    wall = time.clock_gettime_ns(time.CLOCK_REALTIME)
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    # Who was interrupted in between has read nothing of use.
    if after - before < 50000 or len(sys.argv) > 2:
        middle = (before + after) // 2
        print(wall - middle, middle, flush=True)
    time.sleep(0.01)
";

fn scenario(cgroup: &Cgroup, fault: &str) -> String {
    format!(
        "duration = \"30s\"\n[target.t]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"t\"\n{fault}\n",
        cgroup.path()
    )
}

fn nanoseconds(clock: ClockId) -> i64 {
    let time = clock_gettime(clock).unwrap();
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}

/// The true distance of wall clock and monotonic clock.
fn distance() -> i64 {
    let before = nanoseconds(ClockId::CLOCK_MONOTONIC);
    let wall = nanoseconds(ClockId::CLOCK_REALTIME);
    wall - i64::midpoint(before, nanoseconds(ClockId::CLOCK_MONOTONIC))
}

fn reader(cgroup: &Cgroup, seconds: u32) -> Background {
    let mut command = python(READER);
    command.arg(seconds.to_string());
    // There a single reading takes as long as an interruption here.
    if in_vm() {
        command.arg("all");
    }
    command.in_cgroup(cgroup).background()
}

/// By how much each reading was off, in milliseconds, with the second at which it was made.
fn readings(victim: &mut Background) -> Vec<(f64, f64)> {
    let truth = distance();
    let text = victim.finish(PATIENCE);
    let readings = text.lines().filter_map(|line| {
        let (shown, at) = line.split_once(' ')?;
        let (shown, at): (i64, i64) = (shown.parse().ok()?, at.parse().ok()?);
        Some((at as f64 / 1e9, (shown - truth) as f64 / 1e6))
    });
    readings.collect()
}

/// How far a reading may be off by what is not the fault, in milliseconds.
const SLACK_MS: f64 = 1.0;

/// The readings that were off by so much, and those that were true; all others are none that may be.
fn split(readings: &[(f64, f64)], off_ms: f64) -> (usize, usize) {
    let near = |to: f64| readings.iter().filter(|(_, off)| (off - to).abs() < SLACK_MS).count();
    (near(off_ms), near(0.0))
}

#[test]
fn the_wall_clock_is_off_for_the_target_alone_and_only_in_the_window() {
    if !times_are_true() {
        return;
    }
    is_off_in_one_window("start = \"1s\"");
    // The same second, as the window of another fault.
    is_off_in_one_window("after_end = \"cut\"");
}

/// For two seconds as of one after the beginning.
fn is_off_in_one_window(begins: &str) {
    let (cgroup, neighbour) = (Cgroup::new(), Cgroup::new());
    let mut victim = reader(&cgroup, 6);
    let mut other = reader(&neighbour, 6);
    let cut = "id = \"cut\"\nkind = \"network.loss\"\nwhen = { for = \"1s\" }\n[[fault]]\ntarget = \"t\"\n";
    let fault = format!(
        "{cut}id = \"off\"\nkind = \"clock.offset\"\noffset = \"-5m\"\nwhen = {{ {begins}, for = \"2s\" }}"
    );
    let experiment = Experiment::apply(&scenario(&cgroup, &fault));
    let armed_s = nanoseconds(ClockId::CLOCK_MONOTONIC) as f64 / 1e9;
    let (found, others) = (readings(&mut victim), readings(&mut other));
    let report = experiment.end();
    let (off, right) = split(&found, -300_000.0);
    assert!(off > 20 && right > 20, "{off} off and {right} right of {}", found.len());
    assert!(off + right + found.len() / 20 >= found.len(), "{found:?}");
    // One window, and nothing of it before or after.
    let first = found.iter().position(|(_, off)| *off < -1000.0).unwrap();
    let last = found.iter().rposition(|(_, off)| *off < -1000.0).unwrap();
    assert_eq!(last - first + 1, found.iter().filter(|(_, off)| *off < -1000.0).count());
    let lasted = found[last].0 - found[first].0;
    assert!((1.8..2.1).contains(&lasted), "{lasted}");
    let began = found[first].0 - armed_s;
    assert!((0.6..1.2).contains(&began), "{began}");
    assert_eq!(split(&others, 0.0).1, others.iter().filter(|(_, off)| off.abs() < SLACK_MS).count());
    assert!(others.iter().all(|(_, off)| off.abs() < 1000.0));
    assert_eq!(report.fault("off").injected, 1);
}

#[test]
fn a_drift_has_the_slope_that_was_asked_for() {
    if !root_or_skip() {
        return;
    }
    let cgroup = Cgroup::new();
    let mut victim = reader(&cgroup, if in_vm() { 25 } else { 15 });
    let fault = "kind = \"clock.drift\"\nrate = \"+200ppm\"";
    let experiment = Experiment::apply(&scenario(&cgroup, fault));
    let found = readings(&mut victim);
    experiment.end();
    // Before it began it was true; from there on a line.
    let drifting: Vec<_> = found.iter().filter(|(_, off)| *off > 0.1).collect();
    assert!(drifting.len() > 100, "{}", drifting.len());
    let n = drifting.len() as f64;
    let (mean_x, mean_y) =
        (drifting.iter().map(|(x, _)| x).sum::<f64>() / n, drifting.iter().map(|(_, y)| y).sum::<f64>() / n);
    let slope = drifting.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>()
        / drifting.iter().map(|(x, _)| (x - mean_x).powi(2)).sum::<f64>();
    let ppm = slope * 1000.0;
    let allowed = if in_vm() { 30.0 } else { 2.0 };
    assert!((ppm - 200.0).abs() < allowed, "{ppm} ppm");
}

#[test]
fn a_strobe_alternates_and_a_frozen_clock_stands() {
    if !times_are_true() {
        return;
    }
    let cgroup = Cgroup::new();
    let mut victim = reader(&cgroup, 5);
    let fault = "kind = \"clock.strobe\"\ndelta = \"+2s\"\nperiod = \"500ms\"";
    let experiment = Experiment::apply(&scenario(&cgroup, fault));
    let found = readings(&mut victim);
    experiment.end();
    let sides: Vec<bool> = found.iter().map(|(_, off)| *off > 1000.0).collect();
    let changes = sides.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes >= 4, "{changes} changes of sides");
    let (off, right) = split(&found, 2000.0);
    assert!(
        off > 20 && right > 20 && off + right + found.len() / 20 >= found.len(),
        "{off} {right} of {}",
        found.len()
    );

    let frozen = Cgroup::new();
    let mut victim = python(READER).args(["5", "all"]).in_cgroup(&frozen).background();
    let experiment = Experiment::apply(&scenario(&frozen, "kind = \"clock.freeze\"\nwhen.for = \"2s\""));
    let found = readings(&mut victim);
    experiment.end();
    let walls: Vec<i64> = found.iter().map(|(at, off)| ((at * 1000.0 + off) * 1.0) as i64).collect();
    let standing = walls.windows(2).filter(|pair| (pair[0] - pair[1]).abs() <= 1).count();
    assert!(standing > 20, "{standing} of {}", walls.len());
}

#[test]
fn a_leap_second_comes_twice() {
    if !times_are_true() {
        return;
    }
    let cgroup = Cgroup::new();
    let mut victim = reader(&cgroup, 6);
    let experiment = Experiment::apply(&scenario(&cgroup, "kind = \"clock.leap\"\nat = \"2s\""));
    let found = readings(&mut victim);
    experiment.end();
    let (off, right) = split(&found, -1000.0);
    assert!(
        off > 20 && right > 20 && off + right + found.len() / 20 >= found.len(),
        "{off} {right} of {}",
        found.len()
    );
    let back =
        found.windows(2).filter(|pair| pair[1].0 * 1000.0 + pair[1].1 < pair[0].0 * 1000.0 + pair[0].1);
    assert_eq!(back.count(), 1, "it goes back once");
}

/// What `date` shows less the true time, in seconds.
fn date(cgroup: &Cgroup) -> i64 {
    let shown: i64 = sh("sleep 0.3; exec date +%s").in_cgroup(cgroup).text().trim().parse().unwrap();
    shown - nanoseconds(ClockId::CLOCK_REALTIME) / 1_000_000_000
}

#[test]
fn programs_that_begin_later_children_and_other_functions_are_off_too() {
    if !root_or_skip() {
        return;
    }
    let cgroup = Cgroup::new();
    let experiment = Experiment::apply(&scenario(&cgroup, "kind = \"clock.offset\"\noffset = \"+1h\""));
    // A shell that is there for some time: bash reads gettimeofday, Python's children have what it has.
    let script = "sleep 1; echo ${EPOCHREALTIME%.*}";
    let shown: i64 = std::process::Command::new("bash")
        .args(["-c", script])
        .in_cgroup(&cgroup)
        .text()
        .trim()
        .parse()
        .unwrap();
    let off = shown - nanoseconds(ClockId::CLOCK_REALTIME) / 1_000_000_000;
    assert!((3598..=3600).contains(&off), "bash: {off}");
    let script = r"
import os, time
time.sleep(1)
out, into = os.pipe()
if os.fork() == 0:
    os.write(into, str(time.time()).encode())
    os._exit(0)
child = float(os.read(out, 100))
print(time.time(), child, time.time_ns() / 1e9)
";
    let text = python(script).in_cgroup(&cgroup).text();
    let now = nanoseconds(ClockId::CLOCK_REALTIME) as f64 / 1e9;
    for shown in text.split_whitespace() {
        let off = shown.parse::<f64>().unwrap() - now;
        assert!((3595.0..=3600.5).contains(&off), "{off} in {text}");
    }
    // What lives for a millisecond may be over before it is patched; but one of these is not.
    let dates: Vec<i64> = (0..20).map(|_| date(&cgroup)).collect();
    assert!(dates.iter().all(|off| (-2..=0).contains(off) || (3598..=3600).contains(off)), "{dates:?}");
    let report = experiment.end();
    assert!(report.only().injected >= 2, "{:?}", report.only());
    assert!((-2..=0).contains(&date(&cgroup)));
}

#[test]
fn monotonic_clocks_are_off_if_they_are_named() {
    if !root_or_skip() {
        return;
    }
    let cgroup = Cgroup::new();
    // Not `time.sleep`, which asks the kernel to sleep until a time of the clock that is wrong.
    let script = "import select, time\nprint('runs', flush=True)\nwhile True:\n    print(time.monotonic(), time.time(), flush=True)\n    select.select([], [], [], 0.05)";
    let mut victim = python(script).in_cgroup(&cgroup).background();
    victim.wait_for_line("runs");
    let fault = "kind = \"clock.offset\"\noffset = \"+1000s\"\nclocks = \"monotonic\"";
    let experiment = Experiment::apply(&scenario(&cgroup, fault));
    let mut off = || {
        let line = victim.line();
        let (monotonic, wall) = line.split_once(' ').unwrap();
        let wall: f64 = wall.parse().unwrap();
        // The wall clock is true, so it tells what the other one should show.
        monotonic.parse::<f64>().unwrap() - (wall - distance() as f64 / 1e9)
    };
    wait_until(PATIENCE, "it is off", || (off() - 1000.0).abs() < 0.1);
    experiment.end();
    wait_until(PATIENCE, "it is right", || off().abs() < 0.1);
}

#[test]
fn whoever_dies_the_clocks_are_right_again() {
    if !root_or_skip() {
        return;
    }
    // The controller alone: what stands by takes it back. Both: the patch ends by itself, at the deadline.
    for kills_both in [false, true] {
        let cgroup = Cgroup::new();
        let mut victim = reader(&cgroup, 60);
        let text = scenario(&cgroup, "kind = \"clock.offset\"\noffset = \"+1h\"").replace("30s", "6s");
        let begin = std::time::Instant::now();
        let experiment = Experiment::apply(&text);
        let truth = distance();
        let mut is_off = || {
            let line = victim.line();
            line.split(' ').next().unwrap().parse::<i64>().unwrap() - truth > 1_000_000_000_000
        };
        wait_until(PATIENCE, "it is off", &mut is_off);
        let children: Vec<i32> = children(experiment.pid());
        if kills_both {
            assert_eq!(children.len(), 1);
            // It would start another one.
            kill(Pid::from_raw(experiment.pid()), Signal::SIGSTOP).unwrap();
            kill(Pid::from_raw(children[0]), Signal::SIGKILL).unwrap();
        }
        kill(Pid::from_raw(experiment.pid()), Signal::SIGKILL).unwrap();
        drop(experiment);
        wait_until(PATIENCE, "it is right", || !is_off());
        let lasted = begin.elapsed().as_secs_f64();
        assert!(in_vm() || (lasted > 5.0) == kills_both, "{lasted}");
        let cleaned = injector().arg("clean").text();
        assert_eq!(cleaned.contains("took back clocks of processes"), kills_both, "{cleaned}");
    }
}

#[test]
fn a_controller_killed_at_any_step_leaves_no_clock_wrong() {
    use std::io::Write as _;
    if !root_or_skip() {
        return;
    }
    let cgroup = Cgroup::new();
    let mut victim = reader(&cgroup, 600);
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    // It would last for long, so that it is not the patch's own end that is seen.
    let text = scenario(&cgroup, "kind = \"clock.offset\"\noffset = \"+1h\"").replace("30s", "10m");
    write!(file, "version = 1\n{text}").unwrap();
    let truth = distance();
    // Every step up to the one behind the first patch here, and one on each kernel where one takes seconds.
    let mut steps = if in_vm() { 12..13 } else { 1..13 };
    let died = steps.all(|step| {
        let mut command = injector();
        command.arg("apply").arg(file.path()).env("INJECTOR_KILL_AT", step.to_string());
        let mut child = command.stderr(std::process::Stdio::null()).background();
        let is_killed = || !child.is_running();
        // The last steps come at the end of an experiment, and this one is long.
        let begin = std::time::Instant::now();
        let mut is_killed = is_killed;
        while !is_killed() && begin.elapsed() < Duration::from_secs(if in_vm() { 30 } else { 3 }) {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(child);
        let mut is_right = || {
            let line = victim.line();
            (line.split(' ').next().unwrap().parse::<i64>().unwrap() - truth).abs() < 1_000_000_000_000
        };
        wait_until(PATIENCE, "it is right", &mut is_right);
        injector().arg("clean").text();
        assert!(is_right(), "after `clean` at step {step}");
        true
    });
    assert!(died);
}

#[test]
fn who_is_traced_by_others_keeps_true_time_and_the_report_says_so() {
    if !root_or_skip() {
        return;
    }
    let cgroup = Cgroup::new();
    let mut victim = reader(&cgroup, if in_vm() { 20 } else { 4 });
    let tracer = std::process::Command::new("strace")
        .args(["-o", "/dev/null", "-e", "trace=none", "-p", &victim.pid().to_string()])
        .stderr(std::process::Stdio::null())
        .background();
    wait_until(PATIENCE, "traced", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", victim.pid())).unwrap();
        status.contains(&format!("TracerPid:\t{}\n", tracer.pid()))
    });
    let experiment = Experiment::apply(&scenario(&cgroup, "kind = \"clock.offset\"\noffset = \"+1h\""));
    let found = readings(&mut victim);
    assert!(found.iter().all(|(_, off)| off.abs() < 1000.0));
    let report = experiment.end();
    assert_eq!(report.only().injected, 0);
    let warnings = report.object["warnings"].to_string();
    assert!(warnings.contains("stay true") && warnings.contains(&tracer.pid().to_string()), "{warnings}");
}

#[test]
fn times_that_no_clock_has_and_two_faults_of_one_clock_are_refused() {
    use std::io::Write as _;
    if !root_or_skip() {
        return;
    }
    let cgroup = Cgroup::new();
    let second = "[[fault]]\nid = \"second\"\ntarget = \"t\"\nkind = \"clock.freeze\"";
    for (fault, reason) in [
        ("kind = \"clock.offset\"\noffset = \"-40000d\"".to_owned(), "a clock would show a time before 1970"),
        (
            "kind = \"clock.offset\"\noffset = \"-4000d\"\nclocks = \"monotonic\"".to_owned(),
            "a clock would show a time before the machine has started",
        ),
        ("kind = \"clock.leap\"\nat = \"30s\"".to_owned(), "the leap second is after the end"),
        (
            format!("id = \"first\"\nkind = \"clock.freeze\"\n{second}"),
            "`first` is a fault of the same clocks",
        ),
    ] {
        let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
        write!(file, "version = 1\n{}", scenario(&cgroup, &fault)).unwrap();
        let output = injector().arg("plan").arg(file.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.split_whitespace().collect::<Vec<_>>().join(" ").contains(reason), "{said}");
    }
}
