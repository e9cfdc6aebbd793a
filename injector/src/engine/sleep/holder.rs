//! The process whose pages come late. It maps the file, says where, and never does anything again.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use injector_common::operation::NAPS;
use nix::errno::Errno;
use nix::libc;
use nix::unistd::{ForkResult, fork, pipe};

/// The holder's number, and the end of the pipe by which it says where the pages are.
pub(super) struct Holder {
    pub(super) pid: i32,
    pub(super) says: OwnedFd,
}

impl Holder {
    /// Starts it on a file: it opens it, which only returns once the file is served.
    pub(super) fn start(file: &OwnedFd, size: usize) -> io::Result<Self> {
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let (says, tells) = pipe()?;
        let parent = std::process::id().cast_signed();
        // SAFETY: this process has one thread, and the child makes nothing but system calls.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self { pid: child.as_raw(), says }),
            ForkResult::Child => hold(&path, size, &tells, parent),
        }
    }
}

/// What the child does.
fn hold(path: &CString, size: usize, tells: &OwnedFd, parent: i32) -> ! {
    // SAFETY: plain system calls on what is there; the mapping is never looked at here.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() == parent {
            let address = map(path, size);
            let bytes = (&raw const address).cast();
            libc::write(tells.as_raw_fd(), bytes, size_of::<isize>());
            if address > 0 {
                loop {
                    libc::pause();
                }
            }
        }
        libc::_exit(1);
    }
}

/// Where the file is mapped, or a negative errno.
fn map(path: &CString, size: usize) -> isize {
    let failed = || -(Errno::last_raw() as isize);
    // SAFETY: as above.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return failed();
        }
        let file = OwnedFd::from_raw_fd(file);
        let mut stat = std::mem::zeroed::<libc::stat>();
        // Before that the kernel takes the file for an empty one.
        if libc::fstat(file.as_raw_fd(), &raw mut stat) < 0 {
            return failed();
        }
        let address =
            libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
        // One page at a time, and none ahead.
        if address == libc::MAP_FAILED || libc::madvise(address, size, libc::MADV_RANDOM) < 0 {
            return failed();
        }
        address as isize
    }
}

/// The size of the file, for pages of that size.
pub(super) const fn size_of_file(page: usize) -> usize {
    NAPS as usize * page
}
