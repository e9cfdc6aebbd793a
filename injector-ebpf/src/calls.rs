//! Calls that the loader replaces when it loads a program for a function of the kernel: not every kernel and not every place has them.
//!
//! Their numbers are no helper's, so a program in which one is left does not load (`replace` in `injector/src/kernel/functions.rs`).

use injector_common::operation::{CALL_MAY_FAIL, CALL_MAY_SLEEP, CALL_TASK_FROM_PID, CALL_TASK_RELEASE};

/// Whether the program may sleep. The verifier knows the answer, and does not walk what can't be.
#[inline(always)]
pub(crate) fn may_sleep() -> bool {
    // SAFETY: a call by this number becomes a number.
    let call: extern "C" fn() -> u64 = unsafe { core::mem::transmute(CALL_MAY_SLEEP as usize) };
    call() != 0
}

/// Whether the function fails with what the program returns.
#[inline(always)]
pub(crate) fn may_fail() -> bool {
    // SAFETY: as above.
    let call: extern "C" fn() -> u64 = unsafe { core::mem::transmute(CALL_MAY_FAIL as usize) };
    call() != 0
}

/// A process of the kernel.
#[repr(C)]
pub(crate) struct Task {
    _opaque: u8,
}

/// The process with this number in the first pid namespace, or null. It must be given back.
#[inline(always)]
pub(crate) fn task_from_pid(pid: u32) -> *mut Task {
    // SAFETY: a call by this number becomes one of the kernel's function, which has this signature.
    let call: extern "C" fn(u32) -> *mut Task = unsafe { core::mem::transmute(CALL_TASK_FROM_PID as usize) };
    call(pid)
}

/// Gives a process back.
#[inline(always)]
pub(crate) fn task_release(task: *mut Task) {
    // SAFETY: as above.
    let call: extern "C" fn(*mut Task) = unsafe { core::mem::transmute(CALL_TASK_RELEASE as usize) };
    call(task);
}
