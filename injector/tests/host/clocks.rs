//! Clocks of live processes, patched and restored, seen by Python and by a busy program of threads.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use injector::host::process::ProcessId;
use injector::host::vdso::{Clocks, Patched, Restored, Segment, VdsoError, mark, patch, restore};
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::support::{Background, eventually, own_pid, skipped_without_root};

const SECOND: i64 = 1_000_000_000;
pub(crate) const HOUR: i64 = 3600 * SECOND;
pub(crate) const MARK: u64 = 0xA1;

/// A Python that answers each line with the value of the expression in it.
struct Python {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Python {
    fn start() -> Self {
        Self::start_by(Command::new("python3"))
    }

    /// By a command that ends in `python3`.
    fn start_by(mut command: Command) -> Self {
        let program =
            "import sys, time, os, subprocess\nfor line in sys.stdin:\n print(eval(line), flush=True)";
        command.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (questions, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut python = Self { child, questions, answers: BufReader::new(answers) };
        assert_eq!(python.ask("1 + 1"), "2");
        python
    }

    fn ask(&mut self, expression: &str) -> String {
        writeln!(self.questions, "{expression}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn id(&self) -> ProcessId {
        ProcessId::of(self.child.id().cast_signed()).unwrap()
    }

    /// Check that a reading of a clock is what the segments say, as exactly as the question takes.
    fn check(&mut self, clock: ClockId, segments: &[Segment]) {
        let question =
            if clock == ClockId::CLOCK_REALTIME { "time.time_ns()" } else { "time.monotonic_ns()" };
        self.check_by(question, clock, segments);
    }

    fn check_by(&mut self, question: &str, clock: ClockId, segments: &[Segment]) {
        let before = true_ns(clock);
        let shown: i64 = self.ask(question).parse().unwrap();
        let range = Segment::shown_ns(segments, before)..=Segment::shown_ns(segments, true_ns(clock));
        assert!(range.contains(&shown), "{question}: {shown} not in {range:?}");
    }

    fn check_true(&mut self) {
        self.check(ClockId::CLOCK_REALTIME, &[]);
        self.check(ClockId::CLOCK_MONOTONIC, &[]);
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn true_ns(clock: ClockId) -> i64 {
    let time = clock_gettime(clock).unwrap();
    time.tv_sec() * SECOND + time.tv_nsec()
}

fn from_now(clock: ClockId, segment: Segment) -> Segment {
    Segment { start_ns: true_ns(clock), ..segment }
}

pub(crate) fn ahead(add_ns: i64) -> Clocks {
    Clocks { realtime: vec![Segment { add_ns, ..Segment::default() }], monotonic: Vec::new() }
}

/// Where a process's vDSO is, and its bytes.
fn vdso_of(id: ProcessId) -> (u64, Vec<u8>) {
    let maps = fs::read_to_string(format!("/proc/{}/maps", id.pid)).unwrap();
    let range = maps.lines().find(|line| line.ends_with("[vdso]")).unwrap().split(' ').next().unwrap();
    let (start, end) = range.split_once('-').unwrap();
    let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
    let mut bytes = vec![0; (end - start) as usize];
    fs::File::open(format!("/proc/{}/mem", id.pid)).unwrap().read_exact_at(&mut bytes, start).unwrap();
    (start, bytes)
}

/// What the kernel put into a vDSO, without the padding.
fn without_padding(vdso: &[u8]) -> usize {
    vdso.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

/// The pids of the children of its first thread.
fn children_of(id: ProcessId) -> String {
    fs::read_to_string(format!("/proc/{0}/task/{0}/children", id.pid)).unwrap()
}

fn state_of(pid: i32) -> char {
    procfs::process::Process::new(pid).unwrap().stat().unwrap().state
}

#[test]
fn one_clock_of_one_process_is_moved_and_restored() {
    if skipped_without_root() {
        return;
    }
    let (mut victim, mut other) = (Python::start(), Python::start());
    let (_, before) = vdso_of(victim.id());
    assert_eq!(mark(victim.id()).unwrap(), None);
    let clocks = ahead(HOUR);
    assert_eq!(patch(victim.id(), MARK, &clocks).unwrap(), Patched::New);
    assert_eq!(mark(victim.id()).unwrap(), Some(MARK));
    victim.check(ClockId::CLOCK_REALTIME, &clocks.realtime);
    victim.check(ClockId::CLOCK_MONOTONIC, &[]);
    victim.check_by("time.clock_gettime_ns(time.CLOCK_BOOTTIME)", ClockId::CLOCK_BOOTTIME, &[]);
    victim.check_by("time.clock_gettime_ns(11)", ClockId::CLOCK_TAI, &clocks.realtime);
    assert!(victim.ask("time.process_time() < 60").contains("True"));
    other.check_true();
    assert_eq!(mark(other.id()).unwrap(), None);
    assert_eq!(restore(victim.id(), MARK + 1).unwrap(), Restored::NotPatched);
    assert_eq!(restore(victim.id(), MARK).unwrap(), Restored::Removed);
    victim.check_true();
    assert_eq!(mark(victim.id()).unwrap(), None);
    assert_eq!(restore(victim.id(), MARK).unwrap(), Restored::NotPatched);
    // All that the kernel put there, functions and tables, is as it was; only its padding is not.
    let used = without_padding(&before);
    assert_eq!(vdso_of(victim.id()).1[..used], before[..used]);
    // What is left is no hindrance.
    assert_eq!(patch(victim.id(), MARK, &clocks).unwrap(), Patched::New);
    victim.check(ClockId::CLOCK_REALTIME, &clocks.realtime);
}

#[test]
fn a_half_made_patch_is_completed_or_taken_back() {
    if skipped_without_root() {
        return;
    }
    let mut victim = Python::start();
    let (start, before) = vdso_of(victim.id());
    let used = without_padding(&before);
    let clocks = ahead(HOUR);
    for is_completed in [true, false] {
        patch(victim.id(), MARK, &clocks).unwrap();
        // As if we had been killed when the cave was there, and no jump yet. Linux 7 lets only a tracer write.
        let pid = Pid::from_raw(victim.id().pid);
        ptrace::attach(pid).unwrap();
        nix::sys::wait::waitpid(pid, None).unwrap();
        let memory = fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/mem")).unwrap();
        memory.write_all_at(&before[..used], start).unwrap();
        ptrace::detach(pid, None).unwrap();
        victim.check_true();
        if is_completed {
            assert_eq!(patch(victim.id(), MARK, &clocks).unwrap(), Patched::Updated);
            victim.check(ClockId::CLOCK_REALTIME, &clocks.realtime);
        }
        assert_eq!(restore(victim.id(), MARK).unwrap(), Restored::Removed);
        victim.check_true();
        assert_eq!(vdso_of(victim.id()).1[..used], before[..used]);
    }
}

#[test]
fn a_fork_keeps_it_and_a_new_program_does_not() {
    if skipped_without_root() {
        return;
    }
    let mut victim = Python::start();
    let clocks = ahead(HOUR);
    patch(victim.id(), MARK, &clocks).unwrap();
    let before = true_ns(ClockId::CLOCK_REALTIME) / SECOND;
    let date: i64 = victim.ask("subprocess.check_output(['sh', '-c', 'date +%s']).decode()").parse().unwrap();
    // The blank line after the answer.
    victim.answers.read_line(&mut String::new()).unwrap();
    assert!((before..=true_ns(ClockId::CLOCK_REALTIME) / SECOND).contains(&date), "{date}");
    let fork = "(lambda r, w: os.read(r, 20).decode() if os.fork() else (os.write(w, b'%d' % time.time_ns()), \
                time.sleep(60)))(*os.pipe())";
    victim.check_by(fork, ClockId::CLOCK_REALTIME, &clocks.realtime);
    let child = ProcessId::of(children_of(victim.id()).trim().parse().unwrap()).unwrap();
    assert_eq!(mark(child).unwrap(), Some(MARK));
    // It is found to be patched, and what is done to one of them is not done to the other.
    assert_eq!(patch(child, MARK, &ahead(2 * HOUR)).unwrap(), Patched::Updated);
    victim.check(ClockId::CLOCK_REALTIME, &clocks.realtime);
    assert_eq!(restore(child, MARK).unwrap(), Restored::Removed);
    victim.check(ClockId::CLOCK_REALTIME, &clocks.realtime);
    kill(Pid::from_raw(child.pid), Signal::SIGKILL).unwrap();
    eventually("the child is gone", || mark(child).is_err());
    assert_eq!(restore(child, MARK).unwrap(), Restored::Gone);
}

#[test]
fn drift_freeze_strobe_and_updates() {
    if skipped_without_root() {
        return;
    }
    let mut victim = Python::start();
    for clock in [ClockId::CLOCK_REALTIME, ClockId::CLOCK_MONOTONIC] {
        let drift = from_now(clock, Segment { rate_q32: (1 << 32) / 10, ..Segment::default() });
        let freeze = from_now(clock, Segment { add_ns: -SECOND, rate_q32: -(1 << 32), ..Segment::default() });
        for segments in
            [vec![drift], vec![freeze], vec![Segment { add_ns: HOUR, ..Segment::default() }, drift]]
        {
            let mut clocks = Clocks::default();
            let table =
                if clock == ClockId::CLOCK_REALTIME { &mut clocks.realtime } else { &mut clocks.monotonic };
            table.clone_from(&segments);
            patch(victim.id(), MARK, &clocks).unwrap();
            for _ in 0..3 {
                victim.check(clock, &segments);
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
    // Periods that are long in terms of a question: which is it in now?
    let clock = ClockId::CLOCK_REALTIME;
    let strobe = Segment { add_ns: HOUR, period_ns: 2_000_000_000, ..Segment::default() };
    let strobe = from_now(clock, strobe);
    patch(victim.id(), MARK, &Clocks { realtime: vec![strobe], monotonic: Vec::new() }).unwrap();
    victim.check(clock, &[strobe]);
    let until = strobe.start_ns + 2_100_000_000 - true_ns(clock);
    std::thread::sleep(Duration::from_nanos(until.max(0).cast_unsigned()));
    victim.check(clock, &[strobe]);
    restore(victim.id(), MARK).unwrap();
    victim.check_true();
}

#[test]
fn what_cannot_be_patched_is_refused() {
    if skipped_without_root() {
        return;
    }
    let clocks = ahead(HOUR);
    let refusal = |id: ProcessId| patch(id, MARK, &clocks).unwrap_err();
    let own = ProcessId::of_self().unwrap();
    assert!(matches!(refusal(own), VdsoError::OwnProcess { .. }));
    assert!(matches!(refusal(ProcessId::of(2).unwrap()), VdsoError::KernelThread { pid: 2 }));
    let victim = Python::start();
    let another = ProcessId { start_ticks: 1, ..victim.id() };
    assert!(matches!(refusal(another), VdsoError::Gone { .. }));
    assert!(matches!(mark(another), Err(VdsoError::Gone { .. })));
    patch(victim.id(), MARK, &clocks).unwrap();
    let error = patch(victim.id(), MARK + 1, &clocks).unwrap_err();
    assert!(matches!(error, VdsoError::OtherMark { mark: MARK, .. }), "{error}");
    let ended = Background::shell("exit");
    let id = ProcessId::of(ended.pid()).unwrap();
    eventually("a zombie", || state_of(id.pid) == 'Z');
    assert!(matches!(refusal(id), VdsoError::Gone { .. }));
}

#[test]
fn a_traced_process_is_refused_by_its_tracers_name() {
    if skipped_without_root() {
        return;
    }
    let mut victim = Python::start();
    let pid = Pid::from_raw(victim.id().pid);
    ptrace::seize(pid, ptrace::Options::empty()).unwrap();
    let error = patch(victim.id(), MARK, &ahead(HOUR)).unwrap_err();
    assert!(matches!(error, VdsoError::Traced { tracer, .. } if tracer == own_pid()), "{error:?}");
    assert!(error.hint().unwrap().contains(&own_pid().to_string()));
    victim.check_true();
}

#[test]
fn a_stopped_process_is_patched_and_stays_stopped() {
    if skipped_without_root() {
        return;
    }
    let mut victim = Python::start();
    let (id, pid) = (victim.id(), Pid::from_raw(victim.id().pid));
    let clocks = ahead(HOUR);
    kill(pid, Signal::SIGSTOP).unwrap();
    eventually("it is stopped", || state_of(id.pid) == 'T');
    patch(id, MARK, &clocks).unwrap();
    eventually("it is stopped again", || state_of(id.pid) == 'T');
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(state_of(id.pid), 'T');
    kill(pid, Signal::SIGCONT).unwrap();
    victim.check(ClockId::CLOCK_REALTIME, &clocks.realtime);
    kill(pid, Signal::SIGSTOP).unwrap();
    eventually("it is stopped", || state_of(id.pid) == 'T');
    assert_eq!(restore(id, MARK).unwrap(), Restored::Removed);
    kill(pid, Signal::SIGCONT).unwrap();
    victim.check_true();
}

/// Have a command run under a filter that answers one system call with an action.
fn filtered(mut command: Command, number: u32, action: u32) -> Command {
    use std::os::unix::process::CommandExt as _;
    let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let mut filter =
        [step(0x20, 0, 0), step(0x15, 1, number), step(0x06, 0, action), step(0x06, 0, 0x7FFF_0000)];
    let install = move || {
        let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
        // SAFETY: the program lives until the call returns.
        let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, 2, &raw const program) };
        Errno::result(result)?;
        Ok(())
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(install) };
    command
}

#[test]
fn a_filter_of_system_calls_is_no_hindrance() {
    if skipped_without_root() {
        return;
    }
    let clocks = ahead(HOUR);
    let filtered_by = |number: i64, action| {
        Python::start_by(filtered(Command::new("python3"), u32::try_from(number).unwrap(), action))
    };
    // One that kills for another call lets it be.
    let mut harmless = filtered_by(libc::SYS_acct, 0x8000_0000);
    patch(harmless.id(), MARK, &clocks).unwrap();
    harmless.check(ClockId::CLOCK_REALTIME, &clocks.realtime);
    assert_eq!(restore(harmless.id(), MARK).unwrap(), Restored::Removed);
    // So does one that kills for the very call: as before, none is made.
    let mut strict = filtered_by(libc::SYS_clock_gettime, 0x8000_0000);
    patch(strict.id(), MARK, &clocks).unwrap();
    strict.check(ClockId::CLOCK_REALTIME, &clocks.realtime);
    strict.check(ClockId::CLOCK_MONOTONIC, &[]);
    assert_eq!(restore(strict.id(), MARK).unwrap(), Restored::Removed);
    strict.check_true();
}

#[test]
fn a_time_namespace_moves_the_moments_too() {
    if skipped_without_root() {
        return;
    }
    let day = 86_400;
    let mut command = Command::new("unshare");
    command.args(["--time", "--fork", "--kill-child", "--monotonic", &day.to_string(), "python3"]);
    let mut victim = Python::start_by(command);
    let pid: i32 = victim.ask("os.getpid()").parse().unwrap();
    let clock = ClockId::CLOCK_MONOTONIC;
    // A segment that begins now by our clock: it adds an hour, and one a day later would add another.
    let begun = from_now(clock, Segment { add_ns: HOUR, ..Segment::default() });
    let later = Segment { start_ns: begun.start_ns + HOUR, add_ns: 2 * HOUR, ..Segment::default() };
    let segments = vec![begun, later];
    let clocks = Clocks { realtime: Vec::new(), monotonic: segments.clone() };
    patch(ProcessId::of(pid).unwrap(), MARK, &clocks).unwrap();
    victim.check_by(&format!("time.monotonic_ns() - {}", day * SECOND), clock, &segments);
}

#[test]
fn a_thread_that_cannot_stop_is_named_and_nobody_stays_stopped() {
    if skipped_without_root() {
        return;
    }
    // The child of a vfork sleeps, and its parent waits without being interruptible. Its second thread goes on.
    let program = "import ctypes, sys, threading, time\n\
                   libc = ctypes.CDLL(None)\n\
                   def print_on():\n for _ in range(10**6):\n  print(time.time_ns(), flush=True); time.sleep(0.01)\n\
                   threading.Thread(target=print_on, daemon=True).start()\n\
                   libc.syscall(58) or libc.sleep(60)";
    let mut command = Command::new("python3");
    command.args(["-c", program]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let id = ProcessId::of(child.id().cast_signed()).unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // That it waits for its child, and not for a disk as it starts.
    let has_child = || !children_of(id).is_empty();
    eventually("it waits for its child", || has_child() && state_of(id.pid) == 'D');
    let error = patch(id, MARK, &ahead(HOUR)).unwrap_err();
    assert!(matches!(error, VdsoError::Stuck { state: 'D', .. }), "{error}");
    assert_eq!(mark(id).unwrap(), None);
    for _ in 0..200 {
        let line = lines.next().unwrap().unwrap();
        assert!(line.parse::<i64>().unwrap() <= true_ns(ClockId::CLOCK_REALTIME));
    }
    kill(Pid::from_raw(children_of(id).trim().parse().unwrap()), Signal::SIGKILL).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}
