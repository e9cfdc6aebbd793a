//! I/O operations and system calls of a cgroup's processes, and what becomes of them.
//!
//! The loader attaches each entry to the LSM hook of its name, or to the kernel's function that calls it (`security_*`), which has
//! the same arguments; `injector_do_syscall` to functions of system calls, `injector_do_lost` to `security_file_permission`. What they return
//! that is not 0 the operation fails with, before it has done anything, where the place lets it; those that may sleep delay it. The kernel calls all of them in the context of the process, which may be preempted: nothing of an
//! operation is kept per CPU.
//! What they are done to, [`crate::object`] reads.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_get_current_pid_tgid, bpf_get_current_task, bpf_send_signal};
use injector_common::call::MAX_ERRNO;
use injector_common::operation::{self as op, NONE, Pending};

use crate::calls::{may_fail, may_sleep};
use crate::fail::{errno_of, fate_of, until};
use crate::maps::{PASSED_BY, PENDING, offset};
use crate::memory::add_one;
use crate::nap::sleep_until;
use crate::object::{
    Done, FILE_FCNTL, FILE_PERMISSION, Object, PATH_MKNOD, SOCKET_CREATE, argument, done, file_of, of_file,
    of_registers, operation_of, registers,
};
use crate::path::{field, half, word};
use crate::task::{count_passed_by, struck_task};

/// The entries: the loader finds them by their names. They return 64 bits, since the functions of system calls do.
macro_rules! entries {
    ($($name:ident: $object:ident, $operation:expr;)*) => {$(
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "lsm/operation")]
        pub extern "C" fn $name(context: *mut c_void) -> i64 {
            bounded(strike(context, Object::$object, $operation))
        }
    )*};
}

entries! {
    injector_do_file_permission: File, FILE_PERMISSION;
    injector_do_file_open: File, op::OPEN;
    injector_do_file_ioctl: File, op::IOCTL;
    injector_do_file_ioctl_compat: File, op::IOCTL;
    injector_do_file_lock: File, op::LOCK;
    injector_do_file_fcntl: File, FILE_FCNTL;
    injector_do_file_truncate: File, op::TRUNCATE;
    injector_do_mmap_file: File, op::MMAP;
    injector_do_bprm_check_security: Executed, op::EXEC;
    injector_do_path_truncate: Path, op::TRUNCATE;
    injector_do_path_chmod: Path, op::CHMOD;
    injector_do_path_chown: Path, op::CHOWN;
    injector_do_inode_getattr: Path, op::STAT;
    injector_do_path_mknod: Name, PATH_MKNOD;
    injector_do_path_mkdir: Name, op::MKDIR;
    injector_do_path_unlink: Name, op::UNLINK;
    injector_do_path_rmdir: Name, op::RMDIR;
    injector_do_path_symlink: Name, op::SYMLINK;
    injector_do_path_rename: Names, op::RENAME;
    injector_do_path_link: Link, op::LINK;
    injector_do_inode_setxattr: Attributes, op::SETXATTR;
    injector_do_inode_getxattr: Attributes, op::GETXATTR;
    injector_do_inode_listxattr: Attributes, op::LISTXATTR;
    injector_do_inode_removexattr: Attributes, op::REMOVEXATTR;
    injector_do_task_alloc: Nothing, op::FORK;
    injector_do_socket_create: Nothing, SOCKET_CREATE;
    injector_do_socket_connect: Socket, op::CONNECT;
    injector_do_socket_bind: Socket, op::BIND;
    injector_do_socket_listen: Socket, op::LISTEN;
    injector_do_socket_accept: Socket, op::ACCEPT;
    injector_do_socket_sendmsg: Socket, op::SEND;
    injector_do_socket_recvmsg: Socket, op::RECV;
    injector_do_socket_shutdown: Socket, op::SHUTDOWN;
    injector_do_socket_setsockopt: Socket, op::SETSOCKOPT;
    injector_do_socket_getsockopt: Socket, op::GETSOCKOPT;
}

/// The function of a system call, whose only argument are the registers.
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/operation")]
pub extern "C" fn injector_do_syscall(context: *mut c_void) -> i64 {
    let errno = of_syscall(context);
    // Where nothing can fail the verifier wants a 0.
    if may_fail() { bounded(errno) } else { 0 }
}

/// The beginning of a system call's function in which somebody may have to sleep: all is decided here, and done by the next two.
///
/// While a program sleeps the kernel lets nobody else into it on the same CPU (`__bpf_prog_enter_sleepable_recur` in
/// `kernel/bpf/trampoline.c`). So there are several of `injector_do_nap`, which are small, and the first that is free takes the sleep.
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/operation")]
pub extern "C" fn injector_do_decide(context: *mut c_void) -> i64 {
    decide_ahead(context);
    0
}

/// Sleeps, if it is decided and nobody has done so yet.
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/operation")]
pub extern "C" fn injector_do_nap(_context: *mut c_void) -> i64 {
    if is_of_target()
        && let Some(pending) = PENDING.get_ptr_mut(thread())
    {
        // SAFETY: an aligned word inside of a map value, which only this thread changes.
        let until_ns = unsafe { (&raw const (*pending).until_ns).read_volatile() };
        if until_ns != 0 && may_sleep() {
            // SAFETY: as above. Before the sleep: a map's value may be another thread's afterwards.
            unsafe { (&raw mut (*pending).until_ns).write_volatile(0) };
            sleep_until(until_ns);
        }
    }
    0
}

