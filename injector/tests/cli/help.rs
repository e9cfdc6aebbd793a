//! Every help text, as reviewed.

use crate::injector::Desk;

const COMMANDS: [&str; 11] =
    ["check", "plan", "apply", "run", "status", "stop", "clean", "doctor", "schema", "completions", "man"];

#[test]
fn the_help_of_injector() {
    let desk = Desk::new();
    insta::assert_snapshot!("help_short", desk.injector(&["-h"]));
    insta::assert_snapshot!("help_long", desk.injector(&["--help"]));
}

#[test]
fn the_help_of_each_command() {
    let desk = Desk::new();
    for command in COMMANDS {
        insta::assert_snapshot!(format!("help_{command}"), desk.injector(&[command, "--help"]));
    }
}

#[test]
fn no_command_is_without_a_reviewed_help() {
    let help = Desk::new().injector(&["-h"]).stdout;
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let (list, _) = list.split_once("\n\n").unwrap();
    let listed: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(listed, [&COMMANDS[..], &["help"]].concat());
}

#[test]
fn the_version() {
    let said = Desk::new().injector(&["--version"]);
    assert_eq!(said.stdout, format!("injector {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!((said.status, said.stderr.as_str()), (Some(0), ""));
}
