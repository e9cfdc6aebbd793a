//! What is worse than an error: writes that are lost, reads that come back wrong, and signals; and errors of one device alone.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use nix::sys::stat::{major, minor};

use crate::delays::folder;
use crate::support::{Cgroup, Experiment, Located as _, python, root_or_skip, run, sh};
use crate::victim::Folder;
use crate::{can, is_able, planned};

const EIO: i32 = 5;

/// Whether a fault can be had: on all stock kernels. It may be that this machine's own kernel lets nobody do that.
fn has(fault: &str) -> bool {
    is_able() && can(fault, true, &["can't be had on this kernel"])
}

pub(crate) fn scenario(cgroup: &Cgroup, fault: &str) -> String {
    format!("seed = 7\n[target.t]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"t\"\n{fault}", cgroup.path())
}

/// Python that enters a cgroup as of its first line, so that nothing of its own beginning is struck.
pub(crate) fn within(cgroup: &Cgroup, script: &str) -> Command {
    let enter = "import ctypes, os, socket, sys\nentrance = os.open(sys.argv[1], os.O_WRONLY)\ndef enter():\n    os.write(entrance, b'0')\n";
    let mut command = python(&format!("{enter}{script}"));
    command.arg(cgroup.directory().join("cgroup.procs"));
    command
}

#[test]
fn what_is_lost_is_said_to_be_written_and_everything_else_is() {
    /// Writes by each call, and prints what it said and what is there afterwards.
    const SCRIPT: &str = r#"
file, other = (os.open(path, os.O_RDWR) for path in sys.argv[2:4])
enter()
def tell(name, said):
    print(name, said, os.lseek(file, 0, os.SEEK_CUR), os.pread(file, 16, 0).decode())
tell("pwrite", os.pwrite(file, b"NEW", 0))
tell("write", os.write(file, b"NEWER"))
tell("long", os.pwrite(file, b"x" * 100000, 8))
tell("writev", os.writev(file, [b"VEC", b"TOR"]))
tell("other", os.pwrite(other, b"NEW", 0))
"#;
    if !has("kind = \"io.lost\"") {
        return;
    }
    let (folder, cgroup) = (folder(&["other"]), Cgroup::new());
    std::fs::write(folder.at("file"), "0123456789abcdef").unwrap();
    let fault = format!("kind = \"io.lost\"\npath = \"{}\"", folder.at("file"));
    let experiment = Experiment::apply(&scenario(&cgroup, &fault));
    let write = |cgroup: &Cgroup| within(cgroup, SCRIPT).args([folder.at("file"), folder.at("other")]).text();
    // The position stays, as the notes of the plan say; vectors are not struck, and done.
    let expected = "pwrite 3 0 0123456789abcdef\nwrite 5 0 0123456789abcdef\nlong 100000 0 0123456789abcdef\nwritev 6 6 VECTOR6789abcdef\nother 3 6 VECTOR6789abcdef\n";
    assert_eq!(write(&cgroup), expected);
    // The neighbour reads what is there, of both files, and what it writes is written.
    let read = |name: &str| std::fs::read_to_string(folder.at(name)).unwrap();
    assert_eq!((read("file").as_str(), read("other").as_str()), ("VECTOR6789abcdef", "NEWtent"));
    std::fs::write(folder.at("file"), "the neighbour's.").unwrap();
    assert_eq!(read("file"), "the neighbour's.");
    // GNU dd, which says what it has copied: one write, whatever the file is.
    let line = format!("printf 12345678 | dd of={} conv=notrunc", folder.at("file"));
    let dd = sh(&line).in_cgroup(&cgroup).output().unwrap();
    assert!(dd.status.success() && String::from_utf8_lossy(&dd.stderr).contains("8 bytes"), "{dd:?}");
    assert_eq!(read("file"), "the neighbour's.");
    let fault = experiment.end().only();
    assert_eq!((fault.matched, fault.injected), (4, 4));
    // After the end.
    std::fs::write(folder.at("file"), "0123456789abcdef").unwrap();
    assert!(write(&cgroup).starts_with("pwrite 3 0 NEW3456789abcdef\nwrite 5 5 NEWER"));
}

