//! Processes: an identity that outlives pid reuse, the tree of parents and children, signals.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use procfs::ProcError;
use procfs::process::{Process, Stat};
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::errno_of;

/// The flag of kernel threads in field 9 of `/proc/PID/stat`.
const PF_KTHREAD: u32 = 0x0020_0000;

/// A process operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// No such process.
    #[error("there is no process {pid}")]
    Gone {
        /// The pid.
        pid: i32,
    },
    /// The process table could not be read.
    #[error("cannot read {what} of process {pid}: {source}")]
    Read {
        /// The pid.
        pid: i32,
        /// Which file.
        what: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// The list of processes could not be read.
    #[error("cannot list the processes in /proc: {source}")]
    List {
        /// What the kernel said.
        source: Errno,
    },
    /// A signal could not be sent.
    #[error("cannot send {signal} to process {pid}: {source}")]
    Signal {
        /// The pid.
        pid: i32,
        /// The signal.
        signal: Signal,
        /// What the kernel said.
        source: Errno,
    },
}

impl ProcessError {
    /// The remedy, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Gone { .. } => "it has ended, or it is of another pid namespace",
            Self::Read { source: Errno::EACCES | Errno::EPERM, .. }
            | Self::Signal { source: Errno::EPERM, .. } => "run as root",
            Self::List { .. } => "mount /proc: `mount -t proc proc /proc`",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// A process, and not another one that got its number later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid.
    pub pid: i32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
}

impl ProcessId {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> Result<Self, ProcessError> {
        stat_of(pid).map(|stat| Self { pid, start_ticks: stat.starttime })
    }

    /// This process.
    pub fn of_self() -> Result<Self, ProcessError> {
        Self::of(std::process::id().cast_signed())
    }

    /// Whether it still runs. A zombie does not: it holds nothing but its exit status.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        stat_of(self.pid)
            .is_ok_and(|stat| stat.starttime == self.start_ticks && !matches!(stat.state, 'Z' | 'X' | 'x'))
    }

    /// Whether it is stopped by a signal, or about to be.
    pub fn is_stopped(&self) -> Result<bool, ProcessError> {
        if Self::of(self.pid)? != *self {
            return Err(ProcessError::Gone { pid: self.pid });
        }
        // The first thread may have ended before the others, and one that is traced shows that instead.
        let threads = Process::new(self.pid).and_then(|process| process.tasks());
        let threads = threads.map_err(|_| ProcessError::Gone { pid: self.pid })?;
        let rests =
            |thread: procfs::process::Task| thread.stat().is_ok_and(|stat| matches!(stat.state, 'T' | 't'));
        if threads.flatten().any(rests) {
            return Ok(true);
        }
        // A pending SIGSTOP stops it when it next enters or leaves the kernel, and SIGCONT takes that back.
        let status = Process::new(self.pid).and_then(|process| process.status());
        let status = status.map_err(|_| ProcessError::Gone { pid: self.pid })?;
        Ok((status.shdpnd | status.sigpnd) >> (Signal::SIGSTOP as i32 - 1) & 1 == 1)
    }

    /// Send a signal to this process, and to no other that took its pid.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        let gone = || ProcessError::Gone { pid: self.pid };
        let failed = |error: rustix::io::Errno| match error {
            rustix::io::Errno::SRCH => gone(),
            error => {
                ProcessError::Signal { pid: self.pid, signal, source: Errno::from_raw(error.raw_os_error()) }
            }
        };
        let pid = Pid::from_raw(self.pid).ok_or_else(gone)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
        // From here on the descriptor holds the process: check that it is the one we mean.
        if Self::of(self.pid)? != *self {
            return Err(gone());
        }
        let number = rustix::process::Signal::from_named_raw(signal as i32);
        let number = number.ok_or(ProcessError::Signal { pid: self.pid, signal, source: Errno::EINVAL })?;
        pidfd_send_signal(pidfd, number).map_err(failed)
    }
}

/// What the process table says of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its identity.
    pub id: ProcessId,
    /// The pid of its parent; 0 for the first process and for kernel threads' own parent.
    pub parent: i32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Whether it is a thread of the kernel.
    pub kernel_thread: bool,
}

impl From<Stat> for ProcessInfo {
    fn from(stat: Stat) -> Self {
        Self {
            id: ProcessId { pid: stat.pid, start_ticks: stat.starttime },
            parent: stat.ppid,
            kernel_thread: stat.flags & PF_KTHREAD != 0,
            name: stat.comm,
        }
    }
}

/// What the process table says of one process.
pub fn inspect(pid: i32) -> Result<ProcessInfo, ProcessError> {
    stat_of(pid).map(ProcessInfo::from)
}

/// The processes of the host at one moment.
#[derive(Debug, Clone, Default)]
pub struct ProcessTable(BTreeMap<i32, ProcessInfo>);

