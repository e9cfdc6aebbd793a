//! Every command that looks at this host offers to take back what a dead experiment has left, and does no more.

use nix::sys::signal::Signal;

use crate::bench::{Bench, CLSACT, loss_of};
use crate::listing::{assert_no_bpf_objects_since, bpf_objects};
use crate::support::{in_vm, root_or_skip};

#[test]
fn plan_stop_doctor_and_a_detached_apply_offer_to_clean_up() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let (before, objects) = (bench.listing(), bpf_objects());
    let mut controller = bench.armed(&["apply", &bench.loss("dead", "1s"), "--tc", CLSACT]);
    controller.end_by(Signal::SIGKILL);
    let id = controller.id();
    let left = bench.listing();
    let offer = format!("warning: the experiment `dead` ({id}) died and may have left ");
    // `b` is no target of the dead one, and needs no device to be planned.
    let text = loss_of(&format!("cgroup = \"{}\"", bench.b.path()), "60s");
    let scenario = bench.scenario("next", &text);
    // A doctor loads every program, which takes an emulated machine half a minute: there one answer must do.
    let in_short = [(&["plan", &scenario][..], 0), (&["stop", &id], 1), (&["doctor", "--json"], 0)];
    // Who takes it for a running one (`stop ID`) learns what it is.
    let in_full = [
        in_short[0],
        (&["plan", &scenario, "--json"][..], 0),
        (&["stop", "--all"], 0),
        in_short[1],
        (&["doctor"], 0),
        in_short[2],
    ];
    for &(arguments, status) in if in_vm() { &in_short[..] } else { &in_full } {
        let ended = bench.injector(arguments).expect(status).says(&offer);
        let ended = ended.says("`injector clean` takes them back\n");
        assert_eq!(ended.stderr.matches(&offer).count(), 1, "{ended}");
        assert!(!ended.stdout.contains("died"), "an offer is talk\n{ended}");
    }
    bench.listing().assert_same_as(&left, "after offers");

    let detached = bench.injector(&["apply", &scenario, "--detach", "--tc", CLSACT]).expect(0).says(&offer);
    bench.injector(&["stop", detached.stdout.trim()]).expect(0).says(&offer);
    bench.listing().assert_same_as(&left, "after the next experiment");

    bench.injector(&["clean"]).expect(0).prints(&format!("{id}: clean"));
    let afterwards = [&["plan", &scenario][..], &["stop", "--all"], &["doctor"]];
    for arguments in afterwards.into_iter().take(if in_vm() { 2 } else { 3 }) {
        let ended = bench.injector(arguments).expect(0);
        assert!(!ended.stderr.contains("died"), "nothing is left to offer\n{ended}");
    }
    bench.listing().assert_same_as(&before, "after the cleaning");
    assert_no_bpf_objects_since(&objects, "after the cleaning");
}

#[test]
fn a_doctor_who_can_not_read_the_journals_still_answers() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    std::fs::create_dir(bench.run_directory()).unwrap();
    std::os::unix::fs::chown(bench.run_directory(), Some(65534), None).unwrap();
    bench
        .injector(&["doctor"])
        .expect(0)
        .prints("can be injected here")
        .says("is not safe for journals: it belongs to another user");
}
