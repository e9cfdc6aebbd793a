//! `cargo xtask test`: every check there is, from the lints to the kernels of the matrix, with a time for each.

use crate::programs::{PRIVILEGED_TESTS, Programs};
use crate::say::{data, say};
use crate::setup::setup;
use crate::stage::{Stage, Stages, Tally};
use crate::vm::kernels::{self, Series};
use crate::vm::{self, Job, Run};
use crate::{build_ebpf, demo, process, tally, verify, workspace};
use anyhow::{Context as _, Result, bail};
use std::process::Command;

#[derive(clap::Args, Default)]
pub(crate) struct TestArgs {
    /// Leave out the virtual machines: what this machine's own kernel can tell, in a few minutes
    #[arg(long)]
    no_vm: bool,
}

/// All crates but the kernel half, which is never built for the host.
const HOST_CRATES: [&str; 3] = ["--workspace", "--exclude", "injector-ebpf"];

/// Runs every stage and prints the table; the last line on stdout is `N passed, N failed`.
pub(crate) fn command(args: &TestArgs, extra: &[Stage]) -> Result<()> {
    let mut stages = Stages::default();
    let mut failures = Vec::new();
    // Nothing can be said of a tree that doesn't build: the rest would repeat the same error.
    if stages.run("setup", || setup().map(|_| Tally::ONE))
        && stages.run("build-ebpf", || build_ebpf::build_ebpf(false).map(|_| Tally::ONE))
    {
        run_stages(&mut stages, args, extra, &mut failures);
    }
    let total = stages.total();
    say!("\n{}", stages.table());
    // What failed is said once more where it is found: an hour of lines is above.
    for failure in failures {
        say!("{failure}");
    }
    data(format_args!("{} passed, {} failed", total.passed, total.failed));
    if total.failed == 0 {
        Ok(())
    } else {
        bail!("{} stage(s) failed: {}", stages.failed().len(), stages.failed().join(", "))
    }
}

fn run_stages(stages: &mut Stages, args: &TestArgs, extra: &[Stage], failures: &mut Vec<String>) {
    for (name, stage) in extra {
        stages.run(name, stage);
    }
    stages.run("format", || cargo(&["fmt", "--all", "--check"]));
    stages.run("clippy", || {
        cargo(
            &[&["clippy", "--quiet", "--all-targets"], &HOST_CRATES[..], &["--", "--deny", "warnings"]]
                .concat(),
        )
    });
    stages.run("clippy of the kernel half", || {
        let package = ["--package", "injector-ebpf", "--features", "kernel"];
        cargo(&[&["clippy", "--quiet"], &package[..], &["--", "--deny", "warnings"]].concat())
    });
    stages.run("unit tests", || unit_tests(failures));
    let mut programs = None;
    stages.run("build of the end-to-end tests", || {
        programs = Some(Programs::build()?);
        Ok(Tally::ONE)
    });
    let Some(programs) = programs else { return };
    stages.run("end to end on this machine", || e2e_here(&programs, failures));
    stages.run("demo", || demo::trial(&programs.injector));
    if args.no_vm {
        say!("the virtual machines were left out, as asked");
        return;
    }
    let mut runs = Vec::new();
    stages.run("end to end on 6.1, 6.12 and 7.3", || {
        runs = e2e_in_machines(&programs)?;
        for run in &runs {
            failures.extend(tally::failures(run.kernel.series.name(), run.output.iter().map(String::as_str)));
            failures.extend(run.lost.iter().cloned());
        }
        vm::tests_tally(&runs)
    });
    stages.run("verify", || verify::verify_runs(&programs, &runs, false));
}

fn cargo(args: &[&str]) -> Result<Tally> {
    process::run(workspace::cargo().args(args)).map(|()| Tally::ONE)
}

/// Unit tests, documentation tests and every integration test but the privileged ones.
fn unit_tests(failures: &mut Vec<String>) -> Result<Tally> {
    let mut tests = workspace::cargo();
    tests.args(["test", "--quiet", "--no-fail-fast", "--lib", "--bins"]).args(HOST_CRATES);
    for name in integration_tests()? {
        tests.args(["--test", &name]);
    }
    let mut docs = workspace::cargo();
    docs.args(["test", "--quiet", "--no-fail-fast", "--doc"]).args(HOST_CRATES);
    let mut total = Tally::default();
    for command in [&mut tests, &mut docs] {
        total = total + counted(command, failures)?;
    }
    Ok(total)
}

/// The unprivileged integration tests of `injector`, by cargo's rules: files and directories in `tests`.
fn integration_tests() -> Result<Vec<String>> {
    let dir = workspace::root().join("injector/tests");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let is_test = path.extension().is_some_and(|ext| ext == "rs") || path.join("main.rs").is_file();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if is_test && !PRIVILEGED_TESTS.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn e2e_here(programs: &Programs, failures: &mut Vec<String>) -> Result<Tally> {
    if !process::can_be_root() {
        bail!("the end-to-end tests need root: run `cargo xtask test` as root or install sudo");
    }
    let mut total = Tally::default();
    for (_, path) in &programs.tests {
        let mut tests = process::as_root("env");
        tests.arg(format!("INJECTOR_BIN={}", programs.injector.display()));
        tests.arg(path).arg("--test-threads=1").current_dir(workspace::root().join("injector"));
        total = total + counted(&mut tests, failures)?;
    }
    Ok(total)
}

fn e2e_in_machines(programs: &Programs) -> Result<Vec<Run>> {
    let kernels =
        Series::ALL.into_iter().map(|series| kernels::get(series, false)).collect::<Result<Vec<_>>>()?;
    vm::run_all(&kernels, programs, &Job::programs_and_tests(programs)?)
}

/// Runs test programs and counts what they report; a failure that they don't count is one failure.
fn counted(command: &mut Command, failures: &mut Vec<String>) -> Result<Tally> {
    let (ok, lines) = process::stream(command)?;
    failures.extend(tally::failures("here", lines.iter().map(String::as_str)));
    let mut tally = tally::libtest(lines.iter().map(String::as_str));
    if !ok && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}
