//! Faults that are decided by the notifications of seccomp, for the command that injector starts.
//!
//! The command goes under a filter that stops it in some system calls, until injector has answered: `listener` is the kernel's end of that,
//! `gate` the way of the command to there, `trial` whether it can be had. `server` has the threads that answer; what a call is done to `look`
//! finds out, by `memory`, and what becomes of it `rules` decides, as the kernel half would. `short` reads and writes less than was asked for.
//! `keeper` is a process that goes on to answer after the controller, with what it finds on the `board`.
//!
//! What does not live here: which calls do which operations (`plan/operations/notified`), and the start of the command (`cli/launch`).

mod board;
mod gate;
mod keeper;
mod listener;
mod look;
mod memory;
mod rules;
mod server;
mod short;
mod trial;

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use injector_common::layout::Counters;

pub use gate::Gate;
pub use keeper::{COMMAND, keep};
pub(super) use trial::trial;

use super::error::EngineError;
use super::prepare::Prepared;
use crate::kill_point::kill_point;
use crate::plan::World;
use crate::plan::operations::notified;
use gate::{Door, NotTaken};
pub(super) use rules::Rules;
use server::{Server, Times};

/// The faults of an experiment that are decided so.
#[derive(Debug, Default)]
pub(super) struct Notify {
    rules: Arc<Rules>,
    /// The numbers of the calls that are notified; none if there is no such fault.
    calls: Vec<u32>,
    times: Times,
    /// Once the command is there.
    server: Slot,
}

type Slot = Arc<Mutex<Option<Arc<Server>>>>;

impl Notify {
    /// Makes the rules and the list of calls ready. Nothing is changed.
    pub(super) fn prepare(prepared: &Prepared, world: &World) -> Result<Self, EngineError> {
        let rules = notified::rules(&prepared.scenario, prepared.seed, world)?;
        let calls: BTreeSet<u32> =
            prepared.faults.iter().flat_map(|fault| &fault.notified).map(|call| call.number).collect();
        Ok(Self { rules: Arc::new(Rules::new(rules)), calls: Vec::from_iter(calls), ..Self::default() })
    }

    /// The experiment's time starts, and ends then, `CLOCK_MONOTONIC`.
    pub(super) fn arm(&mut self, start_ns: u64, deadline_ns: u64) {
        self.times = Times { start_ns, deadline_ns };
    }

    /// The way of the command under its filter, if there is a fault that needs it.
    pub(super) fn open(&self) -> Result<Option<(Gate, Passage)>, EngineError> {
        if self.calls.is_empty() {
            return Ok(None);
        }
        let (gate, door) =
            gate::open(listener::filter(&self.calls)).map_err(|source| failed("at its gate", source))?;
        let is_over = Arc::new(AtomicBool::new(false));
        let no_more = Arc::clone(&is_over);
        let (rules, times) = (Arc::clone(&self.rules), self.times);
        let thread = thread::Builder::new()
            .name("notify-gate".to_owned())
            .spawn(move || admit(&door, &no_more, rules, times))
            .map_err(|source| failed("at its gate", source))?;
        Ok(Some((gate, Passage { thread, is_over, server: Arc::clone(&self.server) })))
    }

    fn with_server(&self, act: impl FnOnce(&Server)) {
        if let Some(server) = &*self.server.lock().unwrap_or_else(PoisonError::into_inner) {
            act(server);
        }
    }

    /// Looks after the process that stands by.
    pub(super) fn check(&self) {
        self.with_server(|server| {
            if let Err(error) = server.keep() {
                tracing::warn!(%error, "the process that stands by could not be started again");
            }
        });
    }

    /// Nothing is struck any more, and every call goes on.
    pub(super) fn stop(&self) {
        self.with_server(Server::stop);
    }

    /// The rules, with what they have counted.
    pub(super) const fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// What was counted for the fault at a position.
    pub(super) fn counters(&self, position: usize) -> impl Iterator<Item = Counters> {
        self.rules.counters(position)
    }
}

fn failed(step: &'static str, source: io::Error) -> EngineError {
    EngineError::Notify { step, source }
}

/// Takes the listener of a child at the gate, begins to answer, and lets it go on; `None` if none comes.
fn admit(
    door: &Door,
    is_over: &AtomicBool,
    rules: Arc<Rules>,
    times: Times,
) -> Result<Option<Arc<Server>>, NotTaken> {
    let Some(taken) = door.take(&|| is_over.load(Ordering::Acquire))? else { return Ok(None) };
    kill_point("listener taken");
    let served = Server::start(taken.listener, rules, times).and_then(|server| {
        door.let_go()?;
        Ok(server)
    });
    served.map(Some).map_err(|source| {
        // Nobody would ever answer it.
        gate::end(taken.pid);
        NotTaken { step: "the threads and the process that answer", source }
    })
}

/// A command on its way under the filter.
#[derive(Debug)]
pub struct Passage {
    thread: JoinHandle<Result<Option<Arc<Server>>, NotTaken>>,
    is_over: Arc<AtomicBool>,
    server: Slot,
}

impl Passage {
    /// The command has been started, or could not be.
    pub fn end(self) -> Result<(), EngineError> {
        self.is_over.store(true, Ordering::Release);
        let admitted = self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let server = admitted.map_err(|error| failed(error.step, error.source))?;
        if let Some(server) = server {
            server.begin();
            *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
        }
        Ok(())
    }
}
