//! Without root: what works, and the hint of what does not.

use crate::check::GOOD;
use crate::injector::Desk;

#[test]
fn what_changes_the_host_says_what_it_lacks() {
    let desk = Desk::with("good.toml", GOOD);
    for arguments in [
        &["plan", "good.toml"][..],
        &["apply", "good.toml"],
        &["apply", "good.toml", "--detach"],
        &["run", "--fault", "network.loss=5%", "--", "true"],
    ] {
        let said = desk.injector_as_nobody(arguments);
        assert_eq!(
            said.to_string(),
            "status: 1\n---- stdout\n---- stderr\n\
             error: injector lacks CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF\n\n\
             hint: run it as root: `sudo injector ...`\n",
            "{arguments:?}"
        );
    }
}

#[test]
fn files_can_be_checked_by_anybody() {
    let desk = Desk::with("good.toml", GOOD);
    let said = desk.injector_as_nobody(&["check", "good.toml"]);
    assert_eq!(said.to_string(), "status: 0\n---- stdout\ngood.toml: ok, 1 fault\n---- stderr\n");
    assert_eq!(desk.injector_as_nobody(&["schema"]).status, Some(0));
}

#[test]
fn the_doctor_says_all_it_can_and_fails_as_others_do() {
    let desk = Desk::new();
    let said = desk.injector_as_nobody(&["doctor"]);
    let error = "error: injector lacks CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF\n\n\
                 hint: run it as root: `sudo injector ...`\n";
    assert_eq!((said.status, said.stderr.as_str()), (Some(1), error), "{said}");
    for capability in ["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_PERFMON", "CAP_BPF"] {
        assert!(said.stdout.contains(&format!(" no  {capability}")), "{said}");
    }
    assert!(said.stdout.contains("remedy: run it as root (sudo)"), "{said}");
    assert!(said.stdout.contains("can't be injected here"), "{said}");
    let json = desk.injector_as_nobody(&["doctor", "--json"]);
    assert_eq!((json.status, json.stderr.as_str()), (Some(1), error), "{json}");
    assert_eq!(json.json()["able"], false);
}

#[test]
fn the_journals_are_roots_alone() {
    if !nix::unistd::geteuid().is_root() {
        // Whoever runs the tests owns the directory that they name.
        return;
    }
    let desk = Desk::new();
    let mut command = desk.command(&["status"]);
    std::fs::create_dir(desk.path().join("run")).unwrap();
    std::os::unix::fs::chown(desk.path().join("run"), Some(65534), None).unwrap();
    let said = crate::injector::Said::from(command.output().unwrap());
    assert_eq!(said.status, Some(1), "{said}");
    assert!(said.stderr.contains("is not safe for journals: it belongs to another user"), "{said}");
}
