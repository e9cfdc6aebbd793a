//! What an operation is done to, read from the arguments of its hook and the structures of the kernel behind them.
//!
//! Arguments are read by `bpf_get_func_arg`, and structures by `bpf_probe_read_kernel` at offsets that the loader has read from the kernel's BTF.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_current_task_btf, bpf_get_func_arg, bpf_task_pt_regs,
};
use injector_common::operation::{self as op, NONE};

use crate::maps::{OPERATIONS, offset};
use crate::path::{field, half, is_of_kernel, word};

/// An operation as its hook has it.
pub(crate) struct Done {
    /// One of the places of [`injector_common::operation`].
    pub(crate) place: u32,
    pub(crate) operation: u32,
    pub(crate) syscall: u32,
    /// `S_IFMT >> 12` of what it is done to.
    pub(crate) kind: u32,
    /// Mounts and dentries of its one or two names; 0 is none.
    pub(crate) names: [(u64, u64); 2],
}

/// What an operation is done to, and in which arguments the hook has it.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Object {
    /// Nothing that has a path.
    Nothing,
    /// Attributes of a file, which overlayfs reads and writes by itself as well.
    Attributes,
    /// A `struct socket`, which the kernel may have for itself.
    Socket,
    /// A `struct file`.
    File,
    /// The file that is executed, of a `struct linux_binprm`.
    Executed,
    /// A `struct path`.
    Path,
    /// A name in a directory: a `struct path` and a `struct dentry`.
    Name,
    /// The same, and the new name behind it.
    Names,
    /// A link to be made: what there is, the directory, the name.
    Link,
}

pub(crate) const FILE_PERMISSION: u32 = 100;
pub(crate) const PATH_MKNOD: u32 = 101;
pub(crate) const SOCKET_CREATE: u32 = 102;
pub(crate) const FILE_FCNTL: u32 = 103;

/// An argument of the hook. The helper is inlined, and gives a number: the verifier does not ask what it points to.
#[inline(always)]
pub(crate) fn argument(context: *mut c_void, n: u32) -> u64 {
    let mut value = 0_u64;
    // SAFETY: the helper writes the word or fails.
    unsafe { bpf_get_func_arg(context, n, &raw mut value) };
    value
}

/// The registers of the system call that the process is in. Of a kernel thread nothing that means anything.
#[inline(always)]
pub(crate) fn registers() -> u64 {
    // SAFETY: the helpers have no preconditions beyond those that the verifier checks.
    unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) as u64 }
}

/// The operation of the system call with these registers, with [`op::VECTOR`]; `NONE` if it does none.
#[inline(always)]
pub(crate) fn operation_of(registers: u64) -> u32 {
    const { assert!(0_u32.wrapping_sub(1) == NONE) };
    OPERATIONS
        .get(half(field(registers, offset!(regs_number))))
        .map_or(NONE, |operation| operation.wrapping_sub(1))
}

/// What is done. `None`: nothing that counts, such as what overlayfs does to the file below the one that is used.
#[inline(always)]
pub(crate) fn done(context: *mut c_void, object: Object, operation: u32) -> Option<Done> {
    let mut done = Done { place: op::AT_HOOK, operation, syscall: NONE, kind: 0, names: [(0, 0); 2] };
    match object {
        Object::Nothing => {}
        Object::Attributes => {
            if acts_for_another() {
                return None;
            }
        }
        Object::Socket => {
            // What a network file system sends and receives for a process is the kernel's, and others'.
            if word(field(argument(context, 0), offset!(socket_file))) == 0 {
                return None;
            }
        }
        Object::File | Object::Executed => {
            let mut file = argument(context, 0);
            if object == Object::Executed {
                file = word(field(file, offset!(exec_file)));
            }
            // Memory that is mapped without one.
            if file == 0 {
                return None;
            }
            of_file(&mut done, file)?;
        }
        Object::Path => {
            let path = argument(context, 0);
            let (mount, dentry) = (word(path), word(path + 8));
            if is_inner(mount, dentry) {
                return None;
            }
            done.names[0] = (mount, dentry);
            done.kind = kind_of(word(field(dentry, offset!(dentry_inode))));
        }
        Object::Name | Object::Names => {
            let mount = word(argument(context, 0));
            let dentry = argument(context, 1);
            done.names[0] = (mount, dentry);
            done.kind = kind_of(word(field(dentry, offset!(dentry_inode))));
            if object == Object::Names {
                done.names[1] = (word(argument(context, 2)), argument(context, 3));
            }
        }
        Object::Link => {
            let (old, mount) = (argument(context, 0), word(argument(context, 1)));
            done.names = [(mount, old), (mount, argument(context, 2))];
            done.kind = kind_of(word(field(old, offset!(dentry_inode))));
        }
    }
    told_apart(context, &mut done)?;
    Some(done)
}

