//! Operations and system calls that take longer: by how much, whose, and which.

use std::sync::OnceLock;

use crate::support::{Cgroup, Experiment, Located as _, in_vm, kernel_release, python};
use crate::victim::Folder;
use crate::{can, is_able, is_emulated};

/// How far a median may lie from what was asked for. Who wakes learns how long waking takes, and is a little early or late
/// in turn; an emulated machine, on one that has other work, wakes late by milliseconds and a sleep has a floor of up to 4 ms there.
const EARLY_MS: f64 = 5.0;
/// See [`EARLY_MS`].
const LATE_MS: f64 = 20.0;

/// How often something is done before it is timed: by then it is known how long waking takes.
const WARM: u32 = 10;

/// How often it is timed.
const COUNT: u32 = 31;

/// Does an operation again and again, and prints milliseconds: of CPU time for all after the first few, and how long each of them took.
const TIMED: &str = r#"
import os, sys, time
operation, path, warm, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
file = os.open(path, os.O_RDWR)
act = {
    "open": lambda: os.open(path, os.O_RDONLY),
    "read": lambda: os.pread(file, 1, 0),
    "write": lambda: os.pwrite(file, b"x", 0),
    "fsync": lambda: os.fsync(file),
}[operation]
for n in range(warm):
    act()
times = []
cpu = time.process_time()
for n in range(count):
    start = time.monotonic()
    act()
    times.append(time.monotonic() - start)
print((time.process_time() - cpu) * 1000, *[t * 1000 for t in times])
"#;

struct Timed {
    cpu_ms: f64,
    each_ms: Vec<f64>,
}

impl Timed {
    fn median(&self) -> f64 {
        median(self.each_ms.clone())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Times an operation on a file, after [`WARM`] that are not timed: it opens the file once, and does it as often as both say.
fn timed(operation: &str, file: &str, count: u32, cgroup: Option<&Cgroup>) -> Timed {
    let mut command = python(TIMED);
    command.args([operation, file, &WARM.to_string(), &count.to_string()]);
    if let Some(cgroup) = cgroup {
        command.in_cgroup(cgroup);
    }
    let text = command.text();
    let mut numbers = text.split_whitespace().map(|n| n.parse().unwrap());
    Timed { cpu_ms: numbers.next().unwrap(), each_ms: numbers.collect() }
}

/// Whether operations can be delayed at hooks of LSMs; where they can't, `plan` says why.
pub(crate) fn sleeps_at_hooks() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let words = ["can't be had on this kernel, open: BPF LSM, sleeping: ", "bpf_task_from_pid"];
    let fault = "kind = \"io.delay\"\noperations = \"open\"\ndelay = \"1ms\"";
    *FOUND.get_or_init(|| is_able() && can(fault, kernel_release() >= (6, 2), &words))
}

/// Whether they can be at the functions of system calls.
fn sleeps_at_calls() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let can = |fault: &str, what: &str| {
        let words = [
            &format!(
                "can't be had on this kernel, {what}: fmod_ret at functions of system calls, sleeping: "
            ),
            "not sleepable",
        ];
        can(&format!("{fault}\ndelay = \"1ms\""), kernel_release() >= (7, 0), &words)
    };
    *FOUND.get_or_init(|| {
        is_able()
            && can("kind = \"io.delay\"\noperations = \"read\"", "read")
            && can("kind = \"syscall.delay\"\nsyscalls = \"uname\"", "uname")
    })
}

/// A scenario that delays operations on a file in a folder.
pub(crate) fn delay(cgroup: &Cgroup, keys: &str) -> String {
    format!(
        "[target.t]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"t\"\nkind = \"io.delay\"\noperations = \"open\"\n{keys}",
        cgroup.path()
    )
}

/// A folder with files of these names.
pub(crate) fn folder(files: &[&str]) -> Folder {
    let folder = Folder::new();
    for file in files {
        std::fs::write(folder.at(file), "content").unwrap();
    }
    folder
}

/// The files of [`takes_longer`], and by how many milliseconds it takes longer to use them.
const DELAYS: [(&str, f64); 2] = [("10", 10.0), ("100", 100.0)];

#[test]
fn each_operation_takes_as_much_longer_as_was_asked_for_without_cpu_time() {
    if is_emulated() || !sleeps_at_hooks() {
        return;
    }
    let operations: &[&str] = if sleeps_at_calls() { &["open", "fsync"] } else { &["open"] };
    let (folder, cgroup) = (folder(&["10", "100", "other"]), Cgroup::new());
    // One experiment for each, and of the system calls one that has one name: a program takes up to a minute to load in an emulated machine.
    for operation in operations {
        let mut scenario = format!("[target.t]\ncgroup = \"{}\"\n", cgroup.path());
        for (name, _) in DELAYS {
            scenario += &format!(
                "[[fault]]\nid = \"f{name}\"\ntarget = \"t\"\nkind = \"io.delay\"\noperations = \"{operation}\"\ndelay = \"{name}ms\"\npath = \"{}\"\n",
                folder.at(name)
            );
        }
        let experiment = Experiment::apply(&scenario);
        println!("{}", takes_longer(operation, &folder, &cgroup));
        let report = experiment.end();
        // The process opens the file once more.
        let expected = u64::from(WARM + COUNT) + u64::from(*operation == "open");
        for (name, _) in DELAYS {
            let fault = report.fault(&format!("f{name}"));
            assert_eq!((fault.matched, fault.injected), (expected, expected), "{operation}, {name}");
        }
        let median = timed(operation, &folder.at("10"), COUNT, Some(&cgroup)).median();
        assert!(median < 5.0, "{operation} after the end: {median}");
    }
}

