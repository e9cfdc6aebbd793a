//! What is refused before anything is changed.

use std::io::Write as _;

use crate::support::{Cgroup, injector, root_or_skip};
use crate::victim::is_frozen;

/// The exit status of `apply`, and what it said.
fn applied(scenario: &str) -> (Option<i32>, String) {
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    file.write_all(format!("version = 1\nduration = \"1s\"\n{scenario}").as_bytes()).unwrap();
    let output = injector().arg("apply").arg(file.path()).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code(), said.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[test]
fn what_somebody_else_has_frozen_stays_so() {
    if !root_or_skip() {
        return;
    }
    let cgroup = Cgroup::new();
    let inner = cgroup.child("inner");
    std::fs::write(cgroup.directory().join("cgroup.freeze"), "1").unwrap();
    for path in [cgroup.path(), inner.path()] {
        let (status, said) = applied(&format!(
            "[target.t]\ncgroup = \"{path}\"\n[[fault]]\ntarget = \"t\"\nkind = \"process.pause\"\n"
        ));
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains("is frozen already"), "{said}");
    }
    assert!(is_frozen(&cgroup));
    std::fs::write(cgroup.directory().join("cgroup.freeze"), "0").unwrap();
    drop(inner);
}

#[test]
fn two_that_would_end_each_others_pauses_are_refused() {
    if !root_or_skip() {
        return;
    }
    let cgroup = Cgroup::new();
    let inner = cgroup.child("inner");
    let (status, said) = applied(&format!(
        "[target.a]\ncgroup = \"{}\"\n[target.b]\ncgroup = \"{}\"\n[[fault]]\nid = \"x\"\ntarget = \"a\"\nkind = \"process.stop\"\n\
         [[fault]]\nid = \"y\"\ntarget = \"b\"\nkind = \"process.stop\"\n",
        cgroup.path(),
        inner.path()
    ));
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("the fault `y`: `x` is a `process.stop` of the same processes"), "{said}");
    drop(inner);
}

#[test]
fn who_was_stopped_before_stays_stopped() {
    use crate::support::{Located as _, sh, wait_until};
    use crate::victim::state;
    use std::time::Duration;
    if !root_or_skip() {
        return;
    }
    let cgroup = Cgroup::new();
    let (one, other) = (
        sh("exec sleep 60").in_cgroup(&cgroup).background(),
        sh("exec sleep 60").in_cgroup(&cgroup).background(),
    );
    one.signal(nix::sys::signal::Signal::SIGSTOP);
    wait_until(Duration::from_secs(60), "stopped", || state(one.pid()) == Some('T'));
    let (status, said) = applied(&format!(
        "[target.t]\ncgroup = \"{}\"\n[[fault]]\ntarget = \"t\"\nkind = \"process.stop\"\n",
        cgroup.path()
    ));
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains(&format!("are stopped already, and stay so: {}", one.pid())), "{said}");
    assert_eq!((state(one.pid()), state(other.pid())), (Some('T'), Some('S')));
}
