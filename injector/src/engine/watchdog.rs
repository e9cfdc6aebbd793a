//! A second process that takes back what would outlive its controller and goes on striking: a device that is down.
//!
//! The kernel's faults end by themselves; this one needs somebody who acts. It waits for the controller's end, which it sees
//! by a pipe, and for the deadline, which a controller that is stopped or starved misses. It changes no journal: what it
//! does is done again by the controller or by `clean`, to no effect.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::journal::{Entry, JournalError, Store, undo};
use crate::kill_point;

/// The command by which injector starts it.
pub const COMMAND: &str = "watch";

/// How long after the deadline the controller may take to set its devices up by itself.
const GRACE: Duration = Duration::from_secs(3);

/// The controller's end of it. Without the controller the process does its work; dropping this ends it first.
#[derive(Debug)]
pub(super) struct Watchdog(Child);

impl Watchdog {
    /// Starts it for an experiment that has so long yet.
    pub(super) fn start(id: &str, left: Duration) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let within_ms = (left + GRACE).as_millis().to_string();
        command.args([COMMAND, id, &within_ms]).env_remove(kill_point::VARIABLE);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec it makes two plain system calls, which are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                // What ends the controller's group or terminal must not end it too.
                nix::unistd::setsid()?;
                // Somebody may wait for the end of what the controller has inherited.
                let (first, last) = (3 as libc::c_uint, libc::c_uint::MAX);
                let marked = libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC);
                Ok(Errno::result(marked).map(drop)?)
            });
        }
        Ok(Self(command.spawn()?))
    }

    /// Whether it is still there.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // One that has ended can't be killed, and what could not be taken back is told by the controller.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process itself: waits until stdin ends or the time is over, and takes back what still strikes.
pub fn watch(id: &str, within: Duration) -> Result<(), JournalError> {
    wait_for_end(within);
    let listing = Store::open_default()?.list()?;
    for experiment in listing.experiments.iter().filter(|experiment| experiment.header.id == id) {
        let left = experiment.entries.iter().filter(|recorded| !recorded.undone).rev();
        for recorded in left.filter(|recorded| matches!(recorded.entry, Entry::LinkDown { .. })) {
            // What fails stays in the journal, for the controller or for `clean`, which tell of it.
            let _ = undo(&recorded.entry, id);
        }
    }
    Ok(())
}

fn wait_for_end(within: Duration) {
    let (stdin, begin) = (io::stdin(), Instant::now());
    loop {
        let left = within.saturating_sub(begin.elapsed());
        // Rounded up, so that the end is not waited for in many short sleeps.
        let left_ms = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
        let timeout = PollTimeout::try_from(left_ms).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            // Nobody writes to the pipe: what there is to read is its end.
            Ok(0) if begin.elapsed() < within => {}
            Err(Errno::EINTR) => {}
            _ => return,
        }
    }
}
