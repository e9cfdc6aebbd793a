//! `cargo xtask vm`: runs the end-to-end tests, or any command, on stock Debian kernels in QEMU.
//!
//! [`apt`] downloads and unpacks Debian's packages: [`kernels`], whose modules [`modules`] orders, and PostgreSQL for
//! [`databases`]. [`archive`] writes the initramfs format, [`image`] fills it with [`contents`], [`qemu`] runs it and watches the
//! console, [`init`] is the guest's PID 1. [`shares`] says which tests run on which kernel. What the tests check does not live
//! here, but in `injector/tests`.

mod apt;
mod archive;
pub(crate) mod console;
mod contents;
mod databases;
mod image;
pub(crate) mod init;
pub(crate) mod kernels;
mod modules;
pub(crate) mod qemu;
mod shares;

use crate::programs::{PRIVILEGED_TESTS, Programs};
use crate::say::{data, say};
use crate::stage::{Tally, seconds};
use crate::workspace;
use anyhow::{Context as _, Result, bail};
use console::Verdict;
use image::Image;
use kernels::{Kernel, Series};
use qemu::Machine;
pub(crate) use shares::processors_for;
use shares::{LONGEST_FIRST, SHARES, SHORTEST, asks_databases};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What may run at once: each machine keeps one processor of this one busy.
const MACHINES_AT_ONCE: usize = 2;

/// How often a guest is booted whose init does not begin.
const BOOTS: u32 = 3;

/// Where the guest finds the program under test.
pub(crate) const GUEST_INJECTOR: &str = "/usr/bin/injector";

#[derive(clap::Args)]
pub(crate) struct VmArgs {
    /// The kernel to run: 6.1, 6.12, 7.3, or all of them
    #[arg(long, value_name = "SERIES", default_value = "all")]
    kernel: String,
    /// Run this command by the guest's sh instead of the tests
    #[arg(long, value_name = "CMD")]
    shell_command: Option<String>,
    /// Add a program of this machine to the guest, with its libraries (a name in PATH or a path)
    #[arg(long = "bin", value_name = "NAME")]
    bins: Vec<String>,
    /// Run what `cargo xtask test` runs: each test on one kernel
    #[arg(long, conflicts_with_all = ["shell_command", "filters", "accel"])]
    shares: bool,
    /// Run this test program alone
    #[arg(long, value_name = "NAME", value_parser = PRIVILEGED_TESTS, conflicts_with_all = ["shares", "shell_command"])]
    program: Option<String>,
    /// Look for a newer package of the kernel even if one is cached
    #[arg(long)]
    refresh: bool,
    /// Kill the guest after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 4500)]
    timeout_s: u64,
    /// How QEMU runs the guest: tcg works everywhere, kvm is faster where it works, and with counted-fast time is exact
    #[arg(long, value_enum, default_value_t = qemu::Accel::Tcg)]
    accel: qemu::Accel,
    /// Filters and options for the test program
    #[arg(last = true)]
    filters: Vec<String>,
}

/// What one guest run came to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) kernel: Kernel,
    pub(crate) verdict: Verdict,
    /// What the guest's command printed.
    pub(crate) output: Vec<String>,
    /// What is said of a guest that ended otherwise than by its command.
    pub(crate) lost: Vec<String>,
}

/// A job for one or more kernels.
pub(crate) struct Job {
    /// What it is called in the names of files.
    pub(crate) name: String,
    /// The kernel on which it runs; `None` is all that are asked for.
    kernel: Option<Series>,
    pub(crate) command: Vec<String>,
    pub(crate) bins: Vec<String>,
    pub(crate) timeout: Duration,
    pub(crate) accel: qemu::Accel,
    /// Whether the guest holds PostgreSQL.
    databases: bool,
    /// Print the guest's lines as they come.
    pub(crate) stream: bool,
}

impl Job {
    /// The tests that need a kernel to themselves, a guest for each program, those that take longest first.
    pub(crate) fn tests(filters: &[String]) -> Vec<Self> {
        let of = |name: &&str| Self {
            databases: asks_databases(name),
            ..Self::shell(name, &test_script(name, filters))
        };
        LONGEST_FIRST.iter().map(of).collect()
    }

    /// How each kernel takes every program, as data, and the tests, as [`SHARES`] deals them out.
    pub(crate) fn programs_and_tests(programs: &Programs) -> Result<Vec<Self>> {
        let mut jobs = Vec::new();
        for (name, series, share) in SHARES {
            let tests = test_script(name, &share.filters(programs.test_names(name)?));
            let script = if name == SHORTEST { format!("{}\n{tests}", programs_script()) } else { tests };
            let (guest, accel) = share.guest(name);
            jobs.push(Self {
                kernel: Some(series),
                accel,
                databases: asks_databases(name),
                ..Self::shell(&guest, &script)
            });
        }
        Ok(jobs)
    }

