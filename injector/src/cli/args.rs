//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const EXIT_STATUS: &str = "Exit status: 0 done, 1 failed, 2 usage or invalid scenario, 3 this kernel can't, \
4 aborted by a guard, 5 conflict with a running experiment or a foreign program, 6 an expectation failed, \
130 interrupted and reverted. `run` ends with the status of its command.";

/// Faults in the kernel, per cgroup, on programs that are not changed.
#[derive(Debug, Parser)]
#[command(name = "injector", version, about, after_help = EXIT_STATUS, max_term_width = 100)]
pub struct Arguments {
    /// Print data as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// When to use colours
    #[arg(long = "color", alias = "colour", global = true, value_name = "WHEN", default_value = "auto")]
    pub colour: When,
    /// Say what is done; twice for more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What injector can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check scenario files; needs no root and no kernel
    Check(Check),
    /// Show what a scenario would do here; changes nothing
    Plan(Plan),
    /// Run a scenario until its duration is over or Ctrl-C; then take everything back
    Apply(Apply),
    /// Run a command in a cgroup of its own, under faults; ends with the command's status
    Run(Run),
    /// Show running experiments, and what dead ones have left
    Status,
    /// End running experiments
    Stop(Stop),
    /// Take back what experiments have left whose controller was killed
    Clean,
    /// Show what this kernel can do, and the remedy for what it can't
    Doctor,
    /// Print the JSON Schema of scenario files
    Schema,
    /// Print a completion script
    Completions {
        /// Shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one page per command
    Man {
        /// Write the pages to this directory
        directory: Option<PathBuf>,
    },
    /// Load every program of the object and print how the kernel took it
    #[command(hide = true)]
    Programs,
    /// Set devices up again whose controller has died; injector starts this by itself
    #[command(hide = true)]
    Watch {
        /// The experiment
        id: String,
        /// Milliseconds after which they are set up in any case
        within_ms: u64,
    },
    /// End the naps of delayed operations; injector starts this by itself
    #[command(hide = true)]
    Sleeper,
    /// Let the calls of a command go on whose controller has died; injector starts this by itself
    #[command(hide = true)]
    Keeper {
        /// Milliseconds after which they go on in any case
        within_ms: u64,
    },
    /// Measure the programs by BPF_PROG_TEST_RUN
    #[command(hide = true)]
    Bench(Bench),
}

/// `check`
#[derive(Debug, Args)]
pub struct Check {
    /// Scenario files; `-` is stdin
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// How a scenario is put together from a file and flags.
#[derive(Debug, Args)]
pub struct Overrides {
    /// Override a key, for example `fault.wan.probability=5%` or `target.db.cgroup=/app/db`
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Seed of every random draw
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Duration of the experiment, for example `30s`
    #[arg(long = "for", value_name = "DURATION")]
    pub duration: Option<String>,
}

/// What concerns safety and the choice of mechanisms.
#[derive(Debug, Args)]
pub struct Safety {
    /// Strike the root cgroup, process 1, injector's own cgroup: what is refused by default
    #[arg(long)]
    pub force_unsafe_target: bool,
    /// Longest duration that a scenario may ask for; /etc/injector.toml sets another default
    #[arg(long, value_name = "DURATION", env = "INJECTOR_MAX_DURATION")]
    pub max_duration: Option<String>,
    /// Attach traffic-control programs this way instead of the best one
    #[arg(long, value_name = "RUNG", hide_short_help = true)]
    pub tc: Option<TcRung>,
    /// Decide operations this way instead of the best one
    #[arg(long, value_name = "MECHANISM", hide_short_help = true)]
    pub operations: Option<OperationRung>,
}

/// How operations are decided that a hook of the LSM framework sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OperationRung {
    /// By a hook of the BPF LSM
    Lsm,
    /// By changing the result of the function that calls the hooks
    FmodRet,
}

/// How traffic-control programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TcRung {
    /// A link, on Linux 6.6 and later
    Tcx,
    /// A filter on a clsact qdisc
    Clsact,
}

/// `plan`
#[derive(Debug, Args)]
pub struct Plan {
    /// Scenario file; `-` is stdin
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Overrides
    #[command(flatten)]
    pub overrides: Overrides,
    /// Safety
    #[command(flatten)]
    pub safety: Safety,
}

/// `apply`
#[derive(Debug, Args)]
pub struct Apply {
    /// Scenario file; `-` is stdin
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Overrides
    #[command(flatten)]
    pub overrides: Overrides,
    /// Safety
    #[command(flatten)]
    pub safety: Safety,
    /// Fail with status 6 if a fault matched nothing
    #[arg(long)]
    pub strict: bool,
    /// Return as soon as the faults are armed, and print the experiment's id
    #[arg(long)]
    pub detach: bool,
    /// Write every decision to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Descriptor on which a detached controller says that it is armed
    #[arg(long, hide = true, value_name = "FD")]
    pub ready_fd: Option<i32>,
}

/// `run`
#[derive(Debug, Args)]
pub struct Run {
    /// Scenario file; targets with `command = true` are the command
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A fault on the command, for example `network.loss=5%:direction=both`
    #[arg(long = "fault", value_name = "KIND=VALUE[:KEY=VALUE]...")]
    pub faults: Vec<String>,
    /// Overrides
    #[command(flatten)]
    pub overrides: Overrides,
    /// Safety
    #[command(flatten)]
    pub safety: Safety,
    /// Start the command as this user (name or number) instead of the user behind sudo
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Fail with status 6 if a fault matched nothing
    #[arg(long)]
    pub strict: bool,
    /// Write every decision to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// The command
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<std::ffi::OsString>,
}

/// `stop`
#[derive(Debug, Args)]
pub struct Stop {
    /// Ids of experiments, as `status` shows them
    #[arg(value_name = "ID", required_unless_present = "all")]
    pub ids: Vec<String>,
    /// Every running experiment
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,
}

/// `bench`
#[derive(Debug, Args)]
pub struct Bench {
    /// Runs of each program
    #[arg(long, default_value_t = 20_000)]
    pub repeat: u32,
}