#[test]
fn some_writes_are_lost() {
    const SCRIPT: &str = r#"
file = os.open(sys.argv[2], os.O_RDWR)
enter()
print(*[os.pwrite(file, b"1", n) for n in range(400)])
"#;
    if !has("kind = \"io.lost\"") {
        return;
    }
    let (folder, cgroup) = (Folder::new(), Cgroup::new());
    let run = |keys: &str| {
        std::fs::write(folder.at("file"), "0".repeat(400)).unwrap();
        let fault = format!("kind = \"io.lost\"\npath = \"{}\"\n{keys}", folder.at("file"));
        let experiment = Experiment::apply(&scenario(&cgroup, &fault));
        let said = within(&cgroup, SCRIPT).arg(folder.at("file")).text();
        assert!(said.split_whitespace().all(|one| one == "1"), "{said}");
        let text = std::fs::read_to_string(folder.at("file")).unwrap();
        let lost: Vec<usize> =
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'0').map(|(n, _)| n + 1).collect();
        let fault = experiment.end().only();
        assert_eq!((fault.matched, fault.injected), (400, lost.len() as u64));
        lost
    };
    assert_eq!(run("nth = \"3..9+3\""), [3, 6, 9]);
    assert_eq!(run("limit = 2"), [1, 2]);
    // Four standard deviations of a binomial variable are 35.
    let some = run("probability = \"25%\"");
    assert!((65..=135).contains(&some.len()), "{some:?}");
    assert_eq!(run("probability = \"25%\""), some, "the same seed");
}

/// Reads 4096 bytes by two calls, again and again, and prints the numbers of the bits that are not as they were written, a line for each read.
const READER: &str = r"
file, count = os.open(sys.argv[2], os.O_RDONLY), int(sys.argv[3])
one, other = socket.socketpair()
enter()
right = bytes(n % 251 for n in range(4096))
for n in range(count):
    os.lseek(file, 0, os.SEEK_SET)
    read = os.pread(file, 4096, 0) if n % 2 else os.read(file, 4096)
    print(*[8 * at + bit for at in range(4096) for bit in range(8) if (read[at] ^ right[at]) >> bit & 1])
for n in range(20):
    other.send(right)
    assert os.read(one.fileno(), 4096) == right
";

/// The bits that are wrong, of each of several reads.
fn rotten(folder: &Folder, cgroup: &Cgroup, count: u32) -> Vec<Vec<u32>> {
    let text = within(cgroup, READER).args([folder.at("file"), count.to_string()]).text();
    let numbers = |line: &str| line.split_whitespace().map(|n| n.parse().unwrap()).collect();
    text.lines().map(numbers).collect()
}

