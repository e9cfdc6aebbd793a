//! Programs that begin in a target, told to the controller: what was changed in the memory of their process is gone with it.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::RingBuf;
use aya_ebpf::programs::RawTracePointContext;

use crate::strike::armed;
use crate::task::rules_of_task;

/// Room for what begins between two looks of the controller: 24 bytes each.
const BYTES: u32 = 1 << 16;

/// The processes, by their numbers in the first namespace. What finds no room is found by the controller's next look at the cgroup.
#[map]
pub(crate) static BEGUN: RingBuf = RingBuf::with_byte_size(BYTES, 0);

/// execve(2) and its kin, when the new program is in place and has not run (`exec_binprm` in fs/exec.c).
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn injector_exec(_ctx: RawTracePointContext) -> i32 {
    if let Some(control) = armed()
        && rules_of_task(control).is_some()
        && let Some(mut entry) = BEGUN.reserve::<u32>(0)
    {
        entry.write((bpf_get_current_pid_tgid() >> 32) as u32);
        entry.submit(0);
    }
    0
}
