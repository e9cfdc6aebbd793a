//! `network.reset`: TCP connections are torn down by a RST.

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::{Kind, tcp_only};
use crate::scenario::quantity::Bytes;
use crate::scenario::read::{Table as _, table};
use crate::scenario::{Effect, Errors, FaultTable, Key, Reader, Reset, ResetSide};

/// See the module.
pub(super) struct NetworkReset;

table! {
    /// The own keys of `network.reset`.
    pub(crate) struct ResetTable {
        /// Who gets the reset: `"local"` the target's own side, as if the other one had sent it; `"remote"` the other side, as if
        /// the target had; `"both"` (default).
        "side" side: ResetSide,
        /// How much payload a connection carries in the fault's direction before it is reset, such as `"64KiB"`. Default: nothing.
        "after" after: Bytes,
    }
}

impl Kind for NetworkReset {
    fn name(&self) -> &'static str {
        "network.reset"
    }

    fn summary(&self) -> &'static str {
        "Resets TCP connections: one side or both get a RST, and the next call on the socket fails."
    }

    fn keys(&self) -> &'static [Key] {
        ResetTable::KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = ResetTable::read_from(own, errors);
        table.unread.is_empty().then(|| {
            Effect::Reset(Reset {
                side: table.side.as_ref().map_or(ResetSide::Both, |given| given.value),
                after_bytes: table.after.as_ref().map_or(0, |given| given.value.0),
            })
        })
    }

    fn check(&self, _: &Effect, fault: &FaultTable, errors: &mut Errors) {
        tcp_only::check(fault, "only TCP has connections that are reset", errors);
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        ResetTable::properties(generator)
    }
}
