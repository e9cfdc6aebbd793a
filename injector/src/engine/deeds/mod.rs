//! What injector itself does to the processes of targets, at its times: pauses, stops, kills, limits.
//!
//! `agenda` says what is due when, `hand` does it, `lead` how much earlier, `worker` is the thread that waits in between, `strikes` are those of other faults that it
//! waits for. What is to be taken back is in the journal before the first of it begins, one entry for each deed: pauses may come a hundred
//! times a second. What does not live here: devices that are set down (`links`), and the process that takes all of it back when this one
//! can't (`watchdog`).

mod agenda;
mod check;
mod hand;
mod lead;
mod strikes;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use injector_common::layout::Counters;

pub(super) use check::check;

use super::error::EngineError;
use super::notify::Rules;
use super::prepare::Prepared;
use super::watchdog::Watchdog;
use crate::host::cgroup::{Cgroup, CgroupError, Hierarchy};
use crate::journal::{Entry, Journal};
use crate::kernel::Kernel;
use crate::kill_point::kill_point;
use crate::plan::{self, Lowered, Place};
use crate::scenario::{Deed, Effect};
use agenda::Agenda;
use hand::Hand;
use lead::Lead;
use strikes::Strikes;
use worker::{Task, Worker};

/// The kernel's default period of `cpu.max`, in which a share is handed out.
const PERIOD_US: u64 = 100_000;
const PAGE_BYTES: u64 = 4096;

/// What injector does in an experiment.
#[derive(Debug, Default)]
pub(super) struct Deeds {
    /// For each task, the position of its fault, and where it is counted.
    faults: Vec<(usize, Arc<Count>)>,
    failures: Failures,
    ready: Vec<Ready>,
    workers: Vec<Worker>,
}

/// How long it may take from here on until an experiment is armed. Who stands by is told of everything that lasts, and acts on that.
const TIME_TO_ARM: Duration = Duration::from_secs(600);

/// What has failed, in sentences.
type Failures = Arc<Mutex<Vec<String>>>;

/// How much of a task was done.
type Count = AtomicU64;

/// What is ready to begin.
#[derive(Debug)]
struct Ready {
    tasks: Vec<Task>,
    agenda: Agenda,
    watchdog: Watchdog,
    /// Whether it is about milliseconds.
    is_urgent: bool,
}

impl Deeds {
    /// Makes everything ready, and writes down what is to be taken back.
    pub(super) fn prepare(
        prepared: &Prepared,
        places: &BTreeMap<String, Place>,
        journal: &mut Journal,
    ) -> Result<Self, EngineError> {
        let scenario = &prepared.scenario;
        let mut deeds = Self::default();
        // Limits by themselves: to set one may take as long as to take memory away, and a pause must not wait for that.
        let mut groups = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
        for (position, window) in plan::own_windows(scenario, prepared.seed) {
            let fault = &scenario.faults[position];
            let Effect::Process(process) = &fault.effect else { continue };
            for place in fault.targets.iter().filter_map(|target| places.get(target)) {
                let Place::Cgroup { path, .. } = place else { continue };
                let hierarchy = Hierarchy::find()?;
                let cgroup = hierarchy.open(path)?;
                let hand = take_in_hand(&process.deed, &hierarchy, &cgroup, (journal, &deeds.failures))?;
                let count = Arc::<Count>::default();
                deeds.faults.push((position, Arc::clone(&count)));
                let (tasks, windows) = &mut groups[usize::from(hand.is_limit())];
                let after = fault.after.as_ref();
                let after = after.and_then(|id| scenario.faults.iter().position(|other| other.id == *id));
                tasks.push(Task { fault: fault.id.clone(), hand, count, after, lead: Lead::default() });
                windows.push((window, after.is_none()));
            }
        }
        let within = Duration::from_nanos(scenario.duration_ns).saturating_add(TIME_TO_ARM);
        for (tasks, windows) in groups.into_iter().filter(|(tasks, _)| !tasks.is_empty()) {
            deeds.ready.push(Ready {
                agenda: Agenda::new(windows, scenario.duration_ns),
                watchdog: Watchdog::start(&prepared.id, within).map_err(EngineError::Runtime)?,
                is_urgent: !tasks.iter().any(|task: &Task| task.hand.is_limit()),
                tasks,
            });
        }
        Ok(deeds)
    }

    /// Begins: times count from `begin`.
    pub(super) fn start(
        &mut self,
        begin: Instant,
        kernel: &Kernel,
        lowered: &Lowered,
        notified: &Arc<Rules>,
    ) -> Result<(), EngineError> {
        for ready in self.ready.drain(..) {
            let waits = ready.tasks.iter().any(|task| task.after.is_some());
            let strikes = waits.then(|| Strikes::new(kernel, lowered, notified)).transpose()?;
            let worker = Worker::start(ready, strikes, Arc::clone(&self.failures), begin);
            self.workers.push(worker.map_err(EngineError::Runtime)?);
        }
        Ok(())
    }

