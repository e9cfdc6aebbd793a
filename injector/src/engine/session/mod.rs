//! An experiment on the host: the only thing that changes it, and the one that takes everything back.
//!
//! `host` follows what changes meanwhile, `report` says what it has done.

mod host;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

use crate::engine::attachments::{Attachments, Hands};
use crate::engine::begin::{
    acquire_targets, attach_cgroups, attach_devices, attach_functions, cgroup_ways, header, mark_of,
    queue_of, sleeper, world,
};
use crate::engine::clocks::Clocks;
use crate::engine::copies::Copies;
use crate::engine::deeds::Deeds;
use crate::engine::error::EngineError;
use crate::engine::links::Links;
use crate::engine::notify::{Gate, Notify, Passage};
use crate::engine::prepare::Prepared;
use crate::engine::record::Recorder;
use crate::engine::sleep::Sleeper;
use crate::engine::{sockets, xdp};
use crate::host::cgroup::{Cgroup, Hierarchy};
use crate::journal::{Entry, Journal, Store};
use crate::kernel::Kernel;
use crate::kernel::xdp::Mode;
use crate::kill_point::kill_point;
use crate::plan::{self, Lowered, Place};

/// How the warning begins that names of devices mean too much by now; it is given once.
const DEVICES_KEPT: &str = "devices have appeared that the rules can't hold, so by name they mean and spare those alone that were there before";

/// How long the end waits for packets that were kept back. Who interrupts wants it over.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// A running experiment. Dropping it reverts it.
#[derive(Debug)]
pub struct Session {
    prepared: Prepared,
    places: BTreeMap<String, Place>,
    run_leaf: Option<Cgroup>,
    lowered: Lowered,
    attachments: Option<Attachments>,
    sleeper: Option<Sleeper>,
    copies: Copies,
    kernel: Kernel,
    journal: Option<Journal>,
    /// As it was mounted at the beginning: no look at the host reads the mounts again.
    hierarchy: Hierarchy,
    armed: Option<(Timestamp, Instant)>,
    took: Option<Duration>,
    warnings: Vec<String>,
    recorder: Option<Recorder>,
    /// How the devices are struck that are struck at XDP, by name.
    xdp_modes: BTreeMap<String, Mode>,
    /// Targets whose cgroup is gone, each told of once.
    vanished: BTreeSet<String>,
    links: Links,
    deeds: Deeds,
    clocks: Clocks,
    notify: Notify,
}

/// Takes everything back unless a session has taken the journal over: after errors and panics.
struct Guard(Option<Journal>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(journal) = self.0.take() {
            // The error at hand is the one to tell; what can't be taken back stays for `clean`.
            let _ = take_back(journal);
        }
    }
}

impl Session {
    /// Changes the host as planned, everything but arming: the journal first, then targets, maps, programs and
    /// attachments. After an error nothing is left.
    pub fn begin(prepared: Prepared, store: &Store) -> Result<Self, EngineError> {
        let mut guard = Guard(Some(store.register(header(&prepared)?)?));
        kill_point("registered");
        let Some(journal) = &mut guard.0 else { return Err(EngineError::Ended) };
        let mut session = Self::build(prepared, journal)?;
        session.journal = guard.0.take();
        Ok(session)
    }

