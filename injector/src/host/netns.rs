//! Network namespaces: naming them, finding them again, and running code inside one.
//!
//! The caller's own namespace never changes: [`enter`] works on a thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::panic;
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType};
use serde::{Deserialize, Serialize};

use super::errno_of;

/// Where tools keep namespaces that have a name and perhaps no process.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// The identity of a network namespace for as long as the host is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    /// The device of its nsfs inode.
    pub dev: u64,
    /// Its nsfs inode number, as `readlink /proc/PID/ns/net` shows it. It may be used again for another one.
    pub inode: u64,
    /// Its cookie, which is not used again; 0 where the kernel has none (before 5.14).
    pub cookie: u64,
}

impl NetnsId {
    /// The namespace of a process.
    pub fn of_process(pid: i32) -> Result<Self, NetnsError> {
        open_process(pid).map(|(id, _)| id)
    }

    /// The namespace of the calling thread.
    pub fn of_self() -> Result<Self, NetnsError> {
        open_self().map(|(id, _)| id)
    }

    /// The namespace behind an open nsfs file.
    pub fn of_fd(fd: BorrowedFd<'_>) -> Result<Self, NetnsError> {
        let (dev, inode) = inode_of(fd)?;
        let cookie = enter(fd, cookie_here)??;
        Ok(Self { dev, inode, cookie })
    }
}

/// An operation on a network namespace that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetnsError {
    /// The process is gone.
    #[error("there is no process {pid}")]
    NoSuchProcess {
        /// Its pid.
        pid: i32,
    },
    /// A namespace file could not be opened.
    #[error("cannot open the network namespace {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// The namespace could not be entered.
    #[error("cannot enter a network namespace: setns: {source}")]
    Enter {
        /// What the kernel said.
        source: Errno,
    },
    /// A call that looks at a namespace failed.
    #[error("cannot look at a network namespace: {call}: {source}")]
    Inspect {
        /// The system call.
        call: &'static str,
        /// What the kernel said.
        source: Errno,
    },
}

impl NetnsError {
    /// The remedy, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Open { source: Errno::EACCES | Errno::EPERM, .. } => {
                "run as root: another process's namespace needs CAP_SYS_PTRACE"
            }
            Self::Enter { source: Errno::EPERM } => {
                "run as root: entering a network namespace needs CAP_SYS_ADMIN"
            }
            Self::Enter { source: Errno::EINVAL } => "the file is not a network namespace",
            Self::Inspect { call: "thread", .. } => "no thread could be started: raise the limit on tasks",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// Open the namespace of a process.
pub fn open_process(pid: i32) -> Result<(NetnsId, OwnedFd), NetnsError> {
    let fd = open_file_of(pid)?;
    Ok((NetnsId::of_fd(fd.as_fd())?, fd))
}

/// Open the namespace of the calling thread.
pub fn open_self() -> Result<(NetnsId, OwnedFd), NetnsError> {
    let fd = open(Path::new("/proc/thread-self/ns/net"))?;
    let (dev, inode) = inode_of(fd.as_fd())?;
    let cookie = cookie_here()?;
    Ok((NetnsId { dev, inode, cookie }, fd))
}

