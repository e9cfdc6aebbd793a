//! Signals to all processes of a cgroup, and of all below it.

use std::collections::BTreeSet;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::{Cgroup, CgroupError, Hierarchy, knobs};
use crate::host::process::{ProcessError, ProcessId};

/// How often it is looked for processes that were forked while others were signalled.
const ROUNDS: u32 = 50;

/// A signal that could not be sent to a cgroup.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum SignalError {
    /// Its processes could not be listed.
    Cgroup(#[from] CgroupError),
    /// One of them could not be signalled.
    Process(#[from] ProcessError),
}

impl SignalError {
    /// The remedy, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Cgroup(error) => error.hint(),
            Self::Process(error) => error.hint(),
        }
    }
}

impl Hierarchy {
    /// Stops all processes of a cgroup by SIGSTOP but those that are spared; who got the signal.
    pub fn stop_all(
        &self,
        cgroup: &Cgroup,
        spared: &BTreeSet<ProcessId>,
    ) -> Result<BTreeSet<ProcessId>, SignalError> {
        let mut stopped = BTreeSet::new();
        self.for_each(cgroup, |process| {
            if spared.contains(&process) {
                return Ok(());
            }
            stopped.insert(process);
            process.signal(Signal::SIGSTOP)
        })?;
        Ok(stopped)
    }

    /// Lets the stopped processes of a cgroup go on but those that are spared, and `known` whatever they seem to do; how many there were.
    pub fn continue_all(
        &self,
        cgroup: &Cgroup,
        spared: &BTreeSet<ProcessId>,
        known: &BTreeSet<ProcessId>,
    ) -> Result<u64, SignalError> {
        let mut count = 0;
        // Nobody else gets the signal, which some programs handle.
        self.for_each(cgroup, |process| {
            if !spared.contains(&process) && (known.contains(&process) || process.is_stopped()?) {
                count += 1;
                process.signal(Signal::SIGCONT)?;
            }
            Ok(())
        })?;
        Ok(count)
    }

    /// Sends a signal to all processes of a cgroup; to how many.
    pub fn signal_all(&self, cgroup: &Cgroup, signal: Signal) -> Result<u64, SignalError> {
        if !self.is_there(cgroup)? {
            return Ok(0);
        }
        if signal == Signal::SIGKILL {
            let count = self.procs(cgroup)?.len() as u64;
            match self.write_knob(&cgroup.path, knobs::KILL, "1") {
                Ok(()) => return Ok(count),
                // A kernel before 5.14, a threaded cgroup, or one that is gone.
                Err(CgroupError::Io {
                    source: Errno::ENOENT | Errno::EOPNOTSUPP | Errno::ENODEV, ..
                }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.for_each(cgroup, |process| process.signal(signal))
    }

    /// The processes of a cgroup that are stopped now.
    pub fn stopped(&self, cgroup: &Cgroup) -> Result<BTreeSet<ProcessId>, CgroupError> {
        let all = self.procs(cgroup)?.into_iter().filter_map(|pid| ProcessId::of(pid).ok());
        Ok(all.filter(|process| process.is_stopped().unwrap_or(false)).collect())
    }

    /// Whether a cgroup is there still, and not another one under its name.
    pub fn is_there(&self, cgroup: &Cgroup) -> Result<bool, CgroupError> {
        match self.open(&cgroup.path) {
            Ok(found) => Ok(found.id == cgroup.id),
            Err(CgroupError::Unknown { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Calls `act` for each process, those too that are forked meanwhile; how many there were. One that fails keeps no other from its turn.
    fn for_each(
        &self,
        cgroup: &Cgroup,
        mut act: impl FnMut(ProcessId) -> Result<(), ProcessError>,
    ) -> Result<u64, SignalError> {
        let (mut known, mut failed) = (BTreeSet::new(), None);
        for _ in 0..ROUNDS {
            if !self.is_there(cgroup)? {
                break;
            }
            let here = self.procs(cgroup)?.into_iter().filter_map(|pid| ProcessId::of(pid).ok());
            let new: Vec<ProcessId> = here.filter(|process| known.insert(*process)).collect();
            if new.is_empty() {
                break;
            }
            for process in new {
                match act(process) {
                    Err(ProcessError::Gone { .. }) | Ok(()) => {}
                    Err(error) => drop(failed.get_or_insert(error)),
                }
            }
        }
        failed.map_or(Ok(known.len() as u64), |error| Err(error.into()))
    }
}
