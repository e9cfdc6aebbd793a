//! Random valid scenarios of all kinds of operations and system calls, on a kernel that has work to do: it neither panics nor hangs, every
//! experiment ends as it should, and nothing is left of it. A guest that panics, oopses or stalls ends its run by that, and the last line
//! that it printed has the seed.
//!
//! `INJECTOR_FUZZ_MINUTES` is for how long, else it is a few rounds; `INJECTOR_FUZZ_SEED` begins with the round of that seed.

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harms::within;
use crate::is_able;
use crate::matrix::{BY_SYSCALL_WITHOUT_PATH, WITHOUT_PATH};
use crate::support::{Background, Cgroup, Experiment, Located as _, in_vm, injector, sh};
use crate::victim::{Folder, errnos};

/// Rounds where nobody says for how long, always the same: what is found by chance is for who asks for it.
const FEW: u64 = 2;

/// How long the target works in each round while it is struck.
const WORK: Duration = Duration::from_secs(3);

/// What an experiment ends with that was interrupted.
const INTERRUPTED: i32 = 130;

/// Does all kinds of operations until it is killed, in children, since it may lose one by each.
const BUSY: &str = r#"
import fcntl, mmap, signal, threading, time
folder = sys.argv[2]
os.makedirs(folder, exist_ok=True)
at = lambda name: os.path.join(folder, name)
def some(name, flags=os.O_RDWR | os.O_CREAT):
    file = os.open(at(name), flags, 0o600)
    try:
        os.pwrite(file, b"content" * 100, 0)
        yield file
    finally:
        os.close(file)
def on(act):
    return lambda: [act(file) for file in some("file")]
def child(act):
    pid = os.fork()
    if pid == 0:
        try:
            act()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
def talk():
    one, other = socket.socketpair()
    one.send(b"1234"), other.recv(4), one.setsockopt(1, 8, 65536), one.getsockopt(1, 3), one.shutdown(1)
def listen():
    listener, client = socket.socket(), socket.socket()
    listener.bind(("127.0.0.1", 0)), listener.listen(), listener.settimeout(1)
    client.connect(listener.getsockname()), listener.accept()
def mapped(file):
    memory = mmap.mmap(file, 700)
    memory[0] = 1
    memory.flush()
def pipe(file):
    source, sink = os.pipe()
    os.splice(file, sink, 100, offset_src=0), os.sendfile(sink, file, 0, 100), os.read(source, 100)
    os.close(source), os.close(sink)
acts = [
    on(lambda file: (os.pread(file, 10, 0), os.readv(file, [bytearray(9)]), os.writev(file, [b"x", b"y"]), os.read(file, 9))),
    on(lambda file: (os.fsync(file), os.fdatasync(file), os.ftruncate(file, 400), os.posix_fallocate(file, 0, 500))),
    on(lambda file: (os.fchmod(file, 0o644), os.fchown(file, 0, 0), os.fstat(file), fcntl.flock(file, 6), fcntl.fcntl(file, 3))),
    on(lambda file: (os.setxattr(file, b"trusted.a", b"1"), os.getxattr(file, b"trusted.a"), os.listxattr(file), os.removexattr(file, b"trusted.a"))),
    on(mapped), on(pipe), talk, listen,
    lambda: (os.mkdir(at("d")), os.rename(at("d"), at("e")), os.rmdir(at("e"))),
    lambda: (os.symlink("file", at("s")), os.readlink(at("s")), os.unlink(at("s"))),
    lambda: (os.link(at("file"), at("l")), os.unlink(at("l"))),
    lambda: (os.mkfifo(at("p")), os.unlink(at("p"))),
    lambda: (os.listdir(folder), os.stat(at("file")), os.uname(), os.access(folder, 4), time.sleep(0.001)),
    lambda: child(lambda: os.execv("/bin/true", ["true"])),
    lambda: threading.Thread(target=on(pipe)).start(),
    lambda: [os.unlink(at(name)) for name in os.listdir(folder)],
]
def work():
    signal.alarm(10)
    for act in acts * 5:
        try:
            act()
        except BaseException:
            pass
        # With one processor injector has to come by it too, and the kernel waits for tasks to leave it before programs are attached.
        time.sleep(0.01)
# From then on anything may kill it.
print("busy", flush=True)
enter()
while True:
    try:
        child(work)
    except BaseException:
        pass
"#;

/// Numbers that follow from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }

    /// Up to so many of these, as a list, and themselves.
    fn some<'a>(&mut self, of: &[&'a str], at_most: u64) -> Vec<&'a str> {
        let mut some: Vec<&str> = (0..=self.below(at_most)).map(|_| self.one(of)).collect();
        some.sort_unstable();
        some.dedup();
        some
    }
}

