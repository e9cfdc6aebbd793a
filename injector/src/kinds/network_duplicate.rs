//! `network.duplicate`: packets come more than once.

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::Kind;
use crate::scenario::read::{Table as _, Whole, table};
use crate::scenario::{Effect, Errors, FaultTable, Key, Reader};

/// See the module.
pub(super) struct NetworkDuplicate;

table! {
    /// The own keys of `network.duplicate`.
    pub(crate) struct DuplicateTable {
        /// How many more of the packet come, 1 to 8. Default: 1.
        "copies" copies: Whole<1, { injector_common::treatment::MAX_COPIES as u64 }>,
    }
}

impl Kind for NetworkDuplicate {
    fn name(&self) -> &'static str {
        "network.duplicate"
    }

    fn summary(&self) -> &'static str {
        "Duplicates packets: the same packet arrives more than once."
    }

    fn keys(&self) -> &'static [Key] {
        DuplicateTable::KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = DuplicateTable::read_from(own, errors);
        table.unread.is_empty().then(|| Effect::Duplicate {
            copies: table.copies.as_ref().map_or(1, |given| given.value.0 as u32),
        })
    }

    fn check(&self, _: &Effect, _: &FaultTable, _: &mut Errors) {}

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        DuplicateTable::properties(generator)
    }
}
