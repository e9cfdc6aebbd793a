//! `cargo xtask ci`: the tests, and the two checks whose tools are not everywhere. CI itself (`.ci/run`) runs
//! `cargo xtask test`, which needs neither tool.

use crate::say::say;
use crate::stage::{Stage, Tally};
use crate::test::TestArgs;
use crate::{process, test, workspace};
use anyhow::Result;
use std::process::Command;

/// Runs the tests with cargo-deny and typos before them, where those are installed.
pub(crate) fn command() -> Result<()> {
    let mut extra: Vec<Stage> = Vec::new();
    if process::find("cargo-deny").is_some() {
        extra.push(("cargo deny", || {
            process::run(workspace::cargo().args(["deny", "check"])).map(|()| Tally::ONE)
        }));
    } else {
        say!("cargo-deny is not installed: licences and advisories are not checked");
    }
    if process::find("typos").is_some() {
        extra.push(("typos", || {
            process::run(Command::new("typos").current_dir(workspace::root())).map(|()| Tally::ONE)
        }));
    } else {
        say!("typos is not installed: spelling is not checked");
    }
    test::command(&TestArgs::default(), &extra)
}
