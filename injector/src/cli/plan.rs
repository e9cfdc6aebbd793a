//! `injector plan`, and what every command does before it changes anything.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use owo_colors::OwoColorize as _;
use serde_json::json;

use super::exit::{Exit, Failure};
use super::output::Output;
use super::{args, experiments};
use crate::engine::{self, Options, Prepared};
use crate::host::cgroup::Hierarchy;
use crate::journal::{Store, conflicts};
use crate::kernel::attach::Rung;
use crate::kernel::functions::Mechanism;
use crate::kinds::{self, Strikes};
use crate::plan::{self, Hook, PlannedFault};
use crate::scenario::quantity::{DurationNs, format_ns};
use crate::scenario::{self, Direction, Overrides, Scenario, Source};

/// Longest duration of a scenario where nobody has said otherwise.
const DEFAULT_MAX_DURATION: &str = "24h";
const CONFIGURATION: &str = "/etc/injector.toml";

pub(super) fn run(command: &args::Plan, output: &Output) -> Result<Exit, Failure> {
    let scenario = load(&source(&command.file)?, &[], &command.overrides, &command.safety)?;
    let prepared = prepare(scenario, &command.safety, false)?;
    show(&prepared, output);
    let store = Store::open_default()?;
    let conflict = conflict_of(&prepared, &store)?;
    if let Some(conflict) = &conflict {
        output.warning(conflict);
    }
    experiments::offer_clean(&store, output)?;
    Ok(if conflict.is_some() { Exit::Conflict } else { Exit::Done })
}

/// A file, or stdin for `-`.
pub(super) fn source(file: &Path) -> Result<Source, Failure> {
    if file != Path::new("-") {
        return Ok(Source::file(file));
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("stdin could not be read")?;
    Ok(Source::text("<stdin>", text))
}

/// Reads the scenario with what the command line adds, and holds it against the longest duration.
pub(super) fn load(
    source: &Source,
    faults: &[String],
    overrides: &args::Overrides,
    safety: &args::Safety,
) -> Result<Scenario, Failure> {
    let overrides = Overrides {
        inline: faults.to_vec(),
        set: overrides.set.clone(),
        seed: overrides.seed,
        for_: overrides.duration.clone(),
    };
    let scenario = scenario::load(source, &overrides)?;
    let (longest_ns, said_by) = max_duration(safety)?;
    if scenario.duration_ns > longest_ns {
        let (asked, longest) = (format_ns(scenario.duration_ns), format_ns(longest_ns));
        return Err(Failure::new(
            Exit::Usage,
            format!("the scenario lasts {asked}, and {longest} is the longest that {said_by} allows"),
            Some("give a shorter `--for`, or a longer `--max-duration`".to_owned()),
        ));
    }
    Ok(scenario)
}

/// The configuration file: `max_duration = "24h"`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    max_duration: Option<String>,
}

fn max_duration(safety: &args::Safety) -> Result<(u64, String), Failure> {
    let (text, said_by) = match &safety.max_duration {
        Some(text) => (text.clone(), "--max-duration".to_owned()),
        None => match configuration()?.max_duration {
            Some(text) => (text, CONFIGURATION.to_owned()),
            None => (DEFAULT_MAX_DURATION.to_owned(), "the default".to_owned()),
        },
    };
    match text.parse::<DurationNs>() {
        Ok(duration) => Ok((duration.0, said_by)),
        Err(error) => {
            let message = format!("the longest duration of {said_by}, `{text}`: {error}");
            Err(Failure::new(Exit::Usage, message, error.hint()))
        }
    }
}

fn configuration() -> Result<Configuration, Failure> {
    match std::fs::read_to_string(CONFIGURATION) {
        Ok(text) => Ok(toml::from_str(&text).with_context(|| format!("{CONFIGURATION} can't be used"))?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Configuration::default()),
        Err(error) => Err(anyhow::Error::new(error).context(format!("{CONFIGURATION} can't be read")).into()),
    }
}

/// Resolves and decides; changes nothing.
pub(super) fn prepare(scenario: Scenario, safety: &args::Safety, trace: bool) -> Result<Prepared, Failure> {
    let rung = safety.tc.map(|rung| match rung {
        args::TcRung::Tcx => Rung::Tcx,
        args::TcRung::Clsact => Rung::Clsact,
    });
    let operations = safety.operations.map(|rung| match rung {
        args::OperationRung::Lsm => Mechanism::Lsm,
        args::OperationRung::FmodRet => Mechanism::Security,
    });
    Ok(engine::prepare(scenario, Options { force: safety.force_unsafe_target, rung, operations, trace })?)
}

