//! How wrong the clock may be, as adjtimex(2) tells it: changed in the memory of who asked, once the call is over.
//!
//! Offsets are those of `struct __kernel_timex` in `include/uapi/linux/timex.h`, which is the same on all 64-bit architectures.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{
    bpf_get_func_arg, bpf_get_func_ret, bpf_probe_read_user, bpf_probe_write_user,
};
use injector_common::operation::{self as op, NONE};
use injector_common::treatment::{
    TREAT_ESTIMATED_ERROR, TREAT_MAX_ERROR, TREAT_SYNCHRONISED, TREAT_UNSYNCHRONISED,
};

use crate::fail::fate_of;
use crate::maps::offset;
use crate::object::Done;
use crate::path::{field, half, word};
use crate::task::struck_task;

const MAX_ERROR: u32 = 24;
const ESTIMATED_ERROR: u32 = 32;
const STATUS: u32 = 40;
/// `STA_UNSYNC`.
const UNSYNCHRONISED: u32 = 0x40;

/// The end of adjtimex(2).
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/operation")]
pub extern "C" fn injector_do_adjtimex(context: *mut c_void) -> i64 {
    let registers = registers(context);
    if registers != 0 {
        tell(registers, word(field(registers, offset!(regs_first))));
    }
    0
}

/// The end of `clock_adjtime(2)`, of the clock that adjtimex(2) tells of.
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/operation")]
pub extern "C" fn injector_do_clock_adjtime(context: *mut c_void) -> i64 {
    const CLOCK_REALTIME: u32 = 0;
    let registers = registers(context);
    if registers != 0 && half(field(registers, offset!(regs_first))) == CLOCK_REALTIME {
        tell(registers, word(field(registers, offset!(regs_second))));
    }
    0
}

/// The registers of the system call that has just succeeded; 0 if it has not.
#[inline(always)]
fn registers(context: *mut c_void) -> u64 {
    let (mut registers, mut result) = (0_u64, 0_u64);
    // SAFETY: the helpers write the words or fail.
    unsafe {
        bpf_get_func_arg(context, 0, &raw mut registers);
        bpf_get_func_ret(context, &raw mut result);
    }
    if result.cast_signed() < 0 { 0 } else { registers }
}

#[inline(always)]
fn tell(registers: u64, address: u64) {
    let Some((control, target, rules)) = struck_task() else { return };
    let syscall = half(field(registers, offset!(regs_number)));
    let done = Done { place: op::AT_END, operation: NONE, syscall, kind: 0, names: [(0, 0); 2] };
    let fate = fate_of(control, target, rules, &done);
    let flags = fate.bits as u32;
    if flags & TREAT_MAX_ERROR != 0 {
        write(field(address, MAX_ERROR), u64::from(fate.flips));
    }
    if flags & TREAT_ESTIMATED_ERROR != 0 {
        write(field(address, ESTIMATED_ERROR), u64::from(fate.offset));
    }
    if flags & (TREAT_SYNCHRONISED | TREAT_UNSYNCHRONISED) != 0 {
        let mut status = 0_u32;
        let status_address = field(address, STATUS);
        // SAFETY: the helper reads what is there, or zeros the word.
        unsafe { bpf_probe_read_user((&raw mut status).cast(), 4, status_address as *const c_void) };
        let rest = status & !UNSYNCHRONISED;
        write(status_address, if flags & TREAT_UNSYNCHRONISED != 0 { rest | UNSYNCHRONISED } else { rest });
    }
}

/// Writes a value to the memory of the process, or fails if it may not be written.
#[inline(always)]
fn write<T>(address: u64, value: T) {
    // SAFETY: the helper writes what may be written, or fails.
    unsafe { bpf_probe_write_user(address as *mut c_void, (&raw const value).cast(), size_of::<T>() as u32) };
}
