//! Sleep, in programs that may.
//!
//! BPF has no helper for it. But a program may read the memory of a process, and where a page of that memory comes late it sleeps until the
//! page is there (`bpf_copy_from_user_task` in `kernel/bpf/helpers.c`, `fuse_read_folio` in `fs/fuse/file.c`). No CPU time is burnt, a SIGKILL
//! ends it, and if the process that brings the pages dies, all of them come at once.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_copy_from_user_task, bpf_ktime_get_ns, bpf_loop};
use injector_common::operation::{Bed, LONGEST_NAP_NS, NAPS, next_lead_ns};

use crate::calls::{task_from_pid, task_release};
use crate::maps::{BED, WAKES};
use crate::memory::add_one;

/// An hour of naps, which is longer than a delay can be.
const MAX_NAPS: u32 = 1024;

/// A nap that ends earlier than this before its time was broken off.
const EARLY_NS: u64 = 1_000_000;

/// A sleep.
#[repr(C)]
struct Sleep {
    until_ns: u64,
}

/// Sleeps until then, if anything is there to sleep by; else it returns at once.
#[inline(always)]
pub(crate) fn sleep_until(until_ns: u64) {
    let mut sleep = Sleep { until_ns };
    // SAFETY: the callback has the signature that the helper wants, and its context outlives the call.
    unsafe { bpf_loop(MAX_NAPS, nap as *mut c_void, (&raw mut sleep).cast(), 0) };
}

/// One round of `bpf_loop`. Returns 1 to stop.
unsafe extern "C" fn nap(naps: u32, context: *mut c_void) -> i64 {
    // SAFETY: `sleep_until` passes a pointer to its own `Sleep`.
    let until_ns = unsafe { (*context.cast::<Sleep>()).until_ns };
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let Some(bed) = BED.get_ptr_mut(0) else { return 1 };
    // SAFETY: an aligned word inside of a map value.
    let lead_ns = unsafe { (&raw const (*bed).lead_ns).read_volatile() };
    let left_ns = until_ns.saturating_sub(now_ns);
    // Who has slept does not for what waking alone takes.
    if left_ns == 0 || naps > 0 && left_ns <= lead_ns {
        return 1;
    }
    let is_last = left_ns <= LONGEST_NAP_NS;
    let wake_ns = if !is_last {
        now_ns + LONGEST_NAP_NS
    } else if left_ns > lead_ns {
        until_ns - lead_ns
    } else {
        now_ns
    };
    if !nap_until(bed, wake_ns) {
        return 1;
    }
    // SAFETY: the helper has no preconditions.
    let woken_ns = unsafe { bpf_ktime_get_ns() };
    if woken_ns + EARLY_NS < wake_ns {
        return 1;
    }
    if is_last && wake_ns > now_ns {
        let lead_ns = next_lead_ns(lead_ns, until_ns, woken_ns);
        // SAFETY: as above. What another CPU writes meanwhile is as good.
        unsafe { (&raw mut (*bed).lead_ns).write_volatile(lead_ns) };
    }
    0
}

/// One nap; `false` if there was nothing to sleep by.
#[inline(always)]
fn nap_until(bed: *mut Bed, wake_ns: u64) -> bool {
    // SAFETY: the words are inside of a map value; three of them are never changed while programs run.
    let (address, pid, shift, number) =
        unsafe { ((*bed).address, (*bed).pid, (*bed).page_shift, add_one(&raw mut (*bed).next)) };
    let place = number as u32 & (NAPS - 1);
    let Some(wake) = WAKES.get_ptr_mut(place) else { return false };
    // SAFETY: an aligned word inside of a map value. Volatile: the process that brings the page reads it.
    unsafe { wake.write_volatile(wake_ns) };
    let task = task_from_pid(pid);
    if task.is_null() {
        return false;
    }
    let mut byte = 0_u8;
    let page = address.wrapping_add(u64::from(place) << (shift & 63));
    // The page never comes, and the helper fails: all that counts is when.
    // SAFETY: the helper writes one byte, and the process is ours until it is given back.
    unsafe { bpf_copy_from_user_task((&raw mut byte).cast(), 1, page as *const c_void, task.cast(), 0) };
    task_release(task);
    true
}
