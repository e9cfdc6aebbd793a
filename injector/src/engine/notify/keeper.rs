//! The process that answers when the controller can't any more: it lets every call go on, until no process is left under the filter.
//!
//! Without it the listener would be closed with the controller, and each notified call of the command would fail with `ENOSYS` for ever.

use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::board::Board;
use super::listener::{Answer, Listener};
use crate::engine::helper;
use crate::kill_point::kill_point;

/// The command by which injector starts it.
pub const COMMAND: &str = "keeper";

/// How long after the deadline a controller that is stopped or starved may let calls wait.
const GRACE: Duration = Duration::from_secs(3);

/// The controller's end of it. The process ends with the last one under the filter, and not with this.
#[derive(Debug)]
pub(super) struct Keeper {
    child: Child,
    /// When this end of it is closed the process begins.
    _line: UnixStream,
}

impl Keeper {
    /// Starts it for an experiment that has so long yet.
    pub(super) fn start(listener: BorrowedFd<'_>, board: BorrowedFd<'_>, left: Duration) -> io::Result<Self> {
        let (mut line, theirs) = UnixStream::pair()?;
        let mut command = helper::command(COMMAND);
        // All that it needs is in the place of what other processes have there.
        command.arg((left + GRACE).as_millis().to_string());
        command.stdin(Stdio::from(listener.try_clone_to_owned()?));
        command.stdout(Stdio::from(OwnedFd::from(theirs)));
        command.stderr(Stdio::from(board.try_clone_to_owned()?));
        let child = command.spawn()?;
        // Its end of the line is in the command until then.
        drop(command);
        // It says when it is there: one that could not begin keeps nothing.
        line.read_exact(&mut [0])?;
        kill_point("keeper started");
        Ok(Self { child, _line: line })
    }

    /// Whether it is still there.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

/// The process itself: the listener is on stdin, the line on stdout, and the shared memory on stderr.
pub fn keep(within: Duration) -> io::Result<()> {
    let (stdin, mut line, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let listener = Listener::new(stdin.as_fd().try_clone_to_owned()?);
    let board = Board::map(&stderr)?;
    // Nobody to tell that it is there: the controller is dead already, which the wait sees too.
    let _ = line.write_all(b"\n").and_then(|()| line.flush());
    let deadline = Instant::now() + within;
    let is_left = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut files =
            [PollFd::new(line.as_fd(), PollFlags::POLLIN), PollFd::new(listener.as_fd(), PollFlags::empty())];
        match ppoll(&mut files, Some(TimeSpec::from_duration(left)), None) {
            Ok(0) => break true,
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
            Ok(_) => {}
        }
        let [line, listener] = files.map(|file| file.revents().is_some_and(|events| !events.is_empty()));
        if listener || line {
            break !listener;
        }
    };
    if is_left { let_all_go_on(&listener, &board) } else { Ok(()) }
}

/// Lets go on who waits for the controller, and then whoever comes.
fn let_all_go_on(listener: &Listener, board: &Board) -> io::Result<()> {
    for (id, answer) in board.waiting() {
        listener.answer(id, answer);
    }
    loop {
        let mut files = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut files, None, None) {
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
            Ok(_) => {}
        }
        let events = files.map(|file| file.revents().unwrap_or(PollFlags::empty()));
        if !events[0].contains(PollFlags::POLLIN) {
            return Ok(());
        }
        let mut call = MaybeUninit::<libc::seccomp_notif>::uninit();
        if listener.receive(call.as_mut_ptr()).is_ok() {
            // SAFETY: the kernel has written it.
            listener.answer(unsafe { call.assume_init() }.id, Answer::GoOn);
        }
    }
}
