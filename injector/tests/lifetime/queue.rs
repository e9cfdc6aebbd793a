//! The fq in which packets wait: what it takes the place of comes back, and it goes with the last who needs it.

use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;

use crate::bench::{Bench, LONG};
use crate::support::{Located as _, SERVER_V4, root_or_skip, sh};

/// A scenario that delays what leaves a cgroup.
fn delaying(bench: &Bench, name: &str, path: &str, delay: &str) -> String {
    delaying_with(bench, name, &format!("cgroup = \"{path}\""), delay)
}

fn delaying_with(bench: &Bench, name: &str, target: &str, delay: &str) -> String {
    let text = format!(
        "duration = \"{LONG}\"\n[target.t]\n{target}\n[[fault]]\ntarget = \"t\"\nkind = \"network.delay\"\n\
         delay = \"{delay}\"\n"
    );
    bench.scenario(name, &text)
}

/// What `tc` shows of `veth0`, but for what hangs at its hooks for filters.
fn root_of(bench: &Bench) -> String {
    let qdiscs = bench.netns.tc("-j qdisc show dev veth0");
    let mut qdiscs: Vec<serde_json::Value> = serde_json::from_str(&qdiscs).unwrap();
    qdiscs.retain(|qdisc| qdisc["kind"] != "clsact");
    for qdisc in &mut qdiscs {
        // A counter, where htb shows its parameters.
        qdisc["options"].as_object_mut().and_then(|options| options.remove("direct_packets_stat"));
    }
    let classes = bench.netns.tc("-j class show dev veth0");
    format!("{}\n{classes}", serde_json::to_string_pretty(&qdiscs).unwrap())
}

/// A bench on whose device somebody has configured a queue; `None` where the kernel has no fq to replace it.
fn configured(lines: &[&str]) -> Option<Bench> {
    if !root_or_skip() {
        return None;
    }
    let bench = Bench::paired();
    if !bench.has_fq() {
        return None;
    }
    for line in lines {
        bench.netns.tc(line);
    }
    Some(bench)
}

fn assert_fq(bench: &Bench) -> String {
    let root = root_of(bench);
    assert!(root.contains("\"fq\"") && root.matches("\"kind\"").count() == 1, "{root}");
    root
}

#[test]
fn a_configured_root_qdisc_comes_back_with_all_below_it() {
    let lines = [
        "qdisc add dev veth0 root handle 17: htb default 12",
        "class add dev veth0 parent 17: classid 17:1 htb rate 100mbit",
        "class add dev veth0 parent 17:1 classid 17:12 htb rate 80mbit ceil 90mbit",
        // It lets a full frame pass and no more, which `tc` does not show.
        "qdisc add dev veth0 parent 17:12 handle 18: tbf rate 77777kbit burst 1514 limit 90000",
    ];
    let Some(bench) = configured(&lines) else { return };
    let (before, root) = (bench.listing(), root_of(&bench));
    let passes = |bytes: usize| {
        let mut ping = sh(&format!("ping -n -c 1 -W 1 -s {} {SERVER_V4} || true", bytes - 42));
        ping.in_cgroup(&bench.b).in_netns(&bench.netns).text().contains("bytes from")
    };
    assert!(passes(1514));
    let scenario = delaying(&bench, "delayed", bench.a.path(), "5ms");
    bench.injector(&["plan", &scenario]).expect(0).prints("the configured root qdisc htb 17: of veth0");
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let mut controller = bench.armed(&["apply", &scenario]);
        assert_fq(&bench);
        // Its statistics are none of its parameters.
        assert_eq!(bench.replies(), 3);
        controller.end_by(signal);
        if signal == Signal::SIGKILL {
            assert_fq(&bench);
            let cleaned = bench.injector(&["clean"]).expect(0);
            cleaned.prints("in place of htb 17: on veth0");
        }
        assert_eq!(root_of(&bench), root, "after {signal}");
        assert!(passes(1514), "a full frame after {signal}");
        bench.listing().assert_same_as(&before, &format!("after {signal}"));
    }
    // What somebody puts in the place of ours meanwhile is theirs.
    let mut controller = bench.armed(&["apply", &scenario]);
    bench.netns.tc("qdisc replace dev veth0 root handle 99: pfifo limit 5");
    let theirs = root_of(&bench);
    controller.end_by(Signal::SIGINT).expect(130);
    assert_eq!(root_of(&bench), theirs);
    assert_eq!(bench.listing().part("journals"), before.part("journals"));
}

