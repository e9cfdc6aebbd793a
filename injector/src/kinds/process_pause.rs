//! `process.pause`: no thread of the target runs for a while.

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::repeats::{self, RepeatsTable};
use super::{Kind, Strikes};
use crate::scenario::read::Table as _;
use crate::scenario::{Deed, Effect, Errors, FaultTable, Key, ProcessFault, Reader};

/// See the module.
pub(super) struct ProcessPause;

impl Kind for ProcessPause {
    fn name(&self) -> &'static str {
        "process.pause"
    }

    fn summary(&self) -> &'static str {
        "Pauses all threads of the target at once, by the freezer of its cgroup, which no parent process sees."
    }

    fn keys(&self) -> &'static [Key] {
        RepeatsTable::KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let repeats = repeats::read(&RepeatsTable::read_from(own, errors), errors).ok()?;
        Some(Effect::Process(ProcessFault { deed: Deed::Pause, repeats }))
    }

    fn check(&self, effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        super::check_process(effect, fault, errors);
    }

    fn strikes(&self) -> Strikes {
        Strikes::Processes
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        RepeatsTable::properties(generator)
    }
}
