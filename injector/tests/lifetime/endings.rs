//! Every way to end an experiment: its duration, signals, `stop`, SIGKILL.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;

use crate::bench::{Bench, CLSACT, LONG, TCX, kernel_has_tcx, rungs};
use crate::listing::{assert_bpf_objects_since, assert_no_bpf_objects_since, bpf_objects};
use crate::support::{Located as _, SERVER_V4, in_vm, root_or_skip, sh};

/// Without this the other tests could compare two listings that show nothing.
#[test]
fn while_it_runs_the_listings_show_it_and_its_packets_are_lost() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let text = bench.loss("visible", LONG);
    let text = text.as_str();
    for rung in rungs() {
        let (before, objects) = (bench.listing(), bpf_objects());
        let mut controller =
            bench.armed(&["apply", text, "--tc", rung, "--set", "fault.network.loss-1.per=segment"]);
        assert_eq!(bench.replies(), 0, "{}", controller.talk());
        let during = bench.listing();
        assert_eq!(during.part("journals"), controller.id());
        assert!(during.part("near devices").contains("gso_max_segs 1 "), "{during:?}");
        assert!(!before.part("near devices").contains("gso_max_segs 1 "), "{before:?}");
        let filtered =
            during.part("near qdiscs").contains("clsact") && during.part("near filters").contains("bpf");
        assert_eq!(filtered, *rung == CLSACT, "{during:?}");
        assert_bpf_objects_since(&objects, &[("prog", "injector_egress"), ("map", "COUNTERS")]);
        controller.end_by(Signal::SIGINT).expect(130);
        bench.listing().assert_same_as(&before, "after it");
        assert_no_bpf_objects_since(&objects, "after it");
        assert_eq!(bench.replies(), 3);
    }
}

#[test]
fn signals_end_it_and_everything_is_gone_at_once() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let scenario = bench.loss("interrupted", LONG);
    let (before, objects) = (bench.listing(), bpf_objects());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        for rung in rungs() {
            let mut controller = bench.armed(&["apply", &scenario, "--tc", rung, "--json"]);
            assert_eq!(bench.replies(), 0, "{}", controller.talk());
            let ended = controller.end_by(signal).expect(130).says("interrupted");
            assert_eq!(ended.json()["outcome"], "interrupted", "{ended}");
            assert_eq!(ended.json()["faults"][0]["injected"], 3, "{ended}");
            let when = format!("after {signal} ({rung})");
            bench.listing().assert_same_as(&before, &when);
            assert_no_bpf_objects_since(&objects, &when);
            assert_eq!(bench.replies(), 3);
        }
    }
}

#[test]
fn at_the_end_of_its_duration_it_is_completed() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let scenario = bench.loss("short", "300ms");
    let (before, objects) = (bench.listing(), bpf_objects());
    for rung in rungs() {
        let ended = bench.injector(&["apply", &scenario, "--tc", rung, "--json"]).expect(0);
        assert_eq!(ended.json()["outcome"], "completed", "{ended}");
        let took_ns = ended.json()["duration_ns"].as_u64().unwrap();
        // It can't end early, but a busy machine may wake it up late.
        let latest_ns = if in_vm() { 10_000_000_000 } else { 2_000_000_000 };
        assert!((300_000_000..latest_ns).contains(&took_ns), "{ended}");
        bench.listing().assert_same_as(&before, "after its end");
        assert_no_bpf_objects_since(&objects, "after its end");
    }
}

