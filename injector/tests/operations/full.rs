//! Disks that are full from some operation on, until room is made or the fault's time is over.

use crate::delays::folder;
use crate::harms::{scenario, within};
use crate::support::{Cgroup, Experiment, Located as _, root_or_skip};
use crate::victim::Folder;
use crate::{is_able, planned};

/// `ENOSPC`.
const FULL: i32 = 28;

/// Does what its arguments say, and prints the errno of each.
const FILLER: &str = r#"
path, script = sys.argv[2:4]
file = os.open(path + "/file", os.O_RDWR | os.O_CREAT)
def does(act):
    try:
        act()
        print(0)
    except OSError as e:
        print(e.errno)
acts = {
    "w": lambda: os.pwrite(file, b"x", 0),
    "u": lambda: os.unlink(path + "/spare"),
    "d": lambda: os.rmdir(path + "/directory"),
    "t": lambda: os.ftruncate(file, 0),
    "o": lambda: os.unlink(path + "/../other"),
}
enter()
for step in script:
    does(acts[step])
"#;

/// The errno of each step in a folder that is full.
fn filled(folder: &Folder, cgroup: &Cgroup, steps: &str) -> Vec<i32> {
    let path = folder.at("full");
    std::fs::create_dir_all(format!("{path}/directory")).unwrap();
    std::fs::write(format!("{path}/spare"), "content").unwrap();
    std::fs::write(folder.at("other"), "content").unwrap();
    let text = within(cgroup, FILLER).args([&path, steps]).text();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn a_full_disk_stays_full_until_room_is_made() {
    if !is_able() {
        return;
    }
    let (folder, cgroup, neighbour) = (Folder::new(), Cgroup::new(), Cgroup::new());
    let apply = |keys: &str| {
        let fault = format!(
            "kind = \"io.error\"\noperations = [\"write\"]\nerrno = \"ENOSPC\"\npath = \"{}\"\nnth = \"3\"\n{keys}",
            folder.at("full/**")
        );
        Experiment::apply(&scenario(&cgroup, &fault))
    };
    // Neither key: the third alone.
    let experiment = apply("");
    assert_eq!(filled(&folder, &cgroup, "wwwww"), [0, 0, FULL, 0, 0]);
    drop(experiment);
    let experiment = apply("stays = true");
    assert_eq!(filled(&folder, &cgroup, "wwwwwuw"), [0, 0, FULL, FULL, FULL, 0, FULL]);
    assert_eq!(filled(&folder, &cgroup, "ww"), [FULL, FULL], "another process");
    assert_eq!(filled(&folder, &neighbour, "ww"), [0, 0], "the neighbour");
    let fault = experiment.end().only();
    assert_eq!((fault.matched, fault.injected), (8, 6));
    assert_eq!(filled(&folder, &cgroup, "ww"), [0, 0], "after the end");
    // At most so many.
    let experiment = apply("stays = true\nlimit = 2");
    assert_eq!(filled(&folder, &cgroup, "wwwww"), [0, 0, FULL, FULL, 0]);
    drop(experiment);

    let experiment = apply("frees = true");
    let full = [0, 0, FULL, FULL];
    // What frees room never fails, and then it is counted anew.
    for steps in ["wwwwuwwww", "dwwww", "twwww"] {
        let found = filled(&folder, &cgroup, steps);
        let (before, after) = found.split_at(found.len() - 4);
        assert_eq!(after, full, "{steps}");
        assert_eq!(before.last(), Some(&0), "{steps}");
    }
    // A file that is not meant, and one that a neighbour removes, make no room.
    assert_eq!(filled(&folder, &cgroup, "wow"), [FULL, 0, FULL]);
    assert_eq!(filled(&folder, &neighbour, "wuw"), [0, 0, 0]);
    assert_eq!(filled(&folder, &cgroup, "wuwww"), [FULL, 0, 0, 0, FULL]);
    let fault = experiment.end().only();
    assert_eq!((fault.matched, fault.injected), (22, 12));
}

#[test]
fn a_window_that_ends_empties_the_disk() {
    /// Writes for so many seconds, and prints the time of each and whether it failed.
    const SCRIPT: &str = r#"
import time
file = os.open(sys.argv[2], os.O_RDWR)
enter()
start = time.monotonic()
while time.monotonic() - start < 13:
    try:
        failed = os.pwrite(file, b"x", 0) - 1
    except OSError as e:
        failed = e.errno
    print(failed)
    time.sleep(0.1)
"#;
    if !is_able() {
        return;
    }
    let (folder, cgroup) = (folder(&["file"]), Cgroup::new());
    let fault = format!(
        "kind = \"io.error\"\noperations = \"write\"\nerrno = \"ENOSPC\"\npath = \"{}\"\nnth = \"3+3\"\nstays = true\nwhen = {{ for = \"2s\", every = \"4s\" }}",
        folder.at("file")
    );
    let experiment = Experiment::apply(&scenario(&cgroup, &fault));
    let text = within(&cgroup, SCRIPT).arg(folder.at("file")).text();
    let errnos: Vec<i32> = text.lines().map(|line| line.parse().unwrap()).collect();
    println!("{errnos:?}");
    // By every third alone no two would fail in succession. By staying nearly all of the two seconds do, and none of the two that follow. The
    // first failures may be at the end of a window, and the last times are cut off.
    let runs: Vec<(i32, usize)> = errnos.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect();
    let whole = &runs[2..runs.len() - 1];
    assert!(whole.len() >= 2 && whole.iter().all(|(_, length)| (8..=24).contains(length)), "{runs:?}");
    let injected = errnos.iter().filter(|errno| **errno == FULL).count();
    assert_eq!(experiment.end().only().injected, injected as u64);
}

#[test]
fn who_frees_room_can_not_be_struck() {
    if !root_or_skip() {
        return;
    }
    let fault =
        |operation: &str| format!("kind = \"io.error\"\noperations = [\"{operation}\"]\nfrees = true");
    for operation in ["unlink", "rmdir", "truncate"] {
        let (status, said) = planned(&fault(operation));
        assert_eq!(status, Some(2), "{said}");
        assert!(
            said.contains(&format!("`{operation}` frees room, so with `frees` it never fails")),
            "{said}"
        );
    }
}
