//! Clocks of targets that go wrong: their processes are patched, those too that begin later.
//!
//! `model` says what a clock shows, `follow` is the thread that patches. How a process is patched, `host::vdso` knows. The patch computes
//! everything itself, also its own end: nothing is to be done on time, and nothing wrong is shown after the deadline. What is left is taken
//! back by the mark that a patched process bears, from the journal, wherever the process is by then.

mod follow;
mod model;

use std::collections::BTreeMap;
use std::sync::Arc;

use injector_common::draw;
use injector_common::layout::Counters;
use nix::time::{ClockId, clock_gettime};

use super::error::EngineError;
use super::prepare::{Prepared, TargetPlan};
use super::watchdog::Watchdog;
use crate::host::cgroup::{Cgroup, Hierarchy};
use crate::host::process::ProcessId;
use crate::host::vdso::{self, VdsoError};
use crate::journal::{Entry, Journal, TargetKey};
use crate::kernel::Kernel;
use crate::plan::{Place, PlanError};
use crate::scenario::{ClockChange, ClockFault, Effect, Fault, Scenario};
use follow::{Follower, Log, Watched};

/// Refuses what the patch can't show; what the operator should know is a warning. Reads alone.
pub(super) fn check(
    scenario: &Scenario,
    targets: &BTreeMap<String, TargetPlan>,
) -> Result<Vec<String>, EngineError> {
    let mut warnings = Vec::new();
    let mut known: Vec<(TargetKey, &String)> = Vec::new();
    for (fault, clock) in clock_faults(scenario) {
        let refused = |why: String| PlanError::Process { fault: fault.id.clone(), why };
        check_times(clock, fault, scenario.duration_ns).map_err(&refused)?;
        for target in fault.targets.iter().filter_map(|name| targets.get(name)) {
            let key = target.key();
            if let Some((_, other)) = known.iter().find(|(place, _)| place.overlaps(&key)) {
                return Err(refused(format!("`{other}` is a fault of the same clocks")).into());
            }
            known.push((key, &fault.id));
            for pid in super::survey::processes(target)? {
                let Ok(process) = ProcessId::of(pid) else { continue };
                match vdso::mark(process) {
                    Ok(_) | Err(VdsoError::Gone { .. }) => {}
                    Err(error) => warnings.push(format!("the clocks of process {pid} stay true: {error}")),
                }
            }
        }
    }
    Ok(warnings)
}

fn clock_faults(scenario: &Scenario) -> impl Iterator<Item = (&Fault, &ClockFault)> {
    scenario.faults.iter().filter_map(|fault| match &fault.effect {
        Effect::Clock(clock) => Some((fault, clock)),
        _ => None,
    })
}

/// Refuses times that a clock can't show, or that never come.
fn check_times(clock: &ClockFault, fault: &Fault, duration_ns: u64) -> Result<(), String> {
    match clock.change {
        ClockChange::Offset { add_ns } | ClockChange::Strobe { add_ns, .. } => {
            let clocks = [
                (clock.clocks.realtime, ClockId::CLOCK_REALTIME, "before 1970"),
                (clock.clocks.monotonic, ClockId::CLOCK_MONOTONIC, "before the machine has started"),
            ];
            for (_, id, when) in clocks.into_iter().filter(|(is_meant, ..)| *is_meant) {
                let begins_ns = now_ns(id).saturating_add(fault.when.start_ns.cast_signed());
                if begins_ns.checked_add(add_ns).is_none_or(|shown_ns| shown_ns < 0) {
                    return Err(format!("a clock would show a time {when}, or one that no clock has"));
                }
            }
            Ok(())
        }
        ClockChange::Leap { at_ns, .. } if at_ns >= duration_ns => {
            Err("the leap second is after the end of the experiment".to_owned())
        }
        ClockChange::Leap { .. } | ClockChange::Drift { .. } | ClockChange::Freeze => Ok(()),
    }
}

fn now_ns(id: ClockId) -> i64 {
    clock_gettime(id)
        .map_or(0, |time| time.tv_sec().saturating_mul(1_000_000_000).saturating_add(time.tv_nsec()))
}

