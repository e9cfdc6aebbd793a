//! `network.window`: TCP's receive window is what we say, zero above all.

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::{Kind, tcp_only};
use crate::scenario::read::{Table as _, Whole, table};
use crate::scenario::{Effect, Errors, FaultTable, Key, Reader};

/// See the module.
pub(super) struct NetworkWindow;

table! {
    /// The own keys of `network.window`.
    pub(crate) struct WindowTable {
        /// The window that the target's segments offer, as it stands in the header: the connection's own scale multiplies
        /// it, and 0 is 0. Default: 0.
        "size" size: Whole<0, 65535>,
    }
}

impl Kind for NetworkWindow {
    fn name(&self) -> &'static str {
        "network.window"
    }

    fn summary(&self) -> &'static str {
        "Sets the receive window of TCP segments: with 0 the other side stalls as before a full receive buffer."
    }

    fn keys(&self) -> &'static [Key] {
        WindowTable::KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = WindowTable::read_from(own, errors);
        table
            .unread
            .is_empty()
            .then(|| Effect::Window { size: table.size.as_ref().map_or(0, |given| given.value.0 as u16) })
    }

    /// Only TCP has a window.
    fn check(&self, _: &Effect, fault: &FaultTable, errors: &mut Errors) {
        tcp_only::check(fault, "only TCP has a receive window", errors);
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        WindowTable::properties(generator)
    }
}
