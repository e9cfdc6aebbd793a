//! The registry of fault kinds: for each kind one file, which knows its own keys and what they mean together.
//!
//! What every fault has in common (target, direction, match, frequency, window) is the scenario language's and lives
//! in `scenario`. What a kind does in the kernel lives in the eBPF crate and in the plan.

mod network_connect;
mod network_corrupt;
mod network_delay;
mod network_dns;
mod network_duplicate;
mod network_link;
mod network_local_drop;
mod network_loss;
mod network_mark_ecn;
mod network_partition;
mod network_rate;
mod network_reject;
mod network_reorder;
mod network_reset;
mod network_window;
mod tcp_only;

use std::fmt;

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

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

    /// Its own keys that, together, name its targets, where `target` is not given.
    fn in_place_of_target(&self) -> &'static [&'static str] {
        &[]
    }

    /// Where its reference is, from the root of the repository.
    fn docs_page(&self) -> String {
        format!("docs/kinds/{}.md", self.name())
    }
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
];

/// The kinds that the language has and this version has not: asking for one is not a slip.
#[rustfmt::skip]
pub static PLANNED: &[&str] = &[
    "io.error", "io.delay", "io.short", "io.lost", "io.corrupt", "syscall.error", "syscall.delay",
    "syscall.signal", "process.pause", "process.stop", "process.kill", "process.throttle", "process.memory",
    "clock.offset", "clock.drift", "clock.freeze", "clock.strobe", "clock.leap", "clock.uncertainty",
];

/// The kind of a name.
#[must_use]
pub fn find(name: &str) -> Option<&'static dyn Kind> {
    KINDS.iter().copied().find(|kind| kind.name() == name)
}

#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod tests;
