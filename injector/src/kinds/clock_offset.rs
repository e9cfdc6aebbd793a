//! `clock.offset`: the clocks of the target are off.

use std::sync::LazyLock;

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::clocks::{self, ClocksTable};
use super::{Kind, Strikes};
use crate::scenario::quantity::OffsetNs;
use crate::scenario::read::{Table as _, table};
use crate::scenario::{ClockChange, ClockFault, Effect, Errors, FaultTable, Key, Reader};

/// See the module.
pub(super) struct ClockOffset;

table! {
    /// How far.
    pub(crate) struct OffsetTable {
        /// How far the clocks are off, such as `"-5m"` or `"+1h"`.
        required "offset" offset: OffsetNs,
    }
}

impl Kind for ClockOffset {
    fn name(&self) -> &'static str {
        "clock.offset"
    }

    fn summary(&self) -> &'static str {
        "Sets the clocks of the target off by a time, forward or back, while other processes see the true time."
    }

    fn keys(&self) -> &'static [Key] {
        static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| [OffsetTable::KEYS, ClocksTable::KEYS].concat());
        &KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let (offset, clocks) = (OffsetTable::read_from(own, errors).offset, clocks::read(own, errors));
        Some(Effect::Clock(ClockFault {
            change: ClockChange::Offset { add_ns: offset?.value.0 },
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
        let mut properties = OffsetTable::properties(generator);
        properties.extend(ClocksTable::properties(generator));
        properties
    }
}
