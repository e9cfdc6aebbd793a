//! What others have on a device works on, in front of our programs and behind them, and is there afterwards.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::bench::{Bench, CLSACT, LONG, TCX, kernel_has_tcx, loss_of, rungs};
use crate::foreign_program::{DROP, ForeignLink, PASS_ON};
use crate::listing::{assert_no_bpf_objects_since, bpf_objects};
use crate::support::root_or_skip;

/// A scenario that loses the first of the packets to the other end and spares the rest, so that something is
/// left for others to count.
fn first_lost(bench: &Bench) -> String {
    let text = loss_of(&format!("cgroup = \"{}\"", bench.a.path()), LONG);
    bench.scenario("first-lost", &(text + "nth = 1\nmatch = { protocol = \"icmp\" }\n"))
}

/// Adds a filter of another kind that counts every packet of IPv4 and then does `verdict`. What it mirrors to
/// `lo` is for nobody there: any kernel counts what goes through this action.
fn add_filter(bench: &Bench, preference: u32, verdict: &str) {
    let action = format!("mirred egress mirror dev lo {verdict}");
    let filter = format!("pref {preference} protocol ip u32 match u32 0 0 action {action}");
    bench.netns.tc(&format!("filter add dev veth0 egress {filter}"));
}

/// How many packets the filter of a preference has counted.
fn counted(bench: &Bench, preference: u32) -> u64 {
    let table = bench.netns.tc("-s filter show dev veth0 egress");
    let (mut ours, mut sum) = (false, 0);
    for line in table.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some(at) = words.iter().position(|word| *word == "pref") {
            ours = words[at + 1] == preference.to_string();
        }
        // `Sent 84 bytes 1 pkt (dropped 0, overlimits 0 requeues 0)`
        if ours && words.first() == Some(&"Sent") {
            sum += words[3].parse::<u64>().unwrap();
        }
    }
    sum
}

#[test]
fn filters_in_front_and_behind_count_on_and_their_clsact_stays() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    bench.netns.tc("qdisc add dev veth0 clsact");
    // At 1 nothing can be put in front of it; 50000 has room in front.
    add_filter(&bench, 1, "continue");
    add_filter(&bench, 50000, "ok");
    let scenario = first_lost(&bench);
    let (before, objects) = (bench.listing(), bpf_objects());
    for rung in rungs() {
        let mut controller = bench.armed(&["apply", &scenario, "--tc", rung, "--json"]);
        let (front, behind) = (counted(&bench, 1), counted(&bench, 50000));
        assert_eq!(bench.replies(), 2, "{}", controller.talk());
        // A link comes before all filters, so that those don't see what it has lost.
        let seen_in_front = if *rung == TCX { 2 } else { 3 };
        assert_eq!(
            (counted(&bench, 1) - front, counted(&bench, 50000) - behind),
            (seen_in_front, 2),
            "{rung}"
        );
        let report = controller.end_by(Signal::SIGINT).expect(130).json();
        assert_eq!(
            (&report["faults"][0]["matched"], &report["faults"][0]["injected"]),
            (&3.into(), &1.into())
        );
        bench.listing().assert_same_as(&before, &format!("after it ({rung})"));
        let (front, behind) = (counted(&bench, 1), counted(&bench, 50000));
        assert_eq!(bench.replies(), 3);
        assert_eq!((counted(&bench, 1) - front, counted(&bench, 50000) - behind), (3, 3), "after {rung}");
    }
    assert_no_bpf_objects_since(&objects, "after it");
}

#[test]
fn a_filter_that_others_add_to_our_clsact_keeps_it() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let scenario = first_lost(&bench);
    let (before, objects) = (bench.listing(), bpf_objects());
    for killed in [false, true] {
        let mut controller = bench.armed(&["apply", &scenario, "--tc", CLSACT]);
        add_filter(&bench, 7, "ok");
        if killed {
            controller.end_by(Signal::SIGKILL);
            bench
                .injector(&["clean"])
                .expect(0)
                .prints("left clsact qdisc on veth0")
                .prints("others have egress filters");
        } else {
            controller.end_by(Signal::SIGINT).expect(130);
        }
        let after = bench.listing();
        assert_eq!(after.part("journals"), "");
        assert!(after.part("near qdiscs").contains("clsact ffff: dev veth0"), "{after:?}");
        assert!(!after.part("near qdiscs").contains("clsact ffff: dev lo"), "{after:?}");
        assert!(!after.part("near filters").contains("bpf"), "{after:?}");
        let already = counted(&bench, 7);
        assert_eq!((bench.replies(), counted(&bench, 7) - already), (3, 3));
        bench.netns.tc("qdisc del dev veth0 clsact");
        bench.listing().assert_same_as(&before, "without the other's qdisc");
    }
    assert_no_bpf_objects_since(&objects, "after it");
}

