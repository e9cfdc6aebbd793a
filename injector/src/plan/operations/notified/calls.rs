//! Which system calls do which operations, and to what: what a notification of seccomp has is the number of a call and its arguments.
//!
//! Those of x86-64, by their names; one that an architecture has not is never notified there. What does an operation without a system
//! call of its own (`io_uring`, libaio, the kernel that opens the interpreter of a program) is not here.

use injector_common::operation as border;

/// A system call.
#[derive(Debug)]
pub struct Call {
    /// Its name.
    pub name: &'static str,
    /// What it does, in the order in which the kernel does it.
    pub deeds: &'static [Deed],
}

/// An operation that a system call does.
#[derive(Clone, Copy, Debug)]
pub struct Deed {
    /// The operation.
    pub operation: u32,
    /// What it is done to.
    pub object: Object,
    /// The second name, of those that have two.
    pub other: Option<Object>,
    /// When the call does it.
    pub when: When,
}

/// What an operation is done to, by the numbers of the arguments that say it.
#[derive(Clone, Copy, Debug)]
pub enum Object {
    /// Nothing that is a file.
    Nothing,
    /// An open file.
    File(usize),
    /// What a path leads to.
    Path(Path, Follows),
    /// A name in its directory, whatever it leads to.
    Name(Path, Presence),
    /// What open(2) opens.
    Opened(Path, Flags),
}

/// Which arguments have a path.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// The directory from where a relative path goes; `None` is the working directory.
    pub at: Option<usize>,
    /// The path.
    pub path: usize,
}

/// Whether a symbolic link at the end of a path is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// Always.
    Always,
    /// Never.
    Never,
    /// Unless the argument has `AT_SYMLINK_NOFOLLOW`.
    Unless(usize),
    /// If the argument has `AT_SYMLINK_FOLLOW`.
    If(usize),
}

/// Whether there must be something of a name: else the call fails by itself, and nothing is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// There must.
    There,
    /// There must not.
    Absent,
    /// Either.
    Any,
}

/// Where the flags of open(2) are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flags {
    /// In an argument.
    Argument(usize),
    /// In the structure to which an argument points, in front (`struct open_how`).
    How(usize),
    /// They are those of creat(2).
    Creat,
}

/// When a call does an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// If an argument has one of these bits.
    Has(usize, u64),
    /// If it has none of them.
    Lacks(usize, u64),
    /// If an argument is the mode of a regular file.
    Regular(usize),
    /// If it is that of something else.
    Special(usize),
    /// If an argument is a command of fcntl(2) that locks.
    Locks(usize),
    /// If it is another.
    LocksNot(usize),
}

const AT_REMOVEDIR: u64 = 0x200;
const MAP_ANONYMOUS: u64 = 0x20;

/// Commands of fcntl(2) that take or give back a lock: `F_SETLK`, `F_SETLKW`, `F_OFD_SETLK`, `F_OFD_SETLKW`.
const LOCKS: [u64; 4] = [6, 7, 37, 38];
/// `S_IFMT`, and what it is of a regular file; mknod(2) takes 0 for that too.
const TYPE: u64 = 0o170_000;
const REGULAR: [u64; 2] = [0, 0o100_000];

impl When {
    /// Whether a call with these arguments does it.
    #[must_use]
    pub fn holds(self, args: &[u64; 6]) -> bool {
        let arg = |n: usize| args.get(n).copied().unwrap_or(0);
        match self {
            Self::Always => true,
            Self::Has(n, bits) => arg(n) & bits != 0,
            Self::Lacks(n, bits) => arg(n) & bits == 0,
            Self::Regular(n) => REGULAR.contains(&(arg(n) & TYPE)),
            Self::Special(n) => !REGULAR.contains(&(arg(n) & TYPE)),
            // The kernel has it as a number of 32 bits.
            Self::Locks(n) => LOCKS.contains(&(arg(n) & 0xffff_ffff)),
            Self::LocksNot(n) => !LOCKS.contains(&(arg(n) & 0xffff_ffff)),
        }
    }
}

