//! Which functions of the kernel there are for each operation, and which program is for which.
//!
//! Nothing else can be named: what a scenario makes fail is on the lists here, since an error from other hooks of the kernel breaks it
//! (`xfrm_decode_session` panics).

use injector_common::operation::{self as border, VECTOR};
use injector_common::rule::{
    ACTION_LOSE, ACTION_OPERATION, ACTION_ROT, ACTION_SIGNAL, ACTION_SLEEP, ACTION_UNCERTAINTY,
    RULE_NAMES_DEVICES, RULE_STAYS,
};

use crate::kernel::functions::{Function, Mechanism};

/// A hook of the LSM framework, and the function that calls it.
pub(super) struct Hook {
    pub(super) operations: &'static [u32],
    pub(super) lsm: &'static str,
    pub(super) security: &'static str,
    pub(super) program: &'static str,
    /// Whether a program may sleep there (`sleepable_lsm_hooks` in `kernel/bpf/bpf_lsm.c`).
    pub(super) sleeps: bool,
}

/// A hook whose names are made of one.
macro_rules! hook {
    ($name:literal: $($operation:ident)+) => {
        hook!($name, $name, false: $($operation)+)
    };
    ($name:literal sleeps: $($operation:ident)+) => {
        hook!($name, $name, true: $($operation)+)
    };
    ($lsm:literal, $security:literal, $sleeps:literal: $($operation:ident)+) => {
        Hook {
            operations: &[$(border::$operation),+],
            lsm: concat!("bpf_lsm_", $lsm),
            security: concat!("security_", $security),
            program: concat!("injector_do_", $lsm),
            sleeps: $sleeps,
        }
    };
}

/// Every hook that is used.
pub(super) const HOOKS: &[Hook] = &[
    hook!("file_permission": READ WRITE READDIR FALLOCATE),
    hook!("file_open" sleeps: OPEN),
    hook!("file_ioctl" sleeps: IOCTL),
    // Of 32-bit programs, from 6.8 on.
    hook!("file_ioctl_compat": IOCTL),
    hook!("file_lock" sleeps: LOCK),
    hook!("file_fcntl": FCNTL),
    // Of an open file; before 6.2 they all go by the path.
    hook!("file_truncate": TRUNCATE),
    hook!("path_truncate": TRUNCATE),
    hook!("mmap_file" sleeps: MMAP),
    hook!("bprm_check_security", "bprm_check", true: EXEC),
    hook!("path_chmod": CHMOD),
    hook!("path_chown": CHOWN),
    hook!("inode_getattr" sleeps: STAT),
    hook!("path_mknod": CREATE MKNOD),
    hook!("path_mkdir": MKDIR),
    hook!("path_unlink": UNLINK),
    hook!("path_rmdir": RMDIR),
    hook!("path_symlink": SYMLINK),
    hook!("path_rename": RENAME),
    hook!("path_link": LINK),
    hook!("inode_setxattr" sleeps: SETXATTR),
    hook!("inode_getxattr" sleeps: GETXATTR),
    hook!("inode_listxattr": LISTXATTR),
    hook!("inode_removexattr": REMOVEXATTR),
    hook!("task_alloc" sleeps: FORK),
    hook!("socket_create" sleeps: SOCKET),
    hook!("socket_connect" sleeps: CONNECT),
    hook!("socket_bind" sleeps: BIND),
    hook!("socket_listen" sleeps: LISTEN),
    hook!("socket_accept" sleeps: ACCEPT),
    hook!("socket_sendmsg" sleeps: SEND),
    hook!("socket_recvmsg" sleeps: RECV),
    hook!("socket_shutdown" sleeps: SHUTDOWN),
    hook!("socket_setsockopt": SETSOCKOPT),
    hook!("socket_getsockopt" sleeps: GETSOCKOPT),
];

/// The program of system calls' functions.
pub(super) const SYSCALL_PROGRAM: &str = "injector_do_syscall";
/// The program of the ends of system calls' functions.
pub const END_PROGRAM: &str = "injector_do_end";
/// The program that decides where a system call's function begins in which somebody may have to sleep.
pub(super) const DECIDE_PROGRAM: &str = "injector_do_decide";
/// The program that sleeps there.
pub(super) const NAP_PROGRAM: &str = "injector_do_nap";
/// The program behind those that sleep.
pub(super) const REST_PROGRAM: &str = "injector_do_rest";
/// The program of what is said to be written.
pub(super) const LOST_PROGRAM: &str = "injector_do_lost";

/// The programs of the ends of system calls that tell how wrong the clock may be.
pub(super) const CLOCK_PROGRAMS: [(&str, &str); 2] =
    [("adjtimex", "injector_do_adjtimex"), ("clock_adjtime", "injector_do_clock_adjtime")];

/// The operation in what the map `OPERATIONS` has for a system call.
pub(super) const OPERATION_BITS: u32 = 0xff;

