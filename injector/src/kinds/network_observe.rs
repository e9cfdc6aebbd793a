//! `network.observe`: packets are counted, and nothing is done to them.

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::Kind;
use crate::scenario::{Effect, Errors, FaultTable, Key, Reader};

/// See the module.
pub(super) struct NetworkObserve;

impl Kind for NetworkObserve {
    fn name(&self) -> &'static str {
        "network.observe"
    }

    fn summary(&self) -> &'static str {
        "Counts packets and does nothing to them: to try a `match`, or for other faults to begin by."
    }

    fn keys(&self) -> &'static [Key] {
        &[]
    }

    fn read(&self, _: &mut Reader<'_>, _: &mut Errors) -> Option<Effect> {
        Some(Effect::Observe)
    }

    fn check(&self, _: &Effect, _: &FaultTable, _: &mut Errors) {}

    fn schema(&self, _: &mut SchemaGenerator) -> Map<String, Value> {
        Map::new()
    }
}
