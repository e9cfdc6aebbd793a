//! All threads of a process stopped at once, by ptrace, and let go as they were.
//!
//! Only the thread that attached may trace, so one [`Stopped`] stays on one thread; and when that thread ends
//! the kernel detaches what is left. So the callers run each attempt on a thread of its own, and nobody stays
//! stopped whatever fails: a thread that never stopped cannot be detached in another way.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;
use procfs::process::Process;

use super::VdsoError;
use super::image::read_error;

/// How often a thread that is to stop is looked at before sleeping in between: it mostly takes some 10 µs.
const EAGER_LOOKS: u32 = 200;
/// How long to wait for a thread that would stop if it had its turn, which can be long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait for a thread in an uninterruptible wait, such as one that forked by `vfork`: not long, as
/// the others are stopped meanwhile.
const PATIENCE_WITH_BLOCKED: Duration = Duration::from_secs(1);
/// How long to sleep between looks.
const PAUSE: Duration = Duration::from_micros(200);

/// The state of a thread in an uninterruptible wait.
const BLOCKED: char = 'D';
/// The state of a thread that is no more.
const ENDED: char = 'X';

/// A thread that is stopped.
struct Thread {
    tid: i32,
    /// The signal that was about to be delivered, or 0.
    signal: i32,
}

/// The state of a thread's registers that matters here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Registers {
    pub(super) tid: i32,
    pub(super) instruction: u64,
    pub(super) stack: u64,
}

/// A process all of whose threads are stopped. They go on when it is dropped.
pub(super) struct Stopped {
    pid: i32,
    threads: Vec<Thread>,
}

impl Stopped {
    /// Stop them all.
    pub(super) fn stop(pid: i32) -> Result<Self, VdsoError> {
        let mut stopped = Self { pid, threads: Vec::new() };
        let mut known = BTreeSet::new();
        loop {
            // A thread that is not stopped yet may start another one. Once all that are listed have stopped,
            // a listing without a new one is the whole process.
            let new: Vec<i32> = threads_of(pid)?.into_iter().filter(|tid| known.insert(*tid)).collect();
            if new.is_empty() {
                break;
            }
            let mut seized = Vec::with_capacity(new.len());
            for tid in new {
                if stopped.seize(tid)? {
                    seized.push(tid);
                }
            }
            for tid in seized {
                if let Some(signal) = stopped.wait(tid)? {
                    stopped.threads.push(Thread { tid, signal });
                }
            }
        }
        if stopped.threads.is_empty() { Err(VdsoError::Gone { pid }) } else { Ok(stopped) }
    }

    /// Where each thread is.
    pub(super) fn registers(&self) -> Result<Vec<Registers>, VdsoError> {
        let of = |thread: &Thread| {
            let registers = ptrace::getregs(Pid::from_raw(thread.tid));
            let registers =
                registers.map_err(|source| self.failed(thread.tid, "read the registers of", source))?;
            Ok(Registers { tid: thread.tid, instruction: registers.rip, stack: registers.rsp })
        };
        self.threads.iter().map(of).collect()
    }

    /// Attach to a thread and ask it to stop; false if it has ended.
    fn seize(&self, tid: i32) -> Result<bool, VdsoError> {
        let (pid, thread) = (self.pid, Pid::from_raw(tid));
        let done = ptrace::seize(thread, Options::empty()).and_then(|()| ptrace::interrupt(thread));
        match done {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(_) if state_of(pid, tid) == ENDED => Ok(false),
            Err(source @ Errno::EPERM) => Err(match tracer_of(pid, tid)? {
                0 => VdsoError::NotPermitted { pid, source },
                tracer => VdsoError::Traced { pid, tracer },
            }),
            Err(source) => Err(self.failed(tid, "attach to", source)),
        }
    }

