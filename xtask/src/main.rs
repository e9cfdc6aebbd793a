//! Builds, sets up, tests and demonstrates injector: `cargo xtask --help`.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")
)]

mod bench;
mod build_ebpf;
mod ci;
mod demo;
mod operations;
mod process;
mod programs;
mod say;
mod setup;
mod slim;
mod source_hash;
mod stage;
mod tally;
mod test;
mod verify;
mod versus;
mod vm;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building and testing need, and say what was taken
    Setup,
    /// Compile the kernel half to target/bpf/injector.o
    BuildEbpf {
        /// Keep the log lines of the programs (costs hundreds of instructions per line)
        #[arg(long)]
        release_log: bool,
    },
    /// Run the end-to-end tests, or any command, on stock Debian kernels in QEMU
    Vm(vm::VmArgs),
    /// Load every program on every kernel and hold the instruction counts against docs/programs.md, and what can be done to
    /// operations against docs/operations.md
    Verify {
        /// Write the tables instead of comparing
        #[arg(long)]
        update: bool,
    },
    /// Run every check: lints, unit tests, end-to-end tests on this kernel and on three stock kernels
    Test(test::TestArgs),
    /// Show a real client and server without and with a fault, side by side
    Demo(demo::DemoArgs),
    /// Measure the pure decision by itself, and the programs on this machine's kernel
    Bench,
    /// Measure our faults beside netem's, in turns in one virtual machine; or of operations beside strace and bindfs
    Versus(versus::VersusArgs),
    /// Read, write and open a file so often, and print the time of each
    #[command(hide = true)]
    Operate(versus::io::OperateArgs),
    /// Run the tests, and cargo-deny and typos where they are installed
    Ci,
}

fn main() -> ExitCode {
    if vm::init::is_init() {
        vm::init::main();
    }
    let result = match Cli::parse().command {
        Task::Setup => setup::setup().map(drop),
        Task::BuildEbpf { release_log } => build_ebpf::build_ebpf(release_log).map(drop),
        Task::Vm(args) => vm::command(&args),
        Task::Verify { update } => verify::command(update),
        Task::Test(args) => test::command(&args, &[]),
        Task::Demo(args) => demo::command(&args),
        Task::Bench => bench::command(),
        Task::Versus(args) => versus::command(&args),
        Task::Operate(args) => versus::io::operate(&args),
        Task::Ci => ci::command(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::say!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
