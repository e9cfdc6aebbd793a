//! Faults that begin at calls that seccomp notifies.

use crate::support::{in_vm, injector, kernel_release, root_or_skip};
use crate::victim::Folder;

use super::{TELL, run_python, scenario};

/// Syncs three times, and prints for how long it stood still from then on at most, in milliseconds: once that is as long as it was to be, or so many seconds
/// have passed.
const STILL: &str = r#"
import os, sys, time
file = os.open(sys.argv[1] + "/file", os.O_RDWR | os.O_CREAT)
# It may stand still before it is back from the last of them.
last, longest, end = time.monotonic(), 0, time.monotonic() + float(sys.argv[2])
for _ in range(3):
    os.fsync(file)
while last < end and longest < 0.39:
    now = time.monotonic()
    longest, last = max(longest, now - last), now
print(longest * 1000)
"#;

#[test]
fn a_pause_begins_at_a_call_that_is_notified() {
    if !root_or_skip() {
        return;
    }
    let folder = Folder::new();
    let pause = |count: u32| {
        format!(
            "[[fault]]\nid = \"p\"\ntarget = \"t\"\nkind = \"process.pause\"\nfor = \"400ms\"\n\
             when = {{ on = {{ kind = \"syscall\", syscalls = \"fsync\", count = {count}, fallback = \"seccomp\" }} }}\n"
        )
    };
    let (path, seconds) = (folder.path().to_str().unwrap(), if in_vm() { "60" } else { "5" });
    let ran = run_python(&pause(3), STILL, &[path, seconds]);
    let still_ms: f64 = ran.said.trim().parse().unwrap();
    assert!(still_ms >= 390.0, "{still_ms} ms");
    assert!(still_ms < 600.0 || in_vm(), "{still_ms} ms");
    let injected = |n: usize| ran.report["faults"][n]["injected"].as_u64().unwrap();
    assert_eq!((injected(0), injected(1)), (1, 1), "{}", ran.report);
    // An event that does not come.
    let ran = run_python(&pause(4), STILL, &[path, "1.5"]);
    let still_ms: f64 = ran.said.trim().parse().unwrap();
    assert!(still_ms < 390.0 || in_vm(), "{still_ms} ms");
    let said = ran.report["warnings"].to_string();
    assert!(said.contains("the fault `p` never began: `p.on` has not struck"), "{said}");
}

#[test]
fn a_notified_fault_begins_at_a_call_that_is_notified_and_not_at_one_of_the_kernel_half() {
    if !root_or_skip() {
        return;
    }
    let folder = Folder::new();
    let faults = "[[fault]]\nid = \"f\"\ntarget = \"t\"\nkind = \"io.error\"\noperations = \"fsync\"\nfallback = \"seccomp\"\n\
                  when = { on = { kind = \"io\", operations = \"write\", path = \"/**/file\", count = 2, fallback = \"seccomp\" } }\n";
    let file = scenario(faults);
    let plan = injector().arg("plan").arg(file.path()).output().unwrap();
    if in_vm() && kernel_release() < (7, 0) {
        // Writes are seen by a hook there, and fsync fails by seccomp alone.
        assert_eq!(plan.status.code(), Some(3), "{plan:?}");
        let said = String::from_utf8_lossy(&plan.stderr);
        assert!(
            said.contains("the fault `f` waits for `f.on`") && said.contains("neither is told"),
            "{said}"
        );
        return;
    }
    assert_eq!(plan.status.code(), Some(0), "{plan:?}");
    let script = format!(
        "{TELL}\nfile = os.open(sys.argv[1] + '/file', os.O_RDWR | os.O_CREAT)\n\
         for _ in range(3):\n    tell('write', lambda: os.write(file, b'x'))\n    tell('fsync', lambda: os.fsync(file))\n"
    );
    let ran = run_python(faults, &script, &[folder.path().to_str().unwrap()]);
    assert_eq!(ran.said, "write 0\nfsync 0\nwrite 0\nfsync 5\nwrite 0\nfsync 5\n");
}
