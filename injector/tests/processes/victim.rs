//! Programs that tell from inside what happens to them.

use std::time::Duration;

use crate::support::{Background, Cgroup, Located as _, python};

/// Prints each gap above a threshold in which it did not run, in milliseconds, as it comes. It is real-time, so that nobody but the fault
/// keeps it from running, where it has a processor to itself.
const GAPS: &str = r#"
import os, sys, time
if os.cpu_count() > 1:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
end, threshold = time.monotonic() + float(sys.argv[1]), float(sys.argv[2])
print("runs", flush=True)
last = time.monotonic()
while last < end:
    now = time.monotonic()
    if now - last > threshold:
        print((now - last) * 1000, flush=True)
        now = time.monotonic()
    last = now
    if sys.argv[3] == "rest":
        time.sleep(0.0005)
"#;

/// A process that looks for gaps longer than this, for so long.
pub(crate) fn gaps(cgroup: &Cgroup, seconds: u32, threshold: Duration) -> Background {
    gaps_with(cgroup, seconds, threshold, "spin")
}

/// The same, as a process that mostly sleeps.
pub(crate) fn resting(cgroup: &Cgroup, seconds: u32, threshold: Duration) -> Background {
    gaps_with(cgroup, seconds, threshold, "rest")
}

fn gaps_with(cgroup: &Cgroup, seconds: u32, threshold: Duration, how: &str) -> Background {
    let mut command = python(GAPS);
    command.args([&seconds.to_string(), &threshold.as_secs_f64().to_string(), how]);
    let mut victim = command.in_cgroup(cgroup).background();
    victim.wait_for_line("runs");
    victim
}

/// The gaps that it has found until its end, in milliseconds.
pub(crate) fn found(victim: &mut Background) -> Vec<f64> {
    let text = victim.finish(Duration::from_secs(120));
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// The one in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty());
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The letter that the kernel has for what a process does: `R`, `S`, `T`, `Z`; none for one that is gone.
pub(crate) fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether its cgroup is told to be frozen.
pub(crate) fn is_frozen(cgroup: &Cgroup) -> bool {
    std::fs::read_to_string(cgroup.directory().join("cgroup.freeze")).unwrap().trim() == "1"
}