const fn deed(operation: u32, object: Object) -> Deed {
    Deed { operation, object, other: None, when: When::Always }
}

const fn when(operation: u32, object: Object, when: When) -> Deed {
    Deed { operation, object, other: None, when }
}

const fn both(operation: u32, object: Object, other: Object) -> Deed {
    Deed { operation, object, other: Some(other), when: When::Always }
}

const fn of(operation: u32) -> Deed {
    deed(operation, Object::Nothing)
}

const fn file(operation: u32) -> Deed {
    deed(operation, File(0))
}

const fn here(path: usize) -> Path {
    Path { at: None, path }
}

const fn from(at: usize, path: usize) -> Path {
    Path { at: Some(at), path }
}

const fn name(path: Path, presence: Presence) -> Object {
    Object::Name(path, presence)
}

const fn leads(path: Path, follows: Follows) -> Object {
    Object::Path(path, follows)
}

macro_rules! calls {
    ($($name:literal: $($deed:expr),+;)*) => {
        /// Every system call that does an operation.
        pub const CALLS: &[Call] = &[$(Call { name: $name, deeds: &[$($deed),+] }),*];
    };
}

macro_rules! opens {
    ($path:expr, $flags:expr) => {
        [
            deed(border::CREATE, Object::Opened($path, $flags)),
            deed(border::OPEN, Object::Opened($path, $flags)),
            deed(border::TRUNCATE, Object::Opened($path, $flags)),
        ]
    };
}

const OPEN: [Deed; 3] = opens!(here(0), Flags::Argument(1));
const OPENAT: [Deed; 3] = opens!(from(0, 1), Flags::Argument(2));
const OPENAT2: [Deed; 3] = opens!(from(0, 1), Flags::How(2));
const CREAT: [Deed; 3] = opens!(here(0), Flags::Creat);

use self::Follows::{Always, If, Never, Unless};
use self::Object::File;
use self::Presence::{Absent, Any, There};

