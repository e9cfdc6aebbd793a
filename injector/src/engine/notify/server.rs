//! The threads that answer: one of them waits for the next call and for those whose time has come, the others decide meanwhile.
//!
//! They answer for as long as a process under the filter lives: first as the rules say, and from the end of the experiment on to go on.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::stat;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use super::board::{Board, Place, RECEIVERS};
use super::keeper::Keeper;
use super::listener::{Answer, Listener};
use super::look::{Found, Waiting, look};
use super::rules::{Fate, Rules, Seen, Sight};
use super::short::Move;
use crate::plan::operations::notified::Deed;

/// From when to when the faults strike, `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub(super) start_ns: u64,
    pub(super) deadline_ns: u64,
}

/// A call that waits for its time.
#[derive(Debug)]
struct Nap {
    call: Waiting,
    fate: Fate,
    place: Place,
}

/// What all threads share.
#[derive(Debug)]
pub(super) struct Server {
    listener: Listener,
    board: Board,
    /// The same memory, for another process.
    board_file: OwnedFd,
    rules: Arc<Rules>,
    times: Times,
    wake: EventFd,
    /// Calls that wait, by their times and ids.
    naps: Mutex<BTreeMap<(u64, u64), Nap>>,
    /// Held by the thread that waits.
    lead: Mutex<()>,
    is_over: AtomicBool,
    /// Whether the command has begun: what is called until then is injector's own.
    has_begun: AtomicBool,
    keeper: Mutex<Option<Keeper>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn now_ns() -> u64 {
    // The clock is there on every kernel, and the call has nothing else to fail of.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| Duration::from(now).as_nanos() as u64)
}

impl Server {
    /// Begins to answer, with another process behind it.
    pub(super) fn start(listener: Listener, rules: Arc<Rules>, times: Times) -> io::Result<Arc<Self>> {
        let (board, board_file) = Board::create()?;
        let server = Arc::new(Self {
            listener,
            board,
            board_file,
            rules,
            times,
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            naps: Mutex::default(),
            lead: Mutex::default(),
            is_over: AtomicBool::new(false),
            has_begun: AtomicBool::new(false),
            keeper: Mutex::default(),
        });
        server.keep()?;
        for receiver in 0..RECEIVERS {
            let own = Arc::clone(&server);
            thread::Builder::new().name("notify".to_owned()).spawn(move || own.serve(receiver))?;
        }
        Ok(server)
    }

    /// Starts the process that goes on after this one, if it is not there.
    pub(super) fn keep(&self) -> io::Result<()> {
        let mut keeper = locked(&self.keeper);
        if keeper.as_mut().is_some_and(Keeper::is_alive) {
            return Ok(());
        }
        let left_ns = self.times.deadline_ns.saturating_sub(now_ns());
        let left = Duration::from_nanos(left_ns);
        *keeper = Some(Keeper::start(self.listener.as_fd(), self.board_file.as_fd(), left)?);
        Ok(())
    }

    /// The command has begun.
    pub(super) fn begin(&self) {
        self.has_begun.store(true, Ordering::Release);
    }

    /// Nothing is struck any more, and who waits goes on.
    pub(super) fn stop(&self) {
        self.is_over.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // It can only be full, and then the thread wakes.
        let _ = self.wake.write(1);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire) || now_ns() >= self.times.deadline_ns
    }

    fn serve(self: Arc<Self>, receiver: usize) {
        // To the nanosecond: who waits is to wait no longer than was asked for.
        // SAFETY: a plain system call on this thread.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
        loop {
            let call = {
                let _lead = locked(&self.lead);
                self.next(receiver)
            };
            match call {
                Some((call, at_ns)) => self.answer(call, at_ns),
                None => return,
            }
        }
    }

