//! What the commands print while something runs, and that those which only look change nothing.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::bench::{Bench, CLSACT, LONG, TCX, kernel_has_tcx, loss_of};
use crate::listing::{assert_no_bpf_objects_since, bpf_objects};
use crate::support::root_or_skip;

/// The names of an object's keys, in order.
fn keys(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Fails unless the object has at least these keys: keys are added, never changed.
#[track_caller]
fn assert_has_keys(object: &Value, wanted: &[&str]) {
    let missing: Vec<_> = wanted.iter().filter(|key| object.get(**key).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?} missing in {object}");
}

#[test]
fn plan_says_what_would_be_and_changes_nothing() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let scenario = bench.loss("planned", "60s");
    let (before, objects) = (bench.listing(), bpf_objects());
    // By itself it takes the best way that the kernel has.
    let best = if kernel_has_tcx() { TCX } else { CLSACT };
    let target = format!("target t: cgroup {}", bench.a.path());
    for (flags, way) in [(&[][..], best), (&["--tc", CLSACT], CLSACT)] {
        let ended = bench.injector(&[&["plan", &scenario], flags].concat()).expect(0);
        ended
            .prints("planned: up to 1m, seed ")
            .prints(&target)
            .prints(&format!("tc egress ({way}"))
            .prints("100.0000%")
            .prints("nothing was changed");
    }
    let plan = bench.injector(&["plan", &scenario, "--json", "--seed", "7"]).expect(0).json();
    assert_has_keys(&plan, &["name", "seed", "duration_ns", "kernel", "targets", "faults", "warnings"]);
    assert_eq!(
        (&plan["name"], &plan["seed"], &plan["duration_ns"]),
        (&"planned".into(), &7.into(), &60_000_000_000_u64.into())
    );
    assert_eq!(keys(&plan["targets"]), ["t"]);
    assert_has_keys(
        &plan["faults"][0],
        &["id", "kind", "target", "direction", "mechanism", "requested_rate", "notes"],
    );
    bench.listing().assert_same_as(&before, "after planning");
    assert!(!bench.run_directory().exists(), "planning made the directory of the journals");
    assert_no_bpf_objects_since(&objects, "after planning");
}

#[test]
fn plan_notes_that_loopback_is_passed_twice() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    for (device, noted) in [("lo", true), ("veth0", false)] {
        let text = loss_of(&format!("interface = \"{device}\""), "60s") + "direction = \"both\"\n";
        let plan = bench.injector(&["plan", &bench.scenario("twice", &text)]).expect(0);
        assert_eq!(plan.stdout.contains("decided twice"), noted, "{device}\n{plan}");
    }
}

#[test]
fn doctor_answers_for_this_kernel_and_changes_nothing() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let (before, objects) = (bench.listing(), bpf_objects());
    let text = bench.injector(&["doctor"]).expect(0).prints("can be injected here");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(text.stdout.starts_with(&format!("Linux {}\n", release.trim())), "{text}");
    let doctor = bench.injector(&["doctor", "--json"]).expect(0).json();
    assert_eq!((&doctor["kernel"], &doctor["able"]), (&release.trim().into(), &true.into()));
    let kinds = doctor["kinds"].as_array().unwrap();
    assert_eq!(kinds.contains(&"network.delay".into()), bench.has_fq(), "{kinds:?}");
    assert!(kinds.contains(&"network.loss".into()), "{kinds:?}");
    let facts = doctor["facts"].as_array().unwrap();
    for fact in facts {
        assert_has_keys(fact, &["name", "answer", "detail", "needed"]);
        assert!(fact["answer"] == "yes" || fact["needed"] == false, "{fact}");
    }
    let tcx = facts.iter().find(|fact| fact["name"] == "tcx").unwrap();
    assert_eq!(tcx["answer"] == "yes", kernel_has_tcx(), "{tcx}");
    assert_eq!(tcx["remedy"].is_string(), !kernel_has_tcx(), "{tcx}");
    bench.listing().assert_same_as(&before, "after the doctor");
    assert_no_bpf_objects_since(&objects, "after the doctor");
}

#[test]
fn status_counts_while_it_runs() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    bench.injector(&["status"]).expect(0).prints("no experiments");
    let mut controller = bench.armed(&["apply", &bench.loss("counting", LONG)]);
    assert_eq!(bench.replies(), 0);
    let id = controller.id();
    bench
        .injector(&["status"])
        .expect(0)
        .prints(&format!("{id}  counting  running, "))
        .prints(&format!("on cgroup {}", bench.a.path()))
        .prints("network.loss-1: 3 matched, 3 injected");
    let status = bench.injector(&["status", "--json"]).expect(0).json();
    let one = &status["experiments"][0];
    assert_has_keys(
        one,
        &["id", "name", "running", "controller", "started", "deadline", "targets", "left", "report"],
    );
    assert_eq!((&one["id"], &one["controller"]), (&id.as_str().into(), &controller.pid().into()));
    assert_eq!(one["report"]["faults"][0]["injected"], 3, "{status}");
    controller.end_by(Signal::SIGINT).expect(130);
    bench.injector(&["status", "--json"]).expect(0).prints("{\"experiments\":[]}");
}