    /// Wait until it has stopped, and say with which signal in hand; none if it has ended.
    fn wait(&self, tid: i32) -> Result<Option<i32>, VdsoError> {
        let begin = Instant::now();
        for look in 0u32.. {
            // Its state is older than the look, so that a stop in between is seen.
            let state = (look >= EAGER_LOOKS).then(|| state_of(self.pid, tid));
            let patience = if state == Some(BLOCKED) { PATIENCE_WITH_BLOCKED } else { PATIENCE };
            let is_late = begin.elapsed() > patience;
            if let Some(signal) = look_for_stop(tid).map_err(|source| self.failed(tid, "wait for", source))? {
                return Ok(Some(signal));
            }
            match state {
                None => std::thread::yield_now(),
                Some(ENDED) => break,
                Some(state) if is_late => return Err(VdsoError::Stuck { pid: self.pid, tid, state }),
                Some(_) => std::thread::sleep(PAUSE),
            }
        }
        Ok(None)
    }

    fn failed(&self, tid: i32, action: &'static str, source: Errno) -> VdsoError {
        match source {
            Errno::ESRCH => VdsoError::Gone { pid: self.pid },
            source => VdsoError::Trace { pid: self.pid, tid, action, source },
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for thread in &self.threads {
            // A signal that was about to be delivered is, with all that belongs to it. A process that was
            // stopped by a signal goes back to that stop by itself. A thread that was killed is no loss.
            let signal = std::ptr::without_provenance_mut::<libc::c_void>(thread.signal as usize);
            let none = std::ptr::null_mut::<libc::c_void>();
            // SAFETY: this request takes a number instead of an address, and writes nothing of ours.
            unsafe { libc::ptrace(libc::PTRACE_DETACH, thread.tid, none, signal) };
        }
    }
}

/// Whether a tracee has stopped, and then its signal in hand.
///
/// Only stops are asked for: the end of a process is its parent's to reap, who may be we.
fn look_for_stop(tid: i32) -> Result<Option<i32>, Errno> {
    // SAFETY: all zeros is a value of this plain structure.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WSTOPPED | libc::WNOHANG | libc::__WALL;
    // SAFETY: the structure outlives the call. nix's own waitid knows no realtime signals.
    let result = unsafe { libc::waitid(libc::P_PID, tid.cast_unsigned(), &raw mut info, flags) };
    match Errno::result(result) {
        Ok(_) => {}
        // It has ended, and been reaped: the caller sees that it is not listed any more.
        Err(Errno::ECHILD | Errno::EINTR) => return Ok(None),
        Err(error) => return Err(error),
    }
    // SAFETY: waitid fills these fields, or leaves zeros.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    // Above the signal is the event: 0 for a signal that is about to be delivered.
    let (event, signal) = (status >> 8, status & 0xFF);
    Ok((pid == tid).then_some(if event == 0 { signal } else { 0 }))
}

fn threads_of(pid: i32) -> Result<Vec<i32>, VdsoError> {
    let tasks = Process::new(pid).and_then(|process| process.tasks());
    let tasks = tasks.map_err(|error| read_error(pid, "task", &error))?;
    Ok(tasks.flatten().map(|task| task.tid).collect())
}

/// The state of a thread as in its `stat`, [`ENDED`] if there is no such thread or a zombie.
fn state_of(pid: i32, tid: i32) -> char {
    let stat = Process::new(pid).and_then(|process| process.task_from_tid(tid)).and_then(|task| task.stat());
    stat.map_or(ENDED, |stat| if matches!(stat.state, 'Z' | 'x') { ENDED } else { stat.state })
}

/// The pid of the process that traces a thread; 0 for none.
fn tracer_of(pid: i32, tid: i32) -> Result<i32, VdsoError> {
    let status = Process::new(pid).and_then(|process| process.task_from_tid(tid)?.status());
    let tracer = status.map_err(|error| read_error(pid, "status", &error))?.tracerpid;
    // The field names the one thread that traces.
    let process = Process::new(tracer).and_then(|process| process.status());
    Ok(process.map_or(tracer, |status| status.tgid))
}
