//! Targets that are not there, too many rules for one, and what comes and goes while it is struck.

use nix::sys::signal::Signal;

use crate::bench::{Bench, CLSACT, LONG, PATIENCE, loss_of, rungs};
use crate::listing::{assert_no_bpf_objects_since, bpf_objects};
use crate::support::{Located as _, Netns, python, root_or_skip, run, sh, wait_until};

#[test]
fn what_is_not_there_is_named_with_what_is_like_it() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let (before, objects) = (bench.listing(), bpf_objects());
    // The highest pid that a kernel can give is 4194304.
    for (selector, error, hint) in [
        (
            format!("cgroup = \"{}x\"", bench.own.path()),
            format!("there is no cgroup `{}x`", bench.own.path()),
            format!("did you mean `{}`?", bench.own.path()),
        ),
        ("pid = 4194304".to_owned(), "there is no process 4194304".to_owned(), String::new()),
        (
            "interface = \"vet0\"".to_owned(),
            "there is no interface `vet0` in this network namespace".to_owned(),
            "did you mean `veth0`?".to_owned(),
        ),
    ] {
        let scenario = bench.scenario("unknown", &loss_of(&selector, "60s"));
        for command in ["plan", "apply"] {
            bench.injector(&[command, &scenario]).expect(1).says(&error).says(&hint);
        }
    }
    bench.listing().assert_same_as(&before, "after refusals");
    assert_no_bpf_objects_since(&objects, "after refusals");
}

#[test]
fn more_rules_than_a_target_can_have_are_refused() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let (before, objects) = (bench.listing(), bpf_objects());
    let mut text = loss_of(&format!("cgroup = \"{}\"", bench.a.path()), "50ms");
    for _ in 1..64 {
        text.push_str("[[fault]]\ntarget = \"t\"\nkind = \"network.loss\"\n");
    }
    bench.injector(&["apply", &bench.scenario("most", &text)]).expect(0);
    text.push_str("[[fault]]\ntarget = \"t\"\nkind = \"network.loss\"\n");
    bench
        .injector(&["apply", &bench.scenario("too-many", &text)])
        .expect(2)
        .says("65 rules strike the target `t`, and 64 is the most")
        .says("hint: join faults whose `match` lists can be one");
    bench.listing().assert_same_as(&before, "after a refusal");
    assert_no_bpf_objects_since(&objects, "after a refusal");
}

#[test]
fn a_cgroup_that_is_removed_while_it_is_struck_is_no_error() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let path = bench.b.path().to_owned();
    let scenario = bench
        .scenario("removed", &(loss_of(&format!("cgroup = \"{path}\""), "1s") + "direction = \"both\"\n"));
    let (before, objects) = (bench.listing(), bpf_objects());
    for rung in rungs() {
        let mut controller = bench.armed(&["apply", &scenario, "--tc", rung]);
        std::fs::remove_dir(bench.b.directory()).unwrap();
        controller.end().expect(0).says("removed: completed after");
        assert_no_bpf_objects_since(&objects, "after it");
        std::fs::create_dir(bench.b.directory()).unwrap();
        bench.listing().assert_same_as(&before, "after it");
    }
}

#[test]
fn an_interface_that_disappears_ends_it_with_its_name_and_all_else_is_taken_back() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let text = format!(
        "{}[target.device]\ninterface = \"veth9\"\n[[fault]]\ntarget = \"device\"\nkind = \"network.loss\"\nper = \"segment\"\n",
        loss_of(&format!("cgroup = \"{}\"", bench.a.path()), LONG)
    );
    let scenario = bench.scenario("disappearing", &text);
    let (before, objects) = (bench.listing(), bpf_objects());
    for rung in rungs() {
        bench.netns.ip("link add veth9 type veth peer name veth8");
        let mut controller = bench.armed(&["apply", &scenario, "--tc", rung, "--json"]);
        bench.netns.ip("link del veth9");
        let ended = controller
            .end()
            .expect(1)
            .says("the device veth9 of the target `device` disappeared while it was struck")
            .says("everything else was taken back");
        assert_eq!(
            ended.stdout.lines().next().map(|line| line.contains("\"outcome\":\"failed\"")),
            Some(true),
            "{ended}"
        );
        bench.listing().assert_same_as(&before, &format!("after it ({rung})"));
        assert_no_bpf_objects_since(&objects, "after it");
    }
}