    /// How the kernel takes every program, as data.
    pub(crate) fn programs() -> Self {
        Self::shell("programs", &programs_script())
    }

    /// A command for the guest's shell.
    fn shell(name: &str, script: &str) -> Self {
        Self::of(name, ["/bin/sh", "-c", script].map(str::to_owned).to_vec())
    }

    /// Any command line.
    pub(crate) fn of(name: &str, command: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            kernel: None,
            command,
            bins: Vec::new(),
            timeout: Duration::from_secs(75 * 60),
            accel: qemu::Accel::Tcg,
            databases: false,
            stream: true,
        }
    }
}

/// Prints what `injector programs` and `injector doctor` say as data; what they say there is looked at by the host.
fn programs_script() -> String {
    let said =
        |command: &str| format!("{GUEST_INJECTOR} {command} --json | sed 's/^/{}/'", console::DATA_MARKER);
    format!("{}\n{}", said("-v programs"), said("doctor"))
}

/// Runs a test program.
fn test_script(name: &str, filters: &[String]) -> String {
    let quoted = filters.iter().map(|filter| format!(" '{}'", filter.replace('\'', "'\\''")));
    format!("{} --test-threads=1{}", guest_test(name), quoted.collect::<String>())
}

/// Where the guest finds a test program.
fn guest_test(name: &str) -> String {
    format!("/usr/bin/{name}")
}

/// `cargo xtask vm`.
pub(crate) fn command(args: &VmArgs) -> Result<()> {
    let series = Series::parse_list(&args.kernel)?;
    let kernels =
        series.into_iter().map(|one| kernels::get(one, args.refresh)).collect::<Result<Vec<_>>>()?;
    let programs = Programs::build()?;
    let mut jobs = match &args.shell_command {
        Some(command) => vec![Job::shell("command", command)],
        None if args.shares => Job::programs_and_tests(&programs)?,
        None => Job::tests(&args.filters),
    };
    jobs.retain(|job| args.program.as_ref().is_none_or(|name| job.name == *name));
    for job in &mut jobs {
        job.bins.clone_from(&args.bins);
        job.timeout = Duration::from_secs(args.timeout_s);
        // Some of those say themselves how they are run.
        if !args.shares {
            job.accel = args.accel;
        }
    }
    let runs = run_all(&kernels, &programs, &jobs)?;
    if args.shell_command.is_some() {
        return failures(&runs);
    }
    let tally = tests_tally(&runs)?;
    data(format_args!("{} passed, {} failed", tally.passed, tally.failed));
    failures(&runs)
}

fn failures(runs: &[Run]) -> Result<()> {
    let failed =
        runs.iter().filter(|run| run.verdict != Verdict::Exited(0)).map(|run| run.kernel.series.name());
    let failed = failed.collect::<Vec<_>>();
    if failed.is_empty() { Ok(()) } else { bail!("failed on {}", failed.join(", ")) }
}

/// Counts the tests that libtest reported. A guest that died counts as one failure more, and a filter that
/// matched nothing is an error: it would pass for ever.
pub(crate) fn tests_tally(runs: &[Run]) -> Result<Tally> {
    let mut total = Tally::default();
    for run in runs {
        let tally = crate::tally::libtest(run.output.iter().map(String::as_str));
        let name = run.kernel.series.name();
        if tally == Tally::default() && run.verdict == Verdict::Exited(0) {
            bail!("{name}: no test ran: the filter matches none");
        }
        total.passed += tally.passed;
        total.failed += tally.failed;
        if run.verdict != Verdict::Exited(0) && tally.failed == 0 {
            total.failed += 1;
        }
    }
    Ok(total)
}

