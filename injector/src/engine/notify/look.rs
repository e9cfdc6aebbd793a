//! What a call that waits is done to: the file behind a descriptor, or what a path leads to for its process.
//!
//! All of it is looked up in the process's own root directory, by descriptors that open nothing (`O_PATH`). A call that will fail by
//! itself, since there is no such file, is found out too: the kernel's hooks are not asked either then.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path as FilePath, PathBuf};

use injector_common::operation as border;
use nix::libc;
use rustix::fs::{Mode, OFlags, ResolveFlags, fstatfs, openat2};
use rustix::io::Errno;

use super::memory::{read_number, read_text};
use crate::plan::operations::notified::{Deed, Flags, Follows, Object, Path, Presence};

const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
const AT_SYMLINK_FOLLOW: u64 = 0x400;

/// `S_IFMT >> 12` of what is about to be made, and of sockets.
const DIRECTORY: u32 = 4;
const REGULAR: u32 = 8;
const SYMLINK: u32 = 10;
const SOCKET: u32 = 12;

/// A call that waits: its thread, and its arguments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) id: u64,
    pub(super) thread: i32,
    pub(super) number: u32,
    pub(super) args: [u64; 6],
}

/// What an operation is done to.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// `S_IFMT >> 12`; 0 is not known.
    pub(super) kind: u32,
    /// Its file, or the directory in which its name is.
    file: Option<OwnedFd>,
    /// The absolute paths that are meant, as its process sees them.
    pub(super) paths: Vec<Vec<u8>>,
}

impl Found {
    /// The number of its file system's device, as the kernel has it; 0 is not known.
    pub(super) fn device(&self, thread: i32) -> u32 {
        let Some(file) = &self.file else { return 0 };
        let number = || -> Option<u32> {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
            let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().to_owned();
            // Not what stat(2) says: btrfs and overlayfs have numbers of their own.
            let mounts = std::fs::read_to_string(format!("/proc/{thread}/mountinfo")).ok()?;
            let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            let line = lines.find(|line| line.first().is_some_and(|id| *id == mount))?;
            let (major, minor) = line.get(2)?.split_once(':')?;
            Some(major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?)
        };
        number().unwrap_or(0)
    }

    /// The number of its kind of file system; 0 is not known.
    pub(super) fn magic(&self) -> u32 {
        self.file.as_ref().and_then(|file| fstatfs(file).ok()).map_or(0, |found| found.f_type as u32)
    }
}

/// What a call does an operation to; `None` if it does not do it.
pub(super) fn look(call: &Waiting, deed: &Deed) -> Option<Found> {
    let mut found = find(call, deed)?;
    // Who reads and writes by a socket receives and sends.
    let by_file = matches!(deed.object, Object::File(_));
    match deed.operation {
        border::READ | border::WRITE if found.kind == SOCKET => return None,
        border::SEND | border::RECV if by_file && found.kind != SOCKET => return None,
        _ => {}
    }
    if let Some(other) = deed.other {
        found.paths.extend(find(call, &Deed { object: other, other: None, ..*deed })?.paths);
    }
    Some(found)
}

fn find(call: &Waiting, deed: &Deed) -> Option<Found> {
    match deed.object {
        Object::Nothing => Some(Found::default()),
        Object::File(argument) => of_descriptor(call, argument),
        Object::Path(path, follows) => {
            let text = text_of(call, path)?;
            if text.is_empty() {
                return of_descriptor(call, path.at?);
            }
            let follows = match follows {
                Follows::Always => true,
                Follows::Never => false,
                Follows::Unless(argument) => argument_of(call, argument) & AT_SYMLINK_NOFOLLOW == 0,
                Follows::If(argument) => argument_of(call, argument) & AT_SYMLINK_FOLLOW != 0,
            };
            opened(call, path, &text, follows).found(call.thread)
        }
        Object::Name(path, presence) => {
            let text = text_of(call, path)?;
            match (opened(call, path, &text, false), presence) {
                (Opened::Absent, Presence::There) | (Opened::There(_), Presence::Absent) => None,
                (Opened::There(file), _) => named(call, path, &text, kind_of(&file)),
                (Opened::Absent, _) => named(call, path, &text, made(call, deed)),
                (Opened::Unknown, _) => Some(Found::default()),
            }
        }
        Object::Opened(path, flags) => of_open(call, deed.operation, path, flags),
    }
}

