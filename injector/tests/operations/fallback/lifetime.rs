//! What ends it: the deadline, Ctrl-C, and the death of the controller.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::NamedTempFile;

use super::{falls_back, fault, python_words, run_python, scenario};
use crate::support::{in_vm, injector, wait_until};

/// Tells of each fsync how long it took and what it said, and of its process; ends by itself some time.
const SCRIPT: &str = r#"
import os, sys, tempfile, time
f = tempfile.TemporaryFile()
print("pid", os.getpid(), flush=True)
until = time.monotonic() + float(sys.argv[1])
while time.monotonic() < until:
    begun = time.monotonic()
    print("begins", flush=True)
    try:
        os.fsync(f.fileno())
        said = 0
    except OSError as error:
        said = error.errno
    print("fsync", said, time.monotonic() - begun, flush=True)
    time.sleep(0.02)
print("done", flush=True)
"#;

/// A command under a fault, whose words are read one by one.
struct Running {
    controller: Child,
    said: Lines<BufReader<ChildStdout>>,
    pid: i32,
    _file: NamedTempFile,
}

impl Running {
    fn start(keys: &str, for_s: &str) -> Self {
        Self::start_with(&fault(keys), for_s)
    }

    fn start_with(faults: &str, for_s: &str) -> Self {
        let file = scenario(faults);
        let mut command = injector();
        command.args(["--json", "run"]).arg(file.path()).arg("--").args(python_words(SCRIPT)).arg(for_s);
        let mut controller = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let said = BufReader::new(controller.stdout.take().unwrap()).lines();
        let mut running = Self { controller, said, pid: 0, _file: file };
        running.pid = running.next("pid")[0].parse().unwrap();
        running
    }

    /// The words of the next line that begins with one.
    fn next(&mut self, first: &str) -> Vec<String> {
        loop {
            let line = self.said.next().unwrap_or_else(|| panic!("no {first} any more")).unwrap();
            let mut words = line.split(' ').map(str::to_owned);
            if words.next().as_deref() == Some(first) {
                return words.collect();
            }
        }
    }

    fn kill_controller(&mut self) {
        self.controller.kill().unwrap();
        self.controller.wait().unwrap();
    }

    fn is_alive(&self) -> bool {
        std::path::Path::new(&format!("/proc/{}", self.pid)).exists()
    }
}

/// How many processes keep calls going.
fn keepers() -> usize {
    let all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let command = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("cmdline")).ok();
    all.filter_map(command).filter(|words| words.split('\0').any(|word| word == "keeper")).count()
}

/// How long it may take until who waited goes on.
fn patience() -> Duration {
    Duration::from_secs(if in_vm() { 20 } else { 1 })
}

const ERROR: &str = "kind = \"io.error\"\noperations = \"fsync\"";
const DELAY: &str = "kind = \"io.delay\"\noperations = \"fsync\"\ndelay = \"60s\"";

#[test]
fn a_command_outlives_its_controller_and_nothing_fails_any_more() {
    if !falls_back(&fault(ERROR)) {
        return;
    }
    let mut running = Running::start(ERROR, "3");
    assert_eq!(running.next("fsync")[0], "5");
    assert!(keepers() >= 1);
    running.kill_controller();
    // What was answered before may still be read here.
    wait_until(patience() * 2, "an fsync that succeeds", || running.next("fsync")[0] == "0");
    for _ in 0..20 {
        assert_eq!(running.next("fsync")[0], "0", "ENOSYS would be 38");
    }
    running.next("done");
    let before = Instant::now();
    while running.is_alive() || keepers() > 0 {
        assert!(before.elapsed() < patience() * 10, "the process that stands by ends with the command");
        std::thread::sleep(Duration::from_millis(20));
    }
    injector().arg("clean").output().unwrap();
}

#[test]
fn who_waits_goes_on_when_the_controller_is_killed() {
    if !falls_back(&fault(DELAY)) {
        return;
    }
    let mut running = Running::start(DELAY, "2");
    running.next("begins");
    std::thread::sleep(Duration::from_millis(300));
    running.kill_controller();
    let killed = Instant::now();
    let words = running.next("fsync");
    assert!(killed.elapsed() < patience(), "{:?}", killed.elapsed());
    assert_eq!(words[0], "0");
    assert!(words[1].parse::<f64>().unwrap() > 0.2, "it did wait: {words:?}");
    running.next("done");
    injector().arg("clean").output().unwrap();
}

#[test]
fn an_interrupt_ends_the_faults_and_lets_the_command_end() {
    if !falls_back(&fault(DELAY)) {
        return;
    }
    let mut running = Running::start(DELAY, "1.5");
    running.next("begins");
    std::thread::sleep(Duration::from_millis(300));
    // As a supervisor sends it: the command gets it too, and Python ends by it as soon as its call is over.
    kill(Pid::from_raw(running.controller.id().cast_signed()), Signal::SIGINT).unwrap();
    let sent = Instant::now();
    let status = running.controller.wait().unwrap();
    assert!(sent.elapsed() < patience() * 2, "{:?}", sent.elapsed());
    assert_eq!(status.code(), Some(130), "Python's end by SIGINT");
    assert!(!running.is_alive());
}