    fn build(prepared: Prepared, journal: &mut Journal) -> Result<Self, EngineError> {
        let (places, run_leaf) = acquire_targets(&prepared, journal)?;
        kill_point("targets ready");
        let world = world(&prepared, &places, BTreeMap::new());
        let lowered = plan::lower(&prepared.scenario, prepared.seed, &world)?;
        let mut kernel = Kernel::load(&lowered.image, mark_of(&prepared.id))?;
        kill_point("maps filled");
        let mut attachments = Attachments::new(prepared.rung, cgroup_ways(&prepared));
        let mut hands = Hands { kernel: &mut kernel, journal };
        attach_cgroups(&prepared, &places, &mut hands, &mut attachments)?;
        attach_devices(&prepared, &places, &mut hands, &mut attachments)?;
        let sleeper = sleeper(&prepared, hands.kernel)?;
        attach_functions(&prepared, hands.kernel, &mut attachments)?;
        let copies = Copies::attach(&prepared.faults, hands.kernel, &mut attachments)?;
        let unknown = sockets::note_old(&prepared, &places, hands.kernel)?;
        let (xdp_modes, refusals) = xdp::modes(&attachments);
        let deeds = Deeds::prepare(&prepared, &places, hands.journal)?;
        let clocks = Clocks::prepare(&prepared, &places, hands.journal)?;
        let notify = Notify::prepare(&prepared, &world)?;
        let mut session = Self {
            xdp_modes,
            warnings: prepared.warnings.iter().cloned().chain(refusals).chain(unknown).collect(),
            links: Links::new(&prepared),
            deeds,
            clocks,
            notify,
            copies,
            prepared,
            places,
            run_leaf,
            lowered,
            attachments: Some(attachments),
            sleeper,
            kernel,
            journal: None,
            hierarchy: Hierarchy::find()?,
            armed: None,
            took: None,
            recorder: None,
            vanished: BTreeSet::new(),
        };
        let processes = session.users()?;
        if let Some(attachments) = &mut session.attachments {
            attachments.scan(&mut Hands { kernel: &mut session.kernel, journal }, &processes)?;
        }
        session.tell_losses();
        session.rename_devices()?;
        kill_point("attached");
        Ok(session)
    }

    /// Writes every decision to a file from now on. The experiment must have been prepared with `trace`.
    pub fn record_to(&mut self, file: std::io::BufWriter<File>) -> Result<(), EngineError> {
        let ids = self.prepared.faults.iter().map(|fault| fault.id.clone()).collect();
        self.recorder = Some(Recorder::new(self.kernel.take_events()?, file, ids));
        Ok(())
    }

    fn drain(&mut self) -> Result<(), EngineError> {
        let Some(recorder) = &mut self.recorder else { return Ok(()) };
        recorder.drain()?;
        let lost = self.kernel.events_lost()?;
        if lost > 0 && !recorder.told_of_loss {
            recorder.told_of_loss = true;
            self.warnings
                .push("decisions came faster than they could be recorded: the record has gaps".to_owned());
        }
        Ok(())
    }

