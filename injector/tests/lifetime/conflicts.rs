//! Two experiments at once: on one target they would spoil each other's numbers, on two they must not meet.

use nix::sys::signal::Signal;

use crate::bench::{Bench, CLSACT, LONG, loss_of, rungs};
use crate::listing::{assert_no_bpf_objects_since, bpf_objects};
use crate::support::root_or_skip;

#[test]
fn one_cgroup_its_parent_or_its_child_can_not_be_struck_twice() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let child = bench.a.child("child");
    let objects = bpf_objects();
    let mut first = bench.armed(&["apply", &bench.loss("first", LONG)]);
    let during = bench.listing();
    for path in [bench.a.path(), child.path(), bench.home.path()] {
        let second = bench.scenario("second", &loss_of(&format!("cgroup = \"{path}\""), LONG));
        // The parent holds injector too.
        let apply = ["apply", &second, "--force-unsafe-target"];
        let (id, ours) = (first.id(), bench.a.path().to_owned());
        bench
            .injector(&apply)
            .expect(5)
            .says(&format!(
                "experiment `second` would strike cgroup {path} while `first` ({id}) strikes cgroup {ours}\n"
            ))
            .says(&format!("hint: wait for it to end, or stop it: `injector stop {id}`"));
        let planned = bench.injector(&["plan", &second, "--force-unsafe-target"]).expect(5);
        planned.says(&format!("which the running experiment `first` ({id}) strikes"));
        bench.listing().assert_same_as(&during, "after a conflict");
    }
    assert_eq!(bench.replies(), 0, "the first one must go on");
    let ended = first.end_by(Signal::SIGINT).expect(130);
    assert_no_bpf_objects_since(&objects, &format!("after it\n{ended}"));
}

#[test]
fn one_interface_can_not_be_struck_twice() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let scenario =
        |name: &str, device: &str| bench.scenario(name, &loss_of(&format!("interface = \"{device}\""), LONG));
    let (first, second, other) =
        (scenario("first", "veth0"), scenario("second", "veth0"), scenario("other", "lo"));
    let mut controller = bench.armed(&["apply", &first]);
    let id = controller.id();
    bench.injector(&["apply", &second]).expect(5).says(&format!(
        "experiment `second` would strike interface veth0 while `first` ({id}) strikes interface veth0"
    ));
    bench.armed(&["apply", &other]).end_by(Signal::SIGINT).expect(130);
    assert_eq!(bench.replies_from(&bench.b), 0);
    controller.end_by(Signal::SIGINT).expect(130);
}

#[test]
fn on_two_targets_both_run_and_what_they_share_goes_with_the_last() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let _other = bench.sleeper(&bench.b);
    let per_segment = |name: &str, path: &str| {
        let text = loss_of(&format!("cgroup = \"{path}\""), LONG) + "per = \"segment\"\n";
        bench.scenario(name, &text)
    };
    let (one, two) = (per_segment("one", bench.a.path()), per_segment("two", bench.b.path()));
    let (before, objects) = (bench.listing(), bpf_objects());
    for rung in rungs() {
        for first_ends_first in [true, false] {
            let mut first = bench.armed(&["apply", &one, "--tc", rung]);
            let mut second = bench.armed(&["apply", &two, "--tc", rung]);
            assert_eq!((bench.replies(), bench.replies_from(&bench.b)), (0, 0));
            let (left, right) = (&bench.a, &bench.b);
            let (early, late, healed, struck) = if first_ends_first {
                (&mut first, &mut second, left, right)
            } else {
                (&mut second, &mut first, right, left)
            };
            early.end_by(Signal::SIGINT).expect(130);
            assert_eq!((bench.replies_from(healed), bench.replies_from(struck)), (3, 0));
            let between = bench.listing();
            assert!(between.part("near devices").contains("gso_max_segs 1 "), "{between:?}");
            assert_eq!(between.part("near qdiscs").contains("clsact"), *rung == CLSACT, "{between:?}");
            late.end_by(Signal::SIGINT).expect(130);
            bench.listing().assert_same_as(&before, &format!("after both ({rung}, {first_ends_first})"));
        }
    }
    assert_no_bpf_objects_since(&objects, "after all");
}