#[test]
fn the_report_of_apply_has_the_documented_keys() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let mut text = loss_of(&format!("cgroup = \"{}\"", bench.a.path()), LONG);
    text.push_str("probability = \"50%\"\n[[expect]]\nfault = \"network.loss-1\"\nmatched = \">= 3\"\n");
    let mut controller = bench.armed(&["apply", &bench.scenario("report", &text), "--json", "--seed", "42"]);
    bench.replies();
    let ended = controller.end_by(Signal::SIGINT).expect(130);
    assert_eq!(ended.stdout.lines().count(), 1, "one object is all that goes to stdout\n{ended}");
    let report = ended.json();
    assert_has_keys(
        &report,
        &["name", "seed", "outcome", "kernel", "started", "duration_ns", "faults", "expectations"],
    );
    assert_eq!((&report["name"], &report["seed"]), (&"report".into(), &42.into()));
    assert!(report["started"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{report}");
    let fault = &report["faults"][0];
    assert_has_keys(
        fault,
        &[
            "id",
            "kind",
            "mechanism",
            "matched",
            "injected",
            "segments_injected",
            "requested_rate",
            "realised_rate",
        ],
    );
    assert_eq!((&fault["requested_rate"], &fault["matched"]), (&0.5.into(), &3.into()), "{report}");
    let expectation = &report["expectations"][0];
    assert_eq!(keys(expectation), ["detail", "fault", "ok"]);
    assert_eq!(expectation["ok"], true, "{report}");
}

#[test]
fn a_detached_experiment_is_armed_when_its_id_is_printed_and_stop_ends_it() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let scenario = bench.loss("detached", LONG);
    let (before, objects) = (bench.listing(), bpf_objects());
    let started = bench.injector(&["apply", &scenario, "--detach"]).expect(0);
    assert_eq!(bench.replies(), 0, "{started}");
    let id = started.stdout.trim();
    assert_eq!((bench.listing().part("journals"), started.stderr.as_str()), (id, ""), "{started}");

    // It fails as the same command in the foreground would.
    let refused = bench.injector(&["apply", &scenario, "--detach"]).expect(5);
    assert!(refused.stdout.is_empty() && refused.stderr.contains(id), "{refused}");

    bench.injector(&["stop", id]).expect(0);
    bench.listing().assert_same_as(&before, "after `stop`");
    assert_no_bpf_objects_since(&objects, "after `stop`");
    assert_eq!(bench.replies(), 3);

    let json = bench.injector(&["apply", &scenario, "--detach", "--json"]).expect(0).json();
    assert_eq!(keys(&json), ["id", "pid"]);
    let pid = nix::unistd::Pid::from_raw(json["pid"].as_i64().unwrap() as i32);
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    crate::support::wait_until(crate::bench::PATIENCE, "its end", || bench.listing() == before);
}

#[test]
fn a_scenario_from_stdin_can_be_detached() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let scenario = std::fs::File::open(bench.loss("piped", LONG)).unwrap();
    let before = bench.listing();
    let mut command = bench.command(&["apply", "-", "--detach", "--set", "name=piped"]);
    let started = bench.start(command.stdin(scenario)).end().expect(0);
    assert_eq!(bench.replies(), 0, "{started}");
    let id = started.stdout.trim();
    bench.injector(&["status"]).expect(0).prints(&format!("{id}  piped  running, "));
    bench.injector(&["stop", id]).expect(0);
    bench.listing().assert_same_as(&before, "after `stop`");
}

#[test]
fn a_record_that_can_not_be_written_is_an_error_before_anything_is_changed() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let scenario = bench.loss("recorded", LONG);
    let before = bench.listing();
    let nowhere = bench.file("none/record.jsonl");
    let nowhere = nowhere.to_str().unwrap();
    bench
        .injector(&["apply", &scenario, "--record", nowhere])
        .expect(1)
        .says(&format!("{nowhere} could not be made"));
    bench.listing().assert_same_as(&before, "after the refusal");

    let record = bench.file("record.jsonl");
    let mut controller = bench.armed(&["apply", &scenario, "--record", record.to_str().unwrap()]);
    bench.replies();
    controller.end_by(Signal::SIGINT).expect(130);
    let text = std::fs::read_to_string(record).unwrap();
    let decisions: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(decisions.len(), 3, "{text}");
    assert!(decisions.iter().all(|one| one["outcome"] == "injected" && one["protocol"] == 1), "{text}");
}

#[test]
fn stop_tells_all_and_names_the_one_that_does_not_answer() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let _other = bench.sleeper(&bench.b);
    let (before, objects) = (bench.listing(), bpf_objects());
    let other = loss_of(&format!("cgroup = \"{}\"", bench.b.path()), LONG);
    let mut silent = bench.armed(&["apply", &bench.loss("silent", LONG)]);
    let mut willing = bench.armed(&["apply", &bench.scenario("willing", &other)]);
    silent.signal(Signal::SIGSTOP);
    let stopped = bench.injector(&["stop", "--all", "--json"]).expect(1);
    let error =
        format!("the experiment `{}` could not be stopped: the experiment does not answer on ", silent.id());
    let stopped = stopped.says(&error).says(&format!("stopped {}\n", willing.id())).says("by SIGTERM");
    willing.end().expect(130);
    let list: Value = serde_json::from_str(stopped.stdout.lines().next().unwrap()).unwrap();
    let of = |id: String| list["experiments"].as_array().unwrap().iter().find(|one| one["id"] == id).unwrap();
    assert_eq!((&of(silent.id())["stopped"], &of(willing.id())["stopped"]), (&false.into(), &true.into()));

    // What it was told is still there when it goes on.
    silent.signal(Signal::SIGCONT);
    silent.end().expect(130);
    bench.listing().assert_same_as(&before, "after both");
    assert_no_bpf_objects_since(&objects, "after both");
    bench.injector(&["stop", "--all"]).expect(0).says("no experiment is running");
}
