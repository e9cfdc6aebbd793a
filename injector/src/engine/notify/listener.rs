//! The kernel's end of it: the filter as a program, and the descriptor by which notified calls come and are answered.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

/// The architecture of system calls of 64-bit programs (`AUDIT_ARCH_X86_64` in `include/uapi/linux/audit.h`).
const ARCHITECTURE: u32 = 0xc000_003e;

/// Where the number of the call and its architecture lie (`struct seccomp_data`).
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// The filter that notifies of these system calls, and lets all others pass: those of 32-bit programs too, whose numbers are others.
pub(super) fn filter(calls: &[u32]) -> Vec<libc::sock_filter> {
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let pass = step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0);
    let notify = step(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0, 0);
    let mut steps = vec![
        step(LOAD, ARCHITECTURE_AT, 0, 0),
        step(JUMP_IF_EQUAL, ARCHITECTURE, 1, 0),
        pass,
        step(LOAD, NUMBER_AT, 0, 0),
    ];
    // A return behind each number: a jump to a common one reaches 255 steps at most.
    steps.extend(calls.iter().flat_map(|number| [step(JUMP_IF_EQUAL, *number, 0, 1), notify]));
    steps.push(pass);
    steps
}

/// Puts the calling process under a filter, for good, and returns the number of its listener. Makes system calls alone.
pub(super) fn install(filter: &[libc::sock_filter]) -> io::Result<i32> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    let plain = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    let install = |flags: libc::c_ulong| {
        // SAFETY: the kernel reads the program, which lives until the call returns.
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) }
    };
    // From 5.19 on: a call whose decision is under way is not given up for a signal, and then made and decided anew.
    let mut made = install(plain | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
    if made < 0 && Errno::last() == Errno::EINVAL {
        made = install(plain);
    }
    Ok(Errno::result(made).map(|number| number as i32)?)
}

/// What becomes of a notified call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The kernel makes it, as if nobody had asked.
    GoOn,
    /// It is not made, and fails.
    Fail(i32),
    /// It is not made, and returns this.
    Return(i64),
}

/// The descriptor by which notified calls come.
#[derive(Debug)]
pub(super) struct Listener(OwnedFd);

impl Listener {
    pub(super) fn new(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// The next call that waits, where it is told to be put. There must be one, else this waits for it.
    ///
    /// `ENOENT` is that it was killed meanwhile.
    pub(super) fn receive(&self, into: *mut libc::seccomp_notif) -> io::Result<()> {
        // SAFETY: the caller's place for one, which nobody else uses; the kernel wants zeros, and writes it.
        let received = unsafe {
            into.write_bytes(0, 1);
            libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, into)
        };
        Ok(Errno::result(received).map(drop)?)
    }

    /// Answers a call. One that is not there any more needs no answer.
    pub(super) fn answer(&self, id: u64, answer: Answer) {
        let (val, error, flags) = match answer {
            Answer::GoOn => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
            Answer::Fail(errno) => (0, -errno, 0),
            Answer::Return(value) => (value, 0, 0),
        };
        let mut response = libc::seccomp_notif_resp { id, val, error, flags };
        // SAFETY: the kernel reads the response, which lives until the call returns.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) };
    }

    /// Whether a call waits still: else its process may be another one by now.
    pub(super) fn waits(&self, id: u64) -> bool {
        // SAFETY: the kernel reads the number, which lives until the call returns.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter says, by a machine that knows the three instructions that it is made of.
    fn says(filter: &[libc::sock_filter], number: u32, architecture: u32) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let step = filter[at];
            at += 1;
            match step.code {
                LOAD if step.k == NUMBER_AT => value = number,
                LOAD => value = architecture,
                JUMP_IF_EQUAL => at += usize::from(if value == step.k { step.jt } else { step.jf }),
                RETURN => return step.k,
                code => panic!("{code}"),
            }
        }
    }

    #[test]
    fn the_filter_notifies_of_its_calls_alone() {
        let calls: Vec<u32> = (0..400).filter(|number| number % 3 == 0).collect();
        let filter = filter(&calls);
        for number in 0..500 {
            let notified = says(&filter, number, ARCHITECTURE) == libc::SECCOMP_RET_USER_NOTIF;
            assert_eq!(notified, calls.contains(&number), "{number}");
            assert_eq!(says(&filter, number, 0x4000_0003), libc::SECCOMP_RET_ALLOW, "of i386");
        }
        // x32 has its numbers above.
        assert_eq!(says(&filter, 0x4000_0003, ARCHITECTURE), libc::SECCOMP_RET_ALLOW);
    }
}
