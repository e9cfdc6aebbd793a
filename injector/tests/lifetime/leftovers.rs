//! What a dead experiment leaves: who offers to take it back, what `clean` does and does not touch, journals
//! that are torn, of another boot, or on a full disk.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::bench::{Bench, CLSACT, Ended, LONG, TCX, loss_of};
use crate::listing::{assert_no_bpf_objects_since, bpf_objects};
use crate::support::{Located as _, root_or_skip, sh};

/// An armed experiment on `a` whose controller is killed; returns its id. Its filters strike on until they are
/// cleaned away: nobody waits for its deadline, which must not come before the kill.
#[track_caller]
fn killed(bench: &Bench, name: &str) -> String {
    let mut controller = bench.armed(&["apply", &bench.loss(name, LONG), "--tc", CLSACT]);
    controller.end_by(Signal::SIGKILL);
    controller.id()
}

fn journal_of(bench: &Bench, id: &str) -> PathBuf {
    let directory = bench.run_directory().join(id);
    let entries = fs::read_dir(&directory).unwrap().flatten().map(|entry| entry.path());
    let mut journals =
        entries.filter(|path| fs::read_to_string(path).is_ok_and(|text| text.contains("boot_id")));
    journals.next().expect("no journal")
}

#[test]
fn later_commands_offer_to_clean_up_and_clean_does_once() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let (before, objects) = (bench.listing(), bpf_objects());
    let id = killed(&bench, "dead");
    let offer = format!("the experiment `dead` ({id}) died and may have left ");
    let offers = |ended: Ended| ended.says(&offer).says("`injector clean` takes them back");

    offers(bench.injector(&["status"]).expect(0).prints("dead: `injector clean`"));
    let status = bench.injector(&["status", "--json"]).expect(0).json();
    let dead = &status["experiments"][0];
    assert_eq!((&dead["running"], &dead["report"]), (&false.into(), &serde_json::Value::Null), "{status}");
    assert!(!dead["left"].as_array().unwrap().is_empty(), "{status}");
    offers(bench.injector(&["apply", &bench.loss("next", "50ms"), "--tc", CLSACT]).expect(0));
    offers(bench.injector(&["run", "--fault", "network.loss=1%", "--", "true"]).expect(0));

    bench.injector(&["clean"]).expect(0).prints(&format!("{id}: took back egress filter")).prints("clean\n");
    bench.listing().assert_same_as(&before, "after the cleaning");
    assert_no_bpf_objects_since(&objects, "after the cleaning");
    bench.injector(&["clean"]).expect(0).prints("nothing to clean");
    let again = bench.injector(&["clean", "--json"]).expect(0);
    assert_eq!(again.stdout, "{\"experiments\":[]}\n");
}

#[test]
fn a_dead_one_that_left_nothing_has_a_record_alone() {
    if !root_or_skip() || !crate::bench::kernel_has_tcx() {
        return;
    }
    let bench = Bench::lone();
    let before = bench.listing();
    let mut controller = bench.armed(&["apply", &bench.loss("linked", LONG), "--tc", TCX]);
    let id = controller.id();
    controller.end_by(Signal::SIGKILL);
    let status = bench.injector(&["status"]).expect(0).prints("dead: `injector clean` removes its record");
    status.says(&format!("the experiment `linked` ({id}) died: `injector clean` removes its record\n"));
    bench.injector(&["clean"]).expect(0).prints(&format!("{id}: clean\n"));
    bench.listing().assert_same_as(&before, "after the cleaning");
}

#[test]
fn clean_leaves_a_running_experiment_alone() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let _other = bench.sleeper(&bench.b);
    let (before, objects) = (bench.listing(), bpf_objects());
    let other = bench.scenario("alive", &loss_of(&format!("cgroup = \"{}\"", bench.b.path()), LONG));
    // In both orders: whose is the qdisc that both use?
    for dead_first in [true, false] {
        let mut dead = None;
        if dead_first {
            dead = Some(killed(&bench, "dead"));
        }
        let mut alive = bench.armed(&["apply", &other, "--tc", CLSACT]);
        let dead = dead.unwrap_or_else(|| killed(&bench, "dead"));
        bench.injector(&["clean"]).expect(0).prints(&format!("{dead}: clean"));
        assert_eq!(bench.listing().part("journals"), alive.id());
        assert_eq!((bench.replies(), bench.replies_from(&bench.b)), (3, 0), "dead first: {dead_first}");
        alive.end_by(Signal::SIGINT).expect(130);
        bench.listing().assert_same_as(&before, &format!("after both (dead first: {dead_first})"));
        assert_no_bpf_objects_since(&objects, "after both");
    }
}

