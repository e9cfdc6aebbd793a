//! `io.delay`: an I/O operation takes longer, while its process sleeps.

use std::sync::LazyLock;

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::meant::{self, FallbackTable, FilesTable, OperationsTable};
use super::times::{self, TimesTable};
use super::{Kind, Strikes};
use crate::scenario::operation::can_sleep;
use crate::scenario::read::{Spanned, Table as _};
use crate::scenario::{Effect, Errors, FaultTable, Harm, Key, Meant, OperationFault, Reader};

/// See the module.
pub(super) struct IoDelay;

impl Kind for IoDelay {
    fn name(&self) -> &'static str {
        "io.delay"
    }

    fn summary(&self) -> &'static str {
        "Makes I/O operations of the target take longer: the process sleeps before they are done."
    }

    fn keys(&self) -> &'static [Key] {
        static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
            [OperationsTable::KEYS, TimesTable::KEYS, FilesTable::KEYS, FallbackTable::KEYS].concat()
        });
        &KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let operations = OperationsTable::read_from(own, errors);
        let times = TimesTable::read_from(own, errors);
        let files = FilesTable::read_from(own, errors);
        let fallback = FallbackTable::read_from(own, errors);
        let given = meant::operations(&operations)?;
        if !files.unread.is_empty() || !fallback.unread.is_empty() {
            return None;
        }
        check_sleep(&given, errors)?;
        let times = times::read(&times, own, errors)?;
        let operations = meant::on_files(&given, files, errors)?;
        Some(Effect::Operations(OperationFault {
            meant: Meant::Operations(operations),
            harm: Harm::Delay(times),
            fallback: fallback.fallback.map(|given| given.value),
        }))
    }

    fn check(&self, _effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        meant::check_operations(fault, errors);
    }

    fn strikes(&self) -> Strikes {
        Strikes::Delays
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        let mut properties = OperationsTable::properties(generator);
        properties.extend(TimesTable::properties(generator));
        properties.extend(FilesTable::properties(generator));
        properties.extend(FallbackTable::properties(generator));
        properties
    }
}

/// Refuses the operations that no kernel lets a program sleep in where it is known what they are done to.
fn check_sleep(operations: &[Spanned<u32>], errors: &mut Errors) -> Option<()> {
    let Some(other) = operations.iter().find(|operation| !can_sleep(operation.value)) else {
        return Some(());
    };
    let name = injector_common::operation::NAMES[other.value as usize];
    errors.at(other.span, format!("`{name}` can't be delayed: no kernel lets a program sleep at its hook")).hint(
        "the system call can be, on kernels that let one sleep there: a fault with kind = \"syscall.delay\" and `syscalls`",
    );
    None
}