/// Runs the jobs on every kernel, at most two guests at once, and returns a run for each kernel, the oldest first.
pub(crate) fn run_all(kernels: &[Kernel], programs: &Programs, jobs: &[Job]) -> Result<Vec<Run>> {
    let mut base = Image::base()?;
    for bin in jobs.iter().flat_map(|job| &job.bins).collect::<BTreeSet<_>>() {
        base.add_tool(bin)?;
    }
    base.add_program(&programs.injector, GUEST_INJECTOR)?;
    for (name, path) in &programs.tests {
        base.add_program(path, &guest_test(name))?;
    }
    base.add_libraries()?;
    let mut larger = None;
    if jobs.iter().any(|job| job.databases) {
        databases::add(larger.insert(base.clone()))?;
    }
    let image_for = |job: &Job| larger.as_ref().filter(|_| job.databases).unwrap_or(&base).clone();
    // Each worker takes the next guest as soon as it is free: of each job the newest kernel first, whose verifier walks
    // furthest, so that nobody waits for the longest alone at the end.
    let of_job = |job| kernels.iter().rev().map(move |kernel| (job, kernel));
    let runs_there =
        |(job, kernel): &(&Job, &Kernel)| job.kernel.is_none_or(|series| series == kernel.series);
    let guests: Vec<(&Job, &Kernel)> = jobs.iter().flat_map(of_job).filter(runs_there).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let take = || guests.get(next.fetch_add(1, Ordering::Relaxed));
        std::iter::from_fn(take).map(|(job, kernel)| run_one(kernel, image_for(job), job)).collect::<Vec<_>>()
    };
    let runs = std::thread::scope(|scope| {
        let workers = (0..MACHINES_AT_ONCE).map(|_| scope.spawn(work)).collect::<Vec<_>>();
        let results = workers.into_iter().map(|worker| {
            worker
                .join()
                .unwrap_or_else(|_| vec![Err(anyhow::anyhow!("a thread that ran a machine panicked"))])
        });
        results.flatten().collect::<Result<Vec<_>>>()
    })?;
    Ok(by_kernel(runs))
}

/// The runs of each kernel as one, the oldest kernel first. The first that did not end well speaks for all.
fn by_kernel(runs: Vec<Run>) -> Vec<Run> {
    let mut joined = BTreeMap::<Series, Run>::new();
    for run in runs {
        match joined.entry(run.kernel.series) {
            Entry::Vacant(entry) => drop(entry.insert(run)),
            Entry::Occupied(mut entry) => {
                let all = entry.get_mut();
                all.output.extend(run.output);
                all.lost.extend(run.lost);
                if all.verdict == Verdict::Exited(0) {
                    all.verdict = run.verdict;
                }
            }
        }
    }
    joined.into_values().collect()
}

fn run_one(kernel: &Kernel, mut image: Image, job: &Job) -> Result<Run> {
    let name = kernel.series.name();
    let dir = workspace::root().join("target/vm");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    remove_stale(&dir);
    let prefix = format!("{name}-{}-{}-", std::process::id(), job.name);
    let initramfs = tempfile::Builder::new().prefix(&prefix).suffix(".cpio").tempfile_in(&dir)?;
    image.add_modules(kernel)?;
    image.add_command(&job.command);
    image.write(initramfs.path()).with_context(|| format!("cannot write the initramfs for {name}"))?;
    drop(image);
    let machine = Machine {
        kernel,
        initramfs: initramfs.path(),
        accel: job.accel,
        processors: processors_for(job.accel, kernel.series),
        timeout: job.timeout,
    };
    let log = dir.join(format!("{name}-{}.log", job.name));
    let mut boots = 0;
    let start = Instant::now();
    let (verdict, output) = loop {
        boots += 1;
        say!("{name}: booting {} (package version {})", kernel.release, kernel.version);
        let ended = machine.run(&log, job.stream)?;
        // Nothing of ours has run yet: that is the emulator's, and is tried again.
        if !matches!(ended.0, Verdict::NotBooted(_) | Verdict::LostInBoot(_)) || boots == BOOTS {
            break ended;
        }
        say!("{name}: {}; once more", ended.0);
    };
    say!("{name}: {} ended after {}", job.name, seconds(start.elapsed()));
    if verdict == Verdict::Exited(0) {
        let _ = std::fs::remove_file(&log);
    } else {
        say!("{name}: {verdict}; the whole console is in {}", log.display());
    }
    let lost = match verdict {
        Verdict::Exited(_) => Vec::new(),
        _ => vec![format!("{name}: {}: {verdict}", job.name)],
    };
    Ok(Run { kernel: kernel.clone(), verdict, output, lost })
}

/// Removes what a run left that was killed: its process is gone.
fn remove_stale(dir: &Path) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for path in
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ext| ext == "cpio"))
    {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let pid = name.split('-').nth(1).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_none_or(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_program_runs_in_a_guest_of_its_own() {
        let jobs = Job::tests(&["a'b".to_owned(), "--exact".to_owned()]);
        for name in PRIVILEGED_TESTS {
            let script = format!("/usr/bin/{name} --test-threads=1 'a'\\''b' '--exact'");
            assert_eq!(jobs.iter().filter(|job| job.command.last() == Some(&script)).count(), 1, "{name}");
        }
        assert_eq!(jobs.len(), PRIVILEGED_TESTS.len());
    }
}
