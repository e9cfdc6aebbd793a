//! The command line: what was typed, which command it is, what is printed, with which status it ends.
//!
//! `args` is what can be typed, one file per command does it, `output` is the only place that prints, `exit`
//! turns errors into statuses. Nothing here knows how a fault works.

pub mod args;
mod bench;
mod check;
mod detach;
mod doctor;
mod exit;
mod experiment;
mod experiments;
mod generate;
mod launch;
mod output;
mod plan;
mod stop;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use args::{Arguments, Command};
use exit::{Exit, Failure};
use output::Output;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return explain(&error).into(),
    };
    let output = Output::new(arguments.json, arguments.colour);
    start_log(arguments.verbose, output.stderr_colour());
    let result = dispatch(arguments.command, &output);
    conclude(result, &output).into()
}

/// Help and version are data and go to stdout, with status 0; mistakes go to stderr, with 2.
fn explain(error: &clap::Error) -> Exit {
    let printed = error.print();
    if error.use_stderr() {
        return Exit::Usage;
    }
    let output = Output::new(false, args::When::Auto);
    // It may be in a buffer still, where an error would be lost.
    output.written(printed.and_then(|()| std::io::stdout().flush()));
    conclude(Ok(Exit::Done), &output)
}

/// Tells of the failure, if there is one, and gives the status of the process.
fn conclude(result: Result<Exit, Failure>, output: &Output) -> Exit {
    let exit = match result {
        Ok(exit) => exit,
        Err(failure) => {
            output.failure(&failure);
            failure.exit
        }
    };
    let Some(loss) = output.loss() else { return exit };
    output.failure(&loss);
    // A status that says more than that something failed is kept.
    if exit == Exit::Done { loss.exit } else { exit }
}

fn dispatch(command: Command, output: &Output) -> Result<Exit, Failure> {
    match command {
        Command::Check(command) => check::run(&command, output),
        Command::Plan(command) => plan::run(&command, output),
        Command::Apply(command) => experiment::apply(&command, output),
        Command::Run(command) => experiment::run(&command, output),
        Command::Status => experiments::status(output),
        Command::Stop(command) => stop::run(&command, output),
        Command::Clean => experiments::clean(output),
        Command::Doctor => doctor::run(output),
        Command::Schema => generate::schema(output),
        Command::Completions { shell } => Ok(generate::completions(shell, output)),
        Command::Man { directory } => generate::man(directory.as_deref(), output),
        Command::Programs => generate::programs(output),
        Command::Watch { id, within_ms } => experiments::watch(&id, within_ms),
        Command::Sleeper => experiments::sleeper(),
        Command::Keeper { within_ms } => experiments::keeper(within_ms),
        Command::Bench(command) => bench::run(&command, output),
    }
}

/// The log goes to stderr, and says nothing unless it is asked to.
fn start_log(verbose: u8, colour: bool) {
    let level = match verbose {
        0 => return,
        1 => tracing::Level::INFO,
        2 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    tracing_subscriber::fmt().with_max_level(level).with_ansi(colour).with_writer(std::io::stderr).init();
}
