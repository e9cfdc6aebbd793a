//! `io.observe`: I/O operations are counted, and nothing is done to them.

use std::sync::LazyLock;

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::meant::{self, FallbackTable, FilesTable, OperationsTable};
use super::{Kind, Strikes};
use crate::scenario::read::Table as _;
use crate::scenario::{Effect, Errors, FaultTable, Harm, Key, Meant, OperationFault, Reader};

/// See the module.
pub(super) struct IoObserve;

impl Kind for IoObserve {
    fn name(&self) -> &'static str {
        "io.observe"
    }

    fn summary(&self) -> &'static str {
        "Counts I/O operations and does nothing to them: to try a `path`, or for other faults to begin by."
    }

    fn keys(&self) -> &'static [Key] {
        static KEYS: LazyLock<Vec<Key>> =
            LazyLock::new(|| [OperationsTable::KEYS, FilesTable::KEYS, FallbackTable::KEYS].concat());
        &KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let operations = OperationsTable::read_from(own, errors);
        let files = FilesTable::read_from(own, errors);
        let fallback = FallbackTable::read_from(own, errors);
        let given = meant::operations(&operations)?;
        if !files.unread.is_empty() || !fallback.unread.is_empty() {
            return None;
        }
        let operations = meant::on_files(&given, files, errors)?;
        Some(Effect::Operations(OperationFault {
            meant: Meant::Operations(operations),
            harm: Harm::Observe,
            fallback: fallback.fallback.map(|given| given.value),
        }))
    }

    fn check(&self, _effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        meant::check_operations(fault, errors);
    }

    fn strikes(&self) -> Strikes {
        Strikes::Operations
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        let mut properties = OperationsTable::properties(generator);
        properties.extend(FilesTable::properties(generator));
        properties.extend(FallbackTable::properties(generator));
        properties
    }
}