/// What can be had of this kernel.
struct Able {
    kinds: Vec<String>,
    /// Operations that fail, and that can be delayed.
    error: Vec<String>,
    delay: Vec<String>,
}

impl Able {
    fn ask() -> Self {
        let doctor: Value = serde_json::from_str(&injector().args(["--json", "doctor"]).text()).unwrap();
        let list = |value: &Value| value.as_array().unwrap().clone();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let kinds = list(&doctor["kinds"]);
        let can = |effect: &str| {
            let rows = list(&doctor["operations"]).into_iter().filter(|row| row[effect]["by"].is_string());
            rows.map(|row| text(&row["operation"])).collect::<Vec<_>>()
        };
        // Short ones are of commands alone.
        let strikes =
            |kind: &String| kind.starts_with("io.") && kind != "io.short" || kind.starts_with("syscall.");
        Self {
            kinds: kinds.iter().map(text).filter(strikes).collect(),
            error: can("error"),
            delay: can("delay"),
        }
    }
}

/// System calls that processes make, and whose functions every kernel has.
const CALLS: &str = "openat read write close newfstatat fstat mmap munmap mprotect brk pread64 pwrite64 readv writev futex clone clone3 \
                     execve wait4 clock_nanosleep poll socket socketpair connect accept4 sendto recvfrom uname fcntl flock fsync \
                     fdatasync ftruncate getdents64 rename mkdir rmdir unlink symlink readlink chmod access pipe2 dup2 kill getrandom \
                     prlimit64 rt_sigaction rt_sigprocmask sendfile splice ioctl lseek madvise";

fn borrowed(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

fn quoted(names: &[&str]) -> String {
    format!("{names:?}")
}

/// A fault of one target, valid on this kernel.
fn fault(dice: &mut Dice, able: &Able, target: &str, folder: &Folder) -> String {
    let (kinds, calls) = (borrowed(&able.kinds), CALLS.split_whitespace().collect::<Vec<_>>());
    let (fails, sleeps) = (borrowed(&able.error), borrowed(&able.delay));
    let kind = dice.one(&kinds);
    let mut text = format!("[[fault]]\ntarget = \"{target}\"\nkind = \"{kind}\"\n");
    let mut struck = vec!["read"];
    if ["io.error", "io.delay", "io.observe"].contains(&kind) {
        struck = dice.some(if kind == "io.delay" { &sleeps } else { &fails }, 4);
        text += &format!("operations = {}\n", quoted(&struck));
    } else if kind.starts_with("syscall.") {
        text += &format!("syscalls = {}\n", quoted(&dice.some(&calls, 3)));
    }
    match kind {
        // One in ten is ESTALE, for which the kernel itself tries again.
        "io.error" | "syscall.error" => {
            let errno = if dice.below(10) == 0 { 116 } else { 1 + dice.below(40) };
            text += &format!("errno = {errno}\n");
        }
        "io.delay" | "syscall.delay" => {
            let shape = dice.one(&["uniform", "normal", "pareto", "pareto-normal", "exponential"]);
            let jitter = if shape == "exponential" {
                String::new()
            } else {
                format!("jitter = \"{}us\"\n", 1 + dice.below(900))
            };
            text += &format!("delay = \"{}ms\"\n{jitter}distribution = \"{shape}\"\n", 1 + dice.below(20));
        }
        "io.corrupt" => text += &format!("bits = {}\n", 1 + dice.below(64)),
        "syscall.signal" => {
            text += &format!("signal = \"{}\"\n", dice.one(&["KILL", "TERM", "USR1", "SEGV", "CHLD", "INT"]));
        }
        _ => {}
    }
    let without = format!("{WITHOUT_PATH} {BY_SYSCALL_WITHOUT_PATH}");
    let has_files = !struck.iter().any(|one| without.split_whitespace().any(|name| name == *one));
    if kind.starts_with("io.") && has_files {
        let within = folder.at("busy");
        text += &match dice.below(6) {
            0 => format!("path = \"{within}/**\"\n"),
            1 => format!("path = \"{within}/?/*\"\nfile_type = \"regular\"\n"),
            2 => "path = \"/**/f*e\"\n".to_owned(),
            3 => "file_type = [\"regular\", \"fifo\", \"directory\"]\n".to_owned(),
            4 => "filesystem = \"tmpfs\"\n".to_owned(),
            _ => String::new(),
        };
    }
    text += &match dice.below(7) {
        6 => format!(
            "when = {{ on = {{ kind = \"io\", operations = \"{}\", count = {} }}, for = \"1s\" }}\n",
            dice.one(&fails),
            1 + dice.below(20)
        ),
        0 => format!("nth = \"{}\"\n", 1 + dice.below(9)),
        1 => format!("nth = \"{}+{}\"\n", 1 + dice.below(9), 1 + dice.below(9)),
        2 => format!("probability = \"{}%\"\n", 1 + dice.below(100)),
        3 => format!("limit = {}\n", 1 + dice.below(50)),
        4 => format!("when = {{ start = \"{}ms\", for = \"1s\" }}\n", 100 * (1 + dice.below(9))),
        _ => "probability = \"20%\"\nwhen = { for = \"200ms\", every = \"500ms\" }\n".to_owned(),
    };
    if kind == "io.error" && !struck.iter().any(|name| ["unlink", "rmdir", "truncate"].contains(name)) {
        text += ["", "", "stays = true\n", "frees = true\n"][dice.below(4) as usize];
    }
    text
}

/// How often the kernel has warned. On other machines it may warn of anything.
fn warnings() -> usize {
    let log = if in_vm() { sh("dmesg").text() } else { String::new() };
    log.lines().filter(|line| line.contains("WARNING:")).count()
}

/// Says it at once, on a line of its own: what a macro prints is kept until the test's end, which a lost kernel does not see.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "\nfuzz: {text}");
}

