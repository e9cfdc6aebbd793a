//! Whether a fault of the kernel half has struck, for those that begin then.

use aya::maps::{MapData, PerCpuArray};
use injector_common::layout::Counters;

use crate::engine::error::EngineError;
use crate::kernel::Kernel;
use crate::plan::Lowered;

/// The counters of the kernel half, for a thread of its own.
pub(super) struct Strikes {
    counters: PerCpuArray<MapData, Counters>,
    fault_of_rule: Vec<usize>,
}

impl Strikes {
    pub(super) fn new(kernel: &Kernel, lowered: &Lowered) -> Result<Self, EngineError> {
        Ok(Self { counters: kernel.share_counters()?, fault_of_rule: lowered.fault_of_rule.clone() })
    }

    /// Whether a fault has struck by now. What can't be read has not: the session, which reads the same, tells of it.
    pub(super) fn has_struck(&self, fault: usize) -> bool {
        let rules = self.fault_of_rule.iter().enumerate().filter(|(_, position)| **position == fault);
        rules.into_iter().any(|(rule, _)| {
            let counters = self.counters.get(&(rule as u32), 0);
            counters.is_ok_and(|per_cpu| per_cpu.iter().any(|counters| counters.injected > 0))
        })
    }
}
