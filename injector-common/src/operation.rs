//! I/O operations and system calls of a target's processes, as the decision sees them.
//!
//! An operation has no packet, but it walks through the rules as one of which only a number is known, see [`packet`]: so
//! it has the same draws, counts, windows and limits. Which operations a rule means, its [`Subject`] says.

use crate::assert_layout;
use crate::glob::MAX_PATTERN;
use crate::packet::Packet;

/// Numbers and names of the operations.
macro_rules! operations {
    ($($(#[$doc:meta])* $constant:ident = $number:literal $name:literal;)*) => {
        $($(#[$doc])* pub const $constant: u32 = $number;)*
        /// The names of all operations, in the order of their numbers.
        pub const NAMES: &[&str] = &[$($name),*];
        const _: () = { let mut at = 0; $(assert!($constant == at); at += 1;)* assert!(at <= u64::BITS); };
    };
}

operations! {
    /// read(2) and its kin, on anything but sockets; `io_uring`, libaio, sendfile and splice included.
    READ = 0 "read";
    /// write(2) and its kin, likewise.
    WRITE = 1 "write";
    /// Opening what is there.
    OPEN = 2 "open";
    /// Making a regular file.
    CREATE = 3 "create";
    /// rename(2).
    RENAME = 4 "rename";
    /// unlink(2).
    UNLINK = 5 "unlink";
    /// mkdir(2).
    MKDIR = 6 "mkdir";
    /// rmdir(2).
    RMDIR = 7 "rmdir";
    /// link(2).
    LINK = 8 "link";
    /// symlink(2).
    SYMLINK = 9 "symlink";
    /// mknod(2) of anything but regular files.
    MKNOD = 10 "mknod";
    /// truncate(2), ftruncate(2), and open(2) with `O_TRUNC`.
    TRUNCATE = 11 "truncate";
    /// fallocate(2).
    FALLOCATE = 12 "fallocate";
    /// chmod(2).
    CHMOD = 13 "chmod";
    /// chown(2).
    CHOWN = 14 "chown";
    /// stat(2) and its kin.
    STAT = 15 "stat";
    /// getdents(2).
    READDIR = 16 "readdir";
    /// mmap(2) of a file.
    MMAP = 17 "mmap";
    /// execve(2).
    EXEC = 18 "exec";
    /// fork(2), clone(2): processes and threads.
    FORK = 19 "fork";
    /// ioctl(2).
    IOCTL = 20 "ioctl";
    /// flock(2), and locks of fcntl(2).
    LOCK = 21 "lock";
    /// fcntl(2) but for locks.
    FCNTL = 22 "fcntl";
    /// setxattr(2).
    SETXATTR = 23 "setxattr";
    /// getxattr(2).
    GETXATTR = 24 "getxattr";
    /// listxattr(2).
    LISTXATTR = 25 "listxattr";
    /// removexattr(2).
    REMOVEXATTR = 26 "removexattr";
    /// socket(2).
    SOCKET = 27 "socket";
    /// connect(2).
    CONNECT = 28 "connect";
    /// bind(2).
    BIND = 29 "bind";
    /// listen(2).
    LISTEN = 30 "listen";
    /// accept(2).
    ACCEPT = 31 "accept";
    /// Whatever sends by a socket.
    SEND = 32 "send";
    /// Whatever receives by a socket.
    RECV = 33 "recv";
    /// shutdown(2).
    SHUTDOWN = 34 "shutdown";
    /// setsockopt(2).
    SETSOCKOPT = 35 "setsockopt";
    /// getsockopt(2).
    GETSOCKOPT = 36 "getsockopt";
    /// fsync(2).
    FSYNC = 37 "fsync";
    /// fdatasync(2).
    FDATASYNC = 38 "fdatasync";
    /// `sync_file_range(2)`.
    SYNC_FILE_RANGE = 39 "sync_file_range";
    /// syncfs(2).
    SYNCFS = 40 "syncfs";
    /// msync(2).
    MSYNC = 41 "msync";
    /// close(2).
    CLOSE = 42 "close";
}

/// Added to an operation in the map `OPERATIONS`: the system call does it to several pieces of memory.
pub const VECTOR: u32 = 1 << 16;

/// No operation.
pub const NONE: u32 = u32::MAX;

/// System calls that a rule can name: those with lower numbers.
pub const MAX_SYSCALLS: u32 = 512;

/// Added to the number of a system call, to tell it from an operation.
pub const SYSCALL_BASE: u16 = 1024;

/// Where an operation comes by: before it is done, at a hook that knows what it is done to.
pub const AT_HOOK: u32 = 0;
/// Where an operation comes by: before it is done, at the function of its system call.
pub const AT_SYSCALL: u32 = 1;
/// Where an operation comes by: after it is done, at the end of the function of its system call.
pub const AT_END: u32 = 2;
/// Where an operation comes by: where it may be said to be done, and is not.
pub const AT_RESULT: u32 = 3;
/// How many of these there are.
pub const PLACES: usize = 4;

/// `Subject::flags`: only what has a path that `pattern` means.
pub const SUBJECT_PATH: u32 = 1 << 0;
/// `Subject::flags`: only files of `types`.
pub const SUBJECT_TYPES: u32 = 1 << 1;
/// `Subject::flags`: system calls, by their numbers, and no operations.
pub const SUBJECT_SYSCALLS: u32 = 1 << 2;
/// `Subject::flags`: only what lies on `device`.
pub const SUBJECT_DEVICE: u32 = 1 << 3;
/// `Subject::flags`: only what lies in a file system of the kind `magic`.
pub const SUBJECT_MAGIC: u32 = 1 << 4;
/// `Subject::flags`: once the fault has struck it strikes all that follow, until its window ends, as a full disk does.
pub const SUBJECT_STAYS: u32 = 1 << 5;
/// `Subject::flags`: what frees room, [`FREEING`], ends that, and is not struck.
pub const SUBJECT_FREES: u32 = 1 << 6;

/// The operations that free room on a disk.
pub const FREEING: u64 = 1 << UNLINK | 1 << RMDIR | 1 << TRUNCATE;

/// What a rule for operations means.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// A bit for each operation that is decided at a place, for each of these. Of system calls: anything but 0 at the place where they are decided.
    pub operations: [u64; PLACES],
    /// A bit for each system call, by its number.
    pub syscalls: [u64; MAX_SYSCALLS as usize / 64],
    /// `SUBJECT_` bits.
    pub flags: u32,
    /// Types of files: bit n for `S_IFMT >> 12` of n.
    pub types: u32,
    /// How much of `pattern` counts.
    pub pattern_length: u32,
    /// A device as the kernel has it (`MKDEV` in `include/linux/kdev_t.h`): the minor number in the lower 20 bits.
    pub device: u32,
    /// The number by which a kind of file system is known (`s_magic`).
    pub magic: u32,
    /// Zero.
    pub _pad: u32,
    /// A compiled pattern, see [`crate::glob`].
    pub pattern: [u8; MAX_PATTERN],
}

assert_layout!(Subject, size 376, align 8, {
    operations: 0, syscalls: 32, flags: 96, types: 100, pattern_length: 104, device: 108, magic: 112, _pad: 116, pattern: 120,
});

impl Default for Subject {
    fn default() -> Self {
        Self {
            operations: [0; PLACES],
            syscalls: [0; MAX_SYSCALLS as usize / 64],
            flags: 0,
            types: 0,
            pattern_length: 0,
            device: 0,
            magic: 0,
            _pad: 0,
            pattern: [0; MAX_PATTERN],
        }
    }
}

/// Where the fields lie that the kernel half reads, in bytes from the start of their structure, as the running kernel's BTF has them.
///
/// Programs of this object are not relocated against that kernel, so the loader reads the offsets and writes them to read-only data.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `file.f_path`.
    pub file_path: u32,
    /// `file.f_inode`.
    pub file_inode: u32,
    /// `dentry.d_parent`.
    pub dentry_parent: u32,
    /// `dentry.d_name.len`.
    pub dentry_length: u32,
    /// `dentry.d_name.name`.
    pub dentry_name: u32,
    /// `dentry.d_inode`.
    pub dentry_inode: u32,
    /// `dentry.d_sb`.
    pub dentry_super: u32,
    /// `vfsmount.mnt_root`.
    pub mount_root: u32,
    /// `mount.mnt`, the `vfsmount` in it.
    pub mount_inner: u32,
    /// `mount.mnt_parent`.
    pub mount_parent: u32,
    /// `mount.mnt_mountpoint`.
    pub mount_point: u32,
    /// `mount.mnt_ns`.
    pub mount_namespace: u32,
    /// `inode.i_mode`.
    pub inode_mode: u32,
    /// `inode.i_sb`.
    pub inode_super: u32,
    /// `super_block.s_flags`.
    pub super_flags: u32,
    /// `super_block.s_dev`.
    pub super_device: u32,
    /// `super_block.s_magic`.
    pub super_magic: u32,
    /// `task_struct.fs`.
    pub task_fs: u32,
    /// `task_struct.files`.
    pub task_files: u32,
    /// `fs_struct.root`.
    pub fs_root: u32,
    /// `files_struct.fdt`.
    pub files_table: u32,
    /// `fdtable.max_fds`.
    pub table_size: u32,
    /// `fdtable.fd`.
    pub table_files: u32,
    /// `task_struct.cred`.
    pub task_cred: u32,
    /// `task_struct.real_cred`.
    pub task_real_cred: u32,
    /// `socket.file`.
    pub socket_file: u32,
    /// `linux_binprm.file`.
    pub exec_file: u32,
    /// Where `pt_regs` has the number of the system call.
    pub regs_number: u32,
    /// Where `pt_regs` has the first argument of the system call.
    pub regs_first: u32,
    /// Where it has the second.
    pub regs_second: u32,
    /// Where it has the third.
    pub regs_third: u32,
}

assert_layout!(Offsets, size 124, align 4, {
    file_path: 0, dentry_super: 24, super_device: 60, super_magic: 64, socket_file: 100, exec_file: 104, regs_number: 108,
    regs_first: 112, regs_second: 116, regs_third: 120,
});

/// Calls that the loader replaces in a program when it loads it for a function: not every kernel and place has them.
///
/// Whether the program may sleep: becomes a number.
pub const CALL_MAY_SLEEP: u32 = 0x696e_0001;
/// Whether the function fails with what the program returns: becomes a number.
pub const CALL_MAY_FAIL: u32 = 0x696e_0002;
/// `bpf_task_from_pid` (`kernel/bpf/helpers.c`, Linux 6.2), or no process.
pub const CALL_TASK_FROM_PID: u32 = 0x696e_0003;
/// `bpf_task_release`.
pub const CALL_TASK_RELEASE: u32 = 0x696e_0004;

/// What is decided of a system call in which somebody is to sleep, until all of it is done; by the thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Until when the thread is to sleep, `CLOCK_MONOTONIC`; 0 is not at all, or no more.
    pub until_ns: u64,
    /// With which errno the call fails; 0 is none.
    pub errno: u32,
    /// Which signal is sent; 0 is none.
    pub signal: u32,
    /// Index of the rule by which it sleeps.
    pub rule: u32,
    /// Zero.
    pub _pad: u32,
}

assert_layout!(Pending, size 24, align 8, { until_ns: 0, errno: 8, signal: 12, rule: 16, _pad: 20 });

/// Naps that can be taken at once: each has a page of its own. A power of two.
pub const NAPS: u32 = 16_384;

/// The longest nap; who sleeps longer takes several.
pub const LONGEST_NAP_NS: u64 = 5_000_000_000;

/// Where naps are taken: the memory of a process that never does anything, whose pages come late.
///
/// A program can't sleep, but it may read the memory of a process, and sleeps until the page is there. Each page is one of a file whose
/// file system answers at the time that the map `NAPS` has for it (`injector/src/engine/sleep`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bed {
    /// Address of the first page.
    pub address: u64,
    /// Naps so far; their pages follow one another.
    pub next: u64,
    /// The process, by its number in the first pid namespace.
    pub pid: u32,
    /// log2 of the size of a page.
    pub page_shift: u32,
    /// By how much sooner who sleeps is to be woken, so that half of them wake too early and half too late.
    pub lead_ns: u64,
}

