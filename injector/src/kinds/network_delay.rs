//! `network.delay`: packets come later, each by its own time.

use std::sync::LazyLock;

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::Kind;
use super::times::{self, TimesTable};
use crate::scenario::read::{Table as _, table};
use crate::scenario::{Delay, Effect, Errors, FaultTable, Key, Reader};

/// See the module.
pub(super) struct NetworkDelay;

table! {
    /// The key of `network.delay` beside its times.
    pub(crate) struct OrderTable {
        /// `false`: a packet never overtakes another one of its flow. Default: `true`, as with netem.
        "reorder" reorder: bool,
    }
}

impl Kind for NetworkDelay {
    fn name(&self) -> &'static str {
        "network.delay"
    }

    fn summary(&self) -> &'static str {
        "Delays packets as a long path does: each by its own time, without holding up their sender."
    }

    fn keys(&self) -> &'static [Key] {
        static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| [TimesTable::KEYS, OrderTable::KEYS].concat());
        &KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let (table, order) = (TimesTable::read_from(own, errors), OrderTable::read_from(own, errors));
        if !order.unread.is_empty() {
            return None;
        }
        let times = times::read(&table, own, errors)?;
        Some(Effect::Delay(Delay { times, reorder: order.reorder.is_none_or(|given| given.value) }))
    }

    fn check(&self, _: &Effect, _: &FaultTable, _: &mut Errors) {}

    fn keeps_back(&self) -> bool {
        true
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        let mut properties = TimesTable::properties(generator);
        properties.extend(OrderTable::properties(generator));
        properties
    }
}