/// The system calls that do an operation and name a descriptor.
pub(super) const CALLS: &[(&str, u32)] = &[
    ("read", border::READ),
    ("pread64", border::READ),
    ("readv", border::READ | VECTOR),
    ("preadv", border::READ | VECTOR),
    ("preadv2", border::READ | VECTOR),
    ("write", border::WRITE),
    ("pwrite64", border::WRITE),
    ("writev", border::WRITE | VECTOR),
    ("pwritev", border::WRITE | VECTOR),
    ("pwritev2", border::WRITE | VECTOR),
    ("getdents", border::READDIR),
    ("getdents64", border::READDIR),
    ("fallocate", border::FALLOCATE),
    ("fsync", border::FSYNC),
    ("fdatasync", border::FDATASYNC),
    ("sync_file_range", border::SYNC_FILE_RANGE),
    ("syncfs", border::SYNCFS),
    ("msync", border::MSYNC),
    ("close", border::CLOSE),
];

/// Those of them that read into one piece of memory.
pub(super) const PLAIN_READS: [&str; 2] = ["read", "pread64"];

/// The program by which mechanisms are tried.
pub const TRIAL_PROGRAM: &str = "injector_do_trial";

/// The hook by which the BPF LSM is tried, and the function that calls it: of getpgid(2), which hardly anybody asks for, as every attachment
/// changes the code of its function.
pub const LSM_TRIAL: &str = "bpf_lsm_task_getpgid";
/// See [`LSM_TRIAL`].
pub const SECURITY_TRIAL: &str = "security_task_getpgid";

/// The hook at which sleeping is tried.
pub const SLEEP_TRIAL: &str = "bpf_lsm_file_open";

/// A program of each shape, at a function of its own: the others differ in a number.
#[must_use]
pub fn of_each_shape() -> Vec<Function> {
    let shapes = [
        "file_permission",
        "bprm_check_security",
        "path_chmod",
        "path_mknod",
        "path_rename",
        "path_link",
        "socket_create",
        "socket_connect",
        "inode_getxattr",
    ];
    let is_one = |hook: &&Hook| shapes.iter().any(|shape| hook.lsm.strip_prefix("bpf_lsm_") == Some(*shape));
    let function = |name: String, mechanism, program, sleeps| Function { name, mechanism, program, sleeps };
    let hooks = HOOKS.iter().filter(is_one);
    let at_hooks = hooks.map(|hook| function(hook.lsm.to_owned(), Mechanism::Lsm, hook.program, false));
    let call = || syscall_function("getpgid");
    at_hooks
        .chain([
            function(SLEEP_TRIAL.to_owned(), Mechanism::Lsm, "injector_do_file_open", true),
            function("security_file_permission".to_owned(), Mechanism::Security, LOST_PROGRAM, false),
            function(call(), Mechanism::Entry, DECIDE_PROGRAM, false),
            function(call(), Mechanism::Syscall, NAP_PROGRAM, true),
            function(call(), Mechanism::Syscall, REST_PROGRAM, false),
            function(call(), Mechanism::Syscall, SYSCALL_PROGRAM, false),
            function(call(), Mechanism::Exit, END_PROGRAM, false),
        ])
        .chain(CLOCK_PROGRAMS.map(|(_, program)| function(call(), Mechanism::Exit, program, false)))
        .collect()
}

/// The actions that a program of [`of_each_shape`] is there for.
#[must_use]
pub fn actions(function: &Function) -> &'static [u32] {
    match function.program {
        _ if function.sleeps => &[ACTION_SLEEP],
        DECIDE_PROGRAM => &[ACTION_SLEEP, ACTION_SIGNAL],
        LOST_PROGRAM => &[ACTION_LOSE],
        END_PROGRAM => &[ACTION_ROT],
        program if CLOCK_PROGRAMS.iter().any(|(_, own)| *own == program) => &[ACTION_UNCERTAINTY],
        _ => &[ACTION_OPERATION],
    }
}

/// The flags of rules with which it is looked at.
#[must_use]
pub fn flags(function: &Function) -> u32 {
    if function.program == SYSCALL_PROGRAM { RULE_NAMES_DEVICES | RULE_STAYS } else { 0 }
}

/// Whether it is there for others than errors.
#[must_use]
pub fn has_own_action(function: &Function) -> bool {
    actions(function) != [ACTION_OPERATION] || flags(function) != 0
}

/// How the functions of system calls begin on this architecture.
pub(super) const SYSCALL_PREFIX: &str =
    if cfg!(target_arch = "x86_64") { "__x64_sys_" } else { "__arm64_sys_" };

/// System calls whose functions are named otherwise (`arch/x86/entry/syscalls/syscall_64.tbl`).
pub(super) const OTHER_NAMES: [(&str, &str); 6] = [
    ("stat", "newstat"),
    ("fstat", "newfstat"),
    ("lstat", "newlstat"),
    ("uname", "newuname"),
    ("sendfile", "sendfile64"),
    ("umount2", "umount"),
];

/// The function of a system call.
#[must_use]
pub fn syscall_function(name: &str) -> String {
    let other = OTHER_NAMES.iter().find(|(own, _)| *own == name).map_or(name, |(_, other)| other);
    format!("{SYSCALL_PREFIX}{other}")
}
