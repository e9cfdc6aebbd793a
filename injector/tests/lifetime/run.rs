//! `injector run`: the command's own status, streams, user and end.

use std::io::Write as _;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::bench::{Bench, Ended, PATIENCE};
use crate::listing::{assert_no_bpf_objects_since, bpf_objects};
use crate::support::{SERVER_V4, root_or_skip, run, wait_until};

/// A fault that strikes nothing, for tests of everything else.
const HARMLESS: [&str; 3] = ["run", "--fault", "network.loss=1%:match.protocol=132"];

/// Runs a line of shell under a harmless fault.
#[track_caller]
fn shell(bench: &Bench, flags: &[&str], line: &str) -> Ended {
    bench.injector(&[&HARMLESS, flags, &["--", "sh", "-c", line]].concat())
}

#[test]
fn it_ends_with_the_status_of_the_command() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let (before, objects) = (bench.listing(), bpf_objects());
    for (line, status) in [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill -TERM $$", 143)] {
        let ended = shell(&bench, &["--json"], line).expect(status);
        assert_eq!(ended.json()["exit_status"], status, "{ended}");
        assert_eq!(ended.json()["outcome"], "completed", "{ended}");
    }
    let text_file = bench.file("text");
    std::fs::write(&text_file, "not a program").unwrap();
    for (program, errno) in [("/no/such/program", "ENOENT"), (text_file.to_str().unwrap(), "EACCES")] {
        let ended = bench.injector(&[&HARMLESS[..], &["--", program]].concat()).expect(1);
        ended.says(&format!("`{program}` could not be started: {errno}")).says("hint: give the command");
    }
    bench.listing().assert_same_as(&before, "after all");
    assert_no_bpf_objects_since(&objects, "after all");
}

#[test]
fn the_streams_are_the_commands_and_the_report_is_the_last_line() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let line = "cat; echo from the command >&2";
    let mut command = bench.command(&[&HARMLESS[..], &["--json", "--", "sh", "-c", line]].concat());
    let input = bench.file("input");
    std::fs::File::create(&input).unwrap().write_all(b"to the command\n").unwrap();
    let ended = bench.start(command.stdin(Stdio::from(std::fs::File::open(input).unwrap()))).end().expect(0);
    assert_eq!(ended.stdout.lines().next(), Some("to the command"), "{ended}");
    assert_eq!((ended.stdout.lines().count(), &ended.json()["exit_status"]), (2, &0.into()), "{ended}");
    let ended = ended.says("from the command\n").says("armed inline (").says("inline: completed after ");

    let plain = shell(&bench, &[], "echo data").expect(0);
    assert_eq!(plain.stdout, "data\n", "the report must not be on stdout\n{plain}\n{ended}");
}

#[test]
fn the_command_alone_is_struck_in_a_cgroup_of_its_own() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let line = format!("sed -n s/^0:://p /proc/self/cgroup; ping -n -c 3 -i 0.05 -W 1 {SERVER_V4}");
    let mut command = bench.command(&["run", "--fault", "network.loss=100%", "--", "sh", "-c", &line]);
    let mut controller = bench.start(&mut command);
    controller.wait_until_armed();
    assert_eq!(bench.replies(), 3, "a bystander is struck");
    let ended = controller.end().expect(1).prints("100% packet loss");
    let leaf = ended.stdout.lines().next().unwrap();
    let expected = format!("{}/injector-{}-run", bench.own.path(), controller.id());
    assert_eq!(leaf, expected, "{ended}");
}

#[test]
fn it_runs_as_the_user_behind_sudo_or_the_one_that_is_named() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let line = "id -u; id -g; id -G; echo $HOME $USER $LOGNAME; env | grep -c ^SUDO || true";
    let nobody = run("getent passwd nobody");
    let home = nobody.split(':').nth(5).unwrap().to_owned();
    let groups = run("id -G nobody");
    let expected = format!("65534\n65534\n{}\n{home} nobody nobody\n0\n", groups.trim());
    let mut command = bench.command(&[&HARMLESS[..], &["--", "sh", "-c", line]].concat());
    command
        .env("SUDO_UID", "65534")
        .env("SUDO_GID", "65534")
        .env("SUDO_USER", "nobody")
        .env("SUDO_COMMAND", "x");
    assert_eq!(bench.start(&mut command).end().expect(0).stdout, expected);
    assert_eq!(shell(&bench, &["--user", "nobody"], line).expect(0).stdout, expected);
    // A number without an entry has no groups but its own, and the flag wins over sudo.
    let mut command =
        bench.command(&[&HARMLESS[..], &["--user", "12345", "--", "sh", "-c", "id -u; id -G"]].concat());
    command.env("SUDO_UID", "65534").env("SUDO_GID", "65534");
    assert_eq!(bench.start(&mut command).end().expect(0).stdout, "12345\n12345\n");
    assert_eq!(shell(&bench, &[], "id -u").expect(0).stdout, "0\n");

    let before = bench.listing();
    shell(&bench, &["--user", "nosuchuser"], "true").expect(2).says("there is no user `nosuchuser`");
    bench.listing().assert_same_as(&before, "after a refusal");
}

