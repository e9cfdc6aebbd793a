//! What the notifications of seccomp do to a command where the kernel has nothing better, seen by programs that are not ours: Python, dd, cp,
//! strace. They need no program of the kernel half at functions, so they run on locked-down kernels too.

mod begins;
mod lifetime;
mod short;

use std::io::Write as _;
use std::process::{Output, Stdio};

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::support::{Located as _, in_vm, injector, python, root_or_skip};
use crate::victim::Folder;

/// A fault of the command with this fallback.
fn fault(keys: &str) -> String {
    format!("[[fault]]\nid = \"f\"\ntarget = \"t\"\nfallback = \"seccomp\"\n{keys}\n")
}

/// A scenario on the command.
fn scenario(faults: &str) -> NamedTempFile {
    let head = if faults.contains("duration") { "" } else { "duration = \"5m\"\n" };
    let (head, faults) = match faults.split_once("\n[[") {
        Some((first, rest)) if first.starts_with("duration") => (format!("{first}\n"), format!("[[{rest}")),
        _ => (head.to_owned(), faults.to_owned()),
    };
    let mut file = NamedTempFile::with_suffix(".toml").unwrap();
    let text = format!("version = 1\nseed = 7\n{head}[target.t]\ncommand = true\n{faults}");
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// Whether a fault takes this rung here. It does on all kernels but those that have something better for fsync (Linux 7.3, not locked down).
fn falls_back(faults: &str) -> bool {
    if !root_or_skip() {
        return false;
    }
    let file = scenario(faults);
    let plan = injector().arg("plan").arg(file.path()).output().unwrap();
    let said = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert_eq!(plan.status.code(), Some(0), "{plan:?}");
    let is_taken = said.contains("mechanism seccomp ");
    assert!(is_taken || in_vm(), "{said}");
    is_taken
}

/// What a command has said under faults, and the report.
struct Ran {
    said: String,
    report: Value,
    status: Option<i32>,
}

impl Ran {
    fn of(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (said, last) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
        let report = serde_json::from_str(last).unwrap_or_else(|error| {
            panic!("no report ({error}): {text}\n{}", String::from_utf8_lossy(&output.stderr))
        });
        Self { said: format!("{said}\n"), report, status: output.status.code() }
    }

    /// How often the only fault has matched and struck.
    fn counted(&self) -> (u64, u64) {
        let fault = &self.report["faults"][0];
        (fault["matched"].as_u64().unwrap(), fault["injected"].as_u64().unwrap())
    }

    fn mechanism(&self) -> &str {
        self.report["faults"][0]["mechanism"].as_str().unwrap()
    }
}

/// Runs a command under faults.
#[track_caller]
fn run(faults: &str, command: &[&str]) -> Ran {
    let file = scenario(faults);
    let mut injector = injector();
    injector.args(["--json", "run"]).arg(file.path()).arg("--").args(command);
    Ran::of(&injector.stdin(Stdio::null()).output().unwrap())
}

/// Runs a Python script with arguments under faults.
#[track_caller]
fn run_python(faults: &str, script: &str, arguments: &[&str]) -> Ran {
    let words = python_words(script);
    let words: Vec<&str> = words.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
    run(faults, &words)
}

/// The command that runs a script.
fn python_words(script: &str) -> Vec<String> {
    let command = python(script);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_str().unwrap().to_owned()).collect()
}

/// Python that tells the errno of what it tries, by libc as well as by its own.
const TELL: &str = r#"
import ctypes, errno, fcntl, mmap, os, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def tell(name, act):
    try:
        act()
        print(name, 0, flush=True)
    except OSError as error:
        print(name, error.errno, flush=True)
def call(function, *arguments):
    ctypes.set_errno(0)
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
"#;