/// An operation on each of the files, on another one, and by a neighbour. Returns what was found.
fn takes_longer(operation: &str, folder: &Folder, cgroup: &Cgroup) -> String {
    let found = DELAYS.map(|(name, delay_ms)| {
        let timed = timed(operation, &folder.at(name), COUNT, Some(cgroup));
        let (median, asked_ms) = (timed.median(), delay_ms * f64::from(COUNT));
        // The work around a sleep is some tenths of a millisecond, and in emulation two or three, the same for a long one as for a short one.
        let is_judged = delay_ms > 50.0 || !in_vm();
        let cpu_ms = timed.cpu_ms;
        let all = format!(
            "{operation}, {delay_ms} ms: median {median:.2} ms, CPU {cpu_ms:.1} of {asked_ms} ms: {:.1?}",
            timed.each_ms
        );
        assert!((delay_ms - EARLY_MS..=delay_ms + LATE_MS).contains(&median), "{all}");
        assert!(!is_judged || cpu_ms < 0.15 * asked_ms, "{all}");
        (median, all)
    });
    let [(short, said_short), (long, said_long)] = found;
    assert!((long - short - 90.0).abs() <= LATE_MS, "{said_short}\n{said_long}");
    for (file, cgroup) in [("other", Some(cgroup)), ("10", None)] {
        let median = timed(operation, &folder.at(file), COUNT, cgroup).median();
        assert!(median < 5.0, "{operation} of {file} takes {median} ms, in the cgroup: {}", cgroup.is_some());
    }
    format!("{said_short}\n{said_long}")
}

#[test]
fn delays_are_spread_as_asked_for_and_the_seed_says_which_is_which() {
    const COUNT: u32 = 60;
    if !sleeps_at_hooks() {
        return;
    }
    let (folder, cgroup) = (folder(&["file"]), Cgroup::new());
    let run = |seed: u32| {
        let keys = format!(
            "delay = \"50ms\"\njitter = \"30ms\"\ndistribution = \"uniform\"\npath = \"{}\"",
            folder.at("file")
        );
        let experiment = Experiment::apply(&format!("seed = {seed}\n{}", delay(&cgroup, &keys)));
        let each_ms = timed("open", &folder.at("file"), COUNT, Some(&cgroup)).each_ms;
        drop(experiment);
        each_ms
    };
    // Single sleeps may be late where a machine stands still: so nine of ten count.
    let most = |holds: usize| holds * 10 >= COUNT as usize * 9;
    let alike = |a: &[f64], b: &[f64]| a.iter().zip(b).filter(|(a, b)| (*a - *b).abs() < 15.0).count();
    let (first, again, other) = (run(1), run(1), run(2));
    for all in [&first, &again, &other] {
        let mean = all.iter().sum::<f64>() / f64::from(COUNT);
        let within = all.iter().filter(|ms| (20.0 - EARLY_MS..=80.0 + 15.0).contains(*ms)).count();
        let spread = all.iter().filter(|ms| (35.0..=65.0).contains(*ms)).count();
        println!("mean {mean:.1} ms, within {within}, in the middle half {spread} of {COUNT}");
        // The standard error of a mean of 60 is 2.2 ms.
        assert!((40.0..=60.0).contains(&mean), "{all:?}");
        assert!(most(within), "{all:?}");
        // Half of the width: 30 of 60, and four standard deviations are 15.
        assert!((15..=45).contains(&spread), "{all:?}");
    }
    println!("same seed {} alike, other seed {} of {COUNT}", alike(&first, &again), alike(&first, &other));
    assert!(most(alike(&first, &again)), "{first:?}\n{again:?}");
    // By chance 44 % lie as near to one another.
    assert!(alike(&first, &other) < 45, "{first:?}\n{other:?}");
}

/// Milliseconds of the calls with a text in their line, as `strace -T` has them.
fn traced(calls: &str, script: &str, arguments: &[&str], wanted: &str) -> Vec<f64> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let inner = python(script);
    let mut strace = std::process::Command::new("strace");
    strace.args(["-T", "-y", "-e", &format!("trace={calls}"), "-o"]).arg(file.path());
    strace.arg(inner.get_program()).args(inner.get_args()).args(arguments).text();
    let text = std::fs::read_to_string(file.path()).unwrap();
    let took = |line: &str| line.rsplit_once('<')?.1.strip_suffix('>')?.parse::<f64>().ok();
    text.lines()
        .filter(|line| line.contains(wanted))
        .filter_map(took)
        .map(|seconds| seconds * 1000.0)
        .collect()
}

