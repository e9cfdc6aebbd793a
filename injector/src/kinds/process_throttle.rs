//! `process.throttle`: the target gets less processor time.

use std::sync::LazyLock;

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::repeats::{self, RepeatsTable};
use super::{Kind, Strikes};
use crate::scenario::quantity::CpuShare;
use crate::scenario::read::{Table as _, table};
use crate::scenario::{Deed, Effect, Errors, FaultTable, Key, ProcessFault, Reader};

/// See the module.
pub(super) struct ProcessThrottle;

table! {
    /// How much is left.
    pub(crate) struct ThrottleTable {
        /// The processor time that all processes of the target together get: a share of one processor, such as `"20%"`.
        required "cpu" cpu: CpuShare,
    }
}

impl Kind for ProcessThrottle {
    fn name(&self) -> &'static str {
        "process.throttle"
    }

    fn summary(&self) -> &'static str {
        "Limits the processor time of the target, as a busy host or a noisy neighbour would."
    }

    fn keys(&self) -> &'static [Key] {
        static KEYS: LazyLock<Vec<Key>> =
            LazyLock::new(|| [ThrottleTable::KEYS, RepeatsTable::KEYS].concat());
        &KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let cpu = ThrottleTable::read_from(own, errors).cpu;
        let repeats = repeats::read(&RepeatsTable::read_from(own, errors), errors).ok()?;
        Some(Effect::Process(ProcessFault { deed: Deed::Throttle(cpu?.value), repeats }))
    }

    fn check(&self, effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        super::check_process(effect, fault, errors);
    }

    fn strikes(&self) -> Strikes {
        Strikes::Limits("cpu")
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        let mut properties = ThrottleTable::properties(generator);
        properties.extend(RepeatsTable::properties(generator));
        properties
    }
}