#[test]
fn errors_strike_the_files_that_are_meant_and_nobody_else() {
    let folder = Folder::new();
    let script = format!(
        "{TELL}\nfor name in ('meant', 'other'):\n    path = os.path.join(sys.argv[1], name)\n    f = os.open(path, os.O_RDWR | os.O_CREAT)\n    \
         tell('write', lambda: os.write(f, b'x'))\n    tell('read', lambda: os.read(f, 1))\n    tell('fsync', lambda: os.fsync(f))\n"
    );
    let keys = format!(
        "kind = \"io.error\"\noperations = [\"write\", \"fsync\"]\nerrno = \"ENOSPC\"\npath = \"{}\"",
        folder.at("mea?t")
    );
    if !falls_back(&fault(&keys)) {
        return;
    }
    let at = folder.path().to_str().unwrap();
    let ran = run_python(&fault(&keys), &script, &[at]);
    assert_eq!(ran.said, "write 28\nread 0\nfsync 28\nwrite 0\nread 0\nfsync 0\n");
    assert_eq!((ran.counted(), ran.status), ((2, 2), Some(0)));
    assert!(
        ran.mechanism().starts_with("seccomp write pwrite64 writev sendfile fsync "),
        "{}",
        ran.mechanism()
    );
    // A neighbour meanwhile, and a thread and a child of the command.
    let script = format!(
        "{TELL}\nimport subprocess, threading\nf = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\nprint('ready', flush=True)\nsys.stdin.readline()\n\
         thread = threading.Thread(target=lambda: tell('thread', lambda: os.fsync(f)))\nthread.start()\nthread.join()\n\
         subprocess.run(['dd', 'if=/dev/zero', 'of=' + sys.argv[1], 'count=1', 'conv=fsync,notrunc'], stderr=sys.stdout)\n"
    );
    let keys = format!("kind = \"io.error\"\noperations = \"fsync\"\npath = \"{}\"", folder.at("meant"));
    let file = scenario(&fault(&keys));
    let mut injector = injector();
    injector
        .args(["--json", "run"])
        .arg(file.path())
        .arg("--")
        .args(python_words(&script))
        .arg(folder.at("meant"));
    let mut child =
        injector.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let neighbour = "import os, sys; os.fsync(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)); print('ok')";
    assert_eq!(python(neighbour).arg(folder.at("meant")).text(), "ok\n");
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let ran = Ran::of(&child.wait_with_output().unwrap());
    assert!(ran.said.contains("thread 5\n") && ran.said.contains("fsync failed"), "{}", ran.said);
    assert_eq!(ran.counted(), (2, 2));
}

#[test]
fn which_of_several_calls_nth_and_the_seed_say() {
    let script = format!(
        "{TELL}\nf = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\nfor n in range(int(sys.argv[2])):\n    tell('f', lambda: os.fsync(f))\n"
    );
    let folder = Folder::new();
    let keys = "kind = \"io.error\"\noperations = \"fsync\"\n";
    if !falls_back(&fault(keys)) {
        return;
    }
    let struck = |keys: &str, n: &str| {
        let ran = run_python(&fault(keys), &script, &[&folder.at("file"), n]);
        let struck: Vec<bool> = ran.said.lines().map(|line| line == "f 5").collect();
        let injected = struck.iter().filter(|struck| **struck).count() as u64;
        assert_eq!(ran.counted(), (struck.len() as u64, injected));
        struck
    };
    assert_eq!(struck(&format!("{keys}nth = \"3\""), "5"), [false, false, true, false, false]);
    let some = format!("{keys}probability = \"30%\"");
    let first = struck(&some, "200");
    assert_eq!(first, struck(&some, "200"), "the same seed, the same calls");
    let count = first.iter().filter(|struck| **struck).count();
    assert!((35..=85).contains(&count), "{count} of 200");
}

#[test]
fn system_calls_fail_by_their_names() {
    let script = format!("{TELL}\nfor n in range(3):\n    tell('f', lambda: call(libc.syncfs, 1))\n");
    let keys = "kind = \"syscall.error\"\nsyscalls = [\"syncfs\", \"sync_file_range\"]\nerrno = \"EPERM\"\nlimit = 2";
    if !falls_back(&fault(keys)) {
        return;
    }
    let ran = run_python(&fault(keys), &script, &[]);
    assert_eq!((ran.said.as_str(), ran.counted()), ("f 1\nf 1\nf 0\n", (3, 2)));
    assert_eq!(ran.mechanism(), "seccomp sync_file_range syncfs");
    // What injector's own child calls on its way is not struck: it changes its user after it is under the filter.
    let keys =
        "kind = \"syscall.error\"\nsyscalls = [\"setuid\", \"setgroups\", \"execve\"]\nerrno = \"EPERM\"";
    if falls_back(&fault(keys)) {
        let file = scenario(&fault(keys));
        let mut injector = injector();
        injector.args(["--json", "run", "--user", "65534"]).arg(file.path()).args(["--", "id", "-u"]);
        let ran = Ran::of(&injector.output().unwrap());
        assert_eq!((ran.said.as_str(), ran.counted(), ran.status), ("65534\n", (0, 0), Some(0)));
    }
}

/// Each operation on names once, on what is there for it.
const NAMES: &str = r#"
at = lambda name: os.path.join(sys.argv[1], name)
tell("open", lambda: os.open(at("file"), os.O_RDONLY))
tell("create", lambda: os.open(at("new"), os.O_CREAT | os.O_WRONLY))
tell("rename", lambda: os.rename(at("file"), at("renamed")))
tell("unlink", lambda: os.unlink(at("file")))
tell("mkdir", lambda: os.mkdir(at("made")))
tell("rmdir", lambda: os.rmdir(at("empty")))
tell("link", lambda: os.link(at("file"), at("linked")))
tell("symlink", lambda: os.symlink("file", at("symbolic")))
tell("mknod", lambda: os.mkfifo(at("pipe")))
tell("truncate", lambda: os.truncate(at("file"), 0))
tell("chmod", lambda: os.chmod(at("file"), 0o600))
tell("chown", lambda: os.chown(at("file"), 0, 0))
tell("stat", lambda: os.stat(at("file")))
tell("exec", lambda: os.execv(at("file"), ["file"]))
"#;

