//! Trials of what this kernel can do, in a network namespace of their own that dies with the trial.

use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::error::EngineError;
use crate::host::tc::Direction;
use crate::kernel::attach::{self, Rung};
use crate::kernel::{Image, Kernel, KernelError, programs};

/// Attaches the egress program to `lo` of a new network namespace by tcx. A kernel that knows no tcx
/// answers EINVAL, and takes a filter instead; any other answer is an error.
pub fn tc_rung() -> Result<Rung, EngineError> {
    let mut kernel = Kernel::load(&Image::default(), 1)?;
    // `lo` counts as Ethernet: its frames begin alike.
    let program = programs::EGRESS.for_device(true);
    kernel.classifier(program)?;
    let tried = thread::scope(|scope| {
        let trial = scope.spawn(|| -> Result<Result<(), KernelError>, EngineError> {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| EngineError::Unsupported {
                what: "a network namespace for the trial".to_owned(),
                why: format!("{errno:?}"),
            })?;
            Ok(attach::tcx(&mut kernel, program, "lo", Direction::Egress).map(drop))
        });
        trial.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    });
    match tried? {
        Ok(()) => Ok(Rung::Tcx),
        Err(error) if knows_no_tcx(&error) => Ok(Rung::Clsact),
        Err(error) => Err(error.into()),
    }
}

fn knows_no_tcx(error: &KernelError) -> bool {
    matches!(error.errno(), Some(nix::libc::EINVAL | nix::libc::EOPNOTSUPP))
}