#[test]
fn a_root_qdisc_that_can_not_be_put_back_is_lost_only_if_the_target_says_so() {
    let lines = [
        "qdisc add dev veth0 root handle 17: htb default 12",
        "class add dev veth0 parent 17: classid 17:12 htb rate 80mbit",
    ];
    let Some(bench) = configured(&lines) else { return };
    let without_filter = (bench.listing(), root_of(&bench));
    bench.netns.tc("filter add dev veth0 parent 17: protocol ip u32 match u32 0 0 flowid 17:12");
    let before = bench.listing();
    let path = bench.a.path();
    let refused = bench.injector(&["apply", &delaying(&bench, "refused", path, "5ms")]).expect(3);
    for part in ["veth0", "htb 17:", "the filters of htb 17:", "`takeover = true`"] {
        assert!(refused.stderr.contains(part), "{part}: {refused}");
    }
    bench.listing().assert_same_as(&before, "after the refusal");

    let taking = delaying_with(&bench, "taking", &format!("cgroup = \"{path}\"\ntakeover = true"), "5ms");
    let mut controller = bench.armed(&["apply", &taking]);
    assert_fq(&bench);
    let ended = controller.end_by(Signal::SIGINT).expect(130);
    ended.says("takeover: the root qdisc htb 17: of veth0").says("without this: the filters of htb 17:");
    assert_eq!(root_of(&bench), without_filter.1);
    bench.listing().assert_same_as(&without_filter.0, "after the takeover");
}

#[test]
fn two_experiments_share_a_queue_and_it_goes_with_the_last() {
    // What the first has replaced the second puts back.
    let Some(bench) = configured(&["qdisc add dev veth0 root handle 17: pfifo limit 77"]) else { return };
    let before = bench.listing();
    // The second one's cgroup needs a process in the namespace.
    let keeper = bench.sleeper(&bench.b);
    let mut first = bench.armed(&["apply", &delaying(&bench, "first", bench.a.path(), "5ms")]);
    assert_fq(&bench);
    let mut second = bench.armed(&["apply", &delaying(&bench, "second", bench.b.path(), "20s")]);
    let shared = assert_fq(&bench);
    assert!(shared.contains("\"horizon\": 21000000"), "it reaches as far as the longer needs: {shared}");
    first.end_by(Signal::SIGINT).expect(130);
    assert_eq!(root_of(&bench), shared, "the second one needs it still");
    second.end_by(Signal::SIGINT).expect(130);
    drop(keeper);
    bench.listing().assert_same_as(&before, "after both");
}

/// A modprobe that only writes down what it is asked for.
#[test]
fn a_missing_module_is_asked_for_before_it_is_missed() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    if bench.has_fq() {
        return;
    }
    let (modprobe, asked) = (bench.file("modprobe"), bench.file("asked"));
    std::fs::write(&modprobe, format!("#!/bin/sh\necho \"$@\" >> {}\n", asked.display())).unwrap();
    std::fs::set_permissions(&modprobe, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", modprobe.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let before = bench.listing();
    let scenario = delaying(&bench, "delayed", bench.a.path(), "5ms");
    let mut command = bench.command(&["apply", &scenario]);
    let refused = bench.start(command.env("PATH", path)).end().expect(3);
    refused.says("this kernel has no fq qdisc").says("modprobe sch_fq");
    assert_eq!(std::fs::read_to_string(&asked).unwrap_or_default(), "-q sch_fq\n");
    bench.listing().assert_same_as(&before, "after the refusal");
}