/// Each operation on an open file once.
const FILES: &str = r#"
file, folder = os.open(os.path.join(sys.argv[1], "file"), os.O_RDWR), os.open(os.path.join(sys.argv[1], "empty"), os.O_RDONLY)
tell("read", lambda: os.pread(file, 1, 0))
tell("write", lambda: os.writev(file, [b"x"]))
tell("readdir", lambda: os.listdir(folder))
tell("fallocate", lambda: os.posix_fallocate(file, 0, 10))
tell("mmap", lambda: mmap.mmap(file, 1))
tell("ioctl", lambda: fcntl.ioctl(file, 0x541B, bytearray(8)))
tell("lock", lambda: fcntl.lockf(file, fcntl.LOCK_EX))
tell("fcntl", lambda: fcntl.fcntl(file, fcntl.F_GETFL))
tell("fsync", lambda: os.fsync(file))
tell("fdatasync", lambda: os.fdatasync(file))
tell("sync_file_range", lambda: call(libc.sync_file_range, file, 0, 0, 2))
tell("syncfs", lambda: call(libc.syncfs, file))
tell("close", lambda: call(libc.close, file))
"#;

/// Each operation without a path once.
const OTHERS: &str = r#"
path = os.path.join(sys.argv[1], "file")
memory = ctypes.c_void_p(ctypes.addressof(ctypes.create_string_buffer(8192)) & ~4095)
tell("setxattr", lambda: os.setxattr(path, "trusted.x", b"1"))
tell("getxattr", lambda: os.getxattr(path, "trusted.x"))
tell("listxattr", lambda: os.listxattr(path))
tell("removexattr", lambda: os.removexattr(path, "trusted.x"))
tell("fork", lambda: os._exit(0) if os.fork() == 0 else None)
tell("msync", lambda: call(libc.msync, memory, 4096, 4))
tell("socket", lambda: call(libc.socket, 1, 1, 0))
for name, length in (("connect", 2), ("bind", 2), ("listen", 1), ("accept", 2), ("send", 3), ("recv", 3), ("shutdown", 1), ("setsockopt", 4), ("getsockopt", 4)):
    tell(name, lambda: call(getattr(libc, name), 0, *[None] * length))
"#;

#[test]
fn every_operation_fails_by_its_calls() {
    const EDQUOT: i32 = 122;
    let folder = Folder::new();
    std::fs::write(folder.at("file"), "xx").unwrap();
    std::fs::create_dir(folder.at("empty")).unwrap();
    let at = folder.path().to_str().unwrap();
    for (script, has_path) in [(NAMES, true), (FILES, true), (OTHERS, false)] {
        let told = script.lines().filter_map(|line| line.strip_prefix("tell(\"")?.split('"').next());
        let looped = script.split(" in (").skip(1).flat_map(|list| list.split("(\"").skip(1));
        let names: Vec<&str> = told.chain(looped.filter_map(|part| part.split('"').next())).collect();
        let list = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let path = if has_path { format!("path = \"{at}/**\"\n") } else { String::new() };
        // With one that nothing better has, so that all of them take this rung.
        let with = if names.contains(&"fsync") { "" } else { ", \"close\"" };
        let with = if has_path { with } else { "" };
        let keys = format!("kind = \"io.error\"\noperations = [{list}{with}]\nerrno = {EDQUOT}\n{path}");
        if !falls_back(&fault(&keys)) {
            return;
        }
        let ran = run_python(&fault(&keys), &format!("{TELL}{script}"), &[at]);
        let expected: Vec<String> = names.iter().map(|name| format!("{name} {EDQUOT}")).collect();
        let said: Vec<&str> = ran.said.lines().collect();
        assert_eq!(said, expected);
        assert!(folder.path().join("file").exists() && !folder.path().join("made").exists());
    }
}