#[test]
fn a_device_that_came_later_is_taken_back_too() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let scenario = bench.loss("later", LONG);
    let objects = bpf_objects();
    for killed in [false, true] {
        let mut controller = bench.armed(&["apply", &scenario, "--tc", CLSACT]);
        bench.netns.ip("link add veth9 type veth peer name veth8");
        for device in ["veth8", "veth9"] {
            let hook = format!("qdisc show dev {device} clsact");
            wait_until(PATIENCE, "a clsact on a new device", || bench.netns.tc(&hook).contains("clsact"));
        }
        controller.end_by(if killed { Signal::SIGKILL } else { Signal::SIGINT });
        bench.injector(&["clean"]).expect(0);
        let after = bench.listing();
        assert!(!after.part("near qdiscs").contains("clsact"), "{after:?}");
        assert!(!after.part("near filters").contains("bpf"), "{after:?}");
        bench.netns.ip("link del veth9");
        assert_no_bpf_objects_since(&objects, "after it");
    }
}

#[test]
fn a_moved_process_is_struck_and_goes_back_to_its_cgroup() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let (mut moved, neighbour) = (bench.sleeper(&bench.b), bench.sleeper(&bench.b));
    let scenario = bench.scenario("moved", &loss_of(&format!("pid = {}", moved.pid()), LONG));
    let (before, objects) = (bench.listing(), bpf_objects());
    let mut controller = bench.armed(&["apply", &scenario]);
    assert_eq!(bench.b.pids(), [neighbour.pid()]);
    let leaf = run(&format!("sed -n s/^0:://p /proc/{}/cgroup", moved.pid()));
    assert_eq!(leaf.trim(), format!("{}/injector-{}-t", bench.b.path(), controller.id()));
    controller.end_by(Signal::SIGINT).expect(130);
    assert!(moved.is_running());
    bench.listing().assert_same_as(&before, "after it");
    assert_no_bpf_objects_since(&objects, "after it");
}

#[test]
fn what_a_moved_process_accepts_from_an_old_listener_is_not_struck_and_it_is_said() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let _neighbour = bench.sleeper(&bench.b);
    let server = "import socket\ns = socket.create_server(('127.0.0.1', 7007))\nprint('ready', flush=True)\n\
                  while True:\n  c, _ = s.accept()\n  c.sendall(b'hello')\n  c.close()";
    let mut server = python(server).in_cgroup(&bench.b).in_netns(&bench.netns).background();
    server.wait_for_line("ready");
    let scenario = bench.scenario("listener", &loss_of(&format!("pid = {}", server.pid()), LONG));
    let warning = "nor those that it accepts from a socket that listens already";
    bench.injector(&["plan", &scenario]).expect(0).says(warning);
    let mut controller = bench.armed(&["apply", &scenario, "--json"]);
    let client = "import socket\nprint(socket.create_connection(('127.0.0.1', 7007), 10).makefile().read())";
    assert_eq!(python(client).in_cgroup(&bench.a).in_netns(&bench.netns).text(), "hello\n");
    let report = controller.end_by(Signal::SIGINT).expect(130).json();
    assert_eq!(report["faults"][0]["matched"], 0, "{report}");
    assert!(report["warnings"][0].as_str().unwrap().contains(warning), "{report}");
}

#[test]
fn more_devices_of_a_name_than_a_rule_holds_are_refused_and_later_a_warning() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let join = |number: u32| {
        let netns = Netns::new();
        let (one, other) = (100 + number, 200 + number);
        netns.ip(&format!("link add d0 index {one} type veth peer name p0 index {other}"));
        let keeper = sh("exec sleep 1000").in_cgroup(&bench.b).in_netns(&netns).background();
        (keeper, netns)
    };
    let mut text = loss_of(&format!("cgroup = \"{}\"", bench.b.path()), LONG);
    text.push_str("match = { not = { interface = [\"d0\", \"nowhere\"] } }\n");
    let scenario = bench.scenario("crowd", &text);
    let mut crowd: Vec<_> = (0..8).map(join).collect();
    let mut controller = bench.armed(&["apply", &scenario, "--json"]);
    crowd.push(join(8));
    let refusal = "the fault `network.loss-1` means 9 devices by `d0`, in all network namespaces";
    for command in ["plan", "apply"] {
        bench.injector(&[command, &scenario]).expect(2).says(refusal).says("hint: name fewer devices");
    }
    let warned = |text: &str| text.contains("devices have appeared that") && text.contains("means 9 devices");
    wait_until(PATIENCE, "a warning", || warned(&bench.injector(&["status", "--json"]).stdout));
    let report = controller.end_by(Signal::SIGINT).expect(130).json();
    assert_eq!(report["warnings"].as_array().unwrap().iter().filter(|w| warned(&w.to_string())).count(), 1);
}