    /// Fails with what failed.
    pub(super) fn check(&self) -> Result<(), EngineError> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.first().map_or(Ok(()), |text| Err(EngineError::Deed(text.clone())))
    }

    /// Ends all that lasts; nothing begins any more.
    pub(super) fn stop(&mut self) {
        self.workers.clear();
        self.ready.clear();
    }

    /// How much was done for a fault: windows, or processes that were killed.
    pub(super) fn counters(&self, fault: usize) -> impl Iterator<Item = Counters> {
        let own = self.faults.iter().filter(move |(position, _)| *position == fault);
        own.map(|(_, count)| {
            let done = count.load(Ordering::Relaxed);
            Counters { matched: done, injected: done, ..Counters::default() }
        })
    }
}

/// Writes down what a deed may leave, and opens what it takes.
fn take_in_hand(
    deed: &Deed,
    hierarchy: &Hierarchy,
    cgroup: &Cgroup,
    (journal, failures): (&mut Journal, &Failures),
) -> Result<Hand, EngineError> {
    let (path, id) = (cgroup.path.clone(), cgroup.id);
    match deed {
        Deed::Pause => {
            journal.append(Entry::Frozen { path, id })?;
            Ok(Hand::freezer(hierarchy, cgroup)?)
        }
        Deed::Stop => {
            let spared = hierarchy.stopped(cgroup)?;
            journal.append(Entry::Stopped { path, id, spared: spared.clone() })?;
            let (hierarchy, cgroup) = (hierarchy.clone(), cgroup.clone());
            Ok(Hand::Stopper { hierarchy, cgroup, spared, stopped: BTreeSet::new() })
        }
        Deed::Kill(kill) => Ok(Hand::Killer {
            hierarchy: hierarchy.clone(),
            cgroup: cgroup.clone(),
            signal: kill.signal.0,
            restart: kill.restart.clone(),
            failures: Arc::clone(failures),
            starting: None,
        }),
        Deed::Throttle(share) => {
            enable("cpu", hierarchy, cgroup, journal)?;
            // A share is in thousandths of a percent, and a period is a hundred thousand microseconds.
            limit("cpu.max", format!("{} {PERIOD_US}", share.0), hierarchy, cgroup, journal)
        }
        Deed::Memory { high_bytes } => {
            enable("memory", hierarchy, cgroup, journal)?;
            // As the kernel has it: whole pages.
            let set = (high_bytes / PAGE_BYTES * PAGE_BYTES).to_string();
            limit("memory.high", set, hierarchy, cgroup, journal)
        }
    }
}

/// Gives a cgroup the files of a controller, through all above it.
fn enable(
    controller: &'static str,
    hierarchy: &Hierarchy,
    cgroup: &Cgroup,
    journal: &mut Journal,
) -> Result<(), EngineError> {
    for above in hierarchy.above(cgroup)? {
        let (path, id) = (above.path.clone(), above.id);
        let entry = Entry::ControllerEnabled { path, id, controller: controller.to_owned() };
        if hierarchy.has_controller(&above.path, controller)? {
            // What another experiment has enabled goes with the last that needs it.
            if journal.neighbours()?.same(&entry).is_some() {
                journal.append(entry)?;
            }
            continue;
        }
        let intent = journal.append(entry)?;
        if let Err(error) = hierarchy.set_controller(&above.path, controller, true) {
            journal.undone(intent)?;
            let CgroupError::Io { source, .. } = error else { return Err(error.into()) };
            return Err(EngineError::ControllerRefused { controller, cgroup: above.path, source });
        }
        kill_point("controller enabled");
    }
    Ok(())
}

/// A limit of a cgroup; one that is tighter already stays as it is.
fn limit(
    file: &'static str,
    wanted: String,
    hierarchy: &Hierarchy,
    cgroup: &Cgroup,
    journal: &mut Journal,
) -> Result<Hand, EngineError> {
    let previous = hierarchy.read_knob(&cgroup.path, file)?;
    let set = if is_tighter(&previous, &wanted) { previous.clone() } else { wanted };
    journal.append(Entry::Limited {
        path: cgroup.path.clone(),
        id: cgroup.id,
        file: file.to_owned(),
        previous: previous.clone(),
        set: set.clone(),
    })?;
    Ok(Hand::Limit { hierarchy: hierarchy.clone(), cgroup: cgroup.clone(), file, set, previous })
}

/// Whether one limit leaves less than another: both are `max` or a number, of which a period may follow.
fn is_tighter(one: &str, other: &str) -> bool {
    let share = |text: &str| {
        let mut words = text.split_whitespace();
        let most: f64 = words.next()?.parse().ok()?;
        let per = words.next().map_or(Some(1.0), |word| word.parse().ok())?;
        Some(most / per)
    };
    match (share(one), share(other)) {
        (Some(one), Some(other)) => one < other,
        (one, _) => one.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tighter_of_two_limits_is_known() {
        assert!(is_tighter("10000 100000", "20000 100000"));
        assert!(is_tighter("10000 1000000", "20000 100000"));
        assert!(!is_tighter("max 100000", "20000 100000"));
        assert!(!is_tighter("30000 100000", "20000 100000"));
        assert!(is_tighter("4096", "max") && !is_tighter("max", "4096") && !is_tighter("8192", "4096"));
    }
}