#[test]
fn what_is_read_rots_in_the_targets_memory_alone() {
    const COUNT: u32 = 20;
    if !has("kind = \"io.corrupt\"") {
        return;
    }
    let (folder, cgroup, neighbour) = (Folder::new(), Cgroup::new(), Cgroup::new());
    let right: Vec<u8> = (0..4096_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(folder.at("file"), &right).unwrap();
    let is_right = || std::fs::read(folder.at("file")).unwrap() == right;
    let clean = vec![Vec::<u32>::new(); COUNT as usize];
    let run = |seed: u32, keys: &str| {
        let fault = format!("kind = \"io.corrupt\"\n{keys}");
        let text = scenario(&cgroup, &fault).replace("seed = 7", &format!("seed = {seed}"));
        let experiment = Experiment::apply(&text);
        let found = rotten(&folder, &cgroup, COUNT);
        assert_eq!(rotten(&folder, &neighbour, COUNT), clean, "the neighbour's");
        assert!(is_right());
        (found, experiment.end().only())
    };
    // Without a path: sockets are not touched, nor counted.
    let (found, fault) = run(7, "bits = 3");
    assert_eq!((fault.matched, fault.injected), (u64::from(COUNT), u64::from(COUNT)));
    // A bit that is drawn twice is right again.
    assert!(found.iter().all(|bits| matches!(bits.len(), 1 | 3)), "{found:?}");
    assert!(found.iter().filter(|bits| bits.len() == 3).count() > 15, "{found:?}");
    let different: BTreeSet<u32> = found.iter().flatten().copied().collect();
    assert!(different.len() > 40 && different.iter().any(|bit| *bit > 8 * 2048), "{different:?}");
    let path = format!("bits = 3\npath = \"{}\"", folder.at("file"));
    assert_eq!(run(7, &path).0, found, "the same seed");
    assert_ne!(run(8, &path).0, found, "another seed");
    // From a byte on, one after the other; and what is behind the end is not there.
    let first = |offset: u32, bits: u32| (8 * offset..8 * offset + bits).collect::<Vec<u32>>();
    assert_eq!(run(7, "bits = 3\noffset = 100\nnth = \"2\"").0[..3], [vec![], first(100, 3), vec![]]);
    assert_eq!(run(7, "bits = 12\noffset = 4095").0, vec![first(4095, 8); COUNT as usize]);
    assert_eq!(rotten(&folder, &cgroup, COUNT), clean, "after the end");
    assert!(is_right());
}

#[test]
fn a_device_and_a_kind_of_file_system_tell_files_apart() {
    if !is_able() {
        return;
    }
    let (struck, spared, cgroup) = (folder(&["file"]), folder(&["file"]), Cgroup::new());
    let reads = |path: &str| {
        let output = within(&cgroup, "file = os.open(sys.argv[2], os.O_RDONLY)\nenter()\nos.read(file, 1)")
            .arg(path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || said.contains(&format!("Errno {EIO}")), "{path}: {said}");
        output.status.success()
    };
    let apply = |keys: &str| {
        Experiment::apply(&scenario(&cgroup, &format!("kind = \"io.error\"\noperations = \"read\"\n{keys}")))
    };
    let device = std::fs::metadata(struck.at("file")).unwrap().dev();
    let experiment = apply(&format!("device = \"{}:{}\"", major(device), minor(device)));
    assert!(!reads(&struck.at("file")) && reads(&spared.at("file")) && reads("/proc/version"));
    assert_eq!(experiment.end().only().matched, 1);

    // An overlay on one of the two is another device, and another kind.
    for directory in ["lower", "upper", "work", "merged"] {
        std::fs::create_dir(struck.at(directory)).unwrap();
    }
    std::fs::write(struck.at("lower/file"), "content").unwrap();
    let at = |name: &str| struck.at(name);
    let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
    run(&format!("mount -t overlay overlay -o {options} {}", at("merged")));
    let files = [struck.at("file"), spared.at("file"), struck.at("merged/file"), "/proc/version".to_owned()];
    let table = [
        ("tmpfs", [false, false, true, true]),
        ("overlay", [true, true, false, true]),
        ("proc", [true, true, true, false]),
        ("ext4", [true; 4]),
    ];
    for (kind, expected) in table {
        let experiment = apply(&format!("filesystem = \"{kind}\"\npath = \"/**\""));
        let found: Vec<bool> = files.iter().map(|file| reads(file)).collect();
        assert_eq!(found, expected, "{kind}");
        let fault = experiment.end().only();
        assert_eq!(fault.injected, found.iter().filter(|succeeds| !**succeeds).count() as u64, "{kind}");
    }
    assert!(files.iter().all(|file| reads(file)), "after the end");
}

#[test]
fn who_makes_a_system_call_gets_a_signal() {
    /// Asks so often, and prints after each how many signals it has handled.
    const SCRIPT: &str = r#"
import signal
handled = []
signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))
enter()
for n in range(4):
    assert os.uname().sysname == "Linux"
    print(len(handled))
"#;
    if !has("kind = \"syscall.signal\"\nsyscalls = \"uname\"\nsignal = \"TERM\"") {
        return;
    }
    let (cgroup, neighbour) = (Cgroup::new(), Cgroup::new());
    let apply = |keys: &str| {
        Experiment::apply(&scenario(
            &cgroup,
            &format!("kind = \"syscall.signal\"\nsyscalls = \"uname\"\n{keys}"),
        ))
    };
    let uname = |cgroup: &Cgroup| Command::new("uname").arg("-s").in_cgroup(cgroup).output().unwrap();
    for (name, number) in [("TERM", 15), ("SIGKILL", 9)] {
        let experiment = apply(&format!("signal = \"{name}\"\nlimit = 1"));
        assert_eq!(uname(&neighbour).stdout, b"Linux\n");
        let struck = uname(&cgroup);
        assert_eq!((struck.status.signal(), &struck.stdout[..]), (Some(number), &b""[..]), "{name}");
        assert_eq!(uname(&cgroup).stdout, b"Linux\n", "over the limit");
        let fault = experiment.end().only();
        assert_eq!((fault.matched, fault.injected, fault.spared_by_limit), (2, 1, 1));
    }
    let experiment = apply("signal = \"SIGUSR1\"\nnth = \"2\"");
    assert_eq!(within(&neighbour, SCRIPT).text(), "0\n0\n0\n0\n");
    assert_eq!(within(&cgroup, SCRIPT).text(), "0\n1\n1\n1\n");
    let fault = experiment.end().only();
    assert_eq!((fault.matched, fault.injected), (4, 1));
    assert_eq!(uname(&cgroup).stdout, b"Linux\n", "after the end");
}

#[test]
fn a_signal_that_stops_is_refused() {
    if !root_or_skip() {
        return;
    }
    for name in ["SIGSTOP", "TSTP"] {
        let (status, said) =
            planned(&format!("kind = \"syscall.signal\"\nsyscalls = \"uname\"\nsignal = \"{name}\""));
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains("would stop a process for longer than the fault lasts"), "{said}");
    }
}