/// What open(2) does: it makes a file, opens one, makes one empty.
fn of_open(call: &Waiting, operation: u32, path: Path, flags: Flags) -> Option<Found> {
    let flags = match flags {
        Flags::Argument(argument) => argument_of(call, argument),
        Flags::How(argument) => read_number(call.thread, argument_of(call, argument)).ok()?,
        Flags::Creat => (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u64,
    };
    let has = |flag: libc::c_int| flags & flag as u64 != 0;
    let (creates, alone) = (has(libc::O_CREAT), has(libc::O_CREAT) && has(libc::O_EXCL));
    let text = text_of(call, path)?;
    let opened = opened(call, path, &text, !has(libc::O_NOFOLLOW) && !alone);
    // A path is looked up and nothing is opened, or it must not be there.
    if has(libc::O_PATH) || alone && matches!(opened, Opened::There(_)) {
        return None;
    }
    match (operation, &opened) {
        (border::CREATE | border::OPEN, Opened::Absent) if creates => named(call, path, &text, REGULAR),
        (border::OPEN, Opened::There(_) | Opened::Unknown) => opened.found(call.thread),
        (border::TRUNCATE, Opened::There(_)) if has(libc::O_TRUNC) => opened.found(call.thread),
        _ => None,
    }
}

fn argument_of(call: &Waiting, argument: usize) -> u64 {
    call.args.get(argument).copied().unwrap_or(0)
}

/// The path of a call; empty where none is given, which some calls take for the descriptor.
fn text_of(call: &Waiting, path: Path) -> Option<Vec<u8>> {
    match argument_of(call, path.path) {
        0 => Some(Vec::new()),
        address => read_text(call.thread, address).ok(),
    }
}

/// The type of what a call makes.
fn made(call: &Waiting, deed: &Deed) -> u32 {
    match deed.operation {
        border::MKDIR => DIRECTORY,
        border::SYMLINK => SYMLINK,
        border::MKNOD => {
            let mode = if matches!(deed.object, Object::Name(Path { at: None, .. }, _)) { 1 } else { 2 };
            (argument_of(call, mode) as u32 & 0o170_000) >> 12
        }
        _ => REGULAR,
    }
}

/// The file behind a descriptor of the process; `None` if there is none, so that the call fails by itself.
fn of_descriptor(call: &Waiting, argument: usize) -> Option<Found> {
    let number = argument_of(call, argument) as i32;
    let link = format!("/proc/{}/fd/{number}", call.thread);
    match rustix::fs::open(&link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => Opened::There(file).found(call.thread),
        Err(_) => None,
    }
}

/// What is found at the end of a path.
enum Opened {
    There(OwnedFd),
    Absent,
    /// There is something, and it can't be looked at from here.
    Unknown,
}

impl Opened {
    fn found(self, thread: i32) -> Option<Found> {
        match self {
            Self::There(file) => {
                let paths = path_of(&file, thread).into_iter().collect();
                Some(Found { kind: kind_of(&file), file: Some(file), paths })
            }
            Self::Unknown => Some(Found::default()),
            Self::Absent => None,
        }
    }
}

/// Looks up a path of a process, in its root directory.
fn opened(call: &Waiting, path: Path, text: &[u8], follows: bool) -> Opened {
    let Ok(absolute) = absolute(call, path, text) else { return Opened::Absent };
    let root = format!("/proc/{}/root", call.thread);
    let Ok(root) = File::open(root) else { return Opened::Unknown };
    let flags = OFlags::PATH | OFlags::CLOEXEC | if follows { OFlags::empty() } else { OFlags::NOFOLLOW };
    match openat2(root.as_fd(), &absolute, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(file) => Opened::There(file),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Opened::Absent,
        // A link into the descriptors of a process, as `/dev/stdin` is one.
        Err(_) => Opened::Unknown,
    }
}

/// The path from the root directory of its process.
fn absolute(call: &Waiting, path: Path, text: &[u8]) -> io::Result<PathBuf> {
    let text = FilePath::new(OsStr::from_bytes(text));
    if text.as_os_str().is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    // What this process itself is must not be looked at.
    for own in ["/proc/self", "/proc/thread-self"] {
        if let Ok(rest) = text.strip_prefix(own) {
            return Ok(FilePath::new("/proc").join(call.thread.to_string()).join(rest));
        }
    }
    if text.is_absolute() {
        return Ok(text.to_owned());
    }
    let at = path.at.map(|argument| argument_of(call, argument) as i32);
    let base = match at.filter(|number| *number != libc::AT_FDCWD) {
        Some(number) => format!("/proc/{}/fd/{number}", call.thread),
        None => format!("/proc/{}/cwd", call.thread),
    };
    let base = in_root(std::fs::read_link(base)?.into_os_string().into_vec(), call.thread);
    Ok(FilePath::new(OsStr::from_bytes(&base)).join(text))
}

/// A name in its directory, whatever it leads to.
fn named(call: &Waiting, path: Path, text: &[u8], kind: u32) -> Option<Found> {
    let absolute = absolute(call, path, text).ok()?;
    // One that is none (`..`) is no name that could be made or taken away.
    let (parent, name) = (absolute.parent()?, absolute.file_name()?);
    match opened(call, path, parent.as_os_str().as_bytes(), true) {
        Opened::There(directory) => {
            let mut whole = path_of(&directory, call.thread).unwrap_or_default();
            if whole.last() != Some(&b'/') {
                whole.push(b'/');
            }
            whole.extend(name.as_bytes());
            Some(Found { kind, file: Some(directory), paths: vec![whole] })
        }
        Opened::Absent => None,
        Opened::Unknown => Some(Found { kind, ..Found::default() }),
    }
}

fn kind_of(file: &OwnedFd) -> u32 {
    rustix::fs::fstat(file).map_or(0, |stat| (stat.st_mode & 0o170_000) >> 12)
}

/// The absolute path of a file, as its process sees it; `None` for what has none.
fn path_of(file: &OwnedFd, thread: i32) -> Option<Vec<u8>> {
    const DELETED: &[u8] = b" (deleted)";
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut path = std::fs::read_link(&link).ok()?.into_os_string().into_vec();
    if path.first() != Some(&b'/') || path.starts_with(b"/memfd:") {
        return None;
    }
    // One that was unlinked keeps its old path.
    if path.ends_with(DELETED) && std::fs::metadata(&link).is_ok_and(|stat| stat.nlink() == 0) {
        path.truncate(path.len() - DELETED.len());
    }
    Some(in_root(path, thread))
}

/// A path without the root directory of a process that has changed it.
fn in_root(path: Vec<u8>, thread: i32) -> Vec<u8> {
    let Ok(root) = std::fs::read_link(format!("/proc/{thread}/root")) else { return path };
    let root = root.into_os_string().into_vec();
    match path.strip_prefix(root.as_slice()) {
        Some(rest) if root != b"/" && rest.first() == Some(&b'/') => rest.to_vec(),
        Some([]) if root != b"/" => b"/".to_vec(),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::operations::notified::deeds_of;

    fn call(name: &str, args: [u64; 6]) -> Waiting {
        let number = name.parse::<syscalls::Sysno>().unwrap().id().cast_unsigned();
        Waiting { id: 1, thread: std::process::id().cast_signed(), number, args }
    }

    /// The operations of a call, each with its paths.
    fn does(call: &Waiting) -> Vec<(&'static str, Vec<String>)> {
        let deeds = deeds_of(call.number).iter().filter(|deed| deed.when.holds(&call.args));
        let found = deeds.filter_map(|deed| {
            let paths = look(call, deed)?.paths.into_iter().map(|path| String::from_utf8(path).unwrap());
            Some((border::NAMES[deed.operation as usize], paths.collect()))
        });
        found.collect()
    }

    fn address(text: &std::ffi::CStr) -> u64 {
        text.as_ptr() as u64
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn paths_are_found_as_the_process_sees_them() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let at = |name: &str| root.join(name);
        let text = |name: &str| std::ffi::CString::new(at(name).into_os_string().into_vec()).unwrap();
        std::fs::write(at("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        let shown = |name: &str| vec![at(name).display().to_string()];
        let (file, link, new) = (text("file"), text("link"), text("new"));
        let cwd = u64::from(libc::AT_FDCWD as u32);
        let open = |path, flags: i32| does(&call("openat", [cwd, address(path), flags as u64, 0, 0, 0]));
        assert_eq!(open(&link, libc::O_RDONLY), [("open", shown("file"))]);
        assert_eq!(open(&new, libc::O_RDONLY), [], "there is none");
        assert_eq!(open(&new, libc::O_CREAT), [("create", shown("new")), ("open", shown("new"))]);
        assert_eq!(open(&file, libc::O_TRUNC), [("open", shown("file")), ("truncate", shown("file"))]);
        assert_eq!(open(&file, libc::O_CREAT | libc::O_EXCL), []);
        assert_eq!(open(&file, libc::O_PATH), []);
        let two = |name, one: &std::ffi::CString, two: &std::ffi::CString| {
            does(&call(name, [address(one), address(two), 0, 0, 0, 0]))
        };
        let both = [shown("link"), shown("new")].concat();
        assert_eq!(two("rename", &link, &new), [("rename", both.clone())]);
        assert_eq!(two("link", &link, &new), [("link", both)]);
        assert_eq!(two("link", &link, &file), [], "it is there");
        assert_eq!(two("unlink", &link, &link), [("unlink", shown("link"))]);
        assert_eq!(two("mkdir", &new, &new), [("mkdir", shown("new"))]);
        let flags = |flags| does(&call("unlinkat", [cwd, address(&file), flags, 0, 0, 0]));
        assert_eq!(flags(0x200), [("rmdir", shown("file"))]);
        assert_eq!(flags(0), [("unlink", shown("file"))]);
        let opened = File::open(at("file")).unwrap();
        let of = |name| does(&call(name, [opened.as_raw_fd() as u64, 0, 0, 0, 0, 0]));
        assert_eq!(of("fsync"), [("fsync", shown("file"))]);
        std::fs::remove_file(at("file")).unwrap();
        assert_eq!(of("read"), [("read", shown("file"))], "it keeps its path");
        assert_eq!(does(&call("read", [9999, 0, 0, 0, 0, 0])), []);
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(does(&call("write", [one.as_raw_fd() as u64, 0, 0, 0, 0, 0])), [("send", vec![])]);
    }
}
