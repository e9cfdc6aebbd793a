//! `io.lost`: what is written is reported as written, and is not.

use injector_common::operation::WRITE;
use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::meant::{self, FilesTable};
use super::{Kind, Strikes};
use crate::scenario::read::{Spanned, Table as _};
use crate::scenario::{Effect, Errors, FaultTable, Harm, Key, Meant, OperationFault, Reader};

/// See the module.
pub(super) struct IoLost;

impl Kind for IoLost {
    fn name(&self) -> &'static str {
        "io.lost"
    }

    fn summary(&self) -> &'static str {
        "Loses what the target writes to files: the call says that it was written, and it was not."
    }

    fn keys(&self) -> &'static [Key] {
        FilesTable::KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let files = FilesTable::read_from(own, errors);
        if !files.unread.is_empty() {
            return None;
        }
        let write = Spanned { value: WRITE, span: own.span() };
        let operations = meant::on_files(&[write], files, errors)?;
        Some(Effect::Operations(OperationFault {
            meant: Meant::Operations(operations),
            harm: Harm::Lost,
            fallback: None,
        }))
    }

    fn check(&self, _effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        meant::check_operations(fault, errors);
    }

    fn strikes(&self) -> Strikes {
        Strikes::Results
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        FilesTable::properties(generator)
    }
}
