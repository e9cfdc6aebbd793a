//! What comes by no system call of its own name: `io_uring`, libaio, sendfile, splice and `copy_file_range`. Hooks see it; the functions of
//! system calls do not, and then it is neither struck nor counted, as the documents say.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::{Cgroup, Experiment, Located as _, python};
use crate::victim::Folder;
use crate::{changes_syscalls, is_able};

/// Prepares everything, enters the cgroup if it is given one, does each operation whose name begins as asked for, and prints a line for each:
/// its name and its errno. What a ring answers is what its completion says.
const SCRIPT: &str = r#"
import ctypes, mmap, os, shutil, struct, sys
folder, procs, only = sys.argv[1:4]
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
buffer = ctypes.create_string_buffer(b"v" * 64)
# What is written, and where what is read goes.
there = ctypes.addressof(buffer)
here = there + 32
statistics = ctypes.create_string_buffer(256)

def call(*arguments):
    """A system call: what it returns, or its errno below zero."""
    result = libc.syscall(*(ctypes.c_long(one) for one in arguments))
    return result if result >= 0 else -ctypes.get_errno()

class Ring:
    """An io_uring that has one request at a time."""
    def __init__(self):
        parameters = ctypes.create_string_buffer(120)
        self.file = call(425, 4, ctypes.addressof(parameters))
        assert self.file >= 0, os.strerror(-self.file)
        sq, cq = struct.unpack_from("10I", parameters, 40), struct.unpack_from("10I", parameters, 80)
        self.tail, self.sq_mask, self.array = sq[1], sq[2], sq[6]
        self.head, self.cq_mask, self.completions = cq[0], cq[2], cq[5]
        # One mapping for both rings, as all kernels since 5.4 have it.
        self.rings = mmap.mmap(self.file, max(self.array + 16, self.completions + 16 * 8))
        self.requests = mmap.mmap(self.file, 64 * 4, offset=0x10000000)

    def word(self, at):
        return struct.unpack_from("I", self.rings, at)[0]

    def ask(self, code, file=-1, offset=0, address=0, length=0, more=0, splice=0, flags=0):
        tail = self.word(self.tail)
        slot = tail & self.word(self.sq_mask)
        request = (code, flags, 0, file, offset, address, length & 0xffffffff, more, 0, 0, 0, splice, 0, 0)
        struct.pack_into("=BBHiQQIIQHHiQQ", self.requests, 64 * slot, *request)
        struct.pack_into("I", self.rings, self.array + 4 * slot, slot)
        struct.pack_into("I", self.rings, self.tail, tail + 1)
        # Submits one, and waits for one.
        asked = call(426, self.file, 1, 1, 1, 0, 0)
        assert asked == 1, os.strerror(-asked)
        head = self.word(self.head)
        at = self.completions + 16 * (head & self.word(self.cq_mask))
        result = struct.unpack_from("QiI", self.rings, at)[1]
        struct.pack_into("I", self.rings, self.head, head + 1)
        return result

def submit(code, file, address, length):
    """A request of libaio: a file that may not be read or written is told where it is submitted."""
    request = ctypes.create_string_buffer(struct.pack("=QIIHhIQQqQII", 0, 0, 0, code, 0, file, address, length, 0, 0, 0, 0))
    list = (ctypes.c_void_p * 1)(ctypes.addressof(request))
    submitted = call(209, context.value, 1, ctypes.addressof(list))
    if submitted < 0:
        return submitted
    event = ctypes.create_string_buffer(32)
    assert call(208, context.value, 1, 1, ctypes.addressof(event), 0) == 1
    return struct.unpack_from("QQqq", event)[2]

def at(name):
    return os.path.join(folder, name).encode()

names = {}
def name(path):
    names[path] = ctypes.create_string_buffer(at(path))
    return ctypes.addressof(names[path])