/// The namespaces that the given processes use, each once. Processes that are gone are left out.
pub fn namespaces_of(pids: impl IntoIterator<Item = i32>) -> Result<BTreeMap<NetnsId, OwnedFd>, NetnsError> {
    let mut open = BTreeMap::new();
    for pid in pids {
        match open_file_of(pid) {
            Ok(fd) => {
                open.entry(inode_of(fd.as_fd())?).or_insert(fd);
            }
            Err(NetnsError::NoSuchProcess { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    open.into_values().map(|fd| Ok((NetnsId::of_fd(fd.as_fd())?, fd))).collect()
}

/// Which of the held namespaces the given processes use, and the other ones that they use, open.
///
/// Who calls this keeps the held ones open, so that none of their inode numbers can mean another namespace: to see
/// one again is a `stat`, where a new one takes a thread for its cookie.
pub fn namespaces_beside<'a>(
    held: impl IntoIterator<Item = &'a NetnsId>,
    pids: impl IntoIterator<Item = i32>,
) -> Result<(BTreeSet<NetnsId>, BTreeMap<NetnsId, OwnedFd>), NetnsError> {
    let held: BTreeMap<_, _> = held.into_iter().map(|id| ((id.dev, id.inode), *id)).collect();
    let mut used = BTreeSet::new();
    let mut others = Vec::new();
    for pid in pids {
        // Following the link stats the namespace itself, without opening it.
        let found = fs::metadata(file_of(pid)).ok();
        match found.and_then(|found| held.get(&(found.dev(), found.ino()))) {
            Some(id) => drop(used.insert(*id)),
            None => others.push(pid),
        }
    }
    Ok((used, namespaces_of(others)?))
}

/// Find a namespace again, by the processes in it and by the names that tools gave.
///
/// `None` when it is gone: a namespace that nothing here refers to has no device left.
pub fn find(id: NetnsId) -> Result<Option<OwnedFd>, NetnsError> {
    let by_process = entries(Path::new("/proc"))
        .filter(|path| path.file_name().is_some_and(is_number))
        .map(|path| path.join("ns/net"));
    let by_name = NAMED.iter().flat_map(|directory| entries(Path::new(directory)));
    for path in std::iter::once(PathBuf::from("/proc/thread-self/ns/net")).chain(by_process).chain(by_name) {
        // Following the link stats the namespace itself, without opening it.
        if !fs::metadata(&path).is_ok_and(|found| (found.dev(), found.ino()) == (id.dev, id.inode)) {
            continue;
        }
        match open(&path) {
            Ok(fd) if NetnsId::of_fd(fd.as_fd())? == id => return Ok(Some(fd)),
            // Its owner ended, or the inode number belongs to a younger namespace.
            Ok(_) | Err(NetnsError::Open { source: Errno::ENOENT | Errno::ESRCH, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Run `work` inside a namespace, on a fresh thread, and wait for it.
///
/// Sockets that it opens belong to that namespace wherever they are used later.
pub fn enter<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|source| NetnsError::Enter { source })?;
                Ok(work())
            })
            .map_err(|error| NetnsError::Inspect { call: "thread", source: errno_of(&error) })?;
        thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
    })
}

fn open_file_of(pid: i32) -> Result<OwnedFd, NetnsError> {
    open(&file_of(pid)).map_err(|error| match error {
        NetnsError::Open { source: Errno::ENOENT | Errno::ESRCH, .. } => NetnsError::NoSuchProcess { pid },
        error => error,
    })
}

fn file_of(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

fn open(path: &Path) -> Result<OwnedFd, NetnsError> {
    File::open(path)
        .map(OwnedFd::from)
        .map_err(|error: io::Error| NetnsError::Open { path: path.to_owned(), source: errno_of(&error) })
}

fn inode_of(fd: BorrowedFd<'_>) -> Result<(u64, u64), NetnsError> {
    let stat = nix::sys::stat::fstat(fd).map_err(|source| NetnsError::Inspect { call: "fstat", source })?;
    Ok((stat.st_dev, stat.st_ino))
}

fn cookie_here() -> Result<u64, NetnsError> {
    let socket = socket::socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|source| NetnsError::Inspect { call: "socket", source })?;
    match netns_cookie(&socket) {
        Ok(cookie) => Ok(cookie),
        Err(Errno::ENOPROTOOPT) => Ok(0),
        Err(source) => Err(NetnsError::Inspect { call: "getsockopt SO_NETNS_COOKIE", source }),
    }
}

/// The number that the kernel gives a network namespace and never gives again before a reboot (5.14+).
fn netns_cookie(socket: &OwnedFd) -> Result<u64, Errno> {
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals, and the kernel writes at most `len` bytes, the size of `cookie`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    Errno::result(status).map(|_| cookie)
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn is_number(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
}
