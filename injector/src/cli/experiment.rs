//! `injector apply` and `injector run`: one experiment from plan to report.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::Context as _;

use super::exit::{Exit, Failure};
use super::output::Output;
use super::{args, detach, experiments, launch, plan};
use crate::engine::{EngineError, Prepared, Session, Signals, drive};
use crate::journal::Store;
use crate::report::{Outcome, Report, render};
use crate::scenario::quantity::format_ns;
use crate::scenario::{Selector, Source};

pub(super) fn apply(command: &args::Apply, output: &Output) -> Result<Exit, Failure> {
    let source = plan::source(&command.file)?;
    let scenario = plan::load(&source, &[], &command.overrides, &command.safety)?;
    if scenario.targets.values().any(|target| target.selector == Selector::Command) {
        return Err(Failure::new(
            Exit::Usage,
            "the scenario strikes a command, and `apply` starts none",
            Some("use `injector run FILE -- CMD`".to_owned()),
        ));
    }
    let prepared = plan::prepare(scenario, &command.safety, command.record.is_some())?;
    if command.detach {
        // What the controller says is shown only if it fails.
        experiments::offer_clean(&Store::open_default()?, output)?;
        return detach::start(source.given_text(), output);
    }
    let conduct = Conduct {
        strict: command.strict,
        record: command.record.as_deref(),
        ready_fd: command.ready_fd,
        launch: None,
    };
    conduct.experiment(prepared, output)
}

pub(super) fn run(command: &args::Run, output: &Output) -> Result<Exit, Failure> {
    let source = match &command.file {
        Some(file) => plan::source(file)?,
        None if command.faults.is_empty() => {
            return Err(Failure::new(
                Exit::Usage,
                "`run` was given neither a scenario file nor a fault",
                Some(
                    "for example `injector run --fault network.loss=5% -- curl http://example.com`"
                        .to_owned(),
                ),
            ));
        }
        None => Source::inline(),
    };
    let scenario = plan::load(&source, &command.faults, &command.overrides, &command.safety)?;
    if !scenario.targets.values().any(|target| target.selector == Selector::Command) {
        return Err(Failure::new(
            Exit::Usage,
            "no target of the scenario is the command",
            Some(
                "write `command = true` in one of its [target.*] tables, or use `injector apply`".to_owned(),
            ),
        ));
    }
    let prepared = plan::prepare(scenario, &command.safety, command.record.is_some())?;
    let launch = launch::Launch::new(&command.command, command.user.as_deref())?;
    let conduct = Conduct {
        strict: command.strict,
        record: command.record.as_deref(),
        ready_fd: None,
        launch: Some(launch),
    };
    conduct.experiment(prepared, output)
}

/// How an experiment is conducted, whichever command asked for it.
struct Conduct<'a> {
    strict: bool,
    record: Option<&'a Path>,
    ready_fd: Option<i32>,
    launch: Option<launch::Launch>,
}

impl Conduct<'_> {
    fn experiment(self, prepared: Prepared, output: &Output) -> Result<Exit, Failure> {
        let store = Store::open_default()?;
        // A detached one leaves that to the command that started it.
        if self.ready_fd.is_none() {
            experiments::offer_clean(&store, output)?;
        }
        for warning in &prepared.warnings {
            output.warning(warning);
        }
        let told = prepared.warnings.clone();
        let words = format!(
            "{} ({}), seed {}, for up to {}",
            prepared.scenario.name,
            prepared.id,
            prepared.seed,
            format_ns(prepared.scenario.duration_ns)
        );
        let record = self.record.map(open_record).transpose()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(EngineError::Runtime)?;
        let signals = runtime.block_on(async { Signals::new() })?;
        let mut session = Session::begin(prepared, &store)?;
        if let Some(file) = record {
            session.record_to(file)?;
        }
        let Self { strict, ready_fd, launch, .. } = self;
        let ending = runtime.block_on(drive(&mut session, signals, |session| {
            let (namespaces, devices) = session.reach();
            let reach = format!("{devices} devices in {namespaces} network namespaces");
            output.note("armed", &format!("{words}; {reach}"));
            if launch.is_none() {
                output.talk("Ctrl-C takes everything back\n");
            }
            if let Some(fd) = ready_fd {
                detach::say_ready(fd, session.id());
            }
            launch.map(|launch| launch.spawn(session)).transpose()
        }));
        let ended = session.end();
        let mut report = session.report(ending.outcome, ending.exit_status)?;
        let error = ending.error.or(ended.err());
        if error.is_some() {
            report.outcome = Outcome::Failed;
        }
        report.error = error.as_ref().map(ToString::to_string);
        show(&report, &told, output);
        match error {
            Some(error) => Err(Failure { in_report: true, ..error.into() }),
            None => Ok(conclude(&report, strict)),
        }
    }
}

fn open_record(path: &Path) -> Result<BufWriter<File>, Failure> {
    let file = File::create(path).with_context(|| format!("{} could not be made", path.display()))?;
    Ok(BufWriter::new(file))
}

/// `told` are the warnings that were shown before it began.
fn show(report: &Report, told: &[String], output: &Output) {
    let mut new = report.clone();
    new.warnings.retain(|warning| !told.contains(warning));
    output.talk(&render(&new, output.stderr_colour()));
    if output.json {
        output.object(report);
    }
}

/// The exit status of an experiment that did not fail.
fn conclude(report: &Report, strict: bool) -> Exit {
    match report.exit_status {
        Some(status) if status != 0 => return Exit::Command(u8::try_from(status).unwrap_or(u8::MAX)),
        None if report.outcome == Outcome::Interrupted => return Exit::Interrupted,
        _ => {}
    }
    let missed = report.expectations.iter().any(|expectation| !expectation.ok);
    let silent = strict && report.faults.iter().any(|fault| fault.matched == 0);
    if missed || silent { Exit::Expectation } else { Exit::Done }
}
