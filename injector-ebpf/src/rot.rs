//! Bits that are flipped in what a process has read, in its own memory, after it was read: what lies on the disk stays as it is.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{
    bpf_get_func_arg, bpf_get_func_ret, bpf_loop, bpf_probe_read_user, bpf_probe_write_user,
};
use injector_common::draw;
use injector_common::operation::{self as op, NONE};

use crate::fail::fate_of;
use crate::maps::offset;
use crate::object::{Done, KIND_SOCKET, of_descriptor, operation_of};
use crate::path::{field, word};
use crate::task::struck_task;

/// What was read, and what becomes of it.
#[repr(C)]
struct Rot {
    address: u64,
    length: u64,
    bits: u64,
    offset: u32,
    _pad: u32,
}

/// The end of a system call that reads into one piece of memory, whose only argument are the registers.
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/operation")]
pub extern "C" fn injector_do_end(context: *mut c_void) -> i64 {
    let (mut registers, mut length) = (0_u64, 0_u64);
    // SAFETY: the helpers write the words or fail.
    unsafe {
        bpf_get_func_arg(context, 0, &raw mut registers);
        bpf_get_func_ret(context, &raw mut length);
    }
    // Nothing was read, or it failed.
    if length.cast_signed() > 0 {
        rot(registers, length);
    }
    0
}

#[inline(always)]
fn rot(registers: u64, length: u64) {
    let Some((control, target, rules)) = struck_task() else { return };
    let mut done = Done {
        place: op::AT_END,
        operation: operation_of(registers),
        syscall: NONE,
        kind: 0,
        names: [(0, 0); 2],
    };
    of_descriptor(&mut done, registers);
    // What arrives by a socket is the network's.
    if done.kind == KIND_SOCKET || done.operation != op::READ {
        return;
    }
    let fate = fate_of(control, target, rules, &done);
    let address = word(field(registers, offset!(regs_second)));
    let mut rot = Rot { address, length, bits: fate.bits, offset: fate.offset, _pad: 0 };
    // SAFETY: the callback has the signature that the helper wants, and its context outlives the call.
    unsafe { bpf_loop(fate.flips, flip as *mut c_void, (&raw mut rot).cast(), 0) };
}

/// One round of `bpf_loop`: one bit. Returns 1 to stop.
unsafe extern "C" fn flip(number: u32, context: *mut c_void) -> i64 {
    // SAFETY: `rot` passes a pointer to its own `Rot`.
    let rot = unsafe { &*context.cast::<Rot>() };
    let (at, bit) = place(rot, number);
    if at >= rot.length {
        return 1;
    }
    let address = rot.address.wrapping_add(at);
    let mut byte = 0_u8;
    // SAFETY: the helpers read and write what is there, or fail.
    unsafe {
        if bpf_probe_read_user((&raw mut byte).cast(), 1, address as *const c_void) != 0 {
            return 1;
        }
        byte ^= 1 << (bit & 7);
        bpf_probe_write_user(address as *mut c_void, (&raw const byte).cast(), 1);
    }
    0
}

/// Which byte and which bit of it the flip with this number hits: from an offset on one after the other, else each by itself.
#[inline(always)]
fn place(rot: &Rot, number: u32) -> (u64, u32) {
    if rot.offset != u32::MAX {
        return (u64::from(rot.offset) + u64::from(number / 8), number & 7);
    }
    let bits = draw::mix(rot.bits.wrapping_add(u64::from(number)));
    (draw::below(bits, rot.length), (bits & 7) as u32)
}
