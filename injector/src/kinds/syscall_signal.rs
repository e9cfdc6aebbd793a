//! `syscall.signal`: who makes a system call gets a signal.

use std::sync::LazyLock;

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::meant::{self, SyscallsTable};
use super::{Kind, Strikes};
use crate::scenario::read::{Table as _, table};
use crate::scenario::{Effect, Errors, FaultTable, Harm, Key, Meant, OperationFault, Reader, Signal};

/// See the module.
pub(super) struct SyscallSignal;

table! {
    /// Which signal.
    pub(crate) struct SignalTable {
        /// The signal: a name, such as `"SIGTERM"` or `"TERM"`. Signals that stop a process are refused.
        required "signal" signal: Signal,
    }
}

impl Kind for SyscallSignal {
    fn name(&self) -> &'static str {
        "syscall.signal"
    }

    fn summary(&self) -> &'static str {
        "Sends a signal to processes of the target that make system calls, by their names, as they make them."
    }

    fn keys(&self) -> &'static [Key] {
        static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| [SyscallsTable::KEYS, SignalTable::KEYS].concat());
        &KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = SyscallsTable::read_from(own, errors);
        let signal = SignalTable::read_from(own, errors).signal?.value;
        Some(Effect::Operations(OperationFault {
            meant: Meant::Syscalls(meant::syscalls(&table)?),
            harm: Harm::Signal(signal),
            fallback: None,
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
        properties.extend(SignalTable::properties(generator));
        properties
    }
}
