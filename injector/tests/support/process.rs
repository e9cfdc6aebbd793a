//! Commands in a namespace and a cgroup, and processes that end with the test.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::{Cgroup, Netns, wait_until};

/// Python as the system has it: a version manager's shim is a shell script that takes a second. Without what is
/// installed beside the standard library, and the search for it, which is a third of its start.
pub(crate) fn python(script: &str) -> Command {
    let system = "/usr/bin/python3";
    let program = if std::path::Path::new(system).exists() { system } else { "python3" };
    let mut command = Command::new(program);
    command.args(["-I", "-S", "-c", script]);
    command
}

/// A line of shell.
pub(crate) fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// Runs a program with arguments parted by spaces; fails unless it succeeds. Returns its output.
#[track_caller]
pub(crate) fn run(line: &str) -> String {
    let mut words = line.split_ascii_whitespace();
    Command::new(words.next().unwrap()).args(words).text()
}

/// The processes that have this parent.
pub(crate) fn children(parent: i32) -> Vec<i32> {
    let line = format!("PPid:\t{parent}");
    let is_child = |pid: &i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
        status.is_ok_and(|status| status.lines().any(|one| one == line))
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

/// What a test says of a command: where it runs, and what it expects.
pub(crate) trait Located {
    /// Runs it in a network namespace.
    fn in_netns(&mut self, netns: &Netns) -> &mut Self;
    /// Runs it in a cgroup, from its first instruction.
    fn in_cgroup(&mut self, cgroup: &Cgroup) -> &mut Self;
    /// Its standard output; fails unless it succeeds.
    #[track_caller]
    fn text(&mut self) -> String;
    /// Starts it in a process group of its own, with its standard output piped.
    #[track_caller]
    fn background(&mut self) -> Background;
}

impl Located for Command {
    fn in_netns(&mut self, netns: &Netns) -> &mut Self {
        let namespace = File::open(netns.file()).unwrap();
        // SAFETY: between fork and exec it makes one system call, which is async-signal-safe.
        unsafe { self.pre_exec(move || setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)) }
    }

    fn in_cgroup(&mut self, cgroup: &Cgroup) -> &mut Self {
        let procs = OpenOptions::new().write(true).open(cgroup.directory().join("cgroup.procs")).unwrap();
        // SAFETY: between fork and exec it makes one system call, which is async-signal-safe. 0 is the writer.
        unsafe { self.pre_exec(move || (&procs).write_all(b"0")) }
    }

    fn text(&mut self) -> String {
        let Output { status, stdout, stderr } = self.stdin(Stdio::null()).output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{self:?}: {status}\n{stdout}\n{stderr}");
        stdout.into_owned()
    }

    fn background(&mut self) -> Background {
        self.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        Background { child: self.spawn().unwrap(), ended: false }
    }
}

/// A process of ours. When it is dropped it and its group are killed.
#[derive(Debug)]
pub(crate) struct Background {
    child: Child,
    ended: bool,
}

impl Background {
    /// Its process id, which is also that of its group.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        !self.ended && self.child.try_wait().unwrap().is_none()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Reads its output until a line is in it; fails if the output ends before.
    #[track_caller]
    pub(crate) fn wait_for_line(&mut self, wanted: &str) {
        while !self.line().contains(wanted) {}
    }

    /// The next line of its output; fails if the output ends before.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        let stdout = self.child.stdout.as_mut().unwrap();
        let (mut line, mut byte) = (Vec::new(), [0]);
        // Byte by byte: what comes after the line is left for `finish`.
        while stdout.read(&mut byte).unwrap() == 1 {
            if byte == *b"\n" {
                return String::from_utf8_lossy(&line).into_owned();
            }
            line.push(byte[0]);
        }
        panic!("the output ended within {:?}", String::from_utf8_lossy(&line));
    }

    /// Waits for its end; returns the rest of its output and how it ended.
    #[track_caller]
    pub(crate) fn outcome(&mut self, timeout: Duration) -> (String, ExitStatus) {
        let stdout = self.child.stdout.take();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            stdout.map(|mut stdout| stdout.read_to_string(&mut text));
            text
        });
        wait_until(timeout, "the end of a process", || self.child.try_wait().unwrap().is_some());
        let status = self.child.wait().unwrap();
        self.ended = true;
        (reader.join().unwrap(), status)
    }

    /// Waits for its end; returns the rest of its output. Fails unless it succeeded.
    #[track_caller]
    pub(crate) fn finish(&mut self, timeout: Duration) -> String {
        let (text, status) = self.outcome(timeout);
        assert!(status.success(), "{status}: {text}");
        text
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // A process that was waited for has no id any more, and its group's may belong to somebody else.
        if !self.ended {
            let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}
