//! Data goes to stdout, talk to stderr; colours only where they are wanted.

use crate::check::GOOD;
use crate::injector::{Desk, Said};

const ESCAPE: &str = "\u{1b}[";

#[test]
fn errors_are_talk_and_with_json_also_data() {
    let desk = Desk::with("bad.toml", &GOOD.replace("2.5%", "150%"));
    let text = desk.injector(&["plan", "bad.toml"]);
    assert_eq!((text.status, text.stdout.as_str()), (Some(2), ""), "{text}");
    let json = desk.injector(&["plan", "--json", "bad.toml"]);
    assert_eq!((json.status, &json.stderr), (Some(2), &text.stderr));
    let error = &json.json()["error"];
    assert_eq!(crate::injector::keys(error), ["errors", "hint", "message"]);
    assert_eq!(error["errors"][0]["line"], 10, "{json}");
}

#[test]
fn colours_are_for_terminals_unless_they_are_asked_for() {
    let desk = Desk::with("bad.toml", &GOOD.replace("2.5%", "150%"));
    let plain = desk.injector(&["check", "bad.toml"]);
    assert!(!plain.to_string().contains(ESCAPE), "{plain}");
    let coloured = desk.injector(&["check", "bad.toml", "--color", "always"]);
    assert!(coloured.stderr.contains(ESCAPE), "{coloured}");
    for variable in [Some("NO_COLOR"), None] {
        let said = on_a_terminal(&desk, "check bad.toml", variable);
        assert_eq!(said.contains(ESCAPE), variable.is_none(), "{said}");
        let said = on_a_terminal(&desk, "check bad.toml --color never", variable);
        assert!(!said.contains(ESCAPE), "{said}");
    }
}

/// `script` gives the command a terminal.
fn on_a_terminal(desk: &Desk, arguments: &str, variable: Option<&str>) -> String {
    let inner = desk.command(&[]);
    let line = format!("{} {arguments}", inner.get_program().to_str().unwrap());
    let mut command = std::process::Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).current_dir(desk.path()).env("TERM", "xterm");
    command.stdin(std::process::Stdio::null()).env_remove("NO_COLOR");
    if let Some(variable) = variable {
        command.env(variable, "1");
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_reader_that_hangs_up_is_no_error() {
    let desk = Desk::new();
    let mut command = desk.command(&["schema"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let said = Said::from(command.stdout(writer).stderr(std::process::Stdio::piped()).output().unwrap());
    assert_eq!((said.status, said.stderr.as_str()), (Some(0), ""), "{said}");
}

#[test]
fn the_log_is_silent_unless_it_is_asked_to_speak() {
    let desk = Desk::with("good.toml", GOOD);
    for arguments in [&["check", "good.toml"][..], &["check", "good.toml", "-vv"]] {
        let said = desk.injector(arguments);
        assert_eq!((said.status, said.stdout.as_str()), (Some(0), "good.toml: ok, 1 fault\n"), "{said}");
    }
}

#[test]
fn what_can_not_be_written_to_stdout_is_a_failure_with_its_errno() {
    let desk = Desk::with("good.toml", GOOD);
    for arguments in [
        &["check", "good.toml"][..],
        &["check", "good.toml", "--json"],
        &["schema"],
        &["completions", "bash"],
        &["man"],
        &["--help"],
        &["--version"],
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = desk.command(arguments);
        let said = Said::from(command.stdout(full).stderr(std::process::Stdio::piped()).output().unwrap());
        assert_eq!(said.status, Some(1), "{arguments:?}: {said}");
        assert!(
            said.stderr.starts_with("error: not everything could be written to stdout: ENOSPC"),
            "{said}"
        );
        assert!(said.stderr.contains("\n\nhint: "), "{said}");
    }
}
