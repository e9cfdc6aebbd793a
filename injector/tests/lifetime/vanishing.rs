//! Moments that no command can produce from outside: between plan and apply, and a panic. These go through the
//! library; what is left is looked at from outside all the same.

use injector::engine::{Options, Prepared, Session, prepare};
use injector::journal::Store;
use injector::kernel::attach::Rung;
use injector::scenario::{self, Overrides, Source};

use crate::bench::{Bench, LONG, kernel_has_tcx, loss_of};
use crate::listing::{assert_no_bpf_objects_since, bpf_objects};
use crate::support::root_or_skip;

fn prepared(selector: &str, rung: Rung) -> Prepared {
    let text = loss_of(selector, LONG) + "direction = \"both\"\nper = \"segment\"\n";
    let scenario = scenario::load(&Source::text("vanishing", text), &Overrides::default()).unwrap();
    prepare(scenario, Options { force: false, rung: Some(rung), operations: None, trace: false }).unwrap()
}

#[test]
fn a_cgroup_that_is_removed_or_replaced_between_plan_and_apply_is_an_error() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let store = Store::open(bench.run_directory()).unwrap();
    for replaced in [false, true] {
        let prepared = prepared(&format!("cgroup = \"{}\"", bench.b.path()), Rung::Clsact);
        std::fs::remove_dir(bench.b.directory()).unwrap();
        if replaced {
            std::fs::create_dir(bench.b.directory()).unwrap();
        }
        let (before, objects) = (bench.listing(), bpf_objects());
        let error = Session::begin(prepared, &store).expect_err("it must not strike another cgroup");
        let path = bench.b.path();
        assert_eq!(
            error.to_string(),
            format!("cgroup {path} is not the one that was planned for: it was removed meanwhile")
        );
        assert_eq!(error.hint().as_deref(), Some("start the experiment again"));
        bench.listing().assert_same_as(&before, "after the error");
        assert_no_bpf_objects_since(&objects, "after the error");
        if !replaced {
            std::fs::create_dir(bench.b.directory()).unwrap();
        }
    }
}

#[test]
fn a_process_that_ends_between_plan_and_apply_is_an_error() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let (ended, _neighbour) = (bench.sleeper(&bench.b), bench.sleeper(&bench.b));
    let pid = ended.pid();
    let store = Store::open(bench.run_directory()).unwrap();
    let prepared = prepared(&format!("pid = {pid}"), Rung::Clsact);
    drop(ended);
    let (before, objects) = (bench.listing(), bpf_objects());
    let error = Session::begin(prepared, &store).expect_err("there is nobody to strike");
    assert_eq!(error.to_string(), format!("process {pid} is not in cgroup {} any more", bench.b.path()));
    bench.listing().assert_same_as(&before, "after the error");
    assert_no_bpf_objects_since(&objects, "after the error");
}

#[test]
fn a_panic_takes_everything_back() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let store = Store::open(bench.run_directory()).unwrap();
    let (moved, _neighbour) = (bench.sleeper(&bench.b), bench.sleeper(&bench.b));
    let (before, objects) = (bench.listing(), bpf_objects());
    let rungs = if kernel_has_tcx() { &[Rung::Tcx, Rung::Clsact][..] } else { &[Rung::Clsact] };
    for rung in rungs {
        let mut session = Session::begin(prepared(&format!("pid = {}", moved.pid()), *rung), &store).unwrap();
        session.arm().unwrap();
        let during = bench.listing();
        assert_ne!(during, before);
        assert!(during.part("near devices").contains("gso_max_segs 1 "), "{during:?}");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _session = session;
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        bench.listing().assert_same_as(&before, "after a panic");
        assert_no_bpf_objects_since(&objects, "after a panic");
    }
}
