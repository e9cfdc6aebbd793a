//! The target's processes are killed, and nobody else; what starts them again is struck again.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use crate::support::{Cgroup, Experiment, Located as _, in_vm, python, root_or_skip, sh, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

fn kill(cgroup: &Cgroup, keys: &str) -> String {
    format!(
        "duration = \"1m\"\n[target.t]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"t\"\nkind = \"process.kill\"\n{keys}\n",
        cgroup.path()
    )
}

#[test]
fn all_processes_of_the_target_are_killed_and_nobody_else() {
    if !root_or_skip() {
        return;
    }
    let (cgroup, neighbour) = (Cgroup::new(), Cgroup::new());
    let inner = cgroup.child("inner");
    let mut spared = sh("exec sleep 60").in_cgroup(&neighbour).background();
    let mut parent = sh("sleep 60 & sleep 60").in_cgroup(&cgroup).background();
    let mut nested = sh("exec sleep 60").in_cgroup(&inner).background();
    wait_until(PATIENCE, "all are there", || cgroup.pids().len() == 3);
    let experiment = Experiment::apply(&kill(&cgroup, ""));
    for process in [&mut parent, &mut nested] {
        let (_, status) = process.outcome(PATIENCE);
        assert_eq!(status.signal(), Some(9));
    }
    wait_until(PATIENCE, "nobody is left", || cgroup.pids().is_empty());
    assert!(spared.is_running());
    let fault = experiment.end().only();
    assert_eq!((fault.matched, fault.injected), (4, 4));
    drop(inner);
}

#[test]
fn who_handles_the_signal_gets_it() {
    if !root_or_skip() {
        return;
    }
    let cgroup = Cgroup::new();
    let script = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\nprint('runs', flush=True)\nwhile True: signal.pause()";
    let mut victim = python(script).in_cgroup(&cgroup).background();
    victim.wait_for_line("runs");
    let experiment = Experiment::apply(&kill(&cgroup, "signal = \"TERM\"\nwhen.start = \"300ms\""));
    let (_, status) = victim.outcome(PATIENCE);
    assert_eq!(status.code(), Some(7));
    assert_eq!(experiment.end().only().injected, 1);
}

/// Crash-recovery: the supervisor is outside of the target, and starts it into its cgroup.
#[test]
fn what_a_supervisor_starts_again_is_killed_again() {
    if !root_or_skip() {
        return;
    }
    let cgroup = Cgroup::new();
    let script = format!(
        "n=0; while [ $n -lt 3 ]; do sh -c 'echo $$ > {}/cgroup.procs; exec sleep 60'; echo $?; n=$((n+1)); done",
        cgroup.directory().display()
    );
    let mut supervisor = sh(&script).background();
    wait_until(PATIENCE, "it is there", || !cgroup.pids().is_empty());
    let every = if in_vm() { "3s" } else { "500ms" };
    let experiment = Experiment::apply(&kill(&cgroup, &format!("every = \"{every}\"")));
    let said = supervisor.finish(PATIENCE);
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["137", "137", "137"]);
    assert!(experiment.end().only().injected >= 3);
}

#[test]
fn a_command_starts_the_target_again_in_its_cgroup_after_the_downtime() {
    if !root_or_skip() {
        return;
    }
    let cgroup = Cgroup::new();
    let mut first = sh("exec sleep 60").in_cgroup(&cgroup).background();
    wait_until(PATIENCE, "it is there", || !cgroup.pids().is_empty());
    let experiment = Experiment::apply(&kill(&cgroup, "restart = \"exec sleep 61\"\ndowntime = \"1500ms\""));
    first.outcome(PATIENCE);
    let begin = std::time::Instant::now();
    wait_until(PATIENCE, "it is there again", || !cgroup.pids().is_empty());
    let down_ms = begin.elapsed().as_millis();
    assert!(down_ms > 1000 && (in_vm() || down_ms < 2000), "{down_ms}");
    let again = cgroup.pids()[0];
    wait_until(PATIENCE, "it is what was asked for", || {
        let command = std::fs::read(format!("/proc/{again}/cmdline")).unwrap_or_default();
        command.starts_with(b"sleep\x0061")
    });
    experiment.end();
    assert_eq!(cgroup.pids(), [again], "a service that was started again outlives the experiment");
}

#[test]
fn what_is_down_at_the_end_is_started_again_then() {
    if !root_or_skip() {
        return;
    }
    let cgroup = Cgroup::new();
    let mut first = sh("exec sleep 60").in_cgroup(&cgroup).background();
    wait_until(PATIENCE, "it is there", || !cgroup.pids().is_empty());
    let experiment = Experiment::apply(&kill(&cgroup, "restart = \"exec sleep 62\"\ndowntime = \"50s\""));
    first.outcome(PATIENCE);
    assert!(cgroup.pids().is_empty());
    experiment.end();
    // It was started before injector ended, so there is nothing to wait for.
    assert_eq!(cgroup.pids().len(), 1);
}
