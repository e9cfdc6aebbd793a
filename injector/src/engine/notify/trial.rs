//! Whether calls can be notified here, tried: a child puts itself under a filter, and one call of it is answered.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use super::gate::{self, Door, NotTaken, Taken};
use super::listener::{Answer, filter};

/// How long the child may take.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_MS: u8 = 100;

/// What the call of the trial returns, which it never does by itself.
const ANSWERED: i64 = 4_000_000;

/// Why calls can't be notified here, if they can't.
pub(in crate::engine) fn trial() -> Result<(), String> {
    if !cfg!(target_arch = "x86_64") {
        return Err("its calls are known for x86-64 alone".to_owned());
    }
    let failed = |error: std::io::Error| crate::errno::name_of(&error);
    let (gate, door) = gate::open(filter(&[libc::SYS_getpgid as u32])).map_err(failed)?;
    // SAFETY: the child makes nothing but system calls until it ends.
    match unsafe { fork() }.map_err(|errno| failed(errno.into()))? {
        ForkResult::Child => {
            let is_answered = gate.pass().is_ok_and(|()| {
                // SAFETY: a plain system call.
                let said = unsafe { libc::syscall(libc::SYS_getpgid, 0) };
                said == ANSWERED
            });
            // SAFETY: ends the child without anything that its parent has registered.
            unsafe { libc::_exit(i32::from(!is_answered)) }
        }
        ForkResult::Parent { child } => {
            let tried = answer_one(&door)
                .map_err(|error| format!("{}: {}", error.step, crate::errno::name_of(&error.source)));
            if tried.is_err() {
                gate::end(child.as_raw());
            }
            let ended = waitpid(child, None);
            tried?;
            match ended {
                Ok(WaitStatus::Exited(_, 0)) => Ok(()),
                _ => Err("a call was answered, and did not return that".to_owned()),
            }
        }
    }
}

/// Takes the child's listener, lets it go on, and answers its call.
fn answer_one(door: &Door) -> Result<(), NotTaken> {
    let at = |step| move |source| NotTaken { step, source };
    let late = || NotTaken { step: "no call was notified", source: std::io::ErrorKind::TimedOut.into() };
    let begun = Instant::now();
    // A child that dies on its way says nothing.
    let is_late = || begun.elapsed() >= PATIENCE;
    let Some(Taken { listener, .. }) = door.take(&is_late)? else { return Err(late()) };
    door.let_go().map_err(at("write"))?;
    while !is_late() {
        let mut files = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut files, PollTimeout::from(LOOK_MS)).map_err(|errno| at("poll")(errno.into()))?;
        if ready > 0 {
            let mut call = std::mem::MaybeUninit::<libc::seccomp_notif>::uninit();
            listener.receive(call.as_mut_ptr()).map_err(at("SECCOMP_IOCTL_NOTIF_RECV"))?;
            // SAFETY: the kernel has written it.
            listener.answer(unsafe { call.assume_init() }.id, Answer::Return(ANSWERED));
            return Ok(());
        }
    }
    Err(late())
}
