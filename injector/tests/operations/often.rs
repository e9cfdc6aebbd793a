//! Which of several calls fail: the n-th, a share, so many, as of a time; and system calls by their names.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Cgroup, Experiment, Located as _, injector, python};
use crate::victim::Folder;
use crate::{changes_syscalls, is_able};

/// Opens a file, enters the cgroup, reads a byte so often, and prints the number of each read that failed.
const READER: &str = r"
import os, sys
path, procs, count, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
import threading
file = os.open(path, os.O_RDONLY)
with open(procs, 'w') as f:
    f.write('0')
failed, lock, done = [], threading.Lock(), [0]
def read():
    for n in range(count // threads):
        try:
            os.pread(file, 1, 0)
        except OSError as e:
            with lock:
                failed.append((n + 1, e.errno))
all = [threading.Thread(target=read) for _ in range(threads)]
for thread in all: thread.start()
for thread in all: thread.join()
print(*[n for n, _ in failed])
assert all(errno == 5 for _, errno in failed) if failed else True
";

fn failed(folder: &Folder, cgroup: &Cgroup, count: u32, threads: u32) -> Vec<u32> {
    let procs = cgroup.directory().join("cgroup.procs");
    let mut reader = python(&READER.replace("all(errno", "min(errno"));
    let text = reader.arg(folder.at("file")).arg(procs).args([count.to_string(), threads.to_string()]).text();
    text.split_whitespace().map(|n| n.parse().unwrap()).collect()
}

fn scenario(folder: &Folder, cgroup: &Cgroup, keys: &str) -> String {
    std::fs::write(folder.at("file"), "content").unwrap();
    format!(
        "seed = 7\n[target.t]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"t\"\nkind = \"io.error\"\noperations = \"read\"\npath = \"{}\"\n{keys}",
        cgroup.path(),
        folder.at("file")
    )
}

#[test]
fn the_nth_call_fails_and_the_seed_says_which_of_a_share() {
    if !is_able() {
        return;
    }
    let (folder, cgroup) = (Folder::new(), Cgroup::new());
    let run = |keys: &str, count, threads| {
        let experiment = Experiment::apply(&scenario(&folder, &cgroup, keys));
        (failed(&folder, &cgroup, count, threads), experiment.end().only())
    };
    assert_eq!(run("nth = \"3\"", 10, 1).0, [3]);
    assert_eq!(run("nth = \"3..9+2\"", 20, 1).0, [3, 5, 7, 9]);
    assert_eq!(run("limit = 2", 10, 1).0, [1, 2]);
    let (first, fault) = run("probability = \"25%\"", 400, 1);
    // Four standard deviations of a binomial variable are 35.
    assert!((65..=135).contains(&first.len()), "{first:?}");
    assert_eq!((fault.matched, fault.injected), (400, first.len() as u64));
    assert_eq!(run("probability = \"25%\"", 400, 1).0, first, "the same seed");
    // Many threads: as many as were asked for, whoever they hit.
    let (some, fault) = run("nth = \"10+10\"", 400, 4);
    assert_eq!((some.len(), fault.matched, fault.injected), (40, 400, 40));
}

/// What a database must survive: one fsync fails, and the next succeeds.
#[test]
fn fsync_fails_once_and_a_call_by_its_name() {
    if !changes_syscalls() {
        return;
    }
    let (folder, cgroup) = (Folder::new(), Cgroup::new());
    std::fs::write(folder.at("wal"), "content").unwrap();
    let experiment = Experiment::apply(&format!(
        "[target.t]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"t\"\nkind = \"io.error\"\noperations = [\"fsync\", \"fdatasync\"]\n\
         path = \"{}\"\nlimit = 1\n[[expect]]\nfault = \"io.error-1\"\ninjected = \"== 1\"",
        cgroup.path(),
        folder.at("wal")
    ));
    // sync(1) of GNU: `sync FILE` is fsync, `sync -d FILE` is fdatasync.
    let sync =
        |file: &str| Command::new("sync").arg("-d").arg(folder.at(file)).in_cgroup(&cgroup).output().unwrap();
    std::fs::write(folder.at("other"), "content").unwrap();
    assert!(sync("other").status.success());
    let failed = sync("wal");
    assert!(String::from_utf8_lossy(&failed.stderr).contains("Input/output error"), "{failed:?}");
    assert!(sync("wal").status.success());
    let report = experiment.end();
    assert_eq!(report.object["expectations"][0]["ok"], true, "{}", report.object);
    assert_eq!(report.only().injected, 1);

    // As strace has it, and seen by strace, whose own call is the first: the third call of that name fails.
    let mut run = injector();
    run.args([
        "run",
        "--fault",
        "syscall.error=uname:errno=ENOENT:nth=3",
        "--",
        "strace",
        "-e",
        "trace=uname",
        "-f",
    ]);
    let output = run.args(["sh", "-c", "uname -s; uname -s; uname -s"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let calls: Vec<&str> = said.lines().filter(|line| line.contains("uname(")).collect();
    let errors: Vec<bool> = calls.iter().map(|call| call.contains("ENOENT")).collect();
    assert_eq!(errors, [false, true, false], "{said}");
}

#[test]
fn nothing_fails_once_the_controller_is_killed_or_the_time_is_over() {
    if !is_able() {
        return;
    }
    let (folder, cgroup) = (Folder::new(), Cgroup::new());
    let all = |folder: &Folder| failed(folder, &cgroup, 5, 1);
    let experiment = Experiment::apply(&scenario(&folder, &cgroup, ""));
    assert_eq!(all(&folder), [1, 2, 3, 4, 5]);
    kill(Pid::from_raw(experiment.pid()), Signal::SIGKILL).unwrap();
    drop(experiment);
    assert_eq!(all(&folder), [0; 0], "after a SIGKILL");
    // A controller that is stopped detaches nothing: the programs themselves keep the deadline.
    let experiment = Experiment::apply(&format!("duration = \"3s\"\n{}", scenario(&folder, &cgroup, "")));
    kill(Pid::from_raw(experiment.pid()), Signal::SIGSTOP).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(all(&folder), [0; 0], "after the deadline");
    kill(Pid::from_raw(experiment.pid()), Signal::SIGCONT).unwrap();
    assert_eq!(experiment.wait(Duration::from_secs(60)).status, Some(0));
    injector().arg("clean").text();
}