#[test]
fn what_the_command_leaves_behind_goes_to_the_group_above() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let (before, objects) = (bench.listing(), bpf_objects());
    let ended = shell(&bench, &[], "setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!").expect(0);
    let daemon: i32 = ended.stdout.trim().parse().unwrap();
    assert_eq!(bench.own.pids(), [daemon], "{ended}");
    run(&format!("kill -KILL {daemon}"));
    wait_until(PATIENCE, "the end of the daemon", || bench.own.pids().is_empty());
    bench.listing().assert_same_as(&before, "after it");
    assert_no_bpf_objects_since(&objects, "after it");
}

#[test]
fn the_command_of_a_killed_one_goes_to_the_group_above() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let (before, objects) = (bench.listing(), bpf_objects());
    let mut command =
        bench.command(&[&HARMLESS[..], &["--", "sh", "-c", "echo $$; exec sleep 1000"]].concat());
    let mut controller = bench.start(&mut command);
    wait_until(PATIENCE, "the command", || controller.data().ends_with('\n'));
    controller.end_by(Signal::SIGKILL);
    let pid: i32 = controller.data().trim().parse().unwrap();
    assert!(bench.own.pids().is_empty(), "it is still in the leaf");
    bench.injector(&["clean"]).expect(0).prints("took back cgroup ");
    assert_eq!(bench.own.pids(), [pid]);
    run(&format!("kill -KILL {pid}"));
    wait_until(PATIENCE, "the end of the command", || bench.own.pids().is_empty());
    bench.listing().assert_same_as(&before, "after it");
    assert_no_bpf_objects_since(&objects, "after it");
}

#[test]
fn a_missed_expectation_is_status_6_unless_the_command_failed() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let text = "duration = \"60s\"\n[target.t]\ncommand = true\n[[fault]]\ntarget = \"t\"\nkind = \"network.loss\"\n\
                [[expect]]\nfault = \"network.loss-1\"\ninjected = \">= 1\"\n";
    let scenario = bench.scenario("expecting", text);
    let with = |line: &str| bench.injector(&["run", &scenario, "--json", "--", "sh", "-c", line]);
    let missed = with("true").expect(6).says("expect network.loss-1 MISSED: expected injected >= 1, seen 0");
    assert_eq!((&missed.json()["outcome"], &missed.json()["exit_status"]), (&"completed".into(), &0.into()));
    with("exit 7").expect(7).says("MISSED");
    let ping = "ping -c 1 -W 1 127.0.0.1 > /dev/null || true";
    with(ping).expect(0).says("expect network.loss-1 met: expected injected >= 1, seen 1");

    let silent = "the fault `network.loss-1` matched nothing";
    shell(&bench, &[], "true").expect(0).says(silent);
    shell(&bench, &["--strict"], "true").expect(6).says(silent);
    let applied = bench.loss("applied", "50ms");
    bench.injector(&["apply", &applied]).expect(0).says(silent);
    bench.injector(&["apply", &applied, "--strict"]).expect(6).says(silent);
}

#[test]
fn a_command_outlives_its_faults() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let ping = format!("ping -n -c 2 -i 0.05 -W 10 {SERVER_V4}");
    // The faults last long enough for a slow machine to start the first ping within them. That waits ten seconds
    // for what is lost, which is longer than the faults last; the others wait for nothing.
    let line = format!("{ping}; {ping} && {ping}");
    let flags = ["run", "--fault", "network.loss=100%", "--for", "5s", "--json", "--", "sh", "-c", &line];
    let ended = bench.injector(&flags).expect(0).prints("100% packet loss").prints(" 0% packet loss");
    let report = ended.json();
    assert_eq!(report["outcome"], "completed", "{ended}");
    let took_ns = report["duration_ns"].as_u64().unwrap();
    // The command alone takes ten seconds: more would mean that the faults have lasted as long as it.
    assert!((5_000_000_000..10_000_000_000).contains(&took_ns), "{ended}");
}

#[test]
fn a_signal_goes_to_the_command_and_its_end_is_waited_for() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let (before, objects) = (bench.listing(), bpf_objects());
    let polite = "trap 'echo told; exit 9' INT TERM HUP; echo ready; while :; do sleep 0.05; done";
    for (line, signal, status) in [
        (polite, Signal::SIGINT, 9),
        (polite, Signal::SIGTERM, 9),
        ("echo ready; exec sleep 1000", Signal::SIGTERM, 143),
        ("echo ready; exec sleep 1000", Signal::SIGHUP, 129),
    ] {
        let mut command = bench.command(&[&HARMLESS[..], &["--json", "--", "sh", "-c", line]].concat());
        let mut controller = bench.start(&mut command);
        wait_until(PATIENCE, "the command", || controller.data().contains("ready"));
        let ended = controller.end_by(signal).expect(status);
        assert_eq!(ended.stdout.contains("told"), line == polite, "{ended}");
        assert_eq!(ended.json()["outcome"], "interrupted", "{ended}");
        bench.listing().assert_same_as(&before, "after a signal");
    }
    assert_no_bpf_objects_since(&objects, "after signals");
}
