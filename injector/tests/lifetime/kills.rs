//! SIGKILL after every step of an experiment, from the first directory to the last one removed.

use std::collections::BTreeSet;

use crate::bench::{Bench, CLSACT, TCX, kernel_has_tcx};
use crate::listing::{Listing, assert_no_bpf_objects_since, bpf_objects};
use crate::support::{Background, in_vm, kernel_release, root_or_skip};

/// The variable of `kill_point`, which names the step after which the controller kills itself.
const KILL_AT: &str = "INJECTOR_KILL_AT";

/// More steps than any experiment here has; a loop that gets there does not end.
const MOST_STEPS: u32 = 200;

/// Fewer would mean that the steps are not passed.
const FEWEST_STEPS: u32 = 15;

/// A corner with a target of each way to be had: a cgroup, a process that is moved, a device.
struct Stage {
    bench: Bench,
    scenario: String,
    before: Listing,
    objects: BTreeSet<String>,
    _moved: Background,
    _neighbour: Background,
}

impl Stage {
    fn new(rung: &str) -> Self {
        let bench = Bench::lone();
        let (moved, neighbour) = (bench.sleeper(&bench.b), bench.sleeper(&bench.b));
        let mut text = format!(
            "duration = \"100ms\"\n[target.a]\ncgroup = \"{}\"\n[target.b]\npid = {}\n[target.lo]\ninterface = \"lo\"\n",
            bench.a.path(),
            moved.pid()
        );
        for target in ["a", "b", "lo"] {
            text.push_str(&format!(
                "[[fault]]\ntarget = \"{target}\"\nkind = \"network.loss\"\ndirection = \"both\"\nper = \"segment\"\n"
            ));
        }
        // Queues and ways round too, where the kernel has them, and something that a queue takes the place of. That of a cgroup has a
        // program in a filter of its own, whatever the rung, and would hide what links leave.
        if bench.has_fq() {
            bench.netns.tc("qdisc add dev lo root handle 17: prio");
            bench.netns.tc("qdisc add dev lo parent 17:2 handle 18: pfifo limit 7");
            for (target, direction) in [("a", if rung == TCX { "egress" } else { "both" }), ("lo", "both")] {
                text.push_str(&format!(
                    "[[fault]]\ntarget = \"{target}\"\nkind = \"network.delay\"\ndelay = \"1ms\"\ndirection = \"{direction}\"\n"
                ));
            }
        }
        let scenario = bench.scenario("everything", &text);
        let (before, objects) = (bench.listing(), bpf_objects());
        Self { bench, scenario, before, objects, _moved: moved, _neighbour: neighbour }
    }

    /// Kills the controller after a step; false if it has ended before that.
    fn kill_after(&self, step: u32, rung: &str) -> bool {
        let mut command = self.bench.command(&["apply", &self.scenario, "--tc", rung, "-v"]);
        let ended = self.bench.start(command.env(KILL_AT, step.to_string())).end();
        let when = format!("after a kill at step {step} ({rung})\n{ended}");
        if ended.status.success() {
            self.bench.listing().assert_same_as(&self.before, "after a whole experiment");
            assert_no_bpf_objects_since(&self.objects, "after a whole experiment");
            return false;
        }
        assert_eq!(ended.signal(), Some(nix::libc::SIGKILL), "{ended}");
        if rung == TCX {
            assert_no_bpf_objects_since(&self.objects, &when);
        }
        self.bench.injector(&["clean"]).expect(0);
        self.bench.listing().assert_same_as(&self.before, &when);
        assert_no_bpf_objects_since(&self.objects, &when);
        true
    }
}

/// Every step here; in an emulated machine, where one takes ten seconds, every eighth, and others on each kernel and
/// rung.
fn nothing_is_left_by_a_kill_at_any_step(rung: &str) {
    let (stride, first) = if in_vm() {
        let (major, minor) = kernel_release();
        (8, 1 + (major + minor + if rung == TCX { 0 } else { 3 }) % 8)
    } else {
        (1, 1)
    };
    let stage = Stage::new(rung);
    let completed = (first..MOST_STEPS).step_by(stride).find(|step| !stage.kill_after(*step, rung));
    let steps = completed.expect("it never completes");
    assert!(steps > FEWEST_STEPS, "{steps} steps");
}

#[test]
fn nothing_is_left_by_a_kill_at_any_step_with_links() {
    if root_or_skip() && kernel_has_tcx() {
        nothing_is_left_by_a_kill_at_any_step(TCX);
    }
}

#[test]
fn nothing_is_left_by_a_kill_at_any_step_with_filters_once_it_is_cleaned() {
    if root_or_skip() {
        nothing_is_left_by_a_kill_at_any_step(CLSACT);
    }
}