shutil.rmtree(folder, ignore_errors=True)
os.makedirs(folder)
for one in ("file", "gone", "old"):
    with open(at(one), "w") as f:
        f.write("x" * 4096)
file, spare = os.open(at("file"), os.O_RDWR), os.open(at("file"), os.O_RDWR)
elsewhere = os.memfd_create("elsewhere")
os.pwrite(elsewhere, b"y" * 4096, 0)
source, sink = os.pipe()
os.write(sink, b"z" * 64)
ring, context = Ring(), ctypes.c_ulong(0)
assert call(206, 4, ctypes.addressof(context)) == 0
vectors = [ctypes.create_string_buffer(struct.pack("QQ", place, 4)) for place in (here, there)]
to_read, to_write = map(ctypes.addressof, vectors)
offsets = ctypes.c_ulong(0), ctypes.c_ulong(1024)
first, second = map(ctypes.addressof, offsets)
ASYNC, HERE, NONE = 16, -100, 2**64 - 1

operations = {
    "uring read": lambda: ring.ask(22, file, 0, here, 4),
    "uring read by a worker": lambda: ring.ask(22, file, 0, here, 4, flags=ASYNC),
    "uring readv": lambda: ring.ask(1, file, 0, to_read, 1),
    "uring write": lambda: ring.ask(23, file, 0, there, 4),
    "uring writev": lambda: ring.ask(2, file, 0, to_write, 1),
    "uring openat": lambda: ring.ask(18, HERE, 0, name("file"), 0, os.O_RDONLY),
    "uring unlinkat": lambda: ring.ask(36, HERE, 0, name("gone")),
    "uring renameat": lambda: ring.ask(35, HERE, name("new"), name("old"), HERE),
    "uring mkdirat": lambda: ring.ask(37, HERE, 0, name("made"), 0o755),
    "uring statx": lambda: ring.ask(21, HERE, ctypes.addressof(statistics), name("file"), 0xfff),
    "uring splice": lambda: ring.ask(30, sink, NONE, 0, 4, splice=file),
    "uring fallocate": lambda: ring.ask(17, file, 0, 100, 0),
    "uring fsync": lambda: ring.ask(3, file),
    "uring fdatasync": lambda: ring.ask(3, file, more=1),
    "uring close": lambda: ring.ask(19, spare),
    "aio read": lambda: submit(0, file, here, 4),
    "aio readv": lambda: submit(7, file, to_read, 1),
    "aio write": lambda: submit(1, file, there, 4),
    "aio fsync": lambda: submit(2, file, 0, 0),
    "sendfile from": lambda: call(40, sink, file, first, 4),
    "sendfile to": lambda: call(40, file, elsewhere, first, 4),
    "splice from": lambda: call(275, file, first, sink, 0, 4, 0),
    "splice to": lambda: call(275, source, 0, file, first, 4, 0),
    "copy_file_range": lambda: call(326, file, first, file, second, 4, 0),
    "read": lambda: call(0, file, here, 4),
    "write": lambda: call(1, file, there, 4),
    "fsync": lambda: call(74, file),
    "fallocate": lambda: call(285, file, 0, 0, 100),
}
if procs:
    entrance = os.open(procs, os.O_WRONLY)
    os.write(entrance, b"0")
for way, operation in operations.items():
    if way.startswith(only):
        print(way, -min(operation(), 0), sep=": ", flush=True)
"#;

/// The errno of each of these operations, done in a folder that is made anew and, if it is given one, from within a cgroup.
fn errnos(folder: &Path, cgroup: Option<&Cgroup>, only: &str) -> BTreeMap<String, i32> {
    let procs = cgroup.map(|cgroup| cgroup.directory().join("cgroup.procs")).unwrap_or_default();
    let text = python(SCRIPT).arg(folder).arg(procs).arg(only).text();
    let line = |line: &str| {
        let (name, errno) = line.split_once(": ").unwrap();
        (name.to_owned(), errno.parse().unwrap())
    };
    text.lines().map(line).collect()
}

