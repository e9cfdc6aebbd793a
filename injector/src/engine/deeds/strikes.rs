//! Whether a fault that is decided elsewhere has struck, for those that begin then.

use std::sync::Arc;

use aya::maps::{MapData, PerCpuArray};
use injector_common::layout::Counters;

use crate::engine::error::EngineError;
use crate::engine::notify::Rules;
use crate::kernel::Kernel;
use crate::plan::Lowered;

/// What was counted by the kernel half and by the notifications of seccomp, for a thread of its own.
pub(super) struct Strikes {
    counters: PerCpuArray<MapData, Counters>,
    fault_of_rule: Vec<usize>,
    notified: Arc<Rules>,
}

impl Strikes {
    pub(super) fn new(
        kernel: &Kernel,
        lowered: &Lowered,
        notified: &Arc<Rules>,
    ) -> Result<Self, EngineError> {
        let (counters, notified) = (kernel.share_counters()?, Arc::clone(notified));
        Ok(Self { counters, fault_of_rule: lowered.fault_of_rule.clone(), notified })
    }

    /// Whether a fault has struck by now. What can't be read has not: the session, which reads the same, tells of it.
    pub(super) fn has_struck(&self, fault: usize) -> bool {
        if self.notified.counters(fault).any(|counters| counters.injected > 0) {
            return true;
        }
        let rules = self.fault_of_rule.iter().enumerate().filter(|(_, position)| **position == fault);
        rules.into_iter().any(|(rule, _)| {
            let counters = self.counters.get(&(rule as u32), 0);
            counters.is_ok_and(|per_cpu| per_cpu.iter().any(|counters| counters.injected > 0))
        })
    }
}
