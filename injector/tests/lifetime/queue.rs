//! The fq in which packets wait: it takes the place of the kernel's default alone, and goes with the last who needs it.

use nix::sys::signal::Signal;

use crate::bench::{Bench, LONG};
use crate::support::root_or_skip;

/// A scenario that delays what leaves a cgroup.
fn delaying(bench: &Bench, name: &str, path: &str, delay: &str) -> String {
    let text = format!(
        "duration = \"{LONG}\"\n[target.t]\ncgroup = \"{path}\"\n[[fault]]\ntarget = \"t\"\nkind = \"network.delay\"\n\
         delay = \"{delay}\"\n"
    );
    bench.scenario(name, &text)
}

#[test]
fn a_configured_root_qdisc_is_refused_with_its_name_and_works_on() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    if !bench.has_fq() {
        return;
    }
    bench.netns.tc("qdisc add dev veth0 root handle 17: pfifo limit 77");
    let before = bench.listing();
    let scenario = delaying(&bench, "delayed", bench.a.path(), "5ms");
    let refused = bench.injector(&["apply", &scenario]).expect(5);
    for part in ["veth0", "pfifo 17:", "tc qdisc del dev veth0 root"] {
        assert!(refused.stderr.contains(part), "{part}: {refused}");
    }
    bench.listing().assert_same_as(&before, "after the refusal");
}

#[test]
fn two_experiments_share_a_queue_and_it_goes_with_the_last() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    if !bench.has_fq() {
        return;
    }
    let before = bench.listing();
    // The second one's cgroup needs a process in the namespace.
    let keeper = bench.sleeper(&bench.b);
    let mut first = bench.armed(&["apply", &delaying(&bench, "first", bench.a.path(), "5ms")]);
    // A clsact may stand beside it.
    let queue = || {
        let shown = bench.netns.tc("qdisc show dev veth0");
        shown.lines().filter(|line| line.starts_with("qdisc fq ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(queue().len(), 1);
    let mut second = bench.armed(&["apply", &delaying(&bench, "second", bench.b.path(), "20s")]);
    let shared = queue();
    assert_eq!(shared.len(), 1, "{shared:?}");
    assert!(shared[0].contains("horizon 21s"), "it reaches as far as the longer needs: {shared:?}");
    first.end_by(Signal::SIGINT).expect(130);
    assert_eq!(queue(), shared, "the second one needs it still");
    second.end_by(Signal::SIGINT).expect(130);
    drop(keeper);
    bench.listing().assert_same_as(&before, "after both");
}