const EIO: i32 = 5;

#[test]
fn rings_splices_and_libaio_fail_as_system_calls_do() {
    if !is_able() {
        return;
    }
    let (folder, cgroup) = (Folder::new(), Cgroup::new());
    let experiment = Experiment::apply(&format!(
        "[target.t]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"t\"\nkind = \"io.error\"\npath = \"{}\"\n\
         operations = [\"read\", \"write\", \"open\", \"unlink\", \"rename\", \"mkdir\", \"stat\"]",
        cgroup.path(),
        folder.at("struck/**")
    ));
    let struck = folder.path().join("struck");
    let found = errnos(&struck, Some(&cgroup), "");
    // These are other operations. That of a ring's fallocate is `write`.
    let spared = |name: &str| name.contains("sync") || ["uring close", "fallocate"].contains(&name);
    let expected: BTreeMap<String, i32> =
        found.keys().map(|name| (name.clone(), if spared(name) { 0 } else { EIO })).collect();
    assert_eq!(found, expected);
    let strikes = found.values().filter(|errno| **errno == EIO).count() as u64;
    let none = |found: &BTreeMap<String, i32>| found.values().all(|errno| *errno == 0);
    let found = errnos(&folder.path().join("spared"), Some(&cgroup), "");
    assert!(none(&found), "other files: {found:?}");
    let found = errnos(&struck, None, "");
    assert!(none(&found), "the neighbour: {found:?}");
    let fault = experiment.end().only();
    assert_eq!((fault.matched, fault.injected), (strikes, strikes));
}

#[test]
fn what_is_decided_at_system_calls_is_not_seen_of_rings_and_not_counted() {
    if !is_able() {
        return;
    }
    let (folder, cgroup) = (Folder::new(), Cgroup::new());
    let calls = if changes_syscalls() {
        "[\"fallocate\", \"fsync\", \"fdatasync\", \"close\"]"
    } else {
        "\"fallocate\""
    };
    let mut scenario = format!("[target.t]\ncgroup = \"{}\"\n", cgroup.path());
    for (id, keys) in [
        ("calls", format!("kind = \"io.error\"\noperations = {calls}")),
        ("lost", "kind = \"io.lost\"".to_owned()),
        ("rot", "kind = \"io.corrupt\"".to_owned()),
    ] {
        let path = folder.at("struck/**");
        scenario += &format!("[[fault]]\nid = \"{id}\"\ntarget = \"t\"\n{keys}\npath = \"{path}\"\n");
    }
    let experiment = Experiment::apply(&scenario);
    let struck = folder.path().join("struck");
    for only in ["uring", "aio", "sendfile", "splice", "copy_file_range"] {
        let found = errnos(&struck, Some(&cgroup), only);
        assert!(!found.is_empty() && found.values().all(|errno| *errno == 0), "{found:?}");
        if ["uring", "aio"].contains(&only) {
            let content = std::fs::read(struck.join("file")).unwrap();
            assert!(content.starts_with(b"vvvv"), "what {only} wrote is lost");
        }
    }
    let live = experiment.live();
    for id in ["calls", "lost", "rot"] {
        assert_eq!((live.fault(id).matched, live.fault(id).injected), (0, 0), "{id}");
    }
    // The same by their system calls.
    for (only, id) in [("read", "rot"), ("write", "lost"), ("fallocate", "calls"), ("fsync", "calls")] {
        let errno = if id == "calls" && (only == "fallocate" || changes_syscalls()) { EIO } else { 0 };
        assert_eq!(errnos(&struck, Some(&cgroup), only)[only], errno, "{only}");
    }
    let report = experiment.end();
    let struck_calls = if changes_syscalls() { 2 } else { 1 };
    for (id, count) in [("calls", struck_calls), ("lost", 1), ("rot", 1)] {
        assert_eq!((report.fault(id).matched, report.fault(id).injected), (count, count), "{id}");
    }
}
