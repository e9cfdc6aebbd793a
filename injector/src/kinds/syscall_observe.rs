//! `syscall.observe`: system calls are counted, and nothing is done to them.

use std::sync::LazyLock;

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::meant::{self, FallbackTable, SyscallsTable};
use super::{Kind, Strikes};
use crate::scenario::read::Table as _;
use crate::scenario::{Effect, Errors, FaultTable, Harm, Key, Meant, OperationFault, Reader};

/// See the module.
pub(super) struct SyscallObserve;

impl Kind for SyscallObserve {
    fn name(&self) -> &'static str {
        "syscall.observe"
    }

    fn summary(&self) -> &'static str {
        "Counts system calls by their names and does nothing to them, for other faults to begin by."
    }

    fn keys(&self) -> &'static [Key] {
        static KEYS: LazyLock<Vec<Key>> =
            LazyLock::new(|| [SyscallsTable::KEYS, FallbackTable::KEYS].concat());
        &KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = SyscallsTable::read_from(own, errors);
        let fallback = FallbackTable::read_from(own, errors);
        if !fallback.unread.is_empty() {
            return None;
        }
        Some(Effect::Operations(OperationFault {
            meant: Meant::Syscalls(meant::syscalls(&table)?),
            harm: Harm::Observe,
            fallback: fallback.fallback.map(|given| given.value),
        }))
    }

    fn check(&self, _effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        meant::check_syscalls(fault, errors);
    }

    fn strikes(&self) -> Strikes {
        Strikes::SyscallEntries
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        let mut properties = SyscallsTable::properties(generator);
        properties.extend(FallbackTable::properties(generator));
        properties
    }
}
