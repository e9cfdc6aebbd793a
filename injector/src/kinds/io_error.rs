//! `io.error`: an I/O operation fails with an errno that the program sees.

use std::sync::LazyLock;

use injector_common::operation::{FREEING, NAMES};
use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::meant::{self, FallbackTable, FilesTable, OperationsTable};
use super::{Kind, Strikes};
use crate::scenario::errno::Errno;
use crate::scenario::read::{Spanned, Table as _, table};
use crate::scenario::{Effect, Errors, Failure, FaultTable, Harm, Key, Meant, OperationFault, Reader};

/// See the module.
pub(super) struct IoError;

table! {
    /// How operations fail.
    pub(crate) struct FailureTable {
        /// The errno with which they fail: a name, such as `"EIO"` (default), or a number from 1 to 133.
        "errno" errno: Errno,
        /// `true`: once one has failed all that follow fail, as on a disk that is full, until the window ends. Default: `false`.
        "stays" stays: bool,
        /// `true`: the same, until the target unlinks or truncates a file that is meant, which makes room; then it is counted anew.
        /// Default: `false`.
        "frees" frees: bool,
    }
}

impl Kind for IoError {
    fn name(&self) -> &'static str {
        "io.error"
    }

    fn summary(&self) -> &'static str {
        "Makes I/O operations of the target fail, by operation, path, type of file, device and file system."
    }

    fn keys(&self) -> &'static [Key] {
        static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
            [OperationsTable::KEYS, FailureTable::KEYS, FilesTable::KEYS, FallbackTable::KEYS].concat()
        });
        &KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let operations = OperationsTable::read_from(own, errors);
        let failure = FailureTable::read_from(own, errors);
        let files = FilesTable::read_from(own, errors);
        let fallback = FallbackTable::read_from(own, errors);
        let mut given = meant::operations(&operations)?;
        if !files.unread.is_empty() || !fallback.unread.is_empty() {
            return None;
        }
        let frees = failure.frees.as_ref().filter(|given| given.value);
        if let Some(frees) = frees {
            add_freeing(&mut given, frees, errors)?;
        }
        let failure = Failure {
            errno: failure.errno.map_or(nix::libc::EIO, |errno| errno.value.0),
            stays: failure.stays.is_some_and(|given| given.value),
            frees: frees.is_some(),
        };
        let operations = meant::on_files(&given, files, errors)?;
        Some(Effect::Operations(OperationFault {
            meant: Meant::Operations(operations),
            harm: Harm::Error(failure),
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
        properties.extend(FailureTable::properties(generator));
        properties.extend(FilesTable::properties(generator));
        properties.extend(FallbackTable::properties(generator));
        properties
    }
}

/// Adds the operations that free room, which are seen and not struck.
fn add_freeing(given: &mut Vec<Spanned<u32>>, frees: &Spanned<bool>, errors: &mut Errors) -> Option<()> {
    if let Some(both) = given.iter().find(|operation| FREEING >> operation.value & 1 != 0) {
        let name = NAMES[both.value as usize];
        errors
            .at(both.span, format!("`{name}` frees room, so with `frees` it never fails"))
            .hint(format!("leave `{name}` out, or `frees`"));
        return None;
    }
    let freeing = (0..NAMES.len() as u32).filter(|operation| FREEING >> operation & 1 != 0);
    given.extend(freeing.map(|value| Spanned { value, span: frees.span }));
    Some(())
}
