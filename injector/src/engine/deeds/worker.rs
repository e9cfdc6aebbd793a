//! The thread that does what is due: it waits for the next step, does it, and in the end undoes whatever still lasts.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;
use nix::unistd::dup;

use super::agenda::{Agenda, Step};
use super::hand::{Hand, HandError};
use super::lead::Lead;
use super::strikes::Strikes;
use super::{Count, Failures, Ready};
use crate::engine::urgent::prefer;
use crate::engine::watchdog::Watchdog;
use crate::kill_point::kill_point;

/// How often it is looked whether the process that stands by is still there.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How often it is looked whether a fault has struck that others wait for.
const STRIKE_INTERVAL_NS: u64 = 500_000;

/// Something that is done again and again.
#[derive(Debug)]
pub(super) struct Task {
    /// The id of its fault, for messages.
    pub(super) fault: String,
    /// How.
    pub(super) hand: Hand,
    /// How much was done.
    pub(super) count: Arc<Count>,
    /// The fault that it waits for, by its position.
    pub(super) after: Option<usize>,
    /// By how much earlier it is ended than it is to end.
    pub(super) lead: Lead,
}

/// The thread. Dropping this ends it, after it has undone what lasts.
#[derive(Debug)]
pub(super) struct Worker {
    end: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts it; times count from `begin`.
    pub(super) fn start(
        ready: Ready,
        strikes: Option<Strikes>,
        failures: Failures,
        begin: Instant,
    ) -> std::io::Result<Self> {
        let end = EventFd::new()?;
        let told = dup(end.as_fd())?;
        let Ready { tasks, agenda, watchdog, is_urgent } = ready;
        let mut state = State { tasks, agenda, watchdog, strikes, failures, begin, told, looked: begin };
        let thread =
            std::thread::Builder::new().name("deeds".to_owned()).spawn(move || state.run(is_urgent))?;
        Ok(Self { end, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It ends by itself at the end of the experiment too.
        let _ = self.end.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct State {
    tasks: Vec<Task>,
    agenda: Agenda,
    watchdog: Watchdog,
    /// Where it is seen that other faults strike, while any of the tasks waits for one.
    strikes: Option<Strikes>,
    failures: Failures,
    begin: Instant,
    told: OwnedFd,
    /// When it was last looked whether somebody stands by.
    looked: Instant,
}

impl State {
    fn run(&mut self, is_urgent: bool) {
        // A pause that ends late is too long.
        if is_urgent {
            prefer();
        }
        loop {
            let at_ns = match (self.agenda.next(self.now_ns()), &self.strikes) {
                (Some(step), None) => step.at_ns,
                (step, Some(_)) => {
                    let soon_ns = self.now_ns().saturating_add(STRIKE_INTERVAL_NS);
                    step.map_or(soon_ns, |step| step.at_ns.min(soon_ns))
                }
                (None, None) => break,
            };
            if self.wait_for(at_ns) {
                break;
            }
            self.release();
            let due = self.agenda.next(self.now_ns()).filter(|step| step.at_ns <= self.now_ns());
            if let Some(step) = due {
                self.take(step);
            }
        }
        self.undo_all();
    }

    fn now_ns(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }

    /// Waits for a time, or to be told to end, which is true.
    fn wait_for(&mut self, at_ns: u64) -> bool {
        loop {
            self.look();
            let left = Duration::from_nanos(at_ns.saturating_sub(self.now_ns()));
            let mut fds = [PollFd::new(self.told.as_fd(), PollFlags::POLLIN)];
            match ppoll(&mut fds, Some(TimeSpec::from_duration(left.min(LOOK_INTERVAL))), None) {
                Ok(0) | Err(Errno::EINTR) => {}
                // It was told, or can't be any more.
                _ => return true,
            }
            if self.now_ns() >= at_ns {
                return false;
            }
        }
    }

    /// Lets begin who has waited for a fault that has struck.
    fn release(&mut self) {
        let Some(strikes) = &self.strikes else { return };
        let now_ns = self.begin.elapsed().as_nanos() as u64;
        for (deed, task) in self.tasks.iter_mut().enumerate() {
            if task.after.is_some_and(|fault| strikes.has_struck(fault)) {
                self.agenda.release(deed, now_ns);
                task.after = None;
            }
        }
        if self.tasks.iter().all(|task| task.after.is_none()) {
            self.strikes = None;
        }
    }

    /// Looks now and then whether somebody stands by: nobody else would take back what lasts if this process died.
    fn look(&mut self) {
        if self.looked.elapsed() >= LOOK_INTERVAL {
            self.watchdog.keep();
            self.looked = Instant::now();
        }
    }

    fn failed(&self, deed: usize, error: &HandError) {
        let fault = self.tasks.get(deed).map_or("", |task| &task.fault);
        let text = format!("the fault `{fault}`: {error}");
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    fn take(&mut self, step: Step) {
        let deed = step.deed;
        let Some(task) = self.tasks.get_mut(deed) else { return };
        if !step.begins {
            let ended = task.hand.end();
            // At the end of all nothing is due.
            if step.at_ns != 0 {
                let now_ns = self.begin.elapsed().as_nanos() as u64;
                task.lead.note(now_ns.saturating_sub(step.at_ns));
            }
            self.agenda.ended(deed);
            if let Err(error) = ended {
                self.failed(deed, &error);
            }
            self.tell_watchdog();
            return;
        }
        // Before it begins: what stands by must know how long this may last.
        self.begun(deed);
        let Some(task) = self.tasks.get_mut(deed) else { return };
        match task.hand.begin() {
            Ok(count) => {
                task.count.fetch_add(count, Ordering::Relaxed);
            }
            Err(error) => self.failed(deed, &error),
        }
        // It lasts from when it has come true.
        self.begun(deed);
        kill_point("begun");
    }

    fn begun(&mut self, deed: usize) {
        let lead_ns = self.tasks.get(deed).map_or(0, |task| task.lead.ns());
        self.agenda.begun(deed, self.now_ns().saturating_sub(lead_ns));
        self.tell_watchdog();
    }

    /// Says until when something lasts.
    fn tell_watchdog(&mut self) {
        let lasts = |deed: usize| self.tasks.get(deed).is_some_and(|task| task.hand.lasts());
        let until = self.agenda.next_end_ns(lasts).map(|ns| self.begin + Duration::from_nanos(ns));
        self.watchdog.expect(until);
    }

    /// Ends all that lasts, and what was to be started again is.
    fn undo_all(&mut self) {
        for deed in self.agenda.lasting() {
            self.take(Step { at_ns: 0, deed, begins: false });
        }
        for task in &mut self.tasks {
            task.hand.finish();
        }
    }
}
