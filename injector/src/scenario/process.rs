//! What happens to a target's processes as a whole, whatever they do: they are paused, stopped, killed, short of processor time or memory.

use super::harm::Signal;
use super::model::When;
use super::quantity::CpuShare;

/// A fault of whole processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFault {
    /// What happens to them.
    pub deed: Deed,
    /// How long, and how often again, where the kind's own keys say so.
    pub repeats: Option<Repeats>,
}

/// What happens to processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// None of their threads runs, which their parents don't see.
    Pause,
    /// They are stopped by a signal, which their parents see.
    Stop,
    /// They are killed.
    Kill(Kill),
    /// They get no more than this of processor time.
    Throttle(CpuShare),
    /// Above so many bytes the kernel takes memory away from them again.
    Memory {
        /// Bytes, at least 4096.
        high_bytes: u64,
    },
}

/// How processes are killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// By which signal.
    pub signal: Signal,
    /// The command that starts them again, for `sh -c`.
    pub restart: Option<String>,
}

/// Windows that a kind's own keys describe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeats {
    /// How long each lasts.
    pub for_ns: u64,
    /// How far apart they begin; `None` is one only.
    pub every_ns: Option<u64>,
    /// Each begins later by a random time below this.
    pub jitter_ns: u64,
}

impl ProcessFault {
    /// The name of its kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self.deed {
            Deed::Pause => "process.pause",
            Deed::Stop => "process.stop",
            Deed::Kill(_) => "process.kill",
            Deed::Throttle(_) => "process.throttle",
            Deed::Memory { .. } => "process.memory",
        }
    }

    /// By what it is done.
    #[must_use]
    pub fn mechanism(&self) -> String {
        match &self.deed {
            Deed::Pause => "cgroup.freeze".to_owned(),
            Deed::Stop => "SIGSTOP + SIGCONT".to_owned(),
            Deed::Kill(kill) => kill.signal.0.to_string(),
            Deed::Throttle(_) => "cpu.max".to_owned(),
            Deed::Memory { .. } => "memory.high".to_owned(),
        }
    }

    /// The windows of a fault whose `when` is given.
    #[must_use]
    pub fn when(&self, when: When) -> When {
        match self.repeats {
            Some(Repeats { for_ns, every_ns, jitter_ns }) => {
                When { start_ns: when.start_ns, for_ns: Some(for_ns), every_ns, jitter_ns }
            }
            None => when,
        }
    }
}