#[test]
fn a_journal_of_an_earlier_boot_is_dropped_and_nothing_is_touched() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let id = killed(&bench, "rebooted");
    let left = bench.listing();
    let path = journal_of(&bench, &id);
    let text = fs::read_to_string(&path).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert!(text.contains(boot.trim()), "{text}");
    fs::write(&path, text.replace(boot.trim(), "00000000-0000-4000-8000-000000000000")).unwrap();
    bench.injector(&["clean"]).expect(0).prints("it was of an earlier boot").prints(&format!("{id}: clean"));
    assert_eq!(bench.listing().part("journals"), "");
    assert_eq!(bench.listing().part("near filters"), left.part("near filters"));
    bench.netns.tc("qdisc del dev lo clsact");
}

#[test]
fn a_torn_last_line_is_no_obstacle_and_a_broken_one_is_told() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let (before, objects) = (bench.listing(), bpf_objects());
    let id = killed(&bench, "torn");
    let path = journal_of(&bench, &id);
    let good = fs::read_to_string(&path).unwrap();

    let (header, rest) = good.split_once('\n').unwrap();
    fs::write(&path, format!("{header}\n{{\"line\":\"ma\n{rest}")).unwrap();
    let left = bench.listing();
    bench
        .injector(&["clean"])
        .expect(1)
        .prints(&format!("{id}: line 2 of the journal"))
        .says("not everything could be taken back");
    bench.injector(&["status"]).expect(0).says("line 2 of the journal");
    bench.listing().assert_same_as(&left, "after a cleaning that could not be");

    fs::write(&path, format!("{good}{{\"line\":\"made\",\"ent")).unwrap();
    bench.injector(&["clean"]).expect(0).prints(&format!("{id}: clean"));
    bench.listing().assert_same_as(&before, "after the cleaning");
    assert_no_bpf_objects_since(&objects, "after the cleaning");
}

/// Runs a shell script as `injector` would be run, in a mount namespace of its own. `$injector` is the program.
#[track_caller]
pub(crate) fn in_own_mounts(bench: &Bench, script: &str) -> Ended {
    let inner = bench.command(&[]);
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", script]);
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("injector", inner.get_program()).env("home", bench.file(""));
    command.in_netns(&bench.netns).in_cgroup(&bench.own).stdin(std::process::Stdio::null());
    bench.start(&mut command).end()
}

/// Applies a scenario with the journals on a file system of 16 pages, of which all but `room_pages` are taken.
/// Prints what is left of the journals.
#[track_caller]
fn apply_on_a_full_disk(bench: &Bench, scenario: &str, room_pages: u32) -> Ended {
    let script = format!(
        "mkdir $home/small; mount -t tmpfs -o size=64k,mode=700 none $home/small
         export INJECTOR_RUN_DIR=$home/small/run; mkdir -m 700 $INJECTOR_RUN_DIR
         head -c $((65536 - 4096 * {room_pages})) /dev/zero > $home/small/filling
         status=0; $injector apply {scenario} --tc clsact || status=$?
         ls $INJECTOR_RUN_DIR; exit $status"
    );
    let ended = in_own_mounts(bench, &script);
    fs::remove_dir(bench.file("small")).unwrap();
    ended
}

#[test]
fn a_full_disk_is_named_and_nothing_is_left() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let family = "for i in $(seq 40); do sleep 1000 & done; echo ready; wait";
    let mut family = sh(family).in_cgroup(&bench.b).in_netns(&bench.netns).background();
    family.wait_for_line("ready");
    let _neighbour = bench.sleeper(&bench.b);
    let small = bench.loss("small", "50ms");
    let large = bench.scenario("large", &loss_of(&format!("pid = {}", family.pid()), "50ms"));
    let (before, objects) = (bench.listing(), bpf_objects());
    // At once; and half-way, while the members of a family are moved, each with a line of the journal.
    for (scenario, room_pages) in [(&small, 0), (&large, 1)] {
        let ended = apply_on_a_full_disk(&bench, scenario, room_pages).expect(1);
        let ended = ended.says("journal.jsonl: ENOSPC").says("hint: make room on the file system of");
        assert_eq!(ended.stdout, "lock\n", "{ended}");
        bench.listing().assert_same_as(&before, "after a full disk");
        assert_no_bpf_objects_since(&objects, "after a full disk");
    }
    // With room both work, so it was the disk.
    apply_on_a_full_disk(&bench, &small, 1).expect(0);
    apply_on_a_full_disk(&bench, &large, 8).expect(0);
    bench.listing().assert_same_as(&before, "after both");
}

#[test]
fn journals_are_in_run_injector_and_roots_alone() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let scenario = bench.loss("default-directory", LONG);
    let script = format!(
        "mount -t tmpfs none /run; unset INJECTOR_RUN_DIR
         id=$($injector apply {scenario} --detach); stat -c %a /run/injector /run/injector/$id
         $injector status; $injector stop $id; $injector status"
    );
    let ended = in_own_mounts(&bench, &script).expect(0);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!((&lines[..2], lines.last()), (&["700", "700"][..], Some(&"no experiments")), "{ended}");
    assert!(lines[2].contains("default-directory  running"), "{ended}");
}
