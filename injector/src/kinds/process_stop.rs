//! `process.stop`: the target is stopped by a signal for a while.

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::repeats::{self, RepeatsTable};
use super::{Kind, Strikes};
use crate::scenario::read::Table as _;
use crate::scenario::{Deed, Effect, Errors, FaultTable, Key, ProcessFault, Reader};

/// See the module.
pub(super) struct ProcessStop;

impl Kind for ProcessStop {
    fn name(&self) -> &'static str {
        "process.stop"
    }

    fn summary(&self) -> &'static str {
        "Stops the processes of the target by SIGSTOP, and lets them go on by SIGCONT; their parents see it."
    }

    fn keys(&self) -> &'static [Key] {
        RepeatsTable::KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let repeats = repeats::read(&RepeatsTable::read_from(own, errors), errors).ok()?;
        Some(Effect::Process(ProcessFault { deed: Deed::Stop, repeats }))
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
