//! The clocks that one process sees: its vDSO patched, live, and restored.
//!
//! Programs read clocks from the vDSO, without a system call that a hook could change. So the three functions
//! that they call are made to jump to code in the padding at its end, which runs the true function by its moved
//! first instructions and converts the result ([`Segment`]). The pages are private to a process: a child that it forks inherits the patch, with
//! its mark, and a program that it executes gets a fresh vDSO, and true time.
//!
//! Here lives what touches the target: `cave` is the code and its data, `trampoline` the moved instructions, `image` the vDSO, `tracer` stops and lets
//! go, `frames` finds threads where they must not be, `seccomp` asks their filters, `patch` has the steps. What a clock should show, which
//! processes are patched, and who remembers it, is decided elsewhere.
//!
//! What a target can notice: each thread is stopped for some milliseconds, and a wait that the kernel does not resume
//! after a stop (`epoll_wait`, `semop`: see signal(7)) returns `EINTR`. After [`restore`] the functions are
//! byte for byte what they were; in the padding the code remains, without use, as a thread may be in it, or
//! return into it from a signal handler.
//!
//! What is not seen: programs that make the system call themselves, timers and timeouts, which the kernel keeps
//! by true time, and processes that share memory without being threads of one (`CLONE_VM`, but for a `vfork`,
//! whose parent is refused while it waits): they are not stopped, and get the patch with the one that is.

#[cfg(target_arch = "x86_64")]
mod cave;
mod error;
#[cfg(target_arch = "x86_64")]
mod frames;
#[cfg(target_arch = "x86_64")]
mod image;
mod model;
#[cfg(target_arch = "x86_64")]
mod offsets;
#[cfg(target_arch = "x86_64")]
mod patch;
#[cfg(target_arch = "x86_64")]
mod seccomp;
#[cfg(target_arch = "x86_64")]
mod tracer;
#[cfg(target_arch = "x86_64")]
mod trampoline;

pub use error::VdsoError;
pub use model::{Clocks, MAX_SEGMENTS, Segment};

use super::process::ProcessId;

/// What came of [`patch()`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patched {
    /// The process showed true time before.
    New,
    /// It had this mark's patch already, its own or its parent's, which now shows the new clocks.
    Updated,
}

/// What came of [`restore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// The patch was there, and is not any more.
    Removed,
    /// There was no patch of this mark: the process has executed another program, or was never patched.
    NotPatched,
    /// The process has ended.
    Gone,
}

/// Make a process see other clocks, from now until [`restore`].
///
/// The mark says whose patch it is, and is not 0. If the process is a child of this one, nobody else may wait
/// for it meanwhile, as they could take the news of its stops.
#[cfg(target_arch = "x86_64")]
pub fn patch(process: ProcessId, mark: u64, clocks: &Clocks) -> Result<Patched, VdsoError> {
    patch::patch(process, mark, clocks)
}

/// Take back what [`patch()`] did under this mark. All that is needed is in the process itself.
#[cfg(target_arch = "x86_64")]
pub fn restore(process: ProcessId, mark: u64) -> Result<Restored, VdsoError> {
    patch::restore(process, mark)
}

/// Whose patch a process has. It is not stopped for this.
#[cfg(target_arch = "x86_64")]
pub fn mark(process: ProcessId) -> Result<Option<u64>, VdsoError> {
    patch::mark(process)
}

/// Refused: there is no code for this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub fn patch(_process: ProcessId, _mark: u64, _clocks: &Clocks) -> Result<Patched, VdsoError> {
    Err(VdsoError::Architecture)
}

/// Refused: there is no code for this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub fn restore(_process: ProcessId, _mark: u64) -> Result<Restored, VdsoError> {
    Err(VdsoError::Architecture)
}

/// Refused: there is no code for this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub fn mark(_process: ProcessId) -> Result<Option<u64>, VdsoError> {
    Err(VdsoError::Architecture)
}
