//! Which files a path means: as the process that uses them sees them, however it names them.

use std::process::Command;

use crate::is_able;
use crate::support::{Cgroup, Experiment, Located as _, run, sh};
use crate::victim::Folder;

/// An experiment in which reads of files of a path fail.
fn failing(cgroup: &Cgroup, path: &str, keys: &str) -> Experiment {
    Experiment::apply(&format!(
        "[target.t]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"t\"\nkind = \"io.error\"\noperations = \"read\"\npath = \"{path}\"\n{keys}",
        cgroup.path()
    ))
}

/// Whether a line of shell succeeds in the cgroup.
fn succeeds(cgroup: &Cgroup, script: &str) -> bool {
    let output = sh(script).in_cgroup(cgroup).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("Input/output error"), "{script}: {said}");
    output.status.success()
}

#[test]
fn a_file_is_the_same_by_all_its_ways_and_no_other_file_is_meant() {
    if !is_able() {
        return;
    }
    let (folder, cgroup) = (Folder::new(), Cgroup::new());
    let at = |name: &str| folder.at(name);
    for directory in ["a/b/c", "elsewhere", "bound"] {
        std::fs::create_dir_all(at(directory)).unwrap();
    }
    for file in ["a/b/c/x.log", "a/x.log", "a/b/x.logs", "elsewhere/x.log"] {
        std::fs::write(at(file), "content").unwrap();
    }
    std::os::unix::fs::symlink(at("a/b"), at("elsewhere/symbolic")).unwrap();
    let experiment = failing(&cgroup, &at("a/**/*.log"), "");
    let reads = |file: &str| succeeds(&cgroup, &format!("cat {file}"));
    assert!(!reads(&at("a/b/c/x.log")) && !reads(&at("a/x.log")));
    assert!(reads(&at("a/b/x.logs")) && reads(&at("elsewhere/x.log")));
    // Relative, by a symbolic link, and by `..`.
    assert!(!succeeds(&cgroup, &format!("cd {} && cat c/../c/x.log", at("a/b"))));
    assert!(!reads(&at("elsewhere/symbolic/c/x.log")));
    // What is made later, what is moved there, and what is unlinked while it is open.
    std::fs::write(at("a/new.log"), "content").unwrap();
    assert!(!reads(&at("a/new.log")));
    std::fs::rename(at("a/new.log"), at("elsewhere/new.log")).unwrap();
    assert!(reads(&at("elsewhere/new.log")));
    assert!(!succeeds(&cgroup, &format!("exec 3<{0}; rm {0}; cat <&3", at("a/b/c/x.log"))));
    // By a bind mount it has another path, and is meant by that alone.
    run(&format!("mount --bind {} {}", at("a"), at("bound")));
    assert!(reads(&at("bound/x.log")) && !reads(&at("a/x.log")));
    run(&format!("umount {}", at("bound")));
    // A mount namespace and a root directory of its own: the path is what is seen from within.
    let unshared = format!(
        "unshare --mount sh -c 'mount --bind {} {} && cat {}'",
        at("elsewhere"),
        at("a"),
        at("a/x.log")
    );
    assert!(!succeeds(&cgroup, &unshared));
    // What has no path at all.
    assert!(succeeds(&cgroup, "echo content | cat"));
    assert_eq!(experiment.end().only().matched, 8);
}

#[test]
fn a_root_directory_of_its_own_is_where_paths_begin() {
    if !is_able() {
        return;
    }
    let (folder, cgroup) = (Folder::new(), Cgroup::new());
    std::fs::create_dir_all(folder.at("root/data")).unwrap();
    std::fs::write(folder.at("root/data/x"), "content").unwrap();
    let experiment = failing(&cgroup, "/data/x", "");
    let script = "import os, sys\nos.chroot(sys.argv[1])\nopen('/data/x').read()";
    let output = crate::support::python(script).arg(folder.at("root")).in_cgroup(&cgroup).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("Errno 5"), "{output:?}");
    assert!(
        Command::new("cat")
            .arg(folder.at("root/data/x"))
            .in_cgroup(&cgroup)
            .output()
            .unwrap()
            .status
            .success()
    );
    assert_eq!(experiment.end().only().matched, 1);
}

#[test]
fn a_file_of_overlayfs_is_read_once_and_its_type_tells() {
    if !is_able() {
        return;
    }
    let (folder, cgroup) = (Folder::new(), Cgroup::new());
    let at = |name: &str| folder.at(name);
    for directory in ["lower", "upper", "work", "merged"] {
        std::fs::create_dir(at(directory)).unwrap();
    }
    std::fs::write(at("lower/below"), "content").unwrap();
    let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
    run(&format!("mount -t overlay overlay -o {options} {}", at("merged")));
    std::fs::write(at("merged/above"), "content").unwrap();
    // Without a path, so that the file below would be meant as well as the one above it.
    let keys = "file_type = \"regular\"\nprobability = \"0%\"";
    let scenario = |operations: &str| {
        format!(
            "[target.t]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"t\"\nkind = \"io.error\"\noperations = {operations}\n{keys}",
            cgroup.path()
        )
    };
    let count = |operations: &str, file: &str| {
        let script = "import os, sys\nopen(sys.argv[2], 'w').write('0')\nf = os.open(sys.argv[1], os.O_RDONLY)\nfor n in range(100): os.read(f, 1)\nos.fstat(f)";
        let before = Experiment::apply(&scenario(operations));
        let procs = cgroup.directory().join("cgroup.procs");
        crate::support::python(script).arg(file).arg(procs).text();
        before.end().only().matched
    };
    for file in ["merged/above", "merged/below", "upper/above"] {
        let found = count("[\"read\", \"open\"]", &at(file));
        assert_eq!(found, 101, "{file}: one open and 100 reads");
    }
    // What overlayfs asks of its layers for the target, to find a file, is not the target's: only getfattr(1) would be.
    let keys = "errno = \"EIO\"\nid = \"attributes\"";
    let experiment = Experiment::apply(&format!(
        "[target.t]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"t\"\nkind = \"io.error\"\noperations = [\"getxattr\", \"listxattr\"]\n{keys}",
        cgroup.path()
    ));
    std::fs::create_dir(at("lower/deep")).unwrap();
    std::fs::write(at("lower/deep/fresh"), "content").unwrap();
    std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    assert!(succeeds(&cgroup, &format!("cat {} && touch {}", at("merged/deep/fresh"), at("merged/below"))));
    let asked = "import os, sys\nos.listxattr(sys.argv[1])";
    let output = crate::support::python(asked).arg(at("merged/below")).in_cgroup(&cgroup).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("Errno 5"), "{output:?}");
    assert_eq!(experiment.end().fault("attributes").injected, 1);
}
