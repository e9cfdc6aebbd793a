//! More programs at the functions of system calls in which somebody sleeps, when all of them are busy.
//!
//! While one sleeps there the kernel lets nobody else into the same program on the same CPU. Everybody who makes the call pays for each
//! program that is attached, so there are a few at first, and twice as many each time that somebody found none free.

use super::attachments::Attachments;
use super::error::EngineError;
use crate::kernel::Kernel;
use crate::kernel::functions::Function;
use crate::plan::PlannedFault;
use crate::plan::operations::{is_exclusive, merged};

/// So many there are at first: as many can sleep on each CPU.
const FIRST: usize = 4;

/// The most programs of one kind at one function. The kernel takes 38 of all kinds (`BPF_MAX_TRAMP_LINKS` in `include/linux/bpf.h`), and
/// others may have some.
const MOST: usize = 24;

/// How many there are.
#[derive(Debug)]
pub(super) struct Copies {
    functions: Vec<Function>,
    count: usize,
    passed_by: u64,
}

impl Copies {
    /// The first ones, beside the one of each that somebody else has attached.
    pub(super) fn attach(
        faults: &[PlannedFault],
        kernel: &Kernel,
        attachments: &mut Attachments,
    ) -> Result<Self, EngineError> {
        let all = merged(faults.iter().flat_map(|fault| &fault.functions));
        let functions = all.into_iter().filter(is_exclusive).collect();
        let mut copies = Self { functions, count: 1, passed_by: 0 };
        copies.grow(FIRST, kernel, attachments)?;
        Ok(copies)
    }

    fn grow(
        &mut self,
        count: usize,
        kernel: &Kernel,
        attachments: &mut Attachments,
    ) -> Result<(), EngineError> {
        for function in &self.functions {
            for _ in self.count..count {
                attachments.attach_function(kernel, function)?;
            }
        }
        self.count = count;
        Ok(())
    }

    /// Attaches more if some passed by since the last look.
    pub(super) fn follow(
        &mut self,
        kernel: &mut Kernel,
        attachments: &mut Attachments,
    ) -> Result<(), EngineError> {
        if self.functions.is_empty() || self.count == MOST {
            return Ok(());
        }
        let passed_by = kernel.passed_by()?;
        if passed_by == self.passed_by {
            return Ok(());
        }
        self.passed_by = passed_by;
        tracing::debug!(self.count, passed_by, "more programs for those who sleep");
        self.grow((2 * self.count).min(MOST), kernel, attachments)
    }
}
