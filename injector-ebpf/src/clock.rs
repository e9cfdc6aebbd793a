//! The times that a packet has: now, and when it would leave.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use injector_common::distribution::MAX_DELAY_NS;
use injector_common::layout::{CONTROL_FINE_CLOCK, Control};

/// When the packet would leave without us: now, or at the time that somebody has set before (TCP's pacing, another stage).
#[inline(always)]
pub(crate) fn departure_ns(skb: *mut __sk_buff, now_ns: u64) -> u64 {
    // SAFETY: the verifier checks each access to a field of the context.
    let set_ns = unsafe { (*skb).tstamp };
    // Other clocks may stand there too (`SO_TXTIME`); theirs are decades away from the monotonic one.
    if set_ns > now_ns && set_ns - now_ns <= MAX_DELAY_NS { set_ns } else { now_ns }
}

/// The time. Without windows or budgets nobody needs it finer than the kernel's tick, which costs a tenth; a
/// deadline then holds to a tick (1 to 10 ms).
#[inline(always)]
pub(crate) fn now_ns(control: &Control) -> u64 {
    // SAFETY: the helpers have no preconditions.
    unsafe {
        if control.flags & CONTROL_FINE_CLOCK == 0 { bpf_ktime_get_coarse_ns() } else { bpf_ktime_get_ns() }
    }
}
