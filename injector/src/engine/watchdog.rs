//! A second process that takes back what would outlive its controller and go on striking: a device that is down, a cgroup that is frozen.
//!
//! The kernel's faults end by themselves; these need somebody who acts. It waits for the controller's end, which it sees by a pipe, for the
//! times that the controller has told it by that pipe, and for the deadline: a controller that is stopped or starved misses them. The journal
//! of a dead controller it takes over, and notes what is taken back, so that `clean` does not do it once more when things are others; that
//! of a living one it leaves.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use super::helper;
use super::urgent::prefer;
use crate::journal::{JournalError, Store, undo};

/// The command by which injector starts it.
pub const COMMAND: &str = "watch";

/// How long after the deadline the controller may take to take back by itself what is still on.
const GRACE: Duration = Duration::from_secs(3);

/// The same after a time that it has told: peers of the target must not notice more than 50 ms.
const GRACE_OF_TOLD: Duration = Duration::from_millis(20);

/// How often the journal of a dead controller is asked for, and how long is waited in between.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// The controller's end of it. Without the controller the process does its work; dropping this ends it first.
#[derive(Debug)]
pub(super) struct Watchdog {
    child: Child,
    id: String,
    ends: Instant,
    until: Option<Instant>,
}

impl Watchdog {
    /// Starts it for an experiment that has so long yet.
    pub(super) fn start(id: &str, left: Duration) -> io::Result<Self> {
        let child = spawn(id, left)?;
        let mut this = Self { child, id: id.to_owned(), ends: Instant::now() + left, until: None };
        // It says when it is there: one that could not begin guards nothing.
        let ready = this.child.stdout.take().map(|mut stdout| stdout.read_exact(&mut [0]));
        ready.unwrap_or(Ok(()))?;
        Ok(this)
    }

    /// Whether it is still there.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Tells until when something is on that it takes back if nobody else does; `None` is that nothing is.
    pub(super) fn expect(&mut self, until: Option<Instant>) {
        self.until = until;
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let at_ns = left.map_or(0, |left| (monotonic() + left).as_nanos() as u64);
        if let Some(stdin) = &mut self.child.stdin {
            // One that does not read is dead or stopped; the next look finds out.
            let _ = stdin.write_all(&at_ns.to_le_bytes());
        }
    }

    /// Starts it anew if it has ended.
    pub(super) fn keep(&mut self) {
        if self.is_alive() {
            return;
        }
        let left = self.ends.saturating_duration_since(Instant::now());
        match Self::start(&self.id, left) {
            Ok(mut new) => {
                new.expect(self.until);
                *self = new;
            }
            Err(error) => tracing::warn!(%error, "the process that stands by could not be started again"),
        }
    }
}

fn spawn(id: &str, left: Duration) -> io::Result<Child> {
    let within_ms = (left + GRACE).as_millis().to_string();
    let mut command = helper::command(COMMAND);
    command.args([id, &within_ms]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = command.spawn()?;
    if let Some(stdin) = &child.stdin {
        // Whoever has stopped it must not stop the controller too.
        fcntl(stdin, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    Ok(child)
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // One that has ended can't be killed, and what could not be taken back is told by the controller.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process itself: waits until stdin ends or a time is over, and takes back what still strikes.
pub fn watch(id: &str, within: Duration) -> Result<(), JournalError> {
    // Nobody to tell that it is there: the controller is dead already, which the wait sees too.
    let _ = io::stdout().write_all(b"\n").and_then(|()| io::stdout().flush());
    // It sleeps until it is needed, and then others wait for it.
    prefer();
    let store = Store::open_default()?;
    let (deadline, mut told) = (monotonic() + within, None);
    let mut is_over = false;
    loop {
        match next(told, (!is_over).then_some(deadline)) {
            Event::Told(until) => told = until,
            // The controller is late, and has its journal: what is done here, it or `clean` does again, to no effect.
            Event::Late => {
                told = None;
                // What fails is tried again at the next event: whoever ends here guards nothing any more.
                let _ = take_back_beside(&store, id);
            }
            Event::Over => {
                is_over = true;
                let _ = take_back_beside(&store, id);
            }
            Event::End => return take_back(&store, id),
        }
    }
}

/// Takes back what still strikes of a dead experiment, and notes it.
fn take_back(store: &Store, id: &str) -> Result<(), JournalError> {
    for _ in 0..ATTEMPTS {
        if let Some(mut journal) = store.take_over(id)? {
            for index in (0..journal.entries().len()).rev() {
                if journal.entries()[index].entry.strikes_on() {
                    // What fails stays in the journal, for `clean`, which tells of it.
                    let _ = journal.undo(index);
                }
            }
            return Ok(());
        }
        // The pipe of a process may end before its locks do; or somebody cleans, and does it all.
        std::thread::sleep(PAUSE);
    }
    take_back_beside(store, id)
}

/// Takes back what still strikes, without the journal.
fn take_back_beside(store: &Store, id: &str) -> Result<(), JournalError> {
    let listing = store.list()?;
    for experiment in listing.experiments.iter().filter(|experiment| experiment.header.id == id) {
        let left = experiment.entries.iter().filter(|recorded| !recorded.undone).rev();
        for recorded in left.filter(|recorded| recorded.entry.strikes_on()) {
            // What fails stays in the journal, for the controller or for `clean`, which tell of it.
            let _ = undo(&recorded.entry, id);
        }
    }
    Ok(())
}

/// Something that the process waits for.
enum Event {
    /// The controller has said until when something is on.
    Told(Option<Duration>),
    /// The controller has not ended it then.
    Late,
    /// The experiment is over.
    Over,
    /// The controller has ended.
    End,
}

/// Waits for the next event; the times are those of the monotonic clock.
fn next(told: Option<Duration>, deadline: Option<Duration>) -> Event {
    let stdin = io::stdin();
    let late = told.map(|told| told + GRACE_OF_TOLD);
    loop {
        let soonest = late.into_iter().chain(deadline).min();
        let left = soonest.map(|soonest| TimeSpec::from_duration(soonest.saturating_sub(monotonic())));
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut fds, left, None) {
            Ok(0) | Err(Errno::EINTR) => {}
            _ => return heard(&stdin),
        }
        let now = monotonic();
        if late.is_some_and(|late| now >= late) {
            return Event::Late;
        }
        if deadline.is_some_and(|deadline| now >= deadline) {
            return Event::Over;
        }
    }
}

/// What the controller says; its messages are whole, since they are shorter than what a pipe takes at once.
fn heard(stdin: &io::Stdin) -> Event {
    let mut message = [0; size_of::<u64>()];
    // Unbuffered: what waits in a buffer wakes nobody who waits for the pipe.
    match nix::unistd::read(stdin, &mut message) {
        Ok(read) if read == message.len() => match u64::from_le_bytes(message) {
            0 => Event::Told(None),
            at_ns => Event::Told(Some(Duration::from_nanos(at_ns))),
        },
        _ => Event::End,
    }
}

fn monotonic() -> Duration {
    // The clock is there on every kernel, and the call has nothing else to fail of.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}
