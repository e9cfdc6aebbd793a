//! `clock.leap`: a leap second is inserted.

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::clocks;
use super::{Kind, Strikes};
use crate::scenario::quantity::{DurationNs, format_ns};
use crate::scenario::read::{Table as _, table};
use crate::scenario::words::LeapMode;
use crate::scenario::{Affected, ClockChange, ClockFault, Effect, Errors, FaultTable, Key, Reader};

/// See the module.
pub(super) struct ClockLeap;

table! {
    /// When and how.
    pub(crate) struct LeapTable {
        /// When the leap second has passed, counted from the start of the experiment.
        required "at" at: DurationNs,
        /// `"repeat"` (default): the last second comes twice. `"smear"`: the clock goes slower around that time.
        "mode" mode: LeapMode,
        /// How long the clock goes slower, half of it before `at`. Only with `"smear"`. Default: `"24h"`.
        "over" over: DurationNs,
    }
}

/// From noon to noon, as public time servers do it.
const DEFAULT_OVER_NS: u64 = 86_400_000_000_000;
/// Slower than half of the true time is no smear.
const LEAST_OVER_NS: u64 = 2_000_000_000;

impl Kind for ClockLeap {
    fn name(&self) -> &'static str {
        "clock.leap"
    }

    fn summary(&self) -> &'static str {
        "Inserts a leap second into the wall clock of the target: a second that comes twice, or one that is smeared."
    }

    fn keys(&self) -> &'static [Key] {
        LeapTable::KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = LeapTable::read_from(own, errors);
        if !table.unread.is_empty() {
            return None;
        }
        let at = table.at?;
        let mode = table.mode.as_ref().map_or(LeapMode::Repeat, |given| given.value);
        if let Some(over) = table.over.as_ref().filter(|_| mode == LeapMode::Repeat) {
            errors
                .at(over.span, "a second that comes twice takes no time to do so")
                .hint("add `mode = \"smear\"`");
            return None;
        }
        let over_ns = table.over.as_ref().map_or(DEFAULT_OVER_NS, |given| given.value.0);
        if mode == LeapMode::Smear && (over_ns < LEAST_OVER_NS || over_ns / 2 > at.value.0) {
            let span = table.over.as_ref().map_or(at.span, |over| over.span);
            let (least, most) = (format_ns(LEAST_OVER_NS), format_ns(at.value.0.saturating_mul(2)));
            errors
                .at(span, format!("the smear takes {}, half of it before `at`", format_ns(over_ns)))
                .expected(format!("`over` from \"{least}\" to \"{most}\""))
                .hint("let `at` be later, or `over` shorter: the smear begins within the experiment");
            return None;
        }
        let smear_ns = (mode == LeapMode::Smear).then_some(over_ns);
        let change = ClockChange::Leap { at_ns: at.value.0, smear_ns };
        Some(Effect::Clock(ClockFault { change, clocks: Affected { realtime: true, monotonic: false } }))
    }

    fn check(&self, _effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        clocks::check(fault, errors);
        if let Some(when) = &fault.when {
            errors
                .at(when.span, "a leap second has its own time, so `when` has no meaning")
                .hint("leave `when` out: `at` says when it has passed");
        }
    }

    fn strikes(&self) -> Strikes {
        Strikes::Processes
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        LeapTable::properties(generator)
    }
}
