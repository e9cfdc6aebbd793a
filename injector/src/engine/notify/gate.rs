//! The way of the command under its filter, between fork and exec.
//!
//! From the moment at which the filter is there the child may be stopped in any call until somebody answers, so it can't say anything
//! by a call: it writes into memory that it shares with the controller, where a thread looks. That thread takes the listener, begins to
//! answer, and only then lets the child go on, which loses its own end of the listener when it becomes the command.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::unistd::{pipe2, write};

use super::listener::{Listener, install};

/// How often the thread looks: nobody notices when a command starts so much later.
const LOOK: Duration = Duration::from_micros(100);

/// What the child says.
#[repr(C)]
struct Said {
    /// Its number; 0 is not yet.
    pid: AtomicI32,
    /// The number of its listener and one more, or a negative errno; 0 is not yet.
    listener: AtomicI32,
}

/// Memory that a child shares with the process that has made it.
#[derive(Debug)]
struct Page(NonNull<Said>);

// SAFETY: it holds atomics alone.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    fn new() -> io::Result<Self> {
        let length = NonZeroUsize::new(size_of::<Said>()).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: new memory of its own, zeros, which is taken away with `self`.
        let address = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_SHARED) }?;
        Ok(Self(address.cast()))
    }

    fn said(&self) -> &Said {
        // SAFETY: the mapping lasts as long as `self`, and zeros are atomics.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` has made, which nobody uses any more here. One that stays does no harm.
        let _ = unsafe { munmap(self.0.cast(), size_of::<Said>()) };
    }
}

/// The child's side.
#[derive(Debug)]
pub struct Gate {
    page: Arc<Page>,
    filter: Vec<libc::sock_filter>,
    waits: OwnedFd,
    /// The process that opens the gate.
    parent: u32,
}

/// The controller's side.
#[derive(Debug)]
pub(super) struct Door {
    page: Arc<Page>,
    lets_go: OwnedFd,
}

/// Both sides of a way under a filter.
pub(super) fn open(filter: Vec<libc::sock_filter>) -> io::Result<(Gate, Door)> {
    let page = Arc::new(Page::new()?);
    let (waits, lets_go) = pipe2(OFlag::O_CLOEXEC)?;
    let door = Door { page: Arc::clone(&page), lets_go };
    Ok((Gate { page, filter, waits, parent: std::process::id() }, door))
}

impl Gate {
    /// Puts this process under the filter and waits until somebody answers its calls. For between fork and exec: it makes system calls alone.
    ///
    /// Until then it dies with the thread that has forked it: it holds both ends of what it waits by, so nothing else would end it, and a call that
    /// is notified before somebody has the listener would wait for ever.
    pub fn pass(&self) -> io::Result<()> {
        die_with_parent(libc::SIGKILL)?;
        // SAFETY: a plain system call.
        if unsafe { libc::getppid() }.cast_unsigned() != self.parent {
            return Err(Errno::ECANCELED.into());
        }
        let said = self.page.said();
        // SAFETY: a plain system call.
        said.pid.store(unsafe { libc::getpid() }, Ordering::Release);
        match install(&self.filter) {
            Ok(number) => said.listener.store(number + 1, Ordering::Release),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
                said.listener.store(-errno, Ordering::Release);
                return Err(error);
            }
        }
        let mut byte = 0_u8;
        loop {
            // SAFETY: the byte lives until the call returns.
            let read = unsafe { libc::read(self.waits.as_raw_fd(), (&raw mut byte).cast(), 1) };
            match Errno::result(read) {
                // From here on its calls are answered also without its parent.
                Ok(1) => return die_with_parent(0),
                Err(Errno::EINTR) => {}
                Ok(_) => return Err(Errno::ECANCELED.into()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Says by which signal this process dies when the thread that has forked it does; 0 is not at all.
fn die_with_parent(signal: i32) -> io::Result<()> {
    // SAFETY: a plain system call.
    Ok(Errno::result(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) }).map(drop)?)
}

/// Who has come, and the listener of its filter.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) pid: i32,
    pub(super) listener: Listener,
}

/// Why a child is not under its filter.
#[derive(Debug)]
pub(super) struct NotTaken {
    /// What failed.
    pub(super) step: &'static str,
    pub(super) source: io::Error,
}

impl Door {
    /// Waits for the child and takes its listener; `None` if none has come when it is over. A child whose listener can't be taken is
    /// killed: nobody would ever answer it.
    pub(super) fn take(&self, is_over: &dyn Fn() -> bool) -> Result<Option<Taken>, NotTaken> {
        let said = self.page.said();
        let number = loop {
            match said.listener.load(Ordering::Acquire) {
                0 if is_over() => return Ok(None),
                0 => std::thread::sleep(LOOK),
                number => break number,
            }
        };
        let pid = said.pid.load(Ordering::Acquire);
        if number < 0 {
            let source = io::Error::from_raw_os_error(-number);
            return Err(NotTaken { step: "seccomp", source });
        }
        match descriptor_of(pid, number - 1) {
            Ok(descriptor) => Ok(Some(Taken { pid, listener: Listener::new(descriptor) })),
            Err(error) => {
                end(pid);
                Err(error)
            }
        }
    }

    /// Lets the child go on.
    pub(super) fn let_go(&self) -> io::Result<()> {
        Ok(write(&self.lets_go, &[1]).map(drop)?)
    }
}

/// Ends a child that waits at the gate.
pub(super) fn end(pid: i32) {
    // It is a child of this process that nobody has waited for, so the number is its own.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

/// A descriptor of another process, as one of this process's own.
pub(super) fn descriptor_of(pid: i32, number: i32) -> Result<OwnedFd, NotTaken> {
    let failed = |step| move |errno: Errno| NotTaken { step, source: errno.into() };
    // SAFETY: plain system calls; what they return is a new descriptor of this process.
    unsafe {
        let process =
            Errno::result(libc::syscall(libc::SYS_pidfd_open, pid, 0)).map_err(failed("pidfd_open"))?;
        let process = OwnedFd::from_raw_fd(process as i32);
        let taken = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0);
        let taken = Errno::result(taken).map_err(failed("pidfd_getfd"))?;
        Ok(OwnedFd::from_raw_fd(taken as i32))
    }
}
