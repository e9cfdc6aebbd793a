//! That `nth` is exact, on the file systems on which data lies: ext4, xfs, and overlayfs as containers have it.
//!
//! The counter of a fault begins once in an experiment, so a thousand first thirds are had in two ways. A fault that `frees` is counted anew
//! each time that the target makes room: a thousand times the third write is the first that fails. And of `nth = "3+3"` every third of 3,000
//! reads fails and no other: with one thread their places say so, with four threads, whose order nobody knows, their number.

use crate::harms::within;
use crate::is_able;
use crate::support::{Cgroup, Experiment, Located as _, run};
use crate::victim::Folder;

/// How often the third operation is to fail.
const ROUNDS: u64 = 1000;

/// Writes three times and makes room, so many rounds; reads in one thread, then in four. Prints what of it was not as it should be: rounds in which
/// another than the third write failed alone, and the places of the reads that failed in one thread and are no third; then how many failed in four.
const SCRIPT: &str = r#"
import threading
path, rounds = sys.argv[2], int(sys.argv[3])
full, counted = os.open(path + "/full", os.O_RDWR), os.open(path + "/counted", os.O_RDONLY)

def failed(act, expected):
    try:
        act()
        return False
    except OSError as e:
        assert e.errno == expected, e
        return True

enter()
wrong = []
for n in range(rounds):
    tried = [failed(lambda: os.pwrite(full, b"x", 0), 28) for _ in range(3)]
    if tried != [False, False, True]:
        wrong.append((n, tried))
    os.ftruncate(full, 0)
print(wrong)
read = lambda: failed(lambda: os.pread(counted, 1, 0), 5)
places = [n + 1 for n in range(3 * rounds) if read()]
print([] if places == list(range(3, 3 * rounds + 1, 3)) else places)
counts = [0] * 4
def some(own):
    counts[own] = sum(read() for _ in range(3 * rounds // 4))
threads = [threading.Thread(target=some, args=(own,)) for own in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sum(counts))
"#;

/// Mounts a new file system of a file at a directory of the folder.
fn mount(folder: &Folder, kind: &str, megabytes: u32) {
    let (image, place) = (folder.at(&format!("{kind}.img")), folder.at(kind));
    std::fs::create_dir(&place).unwrap();
    // It has holes: only what is written takes memory.
    std::fs::File::create(&image).unwrap().set_len(u64::from(megabytes) << 20).unwrap();
    run(&format!("mkfs.{kind} -q {image}"));
    run(&format!("mount -t {kind} -o loop {image} {place}"));
}

#[test]
fn the_third_fails_every_time_on_each_file_system_and_with_many_threads() {
    if !is_able() {
        return;
    }
    let (folder, cgroup) = (Folder::new(), Cgroup::new());
    mount(&folder, "ext4", 64);
    // Smaller ones are refused by mkfs.xfs.
    mount(&folder, "xfs", 320);
    for directory in ["ext4/lower", "ext4/upper", "ext4/work", "overlay"] {
        std::fs::create_dir(folder.at(directory)).unwrap();
    }
    std::fs::write(folder.at("ext4/lower/counted"), "content").unwrap();
    let at = |name: &str| folder.at(&format!("ext4/{name}"));
    run(&format!(
        "mount -t overlay -o lowerdir={},upperdir={},workdir={} overlay {}",
        at("lower"),
        at("upper"),
        at("work"),
        folder.at("overlay")
    ));
    let kinds = ["ext4", "xfs", "overlay"];
    let mut scenario = format!("seed = 1\n[target.t]\ncgroup = \"{}\"\n", cgroup.path());
    for kind in kinds {
        let file = |name: &str| folder.at(&format!("{kind}/{name}"));
        std::fs::write(file("full"), "").unwrap();
        if kind != "overlay" {
            std::fs::write(file("counted"), "content").unwrap();
        }
        for (name, keys) in [
            ("full", "operations = \"write\"\nerrno = \"ENOSPC\"\nnth = \"3\"\nfrees = true"),
            ("counted", "operations = \"read\"\nnth = \"3+3\""),
        ] {
            scenario += &format!(
                "[[fault]]\nid = \"{kind}-{name}\"\ntarget = \"t\"\nkind = \"io.error\"\npath = \"{}\"\nfilesystem = \"{kind}\"\n{keys}\n",
                file(name)
            );
        }
    }
    let experiment = Experiment::apply(&scenario);
    for kind in kinds {
        let mut victim = within(&cgroup, SCRIPT);
        let text = victim.args([folder.at(kind), ROUNDS.to_string()]).text();
        assert_eq!(text, format!("[]\n[]\n{ROUNDS}\n"), "{kind}");
    }
    let report = experiment.end();
    for kind in kinds {
        let count = |name: &str| {
            let fault = report.fault(&format!("{kind}-{name}"));
            (fault.matched, fault.injected)
        };
        assert_eq!(count("full"), (3 * ROUNDS, ROUNDS), "{kind}");
        assert_eq!(count("counted"), (6 * ROUNDS, 2 * ROUNDS), "{kind}");
    }
}
