//! `syscall.error`: a system call fails with an errno, and is not made.

use std::sync::LazyLock;

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::meant::{self, FallbackTable, SyscallsTable};
use super::{Kind, Strikes};
use crate::scenario::errno::Errno;
use crate::scenario::read::{Table as _, table};
use crate::scenario::{Effect, Errors, Failure, FaultTable, Harm, Key, Meant, OperationFault, Reader};

/// See the module.
pub(super) struct SyscallError;

table! {
    /// How system calls fail.
    pub(crate) struct SyscallErrnoTable {
        /// The errno with which they fail: a name, such as `"ENOENT"`, or a number from 1 to 133.
        required "errno" errno: Errno,
    }
}

impl Kind for SyscallError {
    fn name(&self) -> &'static str {
        "syscall.error"
    }

    fn summary(&self) -> &'static str {
        "Makes system calls of the target fail by their names, before they do anything."
    }

    fn keys(&self) -> &'static [Key] {
        static KEYS: LazyLock<Vec<Key>> =
            LazyLock::new(|| [SyscallsTable::KEYS, SyscallErrnoTable::KEYS, FallbackTable::KEYS].concat());
        &KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = SyscallsTable::read_from(own, errors);
        let errno = SyscallErrnoTable::read_from(own, errors).errno.map(|given| given.value.0);
        let fallback = FallbackTable::read_from(own, errors);
        let errno = errno.filter(|_| fallback.unread.is_empty())?;
        Some(Effect::Operations(OperationFault {
            meant: Meant::Syscalls(meant::syscalls(&table)?),
            harm: Harm::Error(Failure { errno, stays: false, frees: false }),
            fallback: fallback.fallback.map(|given| given.value),
        }))
    }

    fn check(&self, _effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        meant::check_syscalls(fault, errors);
    }

    fn strikes(&self) -> Strikes {
        Strikes::Syscalls
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        let mut properties = SyscallsTable::properties(generator);
        properties.extend(SyscallErrnoTable::properties(generator));
        properties.extend(FallbackTable::properties(generator));
        properties
    }
}
