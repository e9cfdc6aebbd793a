//! `syscall.delay`: a system call takes longer, while its process sleeps.

use std::sync::LazyLock;

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::meant::{self, FallbackTable, SyscallsTable};
use super::times::{self, TimesTable};
use super::{Kind, Strikes};
use crate::scenario::read::Table as _;
use crate::scenario::{Effect, Errors, FaultTable, Harm, Key, Meant, OperationFault, Reader};

/// See the module.
pub(super) struct SyscallDelay;

impl Kind for SyscallDelay {
    fn name(&self) -> &'static str {
        "syscall.delay"
    }

    fn summary(&self) -> &'static str {
        "Makes system calls of the target take longer by their names: the process sleeps before they are made."
    }

    fn keys(&self) -> &'static [Key] {
        static KEYS: LazyLock<Vec<Key>> =
            LazyLock::new(|| [SyscallsTable::KEYS, TimesTable::KEYS, FallbackTable::KEYS].concat());
        &KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = SyscallsTable::read_from(own, errors);
        let times = TimesTable::read_from(own, errors);
        let fallback = FallbackTable::read_from(own, errors);
        if !times.unread.is_empty() || !fallback.unread.is_empty() {
            return None;
        }
        let calls = meant::syscalls(&table)?;
        let harm = Harm::Delay(times::read(&times, own, errors)?);
        Some(Effect::Operations(OperationFault {
            meant: Meant::Syscalls(calls),
            harm,
            fallback: fallback.fallback.map(|given| given.value),
        }))
    }

    fn check(&self, _effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        meant::check_syscalls(fault, errors);
    }

    fn strikes(&self) -> Strikes {
        Strikes::SyscallDelays
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        let mut properties = SyscallsTable::properties(generator);
        properties.extend(TimesTable::properties(generator));
        properties.extend(FallbackTable::properties(generator));
        properties
    }
}