impl ProcessTable {
    /// Read it. Processes that end meanwhile are left out.
    pub fn read() -> Result<Self, ProcessError> {
        let all = procfs::process::all_processes()
            .map_err(|error| ProcessError::List { source: errno_of_proc(&error) })?;
        Ok(all.flatten().filter_map(|process| process.stat().ok()).map(ProcessInfo::from).collect())
    }

    /// One process.
    #[must_use]
    pub fn get(&self, pid: i32) -> Option<&ProcessInfo> {
        self.0.get(&pid)
    }

    /// All pids, in order.
    pub fn pids(&self) -> impl Iterator<Item = i32> {
        self.0.keys().copied()
    }

    /// Its parent, grandparent and so on, the nearest first.
    #[must_use]
    pub fn ancestors(&self, pid: i32) -> Vec<i32> {
        let mut chain = Vec::new();
        let mut next = self.get(pid).map(|info| info.parent);
        while let Some(parent) = next.filter(|parent| *parent > 0 && !chain.contains(parent)) {
            chain.push(parent);
            next = self.get(parent).map(|info| info.parent);
        }
        chain
    }

    /// Its children, their children and so on, without itself.
    #[must_use]
    pub fn descendants(&self, pid: i32) -> BTreeSet<i32> {
        let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for info in self.0.values() {
            children.entry(info.parent).or_default().push(info.id.pid);
        }
        let (mut found, mut open) = (BTreeSet::new(), vec![pid]);
        while let Some(parent) = open.pop() {
            let new = children.get(&parent).into_iter().flatten().filter(|child| found.insert(**child));
            open.extend(new.collect::<Vec<_>>());
        }
        found
    }

    /// Whether all of `pids` are the process `pid` or descend from it.
    #[must_use]
    pub fn are_only(&self, pids: &BTreeSet<i32>, pid: i32) -> bool {
        let descendants = self.descendants(pid);
        pids.iter().all(|other| *other == pid || descendants.contains(other))
    }
}

impl FromIterator<ProcessInfo> for ProcessTable {
    fn from_iter<I: IntoIterator<Item = ProcessInfo>>(processes: I) -> Self {
        Self(processes.into_iter().map(|info| (info.id.pid, info)).collect())
    }
}

fn stat_of(pid: i32) -> Result<Stat, ProcessError> {
    let stat = Process::new(pid).and_then(|process| process.stat());
    stat.map_err(|error| match errno_of_proc(&error) {
        Errno::ENOENT | Errno::ESRCH => ProcessError::Gone { pid },
        source => ProcessError::Read { pid, what: "stat", source },
    })
}

/// procfs sorts the common errors and drops their numbers; give them back.
pub(crate) fn errno_of_proc(error: &ProcError) -> Errno {
    match error {
        ProcError::PermissionDenied(_) => Errno::EACCES,
        ProcError::NotFound(_) => Errno::ENOENT,
        ProcError::Io(error, _) => errno_of(error),
        _ => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(i32, i32)]) -> ProcessTable {
        rows.iter()
            .map(|(pid, parent)| ProcessInfo {
                id: ProcessId { pid: *pid, start_ticks: 1 },
                parent: *parent,
                name: String::new(),
                kernel_thread: false,
            })
            .collect()
    }

    #[test]
    fn the_tree() {
        let table = table(&[(1, 0), (10, 1), (11, 10), (12, 11), (20, 1)]);
        assert_eq!(table.ancestors(12), [11, 10, 1]);
        assert_eq!(table.descendants(10), BTreeSet::from([11, 12]));
        assert!(table.are_only(&BTreeSet::from([10, 11, 12]), 10));
        assert!(!table.are_only(&BTreeSet::from([10, 20]), 10));
        // A group with nobody in it holds nobody else.
        assert!(table.are_only(&BTreeSet::new(), 10));
    }

    #[test]
    fn a_loop_of_parents_ends() {
        // Two readings of a changing table may contradict each other.
        let table = table(&[(2, 3), (3, 2)]);
        assert_eq!(table.ancestors(2), [3, 2]);
        assert_eq!(table.descendants(2), BTreeSet::from([2, 3]));
    }

    #[test]
    fn another_process_with_our_pid_is_not_us() {
        let me = ProcessId::of_self().unwrap();
        assert!(me.is_alive());
        let other = ProcessId { start_ticks: me.start_ticks + 1, ..me };
        assert!(!other.is_alive());
        let error = other.signal(Signal::SIGKILL).unwrap_err();
        assert!(matches!(error, ProcessError::Gone { .. }), "{error:?}");
    }

    #[test]
    fn signals_reach_children_and_zombies_are_dead() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id().cast_signed()).unwrap();
        assert!(id.is_alive());
        assert_eq!(inspect(id.pid).unwrap().parent, std::process::id().cast_signed());
        assert!(
            ProcessTable::read().unwrap().descendants(std::process::id().cast_signed()).contains(&id.pid)
        );
        id.signal(Signal::SIGTERM).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(Signal::SIGTERM as i32));
        assert!(!id.is_alive());
    }
}
