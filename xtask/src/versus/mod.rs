//! `cargo xtask versus`: what our faults cost beside netem's, measured in turns in one virtual machine.
//!
//! [`plan`] says what is measured, `guest.py` measures it in the guest, [`table`] makes the tables of it.

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
const BEGIN: &str = "<!-- versus:begin -->";
const END: &str = "<!-- versus:end -->";

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
    /// Write the tables to docs/performance.md too
    #[arg(long)]
    update: bool,
}

/// Measures on each kernel, one after the other, and prints the tables.
pub(crate) fn command(args: &VersusArgs) -> Result<()> {
    let programs = Programs { injector: build_injector()?, tests: Vec::new() };
    let plan = serde_json::to_string(&Plan::new(args.seconds, args.rounds))?;
    let mut job = Job::of("versus", ["/usr/bin/python3", "-c", SCRIPT, &plan].map(str::to_owned).to_vec());
    job.accel = args.accel;
    let mut text = String::new();
    for series in Series::parse_list(&args.kernel)? {
        let runs = vm::run_all(&[kernels::get(series, false)?], &programs, std::slice::from_ref(&job))?;
        for run in runs {
            if run.verdict != Verdict::Exited(0) {
                bail!("{}: {}", run.kernel.series.name(), run.verdict);
            }
            let measurements = table::parse(&data_of(&run.output))?;
            let _ = writeln!(text, "{}\n{}\n", heading(&run.kernel, args), table::render(&measurements)?);
        }
    }
    let text = text.trim_end();
    data(format_args!("{text}"));
    if args.update {
        let path = workspace::root().join(DOCUMENT);
        let document = std::fs::read_to_string(&path).with_context(|| format!("cannot read {DOCUMENT}"))?;
        let document = table::replace_between(&document, BEGIN, END, text)?;
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
    format!(
        "### Linux {}\n\nPackage {}. Medians; rounds: {}, seconds of each measurement: {}.\n",
        kernel.release, kernel.version, args.rounds, args.seconds
    )
}
