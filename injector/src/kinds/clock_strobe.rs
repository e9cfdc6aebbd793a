//! `clock.strobe`: the clocks of the target jump to and fro.

use std::sync::LazyLock;

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::clocks::{self, ClocksTable};
use super::{Kind, Strikes};
use crate::scenario::quantity::{DurationNs, OffsetNs};
use crate::scenario::read::{Table as _, table};
use crate::scenario::{ClockChange, ClockFault, Effect, Errors, FaultTable, Key, Reader};

/// See the module.
pub(super) struct ClockStrobe;

table! {
    /// How far and how often.
    pub(crate) struct StrobeTable {
        /// How far the other time is off, such as `"+2s"`.
        required "delta" delta: OffsetNs,
        /// How long the clocks stay on either side, beginning with the other one.
        required "period" period: DurationNs,
    }
}

impl Kind for ClockStrobe {
    fn name(&self) -> &'static str {
        "clock.strobe"
    }

    fn summary(&self) -> &'static str {
        "Lets the clocks of the target jump to and fro between the true time and another one."
    }

    fn keys(&self) -> &'static [Key] {
        static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| [StrobeTable::KEYS, ClocksTable::KEYS].concat());
        &KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let (own_table, clocks) = (StrobeTable::read_from(own, errors), clocks::read(own, errors));
        let (delta, period) = (own_table.delta?, own_table.period?);
        if period.value.0 == 0 {
            errors.at(period.span, "they stay some time on either side").expected("more than 0");
            return None;
        }
        let change = ClockChange::Strobe { add_ns: delta.value.0, period_ns: period.value.0 };
        Some(Effect::Clock(ClockFault { change, clocks: clocks? }))
    }

    fn check(&self, _effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        clocks::check(fault, errors);
    }

    fn strikes(&self) -> Strikes {
        Strikes::Processes
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        let mut properties = StrobeTable::properties(generator);
        properties.extend(ClocksTable::properties(generator));
        properties
    }
}