#[test]
fn the_command_goes_on_after_the_deadline() {
    // An emulated machine takes seconds to start Python.
    let (lasts, runs) = if in_vm() { ("20s", "40") } else { ("1s", "2") };
    let until_deadline = format!("duration = \"{lasts}\"\n{}", fault(DELAY));
    if !falls_back(&until_deadline) {
        return;
    }
    let ran = run_python(&until_deadline, SCRIPT, &[runs]);
    let times: Vec<(i32, f64)> = ran
        .said
        .lines()
        .filter_map(|line| line.strip_prefix("fsync ")?.split_once(' '))
        .map(|(said, took)| (said.parse().unwrap(), took.parse().unwrap()))
        .collect();
    assert!(times.len() > 1 && times.iter().all(|(said, _)| *said == 0), "{times:?}");
    assert!(
        times[0].1 < if in_vm() { 30.0 } else { 2.0 }
            && times[1..].iter().all(|(_, took)| *took < if in_vm() { 10.0 } else { 1.0 }),
        "{times:?}"
    );
    assert_eq!((ran.counted(), ran.status), ((1, 1), Some(0)));
}

#[test]
fn a_killed_command_leaves_nobody_waiting() {
    if !falls_back(&fault(DELAY)) {
        return;
    }
    let mut running = Running::start(DELAY, "2");
    running.next("begins");
    std::thread::sleep(Duration::from_millis(100));
    kill(Pid::from_raw(running.pid), Signal::SIGKILL).unwrap();
    let killed = Instant::now();
    let status = running.controller.wait().unwrap();
    assert!(killed.elapsed() < patience() * 2, "{:?}", killed.elapsed());
    assert_eq!(status.code(), Some(137));
}

#[test]
fn a_command_that_is_not_there_is_told_of() {
    if !falls_back(&fault(ERROR)) {
        return;
    }
    let file = scenario(&fault(ERROR));
    let mut command: Command = injector();
    let output = command.arg("run").arg(file.path()).args(["--", "/nonexistent/command"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("`/nonexistent/command` could not be started: ENOENT"), "{said}");
}

#[test]
fn a_stopped_controller_lets_who_waits_go_on_after_the_deadline() {
    let until_deadline = format!("duration = \"2s\"\n{}", fault(DELAY));
    // Emulated machines start too slowly for that.
    if in_vm() || !falls_back(&until_deadline) {
        return;
    }
    let mut running = Running::start_with(&until_deadline, "6");
    running.next("begins");
    let controller = Pid::from_raw(running.controller.id().cast_signed());
    kill(controller, Signal::SIGSTOP).unwrap();
    let words = running.next("fsync");
    kill(controller, Signal::SIGCONT).unwrap();
    assert_eq!(words[0], "0");
    assert!(words[1].parse::<f64>().unwrap() < 7.0, "2 s, and 3 s of patience: {words:?}");
    running.next("done");
    assert_eq!(running.controller.wait().unwrap().code(), Some(0));
}

#[test]
fn who_outlives_the_command_goes_on() {
    if !falls_back(&fault(ERROR)) {
        return;
    }
    let file = NamedTempFile::new().unwrap();
    let line = "exec </dev/null; script=$1; shift; \"$@\" -c \"$script\" 3 >$SAID 2>&1 & sleep 1"
        .replace("$SAID", file.path().to_str().unwrap());
    let words = python_words(SCRIPT);
    let program = [&words[0], "-I", "-S"];
    let ran = super::run(&fault(ERROR), &[&["sh", "-c", &line, "sh", SCRIPT], &program[..]].concat());
    assert_eq!(ran.status, Some(0));
    let said = || std::fs::read_to_string(file.path()).unwrap();
    wait_until(patience() * 20, "the end of the descendant", || said().ends_with("done\n"));
    assert!(said().lines().rev().nth(3).is_some_and(|line| line.starts_with("fsync 0 ")), "{}", said());
    assert!(said().contains("fsync 5 ") || in_vm(), "{}", said());
}

/// The variable that marks all processes of a test, and the processes that have it.
const MARK: &str = "INJECTOR_TEST_MARK";

fn marked(mark: &str) -> Vec<i32> {
    let has = |pid: &i32| {
        let variables = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        variables.split(|byte| *byte == 0).any(|variable| variable == format!("{MARK}={mark}").as_bytes())
    };
    let all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(has).collect()
}

#[test]
fn a_controller_killed_at_any_step_leaves_no_process_behind() {
    // Of a call that every program makes, so that what waits on its way to the command does so too.
    let keys = "kind = \"io.error\"\noperations = [\"read\", \"close\"]\npath = \"/nonexistent\"";
    if !falls_back(&fault(keys)) {
        return;
    }
    let file = scenario(&fault(keys));
    let every = if in_vm() { 7 } else { 1 };
    let (mut killed, mut died_before, mut went_on) = (0, 0, 0);
    for step in (1..).step_by(every) {
        let mark = format!("{}-{step}", std::process::id());
        let mut command = injector();
        command.arg("run").arg(file.path()).args(["--", "sh", "-c", "sleep 0.2; echo went on"]);
        command.env(MARK, &mark).env("INJECTOR_KILL_AT", step.to_string());
        let output = NamedTempFile::new().unwrap();
        command.stdout(output.reopen().unwrap()).stderr(Stdio::null());
        let status = command.status().unwrap();
        let ended = Instant::now();
        while !marked(&mark).is_empty() && ended.elapsed() < patience() * 10 {
            std::thread::sleep(Duration::from_millis(20));
        }
        let left = marked(&mark);
        for pid in &left {
            kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap();
        }
        assert!(left.is_empty(), "{left:?} are left of a controller that was killed at step {step}");
        injector().arg("clean").output().unwrap();
        let said = std::fs::read(output.path()).unwrap() == b"went on\n";
        if status.success() {
            assert!(said);
            break;
        }
        killed += 1;
        *(if said { &mut went_on } else { &mut died_before }) += 1;
    }
    assert!(killed > 1 && died_before > 0 && (went_on > 0 || in_vm()), "{killed} {died_before} {went_on}");
}