/// Behind all naps: the rest of what is decided, and what nobody was free for.
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/operation")]
pub extern "C" fn injector_do_rest(_context: *mut c_void) -> i64 {
    bounded(finish())
}

#[inline(always)]
fn decide_ahead(context: *mut c_void) {
    let Some((control, target, rules)) = struck_task() else { return };
    let fate = fate_of(control, target, rules, &of_registers(argument(context, 0)));
    let until_ns = until(control, &fate);
    let pending = Pending { until_ns, errno: fate.errno, signal: fate.signal, rule: fate.slept_by, _pad: 0 };
    if until_ns != 0 || fate.errno != 0 || fate.signal != 0 {
        // Without room for it the call goes on as it was.
        let _ = PENDING.insert(&thread(), &pending, 0);
    } else if PENDING.get_ptr(thread()).is_some() {
        // Of a call that was broken off.
        let _ = PENDING.remove(&thread());
    }
}

/// Returns the negative errno with which the call fails, or 0.
#[inline(always)]
fn finish() -> i64 {
    if !is_of_target() {
        return 0;
    }
    let Some(pending) = PENDING.get_ptr(thread()) else { return 0 };
    // SAFETY: inside of a map value, which only this thread changes.
    let pending = unsafe { pending.read() };
    let _ = PENDING.remove(&thread());
    if pending.until_ns != 0 {
        count_passed_by(pending.rule);
        if let Some(passed_by) = PASSED_BY.get_ptr_mut(0) {
            add_one(passed_by);
        }
    }
    if pending.signal != 0 {
        // SAFETY: the helper has no preconditions, and refuses what is no signal.
        unsafe { bpf_send_signal(pending.signal) };
    }
    -i64::from(pending.errno)
}

/// Whether the caller is a target's, with something to decide.
#[inline(always)]
fn is_of_target() -> bool {
    struck_task().is_some()
}

/// The thread, by its number.
#[inline(always)]
fn thread() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_pid_tgid() }
}

/// Says that so much is written as was to be, and lets nothing be written: for functions that pass on what is above 0 as a result
/// (`rw_verify_area` in `fs/read_write.c`, as `vfs_write` calls it).
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/operation")]
pub extern "C" fn injector_do_lost(context: *mut c_void) -> i64 {
    lost(context)
}

/// Counts its calls: whether hooks are called at all is seen by that. It reads the kernel's memory as the others do, which a lockdown may
/// forbid, and has a nap in it where it may, which it does not take.
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/operation")]
pub extern "C" fn injector_do_trial(_context: *mut c_void) -> i64 {
    // SAFETY: the helper has no preconditions.
    let is_there = word(unsafe { bpf_get_current_task() });
    if may_sleep() {
        // A time that has passed; the compiler does not know it.
        sleep_until(is_there & 1);
    }
    if let Some(calls) = crate::maps::TRIAL.get_ptr_mut(0) {
        add_one(calls);
    }
    // 0 in all cases; the compiler does not know it.
    if may_fail() { bounded((is_there & 1) as i64) } else { 0 }
}

/// What the verifier lets an LSM hook return, from 6.12 on.
#[inline(always)]
fn bounded(errno: i64) -> i64 {
    if (-(MAX_ERRNO as i64)..0).contains(&errno) { errno } else { 0 }
}

/// A function of its own, of which the object has one and not one for each entry. The verifier walks it with what the entry passes, and only
/// that way through it.
#[inline(never)]
fn strike(context: *mut c_void, object: Object, operation: u32) -> i64 {
    let Some((control, target, rules)) = struck_task() else { return 0 };
    let Some(done) = done(context, object, operation) else { return 0 };
    errno_of(control, target, rules, &done)
}

#[inline(always)]
fn of_syscall(context: *mut c_void) -> i64 {
    let Some((control, target, rules)) = struck_task() else { return 0 };
    errno_of(control, target, rules, &of_registers(argument(context, 0)))
}

#[inline(always)]
fn lost(context: *mut c_void) -> i64 {
    let Some((control, target, rules)) = struck_task() else { return 0 };
    let registers = registers();
    // What the kernel writes by itself, or for io_uring, has no registers of its own; vectors have no length in them.
    if operation_of(registers) != op::WRITE {
        return 0;
    }
    let mut done =
        Done { place: op::AT_RESULT, operation: op::WRITE, syscall: NONE, kind: 0, names: [(0, 0); 2] };
    let file = argument(context, 0);
    if file != file_of(half(field(registers, offset!(regs_first)))) || of_file(&mut done, file).is_none() {
        return 0;
    }
    if fate_of(control, target, rules, &done).errno == 0 {
        return 0;
    }
    // At most what one call can write (`MAX_RW_COUNT` in `include/linux/fs.h`).
    let length = word(field(registers, offset!(regs_third)));
    if length < MAX_LENGTH { length as i64 } else { MAX_LENGTH as i64 }
}

const MAX_LENGTH: u64 = 0x7fff_f000;
