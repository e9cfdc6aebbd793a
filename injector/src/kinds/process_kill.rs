//! `process.kill`: the target's processes get a signal that ends them, and may be started again.

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::{Kind, Strikes, repeats};
use crate::scenario::quantity::DurationNs;
use crate::scenario::read::{Table as _, table};
use crate::scenario::{Deed, Effect, Errors, FaultTable, Key, Kill, ProcessFault, Reader, Repeats, Signal};

/// See the module.
pub(super) struct ProcessKill;

/// A kill takes no time; its window is as short as one can be.
const AT_ONCE_NS: u64 = 1;

table! {
    /// The own keys of `process.kill`.
    pub(crate) struct KillTable {
        /// The signal: a name, such as `"SIGTERM"` or `"TERM"`. Default: `"SIGKILL"`. Signals that stop a process are refused.
        "signal" signal: Signal,
        /// They are killed again each time this has passed.
        "every" every: DurationNs,
        /// Each time is later by a random time below this, drawn from the seed.
        "jitter" jitter: DurationNs,
        /// A command that starts them again, for `sh -c`; it runs as root, in the target's cgroup. Default: none, which leaves it to
        /// whoever supervises them.
        "restart" restart: String,
        /// How long after the kill that command is run. Default: at once.
        "downtime" downtime: DurationNs,
    }
}

impl Kind for ProcessKill {
    fn name(&self) -> &'static str {
        "process.kill"
    }

    fn summary(&self) -> &'static str {
        "Kills all processes of the target by a signal, once or again and again, and may start them anew."
    }

    fn keys(&self) -> &'static [Key] {
        KillTable::KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = KillTable::read_from(own, errors);
        if !table.unread.is_empty() {
            return None;
        }
        if let Some(downtime) = table.downtime.as_ref().filter(|_| table.restart.is_none()) {
            errors
                .at(downtime.span, "nothing is started again after it")
                .hint("add `restart`, the command that starts them");
            return None;
        }
        let for_ns = table.downtime.as_ref().map_or(AT_ONCE_NS, |time| time.value.0.max(AT_ONCE_NS));
        let repeats: Repeats = repeats::of(for_ns, table.every.as_ref(), table.jitter.as_ref(), errors)?;
        let signal =
            table.signal.as_ref().map_or(Signal(nix::sys::signal::Signal::SIGKILL), |given| given.value);
        let restart = table.restart.map(|given| given.value);
        let deed = Deed::Kill(Kill { signal, restart });
        Some(Effect::Process(ProcessFault { deed, repeats: Some(repeats) }))
    }

    fn check(&self, effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        super::check_process(effect, fault, errors);
    }

    fn strikes(&self) -> Strikes {
        Strikes::Processes
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        KillTable::properties(generator)
    }
}
