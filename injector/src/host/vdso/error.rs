//! What can go wrong with the patch of a process's vDSO, and the remedy for each.

use nix::errno::Errno;

/// A patch that could not be made, taken back or looked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VdsoError {
    /// There is no machine code for this architecture.
    #[error(
        "the clocks of a process cannot be changed on {}: the patch is written for x86-64",
        std::env::consts::ARCH
    )]
    Architecture,
    /// The request cannot be expressed.
    #[error("these clocks cannot be shown: {why}")]
    Request {
        /// What is wrong with it.
        why: &'static str,
    },
    /// No such process, or a zombie.
    #[error("there is no process {pid} any more")]
    Gone {
        /// Its pid.
        pid: i32,
    },
    /// A thread of the kernel has no vDSO.
    #[error("process {pid} is a thread of the kernel, and reads no clock through a vDSO")]
    KernelThread {
        /// Its pid.
        pid: i32,
    },
    /// Nobody can trace itself.
    #[error("process {pid} is injector itself")]
    OwnProcess {
        /// Its pid.
        pid: i32,
    },
    /// The caller may not trace it.
    #[error("process {pid} cannot be traced: {source}")]
    NotPermitted {
        /// Its pid.
        pid: i32,
        /// What the kernel said.
        source: Errno,
    },
    /// There is a tracer already, and there can be only one.
    #[error("process {pid} is traced by process {tracer} already")]
    Traced {
        /// Its pid.
        pid: i32,
        /// The pid of the tracer: a debugger, strace.
        tracer: i32,
    },
    /// A filter of system calls would see calls that the vDSO spared it so far, and does not allow them.
    #[error(
        "process {pid} is under seccomp, and its filter does not allow `clock_gettime` and `gettimeofday`"
    )]
    Seccomp {
        /// Its pid.
        pid: i32,
    },
    /// The kernel gave it no vDSO.
    #[error("process {pid} has no vDSO")]
    NoVdso {
        /// Its pid.
        pid: i32,
    },
    /// Its vDSO is not the x86-64 one.
    #[error("process {pid} is a 32-bit program")]
    ThirtyTwoBit {
        /// Its pid.
        pid: i32,
    },
    /// Its vDSO is not as expected.
    #[error("the vDSO of process {pid} is not understood: {why}")]
    Layout {
        /// Its pid.
        pid: i32,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The padding behind the vDSO is too small.
    #[error("the vDSO of process {pid} has {free_bytes} bytes of room, and the patch needs {needed_bytes}")]
    NoRoom {
        /// Its pid.
        pid: i32,
        /// The zeros at its end.
        free_bytes: usize,
        /// The size of the patch.
        needed_bytes: usize,
    },
    /// Somebody else changed it.
    #[error("`{function}` in the vDSO of process {pid} is patched by another program")]
    Foreign {
        /// Its pid.
        pid: i32,
        /// The function.
        function: &'static str,
    },
    /// Another experiment changed it.
    #[error("the clocks of process {pid} are changed by another experiment, of mark {mark:#x}")]
    OtherMark {
        /// Its pid.
        pid: i32,
        /// The mark found.
        mark: u64,
    },
    /// Another version of injector changed it.
    #[error("the clocks of process {pid} are changed by another version of injector")]
    OtherVersion {
        /// Its pid.
        pid: i32,
    },
    /// A thread never left the few bytes that are to be replaced.
    #[error("thread {tid} of process {pid} stays within the first instructions of a clock function")]
    Busy {
        /// Its pid.
        pid: i32,
        /// The thread.
        tid: i32,
    },
    /// A thread does not stop.
    #[error("thread {tid} of process {pid} does not stop: its state is `{state}`")]
    Stuck {
        /// Its pid.
        pid: i32,
        /// The thread.
        tid: i32,
        /// As in `/proc/PID/stat`: `D` for an uninterruptible wait.
        state: char,
    },
    /// Something about the process could not be read.
    #[error("cannot read {what} of process {pid}: {source}")]
    Read {
        /// Its pid.
        pid: i32,
        /// Which file.
        what: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// Its memory could not be written.
    #[error("cannot write the vDSO of process {pid}: {source}")]
    Write {
        /// Its pid.
        pid: i32,
        /// What the kernel said.
        source: Errno,
    },
    /// A step of tracing failed.
    #[error("cannot {action} thread {tid} of process {pid}: {source}")]
    Trace {
        /// Its pid.
        pid: i32,
        /// The thread.
        tid: i32,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: Errno,
    },
}

impl VdsoError {
    /// The remedy, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Gone { .. } => "it has ended, or it is of another pid namespace",
            Self::OwnProcess { .. } => "choose a target that does not hold injector",
            Self::NotPermitted { .. }
            | Self::Read { source: Errno::EACCES | Errno::EPERM, .. }
            | Self::Write { source: Errno::EACCES | Errno::EPERM | Errno::EIO, .. } => {
                "run as root, with the capability CAP_SYS_PTRACE"
            }
            Self::Traced { tracer, .. } => {
                return Some(format!("end the tracer first: `ps -p {tracer}` says which it is"));
            }
            Self::Seccomp { .. } => {
                "allow both: `SystemCallFilter=` of systemd, or `docker run --security-opt seccomp=unconfined`"
            }
            Self::NoVdso { .. } => "boot without `vdso=0`; gVisor and the like have none",
            Self::ThirtyTwoBit { .. } => "only 64-bit programs can be given another time",
            Self::OtherMark { .. } => "end that experiment first: `injector status` lists them",
            Self::OtherVersion { .. } => "run `injector clean` of that version, or restart the process",
            Self::Foreign { .. } => "remove its breakpoint or its hook",
            Self::Busy { .. } | Self::Stuck { .. } => {
                "try again; `cat /proc/PID/stack` says what it waits for"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