calls! {
    // Of sockets it is `send` and `recv`, which the look at the descriptor tells.
    "read": file(border::READ), file(border::RECV);
    "readv": file(border::READ), file(border::RECV);
    "pread64": file(border::READ);
    "preadv": file(border::READ);
    "preadv2": file(border::READ), file(border::RECV);
    "write": file(border::WRITE), file(border::SEND);
    "writev": file(border::WRITE), file(border::SEND);
    "pwrite64": file(border::WRITE);
    "pwritev": file(border::WRITE);
    "pwritev2": file(border::WRITE), file(border::SEND);
    "sendfile": deed(border::READ, File(1)), file(border::WRITE), file(border::SEND);
    "splice": file(border::READ), file(border::RECV), deed(border::WRITE, File(2)), deed(border::SEND, File(2));
    "copy_file_range": file(border::READ), deed(border::WRITE, File(2));
    "getdents": file(border::READDIR);
    "getdents64": file(border::READDIR);
    "fallocate": file(border::FALLOCATE);
    "open": OPEN[0], OPEN[1], OPEN[2];
    "openat": OPENAT[0], OPENAT[1], OPENAT[2];
    "openat2": OPENAT2[0], OPENAT2[1], OPENAT2[2];
    "creat": CREAT[0], CREAT[1], CREAT[2];
    "rename": both(border::RENAME, name(here(0), There), name(here(1), Any));
    "renameat": both(border::RENAME, name(from(0, 1), There), name(from(2, 3), Any));
    "renameat2": both(border::RENAME, name(from(0, 1), There), name(from(2, 3), Any));
    "unlink": deed(border::UNLINK, name(here(0), There));
    "unlinkat": when(border::UNLINK, name(from(0, 1), There), When::Lacks(2, AT_REMOVEDIR)),
        when(border::RMDIR, name(from(0, 1), There), When::Has(2, AT_REMOVEDIR));
    "rmdir": deed(border::RMDIR, name(here(0), There));
    "mkdir": deed(border::MKDIR, name(here(0), Absent));
    "mkdirat": deed(border::MKDIR, name(from(0, 1), Absent));
    "link": both(border::LINK, leads(here(0), Never), name(here(1), Absent));
    "linkat": both(border::LINK, leads(from(0, 1), If(4)), name(from(2, 3), Absent));
    "symlink": deed(border::SYMLINK, name(here(1), Absent));
    "symlinkat": deed(border::SYMLINK, name(from(1, 2), Absent));
    "mknod": when(border::CREATE, name(here(0), Absent), When::Regular(1)),
        when(border::MKNOD, name(here(0), Absent), When::Special(1));
    "mknodat": when(border::CREATE, name(from(0, 1), Absent), When::Regular(2)),
        when(border::MKNOD, name(from(0, 1), Absent), When::Special(2));
    "truncate": deed(border::TRUNCATE, leads(here(0), Always));
    "ftruncate": file(border::TRUNCATE);
    "chmod": deed(border::CHMOD, leads(here(0), Always));
    "fchmod": file(border::CHMOD);
    "fchmodat": deed(border::CHMOD, leads(from(0, 1), Always));
    "fchmodat2": deed(border::CHMOD, leads(from(0, 1), Unless(3)));
    "chown": deed(border::CHOWN, leads(here(0), Always));
    "lchown": deed(border::CHOWN, leads(here(0), Never));
    "fchown": file(border::CHOWN);
    "fchownat": deed(border::CHOWN, leads(from(0, 1), Unless(4)));
    "stat": deed(border::STAT, leads(here(0), Always));
    "lstat": deed(border::STAT, leads(here(0), Never));
    "fstat": file(border::STAT);
    "newfstatat": deed(border::STAT, leads(from(0, 1), Unless(3)));
    "statx": deed(border::STAT, leads(from(0, 1), Unless(2)));
    "mmap": when(border::MMAP, File(4), When::Lacks(3, MAP_ANONYMOUS));
    "execve": deed(border::EXEC, leads(here(0), Always));
    "execveat": deed(border::EXEC, leads(from(0, 1), Unless(4)));
    "fork": of(border::FORK);
    "vfork": of(border::FORK);
    "clone": of(border::FORK);
    "clone3": of(border::FORK);
    "ioctl": file(border::IOCTL);
    "flock": file(border::LOCK);
    "fcntl": when(border::LOCK, File(0), When::Locks(1)), when(border::FCNTL, File(0), When::LocksNot(1));
    "setxattr": of(border::SETXATTR);
    "lsetxattr": of(border::SETXATTR);
    "fsetxattr": of(border::SETXATTR);
    "getxattr": of(border::GETXATTR);
    "lgetxattr": of(border::GETXATTR);
    "fgetxattr": of(border::GETXATTR);
    "listxattr": of(border::LISTXATTR);
    "llistxattr": of(border::LISTXATTR);
    "flistxattr": of(border::LISTXATTR);
    "removexattr": of(border::REMOVEXATTR);
    "lremovexattr": of(border::REMOVEXATTR);
    "fremovexattr": of(border::REMOVEXATTR);
    "socket": of(border::SOCKET);
    "socketpair": of(border::SOCKET);
    "connect": of(border::CONNECT);
    "bind": of(border::BIND);
    "listen": of(border::LISTEN);
    "accept": of(border::ACCEPT);
    "accept4": of(border::ACCEPT);
    "sendto": of(border::SEND);
    "sendmsg": of(border::SEND);
    "sendmmsg": of(border::SEND);
    "recvfrom": of(border::RECV);
    "recvmsg": of(border::RECV);
    "recvmmsg": of(border::RECV);
    "shutdown": of(border::SHUTDOWN);
    "setsockopt": of(border::SETSOCKOPT);
    "getsockopt": of(border::GETSOCKOPT);
    "fsync": file(border::FSYNC);
    "fdatasync": file(border::FDATASYNC);
    "sync_file_range": file(border::SYNC_FILE_RANGE);
    "syncfs": file(border::SYNCFS);
    "msync": of(border::MSYNC);
    "close": file(border::CLOSE);
}

/// The calls that move bytes between a file and memory of the process, of which somebody else can move fewer.
pub(super) const MOVING: [&str; 10] =
    ["read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev", "pwritev2"];