assert_layout!(Bed, size 32, align 8, { address: 0, next: 8, pid: 16, page_shift: 20, lead_ns: 24 });

/// The largest [`Bed::lead_ns`].
pub const LONGEST_LEAD_NS: u64 = 4_000_000;

/// The lead after somebody woke who wanted to at `until_ns`. One who is very late was kept from the CPU by others, and counts no more than
/// one who is a little late.
#[inline(always)]
#[must_use]
pub const fn next_lead_ns(lead_ns: u64, until_ns: u64, now_ns: u64) -> u64 {
    const MOST_NS: u64 = 400_000;
    let lead_ns = if now_ns > until_ns {
        let late_ns = now_ns - until_ns;
        lead_ns + (if late_ns < MOST_NS { late_ns } else { MOST_NS }) / 8
    } else {
        let early_ns = until_ns - now_ns;
        lead_ns.saturating_sub((if early_ns < MOST_NS { early_ns } else { MOST_NS }) / 8)
    };
    if lead_ns < LONGEST_LEAD_NS { lead_ns } else { LONGEST_LEAD_NS }
}

/// An operation, or a system call with [`SYSCALL_BASE`], as a packet: only its number is known, and tells the draws of one from another's.
#[inline(always)]
#[must_use]
pub fn packet(number: u16) -> Packet {
    Packet { local_port: number, remote_port: number, segments: 1, ..Packet::default() }
}

