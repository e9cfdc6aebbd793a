//! `injector status` and `clean`: experiments that others started.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::exit::{Exit, Failure};
use super::output::Output;
use crate::engine;
use crate::engine::control::{Request, ask};
use crate::host::Undone;
use crate::journal::{self, Experiment, ExperimentReport, Store};

pub(super) fn status(output: &Output) -> Result<Exit, Failure> {
    let store = Store::open_default()?;
    let listing = store.list()?;
    if output.json {
        let all: Vec<Value> = listing.experiments.iter().map(|e| as_json(&store, e)).collect();
        output.object(&json!({ "experiments": all }));
        return Ok(Exit::Done);
    }
    for (path, error) in &listing.unreadable {
        output.warning(&format!("{}: {error}", path.display()));
    }
    if listing.experiments.is_empty() {
        output.data("no experiments\n");
    }
    for experiment in &listing.experiments {
        output.data(&as_text(&store, experiment));
    }
    offer_clean(&store, output)?;
    Ok(Exit::Done)
}

/// The live report of a running experiment; null where it does not answer.
fn live(store: &Store, experiment: &Experiment) -> Value {
    if !experiment.alive {
        return Value::Null;
    }
    ask(&store.base().join(&experiment.header.id), Request::Status).unwrap_or(Value::Null)
}

fn as_json(store: &Store, experiment: &Experiment) -> Value {
    let header = &experiment.header;
    let left: Vec<String> = left_by(experiment);
    json!({
        "id": header.id, "name": header.name, "running": experiment.alive, "controller": header.controller.pid,
        "started": header.started, "deadline": header.deadline, "targets": header.targets,
        "left": left, "report": live(store, experiment),
    })
}

fn as_text(store: &Store, experiment: &Experiment) -> String {
    let header = &experiment.header;
    let left = header.deadline.duration_since(Timestamp::now());
    let state = match (experiment.alive, left.is_positive()) {
        (false, _) if left_by(experiment).is_empty() => {
            "dead: `injector clean` removes its record".to_owned()
        }
        (false, _) => "dead: `injector clean` takes back what it has left".to_owned(),
        (true, true) => format!("running, {} s left", left.as_secs()),
        (true, false) => "running, its faults are over".to_owned(),
    };
    let targets: Vec<String> = header.targets.iter().map(ToString::to_string).collect();
    let mut text = format!("{}  {}  {state}  on {}\n", header.id, header.name, targets.join(", "));
    let report = live(store, experiment);
    for fault in report["faults"].as_array().into_iter().flatten() {
        let number = |key: &str| fault[key].as_u64().unwrap_or(0);
        let id = fault["id"].as_str().unwrap_or("?");
        let _ = writeln!(text, "  {id}: {} matched, {} injected", number("matched"), number("injected"));
    }
    text
}

fn left_by(experiment: &Experiment) -> Vec<String> {
    let entries = experiment.entries.iter().filter(|recorded| !recorded.undone);
    entries.map(|recorded| recorded.entry.to_string()).collect()
}

/// Stands by for a controller, see [`engine::watch`].
pub(super) fn watch(id: &str, within_ms: u64) -> Result<Exit, Failure> {
    engine::watch(id, Duration::from_millis(within_ms))?;
    Ok(Exit::Done)
}

/// Ends naps, see [`engine::serve_naps`].
pub(super) fn sleeper() -> Result<Exit, Failure> {
    engine::serve_naps().map_err(engine::EngineError::Runtime)?;
    Ok(Exit::Done)
}

/// Answers notified calls, see [`engine::keep_answering`].
pub(super) fn keeper(within_ms: u64) -> Result<Exit, Failure> {
    engine::keep_answering(Duration::from_millis(within_ms)).map_err(engine::EngineError::Runtime)?;
    Ok(Exit::Done)
}

pub(super) fn clean(output: &Output) -> Result<Exit, Failure> {
    let report = journal::clean(&Store::open_default()?)?;
    if output.json {
        let experiments: Vec<Value> = report
            .experiments
            .iter()
            .map(|e| json!({ "id": e.id, "name": e.name, "lines": lines(e), "clean": e.problem.is_none() }))
            .collect();
        output.object(&json!({ "experiments": experiments }));
    } else if report.experiments.is_empty() {
        output.data("nothing to clean\n");
    } else {
        for experiment in &report.experiments {
            for line in lines(experiment) {
                output.data(&format!("{}: {line}\n", experiment.id));
            }
        }
    }
    if report.is_clean() {
        return Ok(Exit::Done);
    }
    let hint = "mend what is named above and run `injector clean` again".to_owned();
    Err(Failure::new(Exit::Failed, "not everything could be taken back", Some(hint)))
}

/// What came of one experiment, a line each.
fn lines(experiment: &ExperimentReport) -> Vec<String> {
    let mut lines: Vec<String> = experiment
        .outcomes
        .iter()
        .map(|outcome| match &outcome.result {
            Ok(Undone::Removed) => format!("took back {}", outcome.entry),
            Ok(Undone::AlreadyGone) => format!("already gone: {}", outcome.entry),
            Ok(Undone::NotOurs { why }) => format!("left {}: {why}", outcome.entry),
            Err(error) => format!("could not take back {}: {error}", outcome.entry),
        })
        .collect();
    if experiment.rebooted {
        lines.push("it was of an earlier boot, which took everything back".to_owned());
    }
    match &experiment.problem {
        Some(problem) => lines.push(problem.to_string()),
        None => lines.push("clean".to_owned()),
    }
    lines
}

/// Says what dead experiments have left, and how to take it back.
pub(super) fn offer_clean(store: &Store, output: &Output) -> Result<(), Failure> {
    for dead in store.list()?.experiments.iter().filter(|experiment| !experiment.alive) {
        let end = match left_by(dead).len() {
            0 => "died: `injector clean` removes its record".to_owned(),
            1 => "died and may have left 1 thing: `injector clean` takes it back".to_owned(),
            left => format!("died and may have left {left} things: `injector clean` takes them back"),
        };
        output.warning(&format!("the experiment `{}` ({}) {end}", dead.header.name, dead.header.id));
    }
    Ok(())
}