    /// Arms the programs: the experiment's time starts.
    pub fn arm(&mut self) -> Result<(), EngineError> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|e| EngineError::Runtime(e.into()))?;
        let now_ns = Duration::from(now).as_nanos() as u64;
        let deadline_ns = now_ns.saturating_add(self.prepared.scenario.duration_ns);
        self.kernel.arm(now_ns, deadline_ns)?;
        self.notify.arm(now_ns, deadline_ns);
        let begin = Instant::now();
        self.armed = Some((Timestamp::now(), begin));
        kill_point("armed");
        self.deeds.start(begin, &self.kernel, &self.lowered, self.notify.rules())?;
        self.clocks.start(&self.prepared.scenario, &mut self.kernel)?;
        self.follow_links()
    }

    /// Sets down and up the links that are due.
    fn follow_links(&mut self) -> Result<(), EngineError> {
        let (Some((_, armed)), Some(journal)) = (self.armed, &mut self.journal) else { return Ok(()) };
        self.links.follow(armed.elapsed(), journal)
    }

    /// How long it may last.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_nanos(self.prepared.scenario.duration_ns)
    }

    /// The experiment's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.prepared.id
    }

    /// The cgroup of the command of `run`.
    #[must_use]
    pub fn run_leaf(&self) -> Option<&Cgroup> {
        self.run_leaf.as_ref()
    }

    /// The way of the command of `run` under its filter, if some fault is decided by notifications of its calls.
    pub fn open_gate(&self) -> Result<Option<(Gate, Passage)>, EngineError> {
        self.notify.open()
    }

    /// Namespaces and devices that are struck, for people.
    #[must_use]
    pub fn reach(&self) -> (usize, usize) {
        self.attachments.as_ref().map_or((0, 0), |a| (a.namespace_count(), a.device_count()))
    }

    /// The experiment's directory, while it runs.
    pub(super) fn directory(&self) -> &Path {
        self.journal.as_ref().map_or(Path::new("/nonexistent"), Journal::directory)
    }

    /// Strikes what has appeared since the last look: namespaces, devices, names of devices.
    pub fn follow_host(&mut self) -> Result<(), EngineError> {
        self.check_devices()?;
        if self.sleeper.as_mut().is_some_and(|sleeper| !sleeper.is_alive()) {
            return Err(EngineError::SleeperGone);
        }
        self.follow_links()?;
        self.deeds.check()?;
        self.notify.check();
        self.warnings.extend(self.clocks.check());
        let users = self.users()?;
        // Fields by themselves: a panic below must find the journal where `drop` looks for it.
        let Self { journal: Some(journal), attachments: Some(attachments), kernel, copies, .. } = self else {
            return Ok(());
        };
        copies.follow(kernel, attachments)?;
        if attachments.scan(&mut Hands { kernel, journal }, &users)? {
            self.follow_names()?;
            self.tell_losses();
        }
        self.drain()
    }

    /// Ends the faults while their command runs on: all is taken back but the cgroups, in which it still is.
    pub fn release(&mut self) -> Result<(), EngineError> {
        self.end_faults()?;
        let Some(journal) = &mut self.journal else { return Ok(()) };
        let keeps = |entry: &Entry| matches!(entry, Entry::CgroupMade { .. } | Entry::ProcessMoved { .. });
        let rest: Vec<usize> =
            (0..journal.entries().len()).filter(|&n| !keeps(&journal.entries()[n].entry)).collect();
        for index in rest.into_iter().rev() {
            // What fails here is tried again at the end, and told then.
            let _ = journal.undo(index);
        }
        Ok(())
    }

    /// Disarms and detaches; the rest is taken back by [`Self::end`].
    fn end_faults(&mut self) -> Result<(), EngineError> {
        if let Some((_, armed)) = self.armed {
            self.took.get_or_insert(armed.elapsed());
        }
        // First of all: whoever is paused runs again.
        self.deeds.stop();
        self.notify.stop();
        self.kernel.disarm()?;
        kill_point("disarmed");
        if let Some(journal) = &mut self.journal {
            self.links.all_up(journal);
            self.clocks.stop(journal);
        }
        // Nobody falls asleep any more: who sleeps is woken.
        self.sleeper = None;
        self.attachments = None;
        kill_point("detached");
        self.run_empty();
        Ok(())
    }

    /// Lets what was kept back go its way before its queue is taken away, for a moment.
    fn run_empty(&mut self) {
        let (Some(queue), Some(journal)) = (queue_of(&self.prepared), &self.journal) else { return };
        let left = queue.drain(journal, DRAIN_PATIENCE);
        if left > 0 {
            self.warnings.push(format!(
                "{left} packets that still waited for their time were dropped with the queue: they are lost"
            ));
        }
    }

    /// Takes everything back. What can't be taken back stays in the journal, for `injector clean`.
    pub fn end(&mut self) -> Result<(), EngineError> {
        let disarmed = self.end_faults().and_then(|()| self.drain());
        if let Some(journal) = self.journal.take() {
            take_back(journal)?;
        }
        disarmed
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // An error or a panic has ended it: it is too late to tell of another error, and what could not be
        // taken back is in the journal.
        let _ = self.end();
    }
}

fn take_back(mut journal: Journal) -> Result<(), EngineError> {
    let failed: Vec<String> = journal
        .undo_all()
        .into_iter()
        .filter_map(|outcome| outcome.result.err().map(|error| format!("  {}: {error}", outcome.entry)))
        .collect();
    kill_point("taken back");
    if !failed.is_empty() {
        return Err(EngineError::Leftovers(failed));
    }
    Ok(journal.close()?)
}