#[test]
fn delays_are_as_long_as_was_asked_for() {
    let keys = |ms: u32| format!("kind = \"io.delay\"\noperations = \"fsync\"\ndelay = \"{ms}ms\"");
    if !falls_back(&fault(&keys(10))) {
        return;
    }
    let folder = Folder::new();
    let script = "import os, sys, time\nf = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\nfor n in range(10):\n    begun = time.monotonic()\n    \
                  os.fsync(f)\n    print((time.monotonic() - begun) * 1e3)\n";
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    for ms in [10, 100] {
        let ran = run_python(&fault(&keys(ms)), script, &[&folder.at("file")]);
        let times: Vec<f64> = ran.said.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(ran.counted(), (10, 10));
        assert!(times.iter().all(|time| *time >= f64::from(ms)), "never shorter: {times:?}");
        let most = if in_vm() { 100.0 } else { 3.0 };
        assert!(median(times.clone()) < f64::from(ms) + most, "{times:?}");
    }
    // By another clock, and a system call by its name.
    if !std::path::Path::new("/usr/bin/strace").exists() {
        return;
    }
    let by_name = "kind = \"syscall.delay\"\nsyscalls = \"fsync\"\ndelay = \"50ms\"";
    let log = folder.at("log");
    let (words, file) = (python_words(script), folder.at("file"));
    let traced = ["strace", "-f", "-T", "-o", &log, "-e", "trace=fsync"].into_iter();
    let traced: Vec<&str> = traced.chain(words.iter().map(String::as_str)).chain([&*file]).collect();
    let ran = run(&fault(by_name), &traced);
    assert_eq!(ran.counted(), (10, 10));
    let log = std::fs::read_to_string(log).unwrap();
    let times = log.lines().filter_map(|line| line.rsplit_once('<')?.1.strip_suffix('>')?.parse().ok());
    let times: Vec<f64> = times.collect();
    assert!(times.len() == 10 && times.iter().all(|time: &f64| (0.05..0.3).contains(time)), "{log}");
}

#[test]
fn several_that_wait_do_not_wait_for_each_other() {
    let keys = "kind = \"io.delay\"\noperations = \"fsync\"\ndelay = \"500ms\"";
    if !falls_back(&fault(keys)) {
        return;
    }
    let script = "import os, threading, time, tempfile\nfiles = [tempfile.TemporaryFile() for n in range(20)]\nbegun = time.monotonic()\n\
                  threads = [threading.Thread(target=os.fsync, args=(f.fileno(),)) for f in files]\nfor t in threads: t.start()\n\
                  for t in threads: t.join()\nprint(time.monotonic() - begun)\n";
    let ran = run_python(&fault(keys), script, &[]);
    let took: f64 = ran.said.trim().parse().unwrap();
    assert_eq!(ran.counted(), (20, 20));
    assert!((0.5..if in_vm() { 9.0 } else { 1.5 }).contains(&took), "{took}");
}

#[test]
fn what_can_not_be_had_is_refused_with_the_reason() {
    if !root_or_skip() {
        return;
    }
    let plan = |target: &str, keys: &str| {
        let mut file = NamedTempFile::with_suffix(".toml").unwrap();
        let text = format!(
            "version = 1\nduration = \"1m\"\n[target.t]\n{target}\n[[fault]]\nid = \"f\"\ntarget = \"t\"\n{keys}\n"
        );
        file.write_all(text.as_bytes()).unwrap();
        let output = injector().arg("plan").arg(file.path()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let fsync = "kind = \"io.error\"\noperations = \"fsync\"";
    let (status, said) = plan("cgroup = \"/\"", &format!("{fsync}\nfallback = \"seccomp\""));
    assert!(
        status == Some(2) && said.contains("for the command that `injector run` starts"),
        "{status:?} {said}"
    );
    let (status, said) = plan("command = true", &format!("{fsync}\nfallback = \"secomp\""));
    assert!(status == Some(2) && said.contains("did you mean `seccomp`?"), "{status:?} {said}");
    let (status, said) = plan("command = true", "kind = \"io.short\"\nbytes = \"1B\"");
    assert!(
        status == Some(3) && said.contains("can't be had on this kernel, read, write: no program"),
        "{said}"
    );
    assert!(said.contains("`fallback = \"seccomp\"` in the fault"), "{said}");
    let (status, said) = plan("command = true", "kind = \"io.lost\"\nfallback = \"seccomp\"");
    assert!(status == Some(2) && said.contains("fallback"), "{status:?} {said}");
    if falls_back(&fault(fsync)) {
        let (status, said) = plan("command = true", fsync);
        assert!(status == Some(3) && said.contains("`fallback = \"seccomp\"` in the fault"), "{said}");
        let waits =
            "[[fault]]\ntarget = \"t\"\nkind = \"process.pause\"\nfor = \"1s\"\nwhen = { after = \"f\" }";
        let (status, said) = plan("command = true", &format!("{fsync}\nfallback = \"seccomp\"\n{waits}"));
        assert_eq!(status, Some(0), "what injector does itself sees these strikes too: {said}");
        let packets = "[[fault]]\ntarget = \"t\"\nkind = \"network.loss\"\nwhen = { after = \"f\" }";
        let (status, said) = plan("command = true", &format!("{fsync}\nfallback = \"seccomp\"\n{packets}"));
        assert!(status == Some(3) && said.contains("neither is told of the other"), "{status:?} {said}");
    }
}
