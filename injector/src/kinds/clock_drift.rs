//! `clock.drift`: the clocks of the target go faster or slower.

use std::sync::LazyLock;

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::clocks::{self, ClocksTable};
use super::{Kind, Strikes};
use crate::scenario::quantity::ClockRate;
use crate::scenario::read::{Table as _, table};
use crate::scenario::{ClockChange, ClockFault, Effect, Errors, FaultTable, Key, Reader};

/// See the module.
pub(super) struct ClockDrift;

table! {
    /// How fast.
    pub(crate) struct DriftTable {
        /// How much faster the clocks go, such as `"+200ppm"` or `"-5%"`.
        required "rate" rate: ClockRate,
    }
}

impl Kind for ClockDrift {
    fn name(&self) -> &'static str {
        "clock.drift"
    }

    fn summary(&self) -> &'static str {
        "Makes the clocks of the target drift away from the true time, as a bad quartz does."
    }

    fn keys(&self) -> &'static [Key] {
        static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| [DriftTable::KEYS, ClocksTable::KEYS].concat());
        &KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let (rate, clocks) = (DriftTable::read_from(own, errors).rate, clocks::read(own, errors));
        Some(Effect::Clock(ClockFault {
            change: ClockChange::Drift { rate_q32: rate?.value.0 },
            clocks: clocks?,
        }))
    }

    fn check(&self, _effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        clocks::check(fault, errors);
    }

    fn strikes(&self) -> Strikes {
        Strikes::Processes
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        let mut properties = DriftTable::properties(generator);
        properties.extend(ClocksTable::properties(generator));
        properties
    }
}