/// The running experiment that would be in the way.
fn conflict_of(prepared: &Prepared, store: &Store) -> Result<Option<String>, Failure> {
    let ours: Vec<_> = prepared.targets.values().map(engine::TargetPlan::key).collect();
    for other in store.list()?.experiments.iter().filter(|other| other.alive) {
        if let Some((our, their)) = conflicts(&ours, &other.header.targets).into_iter().next() {
            let theirs = &other.header;
            return Ok(Some(format!(
                "{our} is in the way of {their}, which the running experiment `{}` ({}) strikes",
                theirs.name, theirs.id
            )));
        }
    }
    Ok(None)
}

fn show(prepared: &Prepared, output: &Output) {
    if output.json {
        output.object(&as_json(prepared));
    } else {
        output.data(&as_text(prepared, output.stdout_colour()));
        for warning in &prepared.warnings {
            output.warning(warning);
        }
    }
}

fn as_json(prepared: &Prepared) -> serde_json::Value {
    let targets: serde_json::Map<String, serde_json::Value> = prepared
        .targets
        .iter()
        .map(|(name, target)| (name.clone(), json!({ "strikes": target.to_string(), "key": target.key() })))
        .collect();
    let faults: Vec<_> = prepared
        .faults
        .iter()
        .map(|fault| {
            json!({
                "id": fault.id, "kind": fault.kind, "target": if let [target] = &fault.targets[..] { Some(target) } else { None }, "targets": fault.targets,
                "cuts": fault.cuts, "after": fault.after, "direction": way(fault),
                "mechanism": fault.mechanism(prepared.rung, None), "requested_rate": fault.requested_rate,
                "notes": fault.notes,
            })
        })
        .collect();
    json!({
        "name": prepared.scenario.name, "seed": prepared.seed, "duration_ns": prepared.scenario.duration_ns,
        "kernel": prepared.kernel, "targets": targets, "faults": faults, "warnings": prepared.warnings,
    })
}

fn as_text(prepared: &Prepared, colour: bool) -> String {
    let bold = |text: &str| if colour { text.bold().to_string() } else { text.to_owned() };
    let dim = |text: &str| if colour { text.dimmed().to_string() } else { text.to_owned() };
    let mut text = String::new();
    let scenario = &prepared.scenario;
    let fixed = if scenario.seed.is_some() { "" } else { " (drawn for this run)" };
    let _ = writeln!(
        text,
        "{}: up to {}, seed {}{fixed}, kernel {}",
        bold(&scenario.name),
        format_ns(scenario.duration_ns),
        prepared.seed,
        prepared.kernel
    );
    if let Ok(hierarchy) = Hierarchy::find() {
        let _ = writeln!(text, "  {}   {}", dim("cgroups"), hierarchy.mount().display());
    }
    for (name, target) in &prepared.targets {
        let _ = writeln!(text, "target {}: {target}", bold(name));
    }
    for fault in &prepared.faults {
        let _ = writeln!(
            text,
            "fault {}: {} on {}, {}",
            bold(&fault.id),
            fault.kind,
            fault.targets.join(", "),
            way(fault)
        );
        if !fault.cuts.is_empty() {
            let words = plan::words(&fault.targets, &fault.cuts);
            let _ = writeln!(text, "  {}       {words}", dim("cut"));
        }
        if let Some(other) = &fault.after {
            let start_ns =
                scenario.faults.iter().find(|own| own.id == fault.id).map_or(0, |own| own.when.start_ns);
            let later = if start_ns == 0 { String::new() } else { format!("{} after ", format_ns(start_ns)) };
            let _ = writeln!(text, "  {}    {later}the first strike of `{other}`", dim("begins"));
        }
        let _ = writeln!(text, "  {} {}", dim("mechanism"), fault.mechanism(prepared.rung, None));
        let rate =
            fault.requested_rate.map_or("as counted".to_owned(), |rate| format!("{:.4}%", rate * 100.0));
        let _ = writeln!(text, "  {}      {rate}", dim("rate"));
        for note in &fault.notes {
            let _ = writeln!(text, "  {}      {note}", dim("note"));
        }
    }
    let _ = writeln!(text, "{}", dim("nothing was changed"));
    text
}

fn way(fault: &PlannedFault) -> &'static str {
    if fault.hooks.iter().any(|hook| Hook::CALLS.contains(hook)) {
        return "calls";
    }
    if !fault.functions.is_empty() || !fault.notified.is_empty() {
        return "operations";
    }
    let strikes = kinds::find(fault.kind).map(kinds::Kind::strikes);
    if matches!(strikes, Some(Strikes::Processes | Strikes::Limits(_))) {
        return "processes";
    }
    // Without a hook it is no packet that is struck, but all that would come by.
    if fault.hooks.is_empty() {
        return "both directions";
    }
    match fault.direction {
        Direction::Egress => "egress",
        Direction::Ingress => "ingress",
        Direction::Both => "both directions",
    }
}
