//! `process.memory`: the target is short of memory.

use std::sync::LazyLock;

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::repeats::{self, RepeatsTable};
use super::{Kind, Strikes};
use crate::scenario::quantity::Bytes;
use crate::scenario::read::{Table as _, table};
use crate::scenario::{Deed, Effect, Errors, FaultTable, Key, ProcessFault, Reader};

/// See the module.
pub(super) struct ProcessMemory;

/// One page.
const LEAST_BYTES: u64 = 4096;

table! {
    /// How much is left.
    pub(crate) struct MemoryTable {
        /// Above this the kernel takes memory away from the target again and slows it down, such as `"64MiB"`; nothing is killed.
        required "high" high: Bytes,
    }
}

impl Kind for ProcessMemory {
    fn name(&self) -> &'static str {
        "process.memory"
    }

    fn summary(&self) -> &'static str {
        "Puts the target under memory pressure: above a limit its pages are taken away, and it waits for them."
    }

    fn keys(&self) -> &'static [Key] {
        static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| [MemoryTable::KEYS, RepeatsTable::KEYS].concat());
        &KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let high = MemoryTable::read_from(own, errors).high;
        let repeats = repeats::read(&RepeatsTable::read_from(own, errors), errors).ok()?;
        let high = high?;
        if high.value.0 < LEAST_BYTES {
            errors.at(high.span, "without any memory nothing runs").expected("at least \"4KiB\"");
            return None;
        }
        Some(Effect::Process(ProcessFault { deed: Deed::Memory { high_bytes: high.value.0 }, repeats }))
    }

    fn check(&self, effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        super::check_process(effect, fault, errors);
    }

    fn strikes(&self) -> Strikes {
        Strikes::Limits("memory")
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        let mut properties = MemoryTable::properties(generator);
        properties.extend(RepeatsTable::properties(generator));
        properties
    }
}
