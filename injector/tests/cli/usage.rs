//! What was typed wrongly is status 2, says what was expected, and changes nothing.

use crate::check::GOOD;
use crate::injector::Desk;

fn shown(name: &str, arguments: &[&str]) {
    let desk = Desk::with("good.toml", GOOD);
    let said = desk.injector(arguments);
    assert_eq!(said.status, Some(2), "{said}");
    assert!(!desk.path().join("run").exists(), "a command that was refused made its directory");
    insta::assert_snapshot!(name, said);
}

#[test]
fn wrong_commands() {
    shown("no_command", &[]);
    shown("unknown_command", &["aply", "good.toml"]);
    shown("unknown_flag", &["apply", "good.toml", "--sed", "1"]);
    shown("missing_file", &["apply"]);
    shown("missing_id", &["stop"]);
    shown("id_and_all", &["stop", "0badcafe", "--all"]);
    shown("unknown_rung", &["plan", "good.toml", "--tc", "xdp"]);
    shown("bad_colour", &["status", "--color", "sometimes"]);
}

#[test]
fn wrong_flags_of_a_scenario() {
    shown("seed_is_a_number", &["plan", "good.toml", "--seed", "-1"]);
    shown("set_without_a_value", &["plan", "good.toml", "--set", "duration"]);
    shown("set_of_a_fault_that_is_not_there", &["plan", "good.toml", "--set", "fault.wan.limit=1"]);
    shown("for_without_a_unit", &["plan", "good.toml", "--for", "3"]);
    shown("bad_max_duration", &["plan", "good.toml", "--max-duration", "3"]);
    shown("longer_than_allowed", &["apply", "good.toml", "--max-duration", "2s"]);
}

#[test]
fn wrong_uses_of_run() {
    shown("run_without_a_command", &["run", "--fault", "network.loss=5%"]);
    shown("run_without_a_fault", &["run", "--", "true"]);
    shown("run_with_a_wrong_fault", &["run", "--fault", "network.loss=150%", "--", "true"]);
    shown("run_with_a_file_without_command", &["run", "good.toml", "--", "true"]);
}

#[test]
fn a_command_target_needs_run() {
    let desk = Desk::with("run.toml", &GOOD.replace("cgroup = \"/db\"", "command = true"));
    insta::assert_snapshot!("apply_of_a_command", desk.injector(&["apply", "run.toml"]));
}

#[test]
fn the_longest_duration_can_be_set_by_the_environment_and_the_flag_wins() {
    let desk = Desk::with("good.toml", GOOD);
    let with = |value: &str, more: &[&str]| {
        let mut command = desk.command(&[&["plan", "good.toml"], more].concat());
        crate::injector::Said::from(command.env("INJECTOR_MAX_DURATION", value).output().unwrap())
    };
    let refused = with("2s", &[]);
    assert_eq!(refused.status, Some(2), "{refused}");
    assert!(refused.stderr.contains("the scenario lasts 3s, and 2s is the longest"), "{refused}");
    // Past that check it fails for another reason: no such cgroup, or no root.
    for allowed in [with("3s", &[]), with("2s", &["--max-duration", "3s"])] {
        assert_eq!(allowed.status, Some(1), "{allowed}");
    }
    let of_a_day = desk.injector(&["plan", "good.toml", "--for", "25h"]);
    assert_eq!(of_a_day.status, Some(2), "{of_a_day}");
    assert!(of_a_day.stderr.contains("1d is the longest"), "{of_a_day}");
}