#[test]
fn an_ingress_qdisc_is_in_the_way_of_clsact_alone() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    bench.netns.tc("qdisc add dev veth0 ingress");
    let scenario = first_lost(&bench);
    let (before, objects) = (bench.listing(), bpf_objects());
    bench
        .injector(&["apply", &scenario, "--tc", CLSACT])
        .expect(5)
        .says("the device veth0 has an `ingress` qdisc, which keeps `clsact` out")
        .says("tc qdisc del dev veth0 ingress");
    bench.listing().assert_same_as(&before, "after a refusal");
    assert_no_bpf_objects_since(&objects, "after a refusal");
    if kernel_has_tcx() {
        let mut controller = bench.armed(&["apply", &scenario, "--tc", TCX]);
        assert_eq!(bench.replies(), 2);
        controller.end_by(Signal::SIGINT).expect(130);
        bench.listing().assert_same_as(&before, "after it");
    }
}

/// Root qdiscs of all sorts; not every kernel has each.
const QDISCS: [&str; 5] =
    ["tbf rate 10mbit burst 32k latency 50ms", "pfifo limit 100", "netem delay 1ms", "fq", "prio"];

#[test]
fn root_qdiscs_stay_and_count_on() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let scenario = first_lost(&bench);
    let mut tried = 0;
    for qdisc in QDISCS {
        let mut tc = Command::new("tc");
        tc.args(["-n", bench.netns.name(), "qdisc", "replace", "dev", "veth0", "root"]);
        let added = tc.args(qdisc.split(' ')).output().unwrap();
        if !added.status.success() {
            let why = String::from_utf8_lossy(&added.stderr);
            assert!(why.contains("Specified qdisc kind is unknown"), "{qdisc}: {why}");
            continue;
        }
        tried += 1;
        let kind = qdisc.split(' ').next().unwrap();
        let (before, objects) = (bench.listing(), bpf_objects());
        assert!(before.part("near qdiscs").contains(&format!("qdisc {kind} ")), "{before:?}");
        for rung in rungs() {
            let mut controller = bench.armed(&["apply", &scenario, "--tc", rung]);
            let sent = sent_through(&bench, kind);
            assert_eq!(bench.replies(), 2, "{qdisc} {rung}");
            assert!(sent_through(&bench, kind) >= sent + 2, "{qdisc} {rung}");
            controller.end_by(Signal::SIGINT).expect(130);
            bench.listing().assert_same_as(&before, &format!("after it ({qdisc}, {rung})"));
            let sent = sent_through(&bench, kind);
            assert_eq!(bench.replies(), 3, "{qdisc} {rung}");
            assert!(sent_through(&bench, kind) >= sent + 3, "{qdisc} {rung}");
        }
        assert_no_bpf_objects_since(&objects, qdisc);
    }
    assert!(tried >= 2, "this kernel has hardly a qdisc");
}

/// How many packets the root qdisc has sent.
fn sent_through(bench: &Bench, kind: &str) -> u64 {
    let table = bench.netns.tc("-s qdisc show dev veth0");
    let mut lines = table.lines().skip_while(|line| !line.starts_with(&format!("qdisc {kind} ")));
    let sent = lines.nth(1).unwrap_or_else(|| panic!("no {kind} in {table}"));
    sent.split_whitespace().nth(3).unwrap().parse().unwrap()
}

#[test]
fn links_in_front_and_behind_work_on() {
    if !root_or_skip() || !kernel_has_tcx() {
        return;
    }
    let bench = Bench::paired();
    let index = bench.netns.ip("-o link show veth0").split(':').next().unwrap().parse().unwrap();
    let scenario = first_lost(&bench);
    let own = bpf_objects();
    let front = ForeignLink::new(&bench.netns, index, PASS_ON);
    let (before, objects) = (bench.listing(), bpf_objects());
    let mut controller = bench.armed(&["apply", &scenario, "--tc", TCX]);
    assert_eq!(bench.replies(), 2);
    let behind = ForeignLink::new(&bench.netns, index, DROP);
    let theirs: Vec<String> =
        bpf_objects().difference(&own).filter(|o| !o.contains("injector")).cloned().collect();
    assert!(theirs.iter().filter(|object| object.starts_with("link")).count() >= 2, "{theirs:?}");
    assert_eq!(bench.replies(), 0, "what we let go is theirs to drop");
    controller.end_by(Signal::SIGINT).expect(130);
    assert_eq!(bench.replies(), 0, "theirs must still drop");
    drop(behind);
    assert_eq!(bench.replies(), 3);
    assert_no_bpf_objects_since(&objects, "after both");
    assert!(objects.is_subset(&bpf_objects()), "the one in front is gone");
    bench.listing().assert_same_as(&before, "after it");
    drop(front);
}