/// The number of an operation as its packet has it.
#[must_use]
pub const fn number(packet: &Packet) -> u16 {
    packet.local_port
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::OPERATION;

    #[test]
    fn each_operation_has_draws_of_its_own() {
        let classes: std::collections::BTreeSet<u32> =
            (0..NAMES.len() as u16).map(|number| packet(number).class(OPERATION)).collect();
        assert!(classes.len() + 3 >= NAMES.len(), "{} of {}", classes.len(), NAMES.len());
        assert_eq!(number(&packet(7)), 7);
    }

    #[test]
    fn the_lead_becomes_what_waking_takes() {
        let wakes = |takes_ns: u64, from_ns| {
            (0..500).fold(from_ns, |lead_ns, n| {
                // Every tenth is kept from the CPU for long.
                let takes_ns = if n % 10 == 0 { 50_000_000 } else { takes_ns };
                next_lead_ns(lead_ns, 1_000_000_000, 1_000_000_000 - lead_ns + takes_ns)
            })
        };
        for (takes_ns, from_ns) in [(150_000, 0), (150_000, LONGEST_LEAD_NS), (2_000_000, 0)] {
            let lead_ns = wakes(takes_ns, from_ns);
            assert!(lead_ns.abs_diff(takes_ns) < 100_000, "{lead_ns} for {takes_ns}");
        }
        assert_eq!(wakes(100_000_000, 0), LONGEST_LEAD_NS);
    }

    #[test]
    fn names_are_in_the_order_of_numbers() {
        assert_eq!(
            (NAMES[READ as usize], NAMES[FSYNC as usize], NAMES[CLOSE as usize]),
            ("read", "fsync", "close")
        );
        assert!(NAMES.len() < usize::from(SYSCALL_BASE));
    }
}