    /// The next call, and when it came; `None` when no process is left that could make one.
    fn next(self: &Arc<Self>, receiver: usize) -> Option<(Waiting, u64)> {
        loop {
            let soonest_ns = self.end_naps();
            let left = soonest_ns
                .map(|at_ns| TimeSpec::from_duration(Duration::from_nanos(at_ns.saturating_sub(now_ns()))));
            let mut files = [
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            ];
            match ppoll(&mut files, left, None) {
                Ok(0) | Err(Errno::EINTR) => continue,
                Err(_) => return None,
                Ok(_) => {}
            }
            let [listener, wake] = files.map(|file| file.revents().unwrap_or(PollFlags::empty()));
            if wake.contains(PollFlags::POLLIN) {
                let _ = self.wake.read();
            }
            if listener.contains(PollFlags::POLLIN) {
                if let Some(call) = self.receive(receiver) {
                    return Some((call, now_ns()));
                }
            } else if listener.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                return None;
            }
        }
    }

    fn receive(&self, receiver: usize) -> Option<Waiting> {
        let place = self.board.place(receiver);
        // One that was killed before is no call any more.
        self.listener.receive(place).ok()?;
        // SAFETY: the place is this thread's own, and the kernel has written it.
        let call = unsafe { place.read() };
        Some(Waiting {
            id: call.id,
            thread: call.pid.cast_signed(),
            number: call.data.nr.cast_unsigned(),
            args: call.data.args,
        })
    }

    /// Ends the waits whose time has come; when the next one ends.
    fn end_naps(self: &Arc<Self>) -> Option<u64> {
        loop {
            let is_over = self.is_over();
            let nap = {
                let mut naps = locked(&self.naps);
                let (key, _) = naps.first_key_value()?;
                let (at_ns, id) = *key;
                if !is_over && at_ns > now_ns() {
                    return Some(at_ns);
                }
                naps.remove(&(at_ns, id))
            };
            let Some(nap) = nap else { continue };
            self.finish(nap.call, nap.fate, nap.place);
        }
    }

    fn answer(self: &Arc<Self>, call: Waiting, at_ns: u64) {
        if self.is_over() || !self.is_of_command(&call) {
            self.listener.answer(call.id, Answer::GoOn);
            return;
        }
        let fate = self.rules.decide(&call, at_ns.saturating_sub(self.times.start_ns));
        if fate.delay_ns == 0 && fate.moves.is_none() {
            self.listener.answer(call.id, immediate(&fate));
            return;
        }
        // Else the next call would take its place, and its id would be this process's alone.
        let Some(place) = self.board.keep(call.id) else {
            self.listener.answer(call.id, Answer::GoOn);
            return;
        };
        if fate.delay_ns == 0 {
            self.finish(call, fate, place);
            return;
        }
        let until_ns = at_ns.saturating_add(fate.delay_ns).min(self.times.deadline_ns);
        locked(&self.naps).insert((until_ns, call.id), Nap { call, fate, place });
        self.wake();
    }

    /// What is left of a kept call's fate.
    fn finish(self: &Arc<Self>, call: Waiting, fate: Fate, place: Place) {
        let done = move |server: &Self, answer| {
            server.board.note(place, answer);
            server.listener.answer(call.id, answer);
            server.board.forget(place);
        };
        if self.is_over() {
            return done(self, Answer::GoOn);
        }
        let Some(bytes) = fate.moves.filter(|_| fate.errno == 0) else {
            return done(self, immediate(&fate));
        };
        // By itself: there may be nothing to read for as long as it likes.
        let own = Arc::clone(self);
        let spawned = thread::Builder::new().name("notify-short".to_owned()).spawn(move || {
            let is_wanted = || !own.is_over() && own.listener.waits(call.id);
            let moved = Move::of(&call).map(|moves| moves.done(call.thread, bytes, &is_wanted));
            done(&own, moved.unwrap_or(Answer::GoOn));
        });
        if spawned.is_err() {
            done(self, Answer::GoOn);
        }
    }

    /// Whether it is the command that calls, and no more injector's own child on the way to it.
    fn is_of_command(&self, call: &Waiting) -> bool {
        if self.has_begun.load(Ordering::Acquire) {
            return true;
        }
        let program =
            |of: &str| stat(&*format!("/proc/{of}/exe")).ok().map(|stat| (stat.st_dev, stat.st_ino));
        let is_other = program(&call.thread.to_string()) != program("self");
        if is_other {
            self.begin();
        }
        is_other
    }
}

fn immediate(fate: &Fate) -> Answer {
    if fate.errno == 0 { Answer::GoOn } else { Answer::Fail(fate.errno) }
}

impl Sight for Waiting {
    fn call(&self) -> (u32, [u64; 6]) {
        (self.number, self.args)
    }

    fn look(&self, deed: &Deed) -> Option<Box<dyn Seen>> {
        let found = look(self, deed)?;
        Some(Box::new(Looked { found, thread: self.thread }))
    }

    fn asked(&self) -> Option<u64> {
        Move::of(self).map(|moves| moves.asked())
    }
}

/// What was found, for who asks for more of it.
struct Looked {
    found: Found,
    thread: i32,
}

impl Seen for Looked {
    fn kind(&self) -> u32 {
        self.found.kind
    }

    fn device(&self) -> u32 {
        self.found.device(self.thread)
    }

    fn magic(&self) -> u32 {
        self.found.magic()
    }

    fn paths(&self) -> &[Vec<u8>] {
        &self.found.paths
    }
}