/// One round. Returns how much was struck. In a long run the target works in some rounds already while programs are attached, which takes minutes
/// in emulation.
fn round(seed: u64, able: &Able, is_long: bool) -> u64 {
    let mut dice = Dice(seed);
    let (folder, cgroups) = (Folder::new(), [Cgroup::new(), Cgroup::new()]);
    let mut scenario = format!("seed = {}\n", seed % (1 << 32));
    for (name, cgroup) in ["a", "b"].iter().zip(&cgroups) {
        scenario += &format!("[target.{name}]\ncgroup = \"{}\"\n", cgroup.path());
    }
    for target in ["a", "b"] {
        for _ in 0..=dice.below(2) {
            scenario += &fault(&mut dice, able, target, &folder);
        }
    }
    let (is_killed, is_early) = (dice.below(4) == 0, dice.below(4) == 0 && is_long);
    tell(&format!("INJECTOR_FUZZ_SEED={seed}"));
    let began = Instant::now();
    let start = |cgroup: &Cgroup| {
        let mut command = within(cgroup, BUSY);
        // The linker of a program whose libraries can't be read complains.
        let mut busy = command.arg(folder.at("busy")).stderr(Stdio::null()).background();
        busy.wait_for_line("busy");
        busy
    };
    let start_all = || cgroups.iter().map(start).collect::<Vec<Background>>();
    // It works still while programs are detached.
    let early = is_early.then(start_all);
    let experiment = Experiment::apply(&scenario);
    let armed = began.elapsed();
    let mut busy = early.unwrap_or_else(start_all);
    let end = Instant::now() + WORK;
    while Instant::now() < end {
        for (one, cgroup) in busy.iter_mut().zip(&cgroups) {
            // A signal may have killed it.
            if !one.is_running() {
                *one = start(cgroup);
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut struck = 0;
    if is_killed {
        kill(Pid::from_raw(experiment.pid()), Signal::SIGKILL).unwrap();
        drop(experiment);
        injector().arg("clean").text();
    } else {
        let report = experiment.end();
        assert_eq!(report.status, Some(INTERRUPTED), "{}\n{scenario}", report.object);
        let faults = report.object["faults"].as_array().unwrap();
        struck = faults.iter().map(|fault| fault["injected"].as_u64().unwrap()).sum();
    }
    drop(busy);
    tell(&format!(
        "busy when attached: {is_early}, armed after {armed:?}, killed: {is_killed}, over after {:?}",
        began.elapsed()
    ));
    for cgroup in &cgroups {
        let found = errnos(&folder.path().join("sane"), Some(cgroup));
        assert!(found.values().all(|errno| *errno == 0), "left of it: {found:?}\n{scenario}");
    }
    struck
}

#[test]
fn random_scenarios_neither_lose_the_kernel_nor_leave_anything() {
    if !is_able() {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() << 16;
    let time = number("INJECTOR_FUZZ_MINUTES").map(|minutes| Duration::from_secs(60 * minutes));
    let seed = number("INJECTOR_FUZZ_SEED").unwrap_or_else(|| time.map_or(1, |_| clock()));
    let (able, before, start) = (Able::ask(), warnings(), Instant::now());
    let (mut rounds, mut struck) = (0, 0);
    while time.map_or(rounds < FEW, |time| start.elapsed() < time) {
        struck += round(seed + rounds, &able, time.is_some());
        rounds += 1;
        assert_eq!(warnings(), before, "the kernel has warned");
    }
    tell(&format!("{rounds} rounds as of seed {seed}, {struck} strikes"));
    assert!(struck > 0 || time.is_none(), "{rounds} rounds as of seed {seed} have struck nothing");
}
