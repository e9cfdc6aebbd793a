//! `cargo xtask versus`: what our faults cost beside netem's, measured in turns in one virtual machine.
//!
//! [`plan`] says what is measured, `guest.py` measures it in the guest, [`table`] makes the tables of it. [`io`] does all three for operations, beside
//! strace and a file system in user space.

pub(crate) mod io;
mod plan;
mod table;

use crate::programs::Programs;
use crate::say::{data, say};
use crate::verify::data_of;
use crate::vm::console::Verdict;
use crate::vm::kernels::{self, Kernel, Series};
use crate::vm::{self, Job, qemu};
use crate::{process, workspace};
use anyhow::{Context as _, Result, bail};
use plan::Plan;
use std::fmt::Write as _;
use std::path::PathBuf;

const SCRIPT: &str = include_str!("guest.py");
const DOCUMENT: &str = "docs/performance.md";
/// Between these lines of it the tables are, of packets and of operations.
const MARKERS: [&str; 2] = ["<!-- versus:begin -->", "<!-- versus:end -->"];
const IO_MARKERS: [&str; 2] = ["<!-- versus-io:begin -->", "<!-- versus-io:end -->"];

#[derive(clap::Args)]
pub(crate) struct VersusArgs {
    /// The kernels to run, parted by commas
    #[arg(long, value_name = "SERIES", default_value = "7.3")]
    kernel: String,
    /// How long each measurement takes, in seconds of the guest
    #[arg(long, value_name = "N", default_value_t = 0.5)]
    seconds: f64,
    /// How often each cell is measured
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// How QEMU runs the guest; with `counted` the figures don't depend on what else this machine does
    #[arg(long, value_enum, default_value_t = qemu::Accel::Counted)]
    accel: qemu::Accel,
    /// Measure reads, writes and opens beside strace and bindfs instead
    #[arg(long)]
    io: bool,
    /// Write the tables to docs/performance.md too
    #[arg(long)]
    update: bool,
}

/// Measures on each kernel, one after the other, and prints the tables.
pub(crate) fn command(args: &VersusArgs) -> Result<()> {
    let programs = Programs { injector: build_injector()?, tests: Vec::new() };
    let mut job = if args.io {
        Job::of("versus-io", io::command(args.rounds))
    } else {
        let plan = serde_json::to_string(&Plan::new(args.seconds, args.rounds))?;
        Job::of("versus", ["/usr/bin/python3", "-c", SCRIPT, &plan].map(str::to_owned).to_vec())
    };
    if args.io {
        job.bins.push("bindfs".to_owned());
    }
    job.accel = args.accel;
    let mut text = String::new();
    for series in Series::parse_list(&args.kernel)? {
        let runs = vm::run_all(&[kernels::get(series, false)?], &programs, std::slice::from_ref(&job))?;
        for run in runs {
            if run.verdict != Verdict::Exited(0) {
                bail!("{}: {}", run.kernel.series.name(), run.verdict);
            }
            let found = data_of(&run.output);
            let tables = if args.io { io::render(&found)? } else { table::render(&table::parse(&found)?)? };
            let _ = writeln!(text, "{}\n{tables}\n", heading(&run.kernel, args));
        }
    }
    let text = text.trim_end();
    data(format_args!("{text}"));
    if args.update {
        let path = workspace::root().join(DOCUMENT);
        let document = std::fs::read_to_string(&path).with_context(|| format!("cannot read {DOCUMENT}"))?;
        let [begin, end] = if args.io { IO_MARKERS } else { MARKERS };
        let known = table::between(&document, begin, end)?;
        let document = table::replace_between(&document, begin, end, &table::merged(known, text))?;
        std::fs::write(&path, document).with_context(|| format!("cannot write {DOCUMENT}"))?;
        say!("wrote {DOCUMENT}");
    }
    Ok(())
}

/// As it is installed: what the controller does is in the figures too.
fn build_injector() -> Result<PathBuf> {
    say!("building injector with optimisations");
    process::run(workspace::cargo().args(["build", "--quiet", "--release", "--package", "injector"]))?;
    Ok(workspace::target().join("release/injector"))
}

fn heading(kernel: &Kernel, args: &VersusArgs) -> String {
    let seconds =
        if args.io { String::new() } else { format!(", seconds of each measurement: {}", args.seconds) };
    let clock = match args.accel {
        qemu::Accel::Counted => "",
        _ => " By this machine's own time, not by counted instructions.",
    };
    let processors = match vm::processors_for(args.accel, kernel.series) {
        1 if !args.io => " One processor for the sender and the receiver.",
        _ => "",
    };
    format!(
        "### Linux {}\n\nPackage {}. Medians; rounds: {}{seconds}.{clock}{processors}\n",
        kernel.release, kernel.version, args.rounds
    )
}