#[test]
fn strace_sees_it() {
    /// Enters the cgroup, so that what strace does is not counted, opens a file and reads from it so often.
    const SCRIPT: &str = r#"
import os, sys
path, procs, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(procs, "w") as f:
    f.write("0")
for n in range(count):
    os.pread(os.open(path, os.O_RDONLY), 1, 0)
"#;
    if !sleeps_at_hooks() {
        return;
    }
    let (folder, cgroup) = (folder(&["file"]), Cgroup::new());
    let (operation, call) = if sleeps_at_calls() { ("read", "pread64") } else { ("open", "openat") };
    let keys = format!("delay = \"50ms\"\npath = \"{}\"", folder.at("file"));
    let scenario = delay(&cgroup, &keys).replace("\"open\"", &format!("\"{operation}\""));
    let experiment = Experiment::apply(&scenario);
    let procs = cgroup.directory().join("cgroup.procs").display().to_string();
    let file = folder.at("file");
    let took = traced(call, SCRIPT, &[&file, &procs, "30"], &file);
    assert_eq!(took.len(), 30);
    let median = median(took[WARM as usize..].to_vec());
    println!("{call} by strace: {median:.2} ms");
    // To stop twice for strace takes milliseconds more in emulation.
    assert!((50.0 - EARLY_MS..=50.0 + 2.0 * LATE_MS).contains(&median), "{took:?}");
    assert_eq!(experiment.end().only().injected, 30);
}

#[test]
fn a_system_call_is_delayed_by_its_name_and_number() {
    const SCRIPT: &str = r#"
import os, sys
with open(sys.argv[1], "w") as f:
    f.write("0")
for n in range(5):
    os.uname()
"#;
    if !sleeps_at_calls() {
        return;
    }
    let cgroup = Cgroup::new();
    let procs = cgroup.directory().join("cgroup.procs").display().to_string();
    let run = |keys: &str| {
        let experiment = Experiment::apply(&format!(
            "[target.t]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"t\"\nkind = \"syscall.delay\"\nsyscalls = \"uname\"\ndelay = \"200ms\"\n{keys}",
            cgroup.path()
        ));
        let took = traced("uname", SCRIPT, &[&procs], "uname(");
        println!("uname by strace: {took:.1?} ms");
        // The dynamic linker or Python may ask before, and outside of the cgroup.
        let late: Vec<bool> = took[took.len() - 5..].iter().map(|ms| *ms > 150.0).collect();
        (late, experiment.end().only().injected)
    };
    assert_eq!(run(""), (vec![true; 5], 5));
    assert_eq!(run("nth = \"2..4+2\""), (vec![false, true, false, true, false], 2));
    // The neighbour, at the same time as nobody's.
    let experiment = Experiment::apply(&format!(
        "[target.t]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"t\"\nkind = \"syscall.delay\"\nsyscalls = \"uname\"\ndelay = \"200ms\"",
        cgroup.path()
    ));
    let neighbour = traced("uname", SCRIPT, &["/dev/null"], "uname(");
    assert!(neighbour.len() >= 5 && neighbour.iter().all(|ms| *ms < 150.0), "{neighbour:?}");
    assert_eq!(experiment.end().only().matched, 0);
}

#[test]
fn many_sleep_at_once() {
    /// Eight threads open a file five times each; prints the seconds of each call, and those of all together.
    const SCRIPT: &str = r"
import os, sys, threading, time
each = []
def opens():
    for n in range(5):
        start = time.monotonic()
        os.open(sys.argv[1], os.O_RDONLY)
        each.append(time.monotonic() - start)
all = [threading.Thread(target=opens) for n in range(8)]
start = time.monotonic()
for thread in all: thread.start()
for thread in all: thread.join()
print(time.monotonic() - start, *each)
";
    if !sleeps_at_hooks() {
        return;
    }
    let (folder, cgroup) = (folder(&["file"]), Cgroup::new());
    let keys = format!("delay = \"200ms\"\npath = \"{}\"", folder.at("file"));
    let experiment = Experiment::apply(&delay(&cgroup, &keys));
    let text = python(SCRIPT).arg(folder.at("file")).in_cgroup(&cgroup).text();
    let numbers: Vec<f64> = text.split_whitespace().map(|n| n.parse().unwrap()).collect();
    let (whole, each) = numbers.split_first().unwrap();
    assert_eq!(each.len(), 40);
    assert!(each.iter().all(|seconds| *seconds > 0.15), "{each:?}");
    let sum: f64 = each.iter().sum();
    println!("40 sleeps of {sum:.2} s together in {whole:.2} s");
    // One after the other it would be the sum, and all at once an eighth of it.
    assert!(whole * 3.0 < sum, "{whole} of {sum}");
    assert_eq!(experiment.end().only().injected, 40);
}
