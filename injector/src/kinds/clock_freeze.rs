//! `clock.freeze`: the clocks of the target stand still.

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::clocks::{self, ClocksTable};
use super::{Kind, Strikes};
use crate::scenario::read::Table as _;
use crate::scenario::{ClockChange, ClockFault, Effect, Errors, FaultTable, Key, Reader};

/// See the module.
pub(super) struct ClockFreeze;

impl Kind for ClockFreeze {
    fn name(&self) -> &'static str {
        "clock.freeze"
    }

    fn summary(&self) -> &'static str {
        "Stops the clocks of the target: they show the same time again and again, until they jump to the true one."
    }

    fn keys(&self) -> &'static [Key] {
        ClocksTable::KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let clocks = clocks::read(own, errors)?;
        Some(Effect::Clock(ClockFault { change: ClockChange::Freeze, clocks }))
    }

    fn check(&self, _effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        clocks::check(fault, errors);
    }

    fn strikes(&self) -> Strikes {
        Strikes::Processes
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        ClocksTable::properties(generator)
    }
}
