//! `injector check`: files alone, no root, no kernel.

use serde_json::json;

use super::args;
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::scenario::{self, Overrides};

pub(super) fn run(command: &args::Check, output: &Output) -> Result<Exit, Failure> {
    let mut exit = Exit::Done;
    for file in &command.files {
        let checked = scenario::load(&super::plan::source(file)?, &Overrides::default());
        match checked {
            Ok(scenario) if output.json => output.object(&json!({
                "file": file, "ok": true, "name": scenario.name, "faults": scenario.faults.len(),
            })),
            Ok(scenario) => {
                let plural = if scenario.faults.len() == 1 { "fault" } else { "faults" };
                output.data(&format!("{}: ok, {} {plural}\n", file.display(), scenario.faults.len()));
            }
            Err(errors) => {
                exit = Exit::Usage;
                if output.json {
                    output.object(&json!({ "file": file, "ok": false, "errors": errors.to_json() }));
                } else {
                    output.talk(&errors.render(output.stderr_colour()));
                }
            }
        }
    }
    Ok(exit)
}