/// Operations that share a hook.
#[inline(always)]
fn told_apart(context: *mut c_void, done: &mut Done) -> Option<()> {
    const MAY_WRITE: u64 = 2;
    const MAY_READ: u64 = 4;
    const F_SETLK: u32 = 6;
    const F_SETLKW: u32 = 7;
    const F_OFD_SETLK: u32 = 37;
    const F_OFD_SETLKW: u32 = 38;
    match done.operation {
        FILE_PERMISSION => {
            // Who reads and writes by a socket receives and sends, which has hooks of its own.
            if done.kind == KIND_SOCKET {
                return None;
            }
            let mask = argument(context, 1);
            done.operation = if mask & MAY_WRITE != 0 {
                if operation_of(registers()) == op::FALLOCATE { op::FALLOCATE } else { op::WRITE }
            } else if mask & MAY_READ != 0 {
                // read(2) of a directory fails by itself.
                if done.kind == KIND_DIRECTORY { op::READDIR } else { op::READ }
            } else {
                return None;
            };
        }
        PATH_MKNOD => {
            let kind = (argument(context, 2) as u32 & 0xffff) >> 12;
            done.operation = if kind == 0 || kind == KIND_REGULAR { op::CREATE } else { op::MKNOD };
            done.kind = if kind == 0 { KIND_REGULAR } else { kind };
        }
        FILE_FCNTL => {
            // Who takes or gives back a lock comes by the hook of locks once more; who asks for one does not.
            let command = argument(context, 1) as u32;
            if matches!(command, F_SETLK..=F_SETLKW | F_OFD_SETLK..=F_OFD_SETLKW) {
                return None;
            }
            done.operation = op::FCNTL;
        }
        SOCKET_CREATE => {
            // The kernel's own.
            if argument(context, 3) as u32 != 0 {
                return None;
            }
            done.operation = op::SOCKET;
        }
        op::MKDIR => done.kind = KIND_DIRECTORY,
        op::SYMLINK => done.kind = KIND_SYMLINK,
        _ => {}
    }
    Some(())
}

const KIND_DIRECTORY: u32 = 4;
const KIND_REGULAR: u32 = 8;
const KIND_SYMLINK: u32 = 10;
pub(crate) const KIND_SOCKET: u32 = 12;

#[inline(always)]
fn kind_of(inode: u64) -> u32 {
    if inode == 0 { 0 } else { (half(field(inode, offset!(inode_mode))) & 0xffff) >> 12 }
}

/// Fills in a file; `None` if it is the one below a file of overlayfs, which has been here already.
#[inline(always)]
pub(crate) fn of_file(done: &mut Done, file: u64) -> Option<()> {
    let path = field(file, offset!(file_path));
    let (mount, dentry) = (word(path), word(path + 8));
    let inode = word(field(file, offset!(file_inode)));
    // Before 6.7 it has the path of the other one, and the inode of its own.
    if is_inner(mount, dentry) || inode != word(field(dentry, offset!(dentry_inode))) {
        return None;
    }
    done.kind = kind_of(inode);
    done.names[0] = (mount, dentry);
    Some(())
}

/// Whether the process acts by the rights of another, as overlayfs lets it in what it does by itself (`override_creds`).
#[inline(always)]
fn acts_for_another() -> bool {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    word(field(task, offset!(task_cred))) != word(field(task, offset!(task_real_cred)))
}

/// Whether something is in a mount that overlayfs has made for itself (`clone_private_mount`): one of the kernel's own, of a
/// file system that others mount. What only the kernel mounts, such as pipes, says so by `SB_KERNMOUNT`.
#[inline(always)]
fn is_inner(mount: u64, dentry: u64) -> bool {
    const SB_KERNMOUNT: u64 = 1 << 22;
    if !is_of_kernel(mount) {
        return false;
    }
    let inode = word(field(dentry, offset!(dentry_inode)));
    let superblock = word(field(inode, offset!(inode_super)));
    superblock != 0 && word(field(superblock, offset!(super_flags))) & SB_KERNMOUNT == 0
}

/// What is done by the system call with these registers.
#[inline(always)]
pub(crate) fn of_registers(registers: u64) -> Done {
    let mut done = Done {
        place: op::AT_SYSCALL,
        operation: operation_of(registers) & !op::VECTOR,
        syscall: half(field(registers, offset!(regs_number))),
        kind: 0,
        names: [(0, 0); 2],
    };
    if done.operation < u64::BITS && done.operation != op::MSYNC {
        of_descriptor(&mut done, registers);
        // Who reads and writes by a socket receives and sends.
        if done.kind == KIND_SOCKET && matches!(done.operation, op::READ | op::WRITE) {
            done.operation = NONE;
        }
    }
    done
}

/// Fills in the file behind the descriptor that is the first argument of a system call, if it is one.
#[inline(always)]
pub(crate) fn of_descriptor(done: &mut Done, registers: u64) {
    let file = file_of(half(field(registers, offset!(regs_first))));
    if file != 0 {
        // Of no file below another one, since a process has it.
        let _ = of_file(done, file);
    }
}

/// The file behind a descriptor of the process; 0 if there is none.
#[inline(always)]
pub(crate) fn file_of(descriptor: u32) -> u64 {
    // SAFETY: the helper has no preconditions.
    let files = word(field(unsafe { bpf_get_current_task() }, offset!(task_files)));
    let table = word(field(files, offset!(files_table)));
    if descriptor >= half(field(table, offset!(table_size))) {
        return 0;
    }
    word(word(field(table, offset!(table_files))).wrapping_add(8 * descriptor as u64))
}
