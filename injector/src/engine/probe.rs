//! Trials of what this kernel can do, in a network namespace of their own that dies with the trial.

use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use super::detour::try_detour;
use super::error::EngineError;
use super::queue::try_fq;
use crate::host::module;
use crate::host::netlink::Netlink;
use crate::host::tc::{self, Direction};
use crate::kernel::attach::{self, Rung};
use crate::kernel::{Image, Kernel, KernelError, programs};

/// The module, without the devices that it would make by itself.
const IFB: &[&str] = &["ifb", "numifbs=0"];

/// Index of `lo` in every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// Attaches a program that does nothing to `lo` of a new network namespace by tcx. A kernel that knows no tcx
/// answers EINVAL, and takes a filter instead; any other answer is an error.
pub fn tc_rung() -> Result<Rung, EngineError> {
    let mut kernel = Kernel::load(&Image::default(), 1)?;
    // Whether the others load is seen when they are needed: a trial of them would cost as much once more.
    let program = programs::EMPTY;
    kernel.classifier(program)?;
    match in_new_namespace(|| attach::tcx(&mut kernel, program, "lo", Direction::Egress).map(drop))? {
        Ok(()) => Ok(Rung::Tcx),
        Err(error) if knows_no_tcx(&error) => Ok(Rung::Clsact),
        Err(error) => Err(error.into()),
    }
}

/// Tries fq on `lo` of a new network namespace.
pub fn departure_queue() -> Result<(), EngineError> {
    with_modules(&[&["sch_fq"]], || try_fq(LOOPBACK_INDEX))
}

/// Tries the way round that what arrives takes to wait, on `lo` of a new network namespace.
pub fn way_round() -> Result<(), EngineError> {
    with_modules(&[IFB, &["act_mirred"], &["act_gact"], &["cls_matchall"], &["sch_ingress"]], || {
        try_detour(LOOPBACK_INDEX, None)
    })
}

/// Tries that of what arrives at cgroups, likewise.
pub fn way_round_of_cgroups() -> Result<(), EngineError> {
    let kernel = Mutex::new(Kernel::load(&Image::default(), 1)?);
    with_modules(&[IFB, &["act_mirred"], &["act_gact"], &["cls_bpf"], &["sch_ingress"]], || {
        let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
        try_detour(LOOPBACK_INDEX, Some(&mut kernel))
    })
}

/// Tries what filters take instead of tcx, on `lo` of a new network namespace.
pub fn filters() -> Result<(), EngineError> {
    with_modules(&[&["sch_ingress"], &["cls_bpf"]], || {
        let mut netlink = Netlink::open()?;
        let tried = tc::add_clsact(&mut netlink, LOOPBACK_INDEX)
            .and_then(|()| tc::knows_bpf_filters(&mut netlink, LOOPBACK_INDEX));
        tried.map_err(|error| match error.errno() {
            Some(Errno::ENOENT | Errno::EOPNOTSUPP) => EngineError::NoClsact { detail: error.to_string() },
            _ => error.into(),
        })
    })
}

/// Tries something in a network namespace of its own, and once more with these modules if the kernel has not found them itself.
fn with_modules(
    modules: &[&[&str]],
    trial: impl Fn() -> Result<(), EngineError> + Send + Sync,
) -> Result<(), EngineError> {
    match in_new_namespace(&trial)? {
        Err(EngineError::NoFq | EngineError::NoIfb { .. } | EngineError::NoClsact { .. }) => {
            module::load(modules);
            in_new_namespace(&trial)?
        }
        tried => tried,
    }
}

/// Does something in a network namespace that nobody else uses, and that is gone afterwards.
pub(super) fn in_new_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, EngineError> {
    thread::scope(|scope| {
        let trial = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| EngineError::Unsupported {
                what: "a network namespace for the trial".to_owned(),
                why: format!("{errno:?}"),
            })?;
            Ok(work())
        });
        trial.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    })
}

fn knows_no_tcx(error: &KernelError) -> bool {
    matches!(error.errno(), Some(nix::libc::EINVAL | nix::libc::EOPNOTSUPP))
}
