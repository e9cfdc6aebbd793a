//! `network.local-drop`: the drop that the sender's own stack notices.

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::Kind;
use crate::scenario::{Direction, Effect, Errors, FaultTable, Key, Reader};

/// See the module.
pub(super) struct NetworkLocalDrop;

impl Kind for NetworkLocalDrop {
    fn name(&self) -> &'static str {
        "network.local-drop"
    }

    fn summary(&self) -> &'static str {
        "Drops outgoing packets as a full local queue would: the sender's own stack is told."
    }

    fn keys(&self) -> &'static [Key] {
        &[]
    }

    fn read(&self, _: &mut Reader<'_>, _: &mut Errors) -> Option<Effect> {
        Some(Effect::LocalDrop)
    }

    /// Only a packet that leaves can be dropped by its sender's stack.
    fn check(&self, _: &Effect, fault: &FaultTable, errors: &mut Errors) {
        if let Some(direction) = &fault.direction
            && direction.value != Direction::Egress
        {
            errors
                .at(
                    direction.span,
                    "`network.local-drop` happens in the sender's own stack, so only on egress",
                )
                .expected("\"egress\"")
                .hint("to lose what arrives, use `network.loss` with direction = \"ingress\"");
        }
    }

    fn schema(&self, _: &mut SchemaGenerator) -> Map<String, Value> {
        Map::new()
    }
}