#[test]
fn stop_ends_one_or_all() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let _other = bench.sleeper(&bench.b);
    let (before, objects) = (bench.listing(), bpf_objects());
    let first = bench.loss("first", LONG);
    let second =
        bench.scenario("second", &crate::bench::loss_of(&format!("cgroup = \"{}\"", bench.b.path()), LONG));
    let (mut one, mut two) = (bench.armed(&["apply", &first]), bench.armed(&["apply", &second]));

    bench.injector(&["stop", "0badcafe"]).expect(1).says("no running experiment has the id `0badcafe`");
    bench.injector(&["stop", &one.id()]).expect(0).says(&format!("stopped {}", one.id()));
    one.end().expect(130).says("interrupted");
    assert_eq!(bench.listing().part("journals"), two.id(), "the other one must go on");
    assert_eq!((bench.replies(), bench.replies_from(&bench.b)), (3, 0));

    let mut one = bench.armed(&["apply", &first]);
    bench.injector(&["stop", "--all"]).expect(0).says(&one.id()).says(&two.id());
    one.end().expect(130);
    two.end().expect(130);
    bench.listing().assert_same_as(&before, "after `stop --all`");
    assert_no_bpf_objects_since(&objects, "after `stop --all`");
    bench.injector(&["stop", "--all"]).expect(0).says("no experiment is running");
}

#[test]
fn a_kill_while_traffic_flows_heals_it_at_once_with_links() {
    if !root_or_skip() || !kernel_has_tcx() {
        return;
    }
    let bench = Bench::paired();
    let (before, objects) = (bench.listing(), bpf_objects());
    let flow = format!("exec ping -q -i 0.01 {SERVER_V4}");
    let _traffic = sh(&flow).in_cgroup(&bench.a).in_netns(&bench.netns).background();
    let during = bench.listing();
    let mut controller = bench.armed(&["apply", &bench.loss("killed", LONG), "--tc", TCX]);
    assert_eq!(bench.replies(), 0);
    controller.end_by(Signal::SIGKILL);
    assert_no_bpf_objects_since(&objects, "after the kill");
    assert_eq!(bench.replies(), 3);
    bench.injector(&["clean"]).expect(0);
    bench.listing().assert_same_as(&during, "after the cleaning");
    assert_eq!(before.part("near filters"), during.part("near filters"));
}

#[test]
fn filters_of_a_killed_one_are_inert_from_its_deadline_on() {
    if !root_or_skip() {
        return;
    }
    const DURATION_S: f64 = 3.0;
    let slack_s = if in_vm() { 3.0 } else { 2.0 };
    let bench = Bench::paired();
    let (before, objects) = (bench.listing(), bpf_objects());
    let scenario = bench.loss("deadline", "3s");
    let earliest = now_s();
    let mut controller = bench.armed(&["apply", &scenario, "--tc", CLSACT]);
    let latest = now_s();
    controller.end_by(Signal::SIGKILL);
    // -D: the time of each reply, as seconds since 1970. With -w, -c counts the replies and not what was sent.
    let line = format!("ping -n -D -i 0.05 -c 20 -w {} {SERVER_V4} || true", 5 + slack_s as u32);
    let text = sh(&line).in_cgroup(&bench.a).in_netns(&bench.netns).text();
    let times: Vec<f64> = text
        .lines()
        .filter(|line| line.contains("bytes from"))
        .map(|line| line.trim_start_matches('[').split(']').next().unwrap().parse().unwrap())
        .collect();
    let first = *times.first().unwrap_or_else(|| panic!("it is never healed:\n{text}"));
    assert!(first >= earliest + DURATION_S, "healed {} s too early:\n{text}", earliest + DURATION_S - first);
    assert!(first <= latest + DURATION_S + slack_s, "healed {} s too late", first - latest - DURATION_S);
    let (sent, received) = (text.matches("bytes from").count(), bench.replies());
    assert!(sent > 10 && received == 3, "{text}");

    assert!(bench.listing().part("near filters").contains("bpf"), "the filter must still be there");
    bench
        .injector(&["clean"])
        .expect(0)
        .prints("took back")
        .prints("filter pref")
        .prints("clsact qdisc on veth0");
    bench.listing().assert_same_as(&before, "after the cleaning");
    assert_no_bpf_objects_since(&objects, "after the cleaning");
}

fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}