/// The clocks of an experiment.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    /// For each target, the position of its fault.
    faults: Vec<usize>,
    targets: Vec<(Cgroup, usize)>,
    mark: u64,
    log: Arc<Log>,
    follower: Option<Follower>,
    watchdog: Option<Watchdog>,
    id: String,
}

impl Clocks {
    /// Writes down what is to be taken back. No process is touched.
    pub(super) fn prepare(
        prepared: &Prepared,
        places: &BTreeMap<String, Place>,
        journal: &mut Journal,
    ) -> Result<Self, EngineError> {
        let mut targets = Vec::new();
        for (position, fault) in prepared.scenario.faults.iter().enumerate() {
            if !matches!(fault.effect, Effect::Clock(_)) {
                continue;
            }
            for place in fault.targets.iter().filter_map(|target| places.get(target)) {
                let Place::Cgroup { path, .. } = place else { continue };
                targets.push((Hierarchy::find()?.open(path)?, position));
            }
        }
        if targets.is_empty() {
            return Ok(Self::default());
        }
        // Never 0, which is nobody's.
        let mark = u64::from(draw::fault_number(prepared.id.as_bytes()) | 1);
        journal.append(Entry::Clocks { mark })?;
        let faults: Vec<usize> = targets.iter().map(|(_, position)| *position).collect();
        Ok(Self {
            log: Arc::new(Log::new(faults.len())),
            faults,
            targets,
            mark,
            follower: None,
            watchdog: None,
            id: prepared.id.clone(),
        })
    }

    /// Begins: times count from now.
    pub(super) fn start(&mut self, scenario: &Scenario, kernel: &mut Kernel) -> Result<(), EngineError> {
        if self.targets.is_empty() {
            return Ok(());
        }
        let (realtime_ns, monotonic_ns) = (now_ns(ClockId::CLOCK_REALTIME), now_ns(ClockId::CLOCK_MONOTONIC));
        let clocks_of = |fault: &Fault| {
            let Effect::Clock(clock) = &fault.effect else { return vdso::Clocks::default() };
            let shown = |is_meant: bool, now_ns| {
                if is_meant {
                    model::segments(clock, &fault.when, scenario.duration_ns, now_ns)
                } else {
                    Vec::new()
                }
            };
            vdso::Clocks {
                realtime: shown(clock.clocks.realtime, realtime_ns),
                monotonic: shown(clock.clocks.monotonic, monotonic_ns),
            }
        };
        let watched = |(cgroup, position): &(Cgroup, usize)| {
            let fault = &scenario.faults[*position];
            Watched { fault: fault.id.clone(), cgroup: cgroup.clone(), clocks: clocks_of(fault) }
        };
        let watched = self.targets.iter().map(watched).collect();
        let duration = std::time::Duration::from_nanos(scenario.duration_ns);
        self.watchdog = Some(Watchdog::start(&self.id, duration).map_err(EngineError::Runtime)?);
        let (begun, log) = (kernel.follow_programs()?, Arc::clone(&self.log));
        let follower = Follower::start(watched, Hierarchy::find()?, begun, self.mark, log);
        self.follower = Some(follower.map_err(EngineError::Runtime)?);
        Ok(())
    }

    /// Looks after the process that stands by; what the operator should know since the last time.
    pub(super) fn check(&mut self) -> Vec<String> {
        if let Some(watchdog) = self.watchdog.as_mut().filter(|_| self.follower.is_some()) {
            watchdog.keep();
        }
        self.log.take_warnings()
    }

    /// Nobody is patched any more, and who was shows true time again. What can't be taken back stays in the journal.
    pub(super) fn stop(&mut self, journal: &mut Journal) {
        if self.follower.take().is_none() {
            return;
        }
        let entry =
            journal.entries().iter().position(|recorded| matches!(recorded.entry, Entry::Clocks { .. }));
        if let Some(entry) = entry {
            // What fails is tried again at the end, and told then.
            let _ = journal.undo(entry);
        }
        self.watchdog = None;
    }

    /// How many programs were patched for a fault.
    pub(super) fn counters(&self, fault: usize) -> impl Iterator<Item = Counters> {
        let own = self.faults.iter().enumerate().filter(move |(_, position)| **position == fault);
        own.map(|(target, _)| {
            let patched = self.log.patched(target);
            Counters { matched: patched, injected: patched, ..Counters::default() }
        })
    }
}
