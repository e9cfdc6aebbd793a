//! The registry of fault kinds: for each kind one file, which knows its own keys and what they mean together.
//!
//! What every fault has in common (target, direction, match, frequency, window) is the scenario language's and lives
//! in `scenario`. What a kind does in the kernel lives in the eBPF crate and in the plan.

mod clock_drift;
mod clock_freeze;
mod clock_leap;
mod clock_offset;
mod clock_strobe;
mod clock_uncertainty;
mod clocks;
mod io_corrupt;
mod io_delay;
mod io_error;
mod io_lost;
mod io_observe;
mod io_short;
mod meant;
mod network_connect;
mod network_corrupt;
mod network_delay;
mod network_dns;
mod network_duplicate;
mod network_link;
mod network_local_drop;
mod network_loss;
mod network_mark_ecn;
mod network_observe;
mod network_partition;
mod network_rate;
mod network_reject;
mod network_reorder;
mod network_reset;
mod network_window;
mod process_kill;
mod process_memory;
mod process_pause;
mod process_stop;
mod process_throttle;
mod repeats;
mod syscall_delay;
mod syscall_error;
mod syscall_observe;
mod syscall_signal;
mod tcp_only;
mod times;
mod without_packets;

use std::fmt;

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

pub(crate) use meant::{FilesTable, OperationsTable, SyscallsTable, on_files, operations, syscalls};

use crate::scenario::{Effect, Errors, FaultTable, Key, Reader};

/// A kind of fault, as the scenario language sees it.
pub trait Kind: Sync {
    /// Name in a scenario, such as `network.loss`.
    fn name(&self) -> &'static str;

    /// What it does, in one sentence.
    fn summary(&self) -> &'static str;

    /// Its own keys. The first is the one that the value of an inline fault sets, unless that is a percentage.
    fn keys(&self) -> &'static [Key];

    /// Reads its own keys. `None` if they are wrong, which `errors` then has.
    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect>;

    /// Checks its rules between its own keys and those that every fault has.
    fn check(&self, effect: &Effect, fault: &FaultTable, errors: &mut Errors);

    /// Its own keys in the JSON Schema.
    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value>;

    /// Whether packets wait for their time, which takes a queue that not every kernel has.
    fn keeps_back(&self) -> bool {
        false
    }

    /// What it strikes, which is what the kernel must let be struck.
    fn strikes(&self) -> Strikes {
        Strikes::Packets
    }

    /// Its own keys that, together, name its targets, where `target` is not given.
    fn in_place_of_target(&self) -> &'static [&'static str] {
        &[]
    }

    /// Where its reference is, from the root of the repository.
    fn docs_page(&self) -> String {
        format!("docs/kinds/{}.md", self.name())
    }
}

/// What faults of a kind strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strikes {
    /// Packets, devices, and calls that ask for connections.
    Packets,
    /// Operations that a hook of the LSM framework sees, and some that none sees.
    Operations,
    /// Operations, where a program may sleep.
    Delays,
    /// What is said of an operation that is not done.
    Results,
    /// What an operation has done, in the memory of its process.
    Ends,
    /// The results of system calls.
    Syscalls,
    /// System calls, where a program may sleep.
    SyscallDelays,
    /// The beginnings of system calls.
    SyscallEntries,
    /// Operations that somebody else does for the process.
    Deputies,
    /// Processes, whatever they do.
    Processes,
    /// The same, by limits of this controller of cgroups.
    Limits(&'static str),
}

impl fmt::Debug for dyn Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Every kind of this version.
pub static KINDS: &[&dyn Kind] = &[
    &network_loss::NetworkLoss,
    &network_local_drop::NetworkLocalDrop,
    &network_delay::NetworkDelay,
    &network_rate::NetworkRate,
    &network_reorder::NetworkReorder,
    &network_duplicate::NetworkDuplicate,
    &network_corrupt::NetworkCorrupt,
    &network_mark_ecn::NetworkMarkEcn,
    &network_window::NetworkWindow,
    &network_partition::NetworkPartition,
    &network_connect::NetworkConnect,
    &network_dns::NetworkDns,
    &network_reset::NetworkReset,
    &network_reject::NetworkReject,
    &network_link::NetworkLink,
    &network_observe::NetworkObserve,
    &io_error::IoError,
    &io_delay::IoDelay,
    &io_lost::IoLost,
    &io_corrupt::IoCorrupt,
    &io_short::IoShort,
    &io_observe::IoObserve,
    &syscall_error::SyscallError,
    &syscall_delay::SyscallDelay,
    &syscall_signal::SyscallSignal,
    &syscall_observe::SyscallObserve,
    &process_pause::ProcessPause,
    &process_stop::ProcessStop,
    &process_kill::ProcessKill,
    &process_throttle::ProcessThrottle,
    &process_memory::ProcessMemory,
    &clock_offset::ClockOffset,
    &clock_drift::ClockDrift,
    &clock_freeze::ClockFreeze,
    &clock_strobe::ClockStrobe,
    &clock_leap::ClockLeap,
    &clock_uncertainty::ClockUncertainty,
];

/// The kind of a name.
#[must_use]
pub fn find(name: &str) -> Option<&'static dyn Kind> {
    KINDS.iter().copied().find(|kind| kind.name() == name)
}

/// The rules that all kinds of whole processes share.
fn check_process(effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
    if let Effect::Process(process) = effect {
        repeats::check(process, fault, errors);
    }
}

#[cfg(test)]
mod process_refusal_tests;
#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod tests;
