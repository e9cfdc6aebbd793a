//! A Python process that does each operation once, by libc and so without Python's own repetitions, and tells its errno.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::support::{Cgroup, Located as _, python, run};

/// Prepares everything, enters the cgroup if it is given one, does the operations, and prints a line for each: its name and its errno.
const SCRIPT: &str = r#"
import ctypes, os, shutil, socket, sys
folder, procs = sys.argv[1:3]
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.syscall.restype = ctypes.c_long
for call in ("truncate", "fallocate", "ftruncate", "sync_file_range"):
    getattr(libc, call).argtypes = {
        "truncate": [ctypes.c_char_p, ctypes.c_long], "ftruncate": [ctypes.c_int, ctypes.c_long],
        "fallocate": [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long],
        "sync_file_range": [ctypes.c_int, ctypes.c_long, ctypes.c_long, ctypes.c_uint]}[call]
buffer = ctypes.create_string_buffer(4096)

def at(name):
    return os.path.join(folder, name).encode()

shutil.rmtree(folder, ignore_errors=True)
os.makedirs(at("full"))
os.mkdir(at("empty"))
for name in ("file", "old", "gone", "full/one"):
    with open(at(name), "w") as f:
        f.write("x" * 8192)
shutil.copy("/bin/echo", at("echo"))
os.setxattr(at("file"), "trusted.there", b"1")
file = os.open(at("file"), os.O_RDWR)
spare = os.dup(file)
listing = os.open(at("full"), os.O_RDONLY)
mapping = libc.mmap(None, 4096, 3, 1, file, 0)
one, other = socket.socketpair()
other.send(b"1234")
listener, connecting = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
listener.bind(b"\0" + at("listener"))
listener.listen()
waiting = socket.socket(socket.AF_UNIX)
waiting.connect(b"\0" + at("listener"))
unbound, unheard = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
unheard.bind(b"\0" + at("unheard"))
pair = socket.socketpair()

def address(name):
    text = b"\0" + at(name)
    return b"\x01\x00" + text, 2 + len(text)

def fork():
    pid = libc.fork()
    if pid == 0:
        os._exit(0)
    if pid > 0:
        os.waitpid(pid, 0)
    return pid

length = ctypes.c_uint(4)
operations = {
    "read": lambda: libc.read(file, buffer, 4),
    "write": lambda: libc.write(file, b"1234", 4),
    "open": lambda: libc.open(at("file"), os.O_RDONLY),
    "create": lambda: libc.open(at("new"), os.O_CREAT | os.O_WRONLY, 0o644),
    "rename": lambda: libc.rename(at("old"), at("renamed")),
    "unlink": lambda: libc.unlink(at("gone")),
    "mkdir": lambda: libc.mkdir(at("made"), 0o755),
    "rmdir": lambda: libc.rmdir(at("empty")),
    "link": lambda: libc.link(at("file"), at("linked")),
    "symlink": lambda: libc.symlink(b"file", at("symbolic")),
    "mknod": lambda: libc.mknod(at("pipe"), 0o010644, 0),
    "truncate": lambda: libc.truncate(at("file"), 8000),
    "fallocate": lambda: libc.fallocate(file, 0, 0, 100),
    "chmod": lambda: libc.chmod(at("file"), 0o600),
    "chown": lambda: libc.chown(at("file"), 0, 0),
    "stat": lambda: libc.syscall(262, -100, at("file"), buffer, 0),
    "readdir": lambda: libc.syscall(217, listing, buffer, 4096),
    "mmap": lambda: -1 if libc.mmap(None, 4096, 1, 1, file, 0) == 2**64 - 1 else 0,
    "ioctl": lambda: libc.ioctl(file, 0x541B, buffer),
    "lock": lambda: libc.flock(file, 1),
    "fcntl": lambda: libc.fcntl(file, 3),
    "fsync": lambda: libc.fsync(file),
    "fdatasync": lambda: libc.fdatasync(file),
    "sync_file_range": lambda: libc.sync_file_range(file, 0, 0, 2),
    "syncfs": lambda: libc.syncfs(file),
    "close": lambda: libc.close(spare),
    "setxattr": lambda: libc.setxattr(at("file"), b"trusted.new", b"1", 1, 0),
    "getxattr": lambda: libc.getxattr(at("file"), b"trusted.there", buffer, 10),
    "listxattr": lambda: libc.listxattr(at("file"), buffer, 100),
    "removexattr": lambda: libc.removexattr(at("file"), b"trusted.there"),
    "msync": lambda: libc.msync(mapping, 4096, 4),
    "fork": fork,
    "socket": lambda: libc.socket(1, 1, 0),
    "connect": lambda: libc.connect(connecting.fileno(), *address("listener")),
    "bind": lambda: libc.bind(unbound.fileno(), *address("bound")),
    "listen": lambda: libc.listen(unheard.fileno(), 1),
    "accept": lambda: libc.accept(listener.fileno(), None, None),
    "send": lambda: libc.send(one.fileno(), b"1234", 4, 0),
    "recv": lambda: libc.recv(one.fileno(), buffer, 4, 0),
    "shutdown": lambda: libc.shutdown(pair[0].fileno(), 1),
    "setsockopt": lambda: libc.setsockopt(one.fileno(), 1, 8, (ctypes.c_int * 1)(65536), 4),
    "getsockopt": lambda: libc.getsockopt(one.fileno(), 1, 3, buffer, ctypes.byref(length)),
}
if procs:
    # By a descriptor that is there, so that entering is none of what is counted.
    entrance = os.open(procs, os.O_WRONLY)
    os.write(entrance, b"0")
for name, operation in operations.items():
    ctypes.set_errno(0)
    result = operation()
    print(name, ctypes.get_errno() if result < 0 else 0, flush=True)
ctypes.set_errno(0)
arguments = (ctypes.c_char_p * 4)(b"echo", b"exec", b"0", None)
libc.execv(at("echo"), arguments)
print("exec", ctypes.get_errno(), flush=True)
"#;

/// The errno of each operation, done in a folder that is made anew and, if it is given one, from within a cgroup.
pub(crate) fn errnos(folder: &Path, cgroup: Option<&Cgroup>) -> BTreeMap<String, i32> {
    let procs = cgroup.map(|cgroup| cgroup.directory().join("cgroup.procs"));
    let text = python(SCRIPT).arg(folder).arg(procs.unwrap_or_default()).text();
    let line = |line: &str| {
        let (name, errno) = line.split_once(' ').unwrap();
        (name.to_owned(), errno.parse().unwrap())
    };
    text.lines().map(line).collect()
}

/// A file system in memory of the test's own, which goes with it. Its path has no symbolic links.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        run(&format!("mount -t tmpfs tmpfs {}", folder.path().display()));
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file in it, as text.
    pub(crate) fn at(&self, name: &str) -> String {
        self.path().join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // With what a test that has failed may have left mounted below.
        let _ = Command::new("umount").args(["--recursive", "--lazy"]).arg(self.path()).status();
    }
}
