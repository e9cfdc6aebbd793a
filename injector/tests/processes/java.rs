//! A Java virtual machine, which has many threads and reads the clocks by the C library that it has loaded: the same process before, during and
//! after a fault, and one that begins meanwhile. What it logs has the times of both of its clocks in front.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::support::{Background, Cgroup, Experiment, Located as _};
use crate::times_are_true;

const HOUR_MS: i64 = 3_600_000;
/// Both are in whole milliseconds, and between the two readings somebody else may run.
const SLACK_MS: i64 = 2;

fn java(log: &str) -> Command {
    let mut command = Command::new("java");
    command.arg(format!("-Xlog:{log}:stdout:timemillis,timenanos"));
    command
}

/// By how many milliseconds the wall clock was off when a line was written: `[1795900406530ms][20251105970826ns] ...`.
fn off_ms(line: &str) -> Option<i64> {
    let mut stamps = line.strip_prefix('[')?.split("][");
    let wall_ms: i64 = stamps.next()?.strip_suffix("ms")?.parse().ok()?;
    let monotonic_ns: i64 = stamps.next()?.split("ns]").next()?.parse().ok()?;
    let now_ms = |clock| {
        let now = clock_gettime(clock).unwrap();
        now.tv_sec() * 1000 + now.tv_nsec() / 1_000_000
    };
    let truth_ms = now_ms(ClockId::CLOCK_REALTIME) - now_ms(ClockId::CLOCK_MONOTONIC);
    Some(wall_ms - monotonic_ns / 1_000_000 - truth_ms)
}

/// The median of the next lines, which are off by no more than it takes to read both clocks.
fn next_ms(victim: &mut Background) -> i64 {
    let mut all: Vec<i64> = std::iter::repeat_with(|| off_ms(&victim.line())).flatten().take(9).collect();
    all.sort_unstable();
    all[4]
}

/// Reads the lines that were written while the clock was off by so much, some of which still wait in the pipe.
fn pass_by(victim: &mut Background, off: i64) {
    let last = Instant::now() + Duration::from_secs(10);
    while off_ms(&victim.line()).is_none_or(|found| (found - off).abs() <= SLACK_MS) {
        assert!(Instant::now() < last, "the clock is still off by {off} ms");
    }
}

#[test]
fn a_java_virtual_machine_sees_the_time_that_was_asked_for() {
    // Guests have no Java.
    if !times_are_true() {
        return;
    }
    let cgroup = Cgroup::new();
    // A server of the JRE's own; its collections are logged, which come whether or not there is garbage.
    let mut registry = java("gc");
    registry.args(["-XX:+UseG1GC", "-XX:G1PeriodicGCInterval=50"]);
    registry.args(["-m", "java.rmi/sun.rmi.registry.RegistryImpl", "0"]);
    // It warns of itself.
    let mut registry = registry.stderr(Stdio::null()).in_cgroup(&cgroup).background();
    assert!(next_ms(&mut registry).abs() <= SLACK_MS, "before");
    let experiment = Experiment::apply(&format!(
        "[target.t]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"t\"\nkind = \"clock.offset\"\noffset = \"+1h\"\n",
        cgroup.path()
    ));
    pass_by(&mut registry, 0);
    let off = next_ms(&mut registry);
    assert!((off - HOUR_MS).abs() <= SLACK_MS, "{off} ms");
    // One that begins later; its last line is some tens of milliseconds after its first.
    let said = java("startuptime,init,safepoint*").arg("-version").in_cgroup(&cgroup).text();
    let last = said.lines().filter_map(off_ms).next_back().unwrap();
    assert!((last - HOUR_MS).abs() <= SLACK_MS, "{said}");
    // Somebody else's meanwhile.
    let said = java("startuptime,init,safepoint*").arg("-version").text();
    let last = said.lines().filter_map(off_ms).next_back().unwrap();
    assert!(last.abs() <= SLACK_MS, "{said}");
    assert_eq!(experiment.end().only().injected, 2);
    pass_by(&mut registry, HOUR_MS);
    assert!(next_ms(&mut registry).abs() <= SLACK_MS, "afterwards");
    std::thread::sleep(Duration::from_millis(100));
    assert!(registry.is_running());
}
