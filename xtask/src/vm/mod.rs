//! `cargo xtask vm`: runs the end-to-end tests, or any command, on stock Debian kernels in QEMU.
//!
//! [`kernels`] downloads and unpacks the kernels, [`modules`] orders their modules, [`archive`] writes the
//! initramfs format, [`image`] fills it with [`contents`], [`qemu`] runs it and watches the console, [`init`] is the guest's
//! PID 1. What the tests check does not live here, but in `injector/tests`.

mod archive;
pub(crate) mod console;
mod contents;
mod image;
pub(crate) mod init;
pub(crate) mod kernels;
mod modules;
pub(crate) mod qemu;

use crate::programs::Programs;
use crate::say::{data, say};
use crate::stage::Tally;
use crate::workspace;
use anyhow::{Context as _, Result, bail};
use console::Verdict;
use image::Image;
use kernels::{Kernel, Series};
use qemu::Machine;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What may run at once: each machine has two virtual processors.
const MACHINES_AT_ONCE: usize = 2;

/// The test programs by how long they take, which is the order of their guests.
const LONGEST_FIRST: [&str; 3] = ["e2e", "lifetime", SHORTEST];
const SHORTEST: &str = "host";

/// What `cargo xtask test` runs where, the longest first. All on all takes two hours in emulation, more than CI has, and is
/// what `cargo xtask vm` does. Here each test of the two long programs runs on one stock kernel, dealt out by turns in the
/// order of their names, so that the tests of one subject meet all of them; the short one runs on each. Those about time run once
/// more, where it is exact. That every kernel takes every program is a stage of its own, and this machine's own kernel runs all
/// tests too.
const SHARES: [(&str, Series, Share); 10] = [
    ("e2e", Series::V7_3, Share::Third(0)),
    ("e2e", Series::V6_1, Share::Third(1)),
    ("e2e", Series::V6_12, Share::Third(2)),
    ("e2e", Series::V7_3, Share::Timed),
    ("lifetime", Series::V6_1, Share::Third(0)),
    ("lifetime", Series::V7_3, Share::Third(1)),
    ("lifetime", Series::V6_12, Share::Third(2)),
    (SHORTEST, Series::V7_3, Share::All),
    (SHORTEST, Series::V6_12, Share::All),
    (SHORTEST, Series::V6_1, Share::All),
];

/// Which tests of a program run on a kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    All,
    /// Every third in the order of their names, from this one on.
    Third(usize),
    /// Those of the modules [`TIMED`], in a guest whose clock is exact.
    Timed,
}

/// The modules of end-to-end tests that are about time. Where the clock is exact they are strict, and do all of their work:
/// a link of 1 Gbit/s and a delay of 90 s.
const TIMED: [&str; 4] = ["delay", "measured", "rate", "round_trips"];

impl Share {
    /// The filters of the test program for it: none, or the exact names.
    fn filters(self, names: Vec<String>) -> Vec<String> {
        let timed = |name: &String| name.split("::").next().is_some_and(|module| TIMED.contains(&module));
        let exactly = std::iter::once("--exact".to_owned());
        match self {
            Self::All => Vec::new(),
            Self::Third(first) => exactly.chain(names.into_iter().skip(first).step_by(3)).collect(),
            Self::Timed => exactly.chain(names.into_iter().filter(timed)).collect(),
        }
    }

    /// The guest that runs it: its name, and how QEMU runs it.
    fn guest(self, program: &str) -> (String, qemu::Accel) {
        match self {
            Self::All | Self::Third(_) => (program.to_owned(), qemu::Accel::Tcg),
            Self::Timed => (format!("{program}-timed"), qemu::Accel::CountedFast),
        }
    }
}

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
    /// Print the guest's lines as they come.
    pub(crate) stream: bool,
}

impl Job {
    /// The tests that need a kernel to themselves, a guest for each program, those that take longest first.
    pub(crate) fn tests(filters: &[String]) -> Vec<Self> {
        let of = |name: &&str| Self::shell(name, &test_script(name, filters));
        LONGEST_FIRST.iter().map(of).collect()
    }

    /// How each kernel takes every program, as data, and the tests, as [`SHARES`] deals them out.
    pub(crate) fn programs_and_tests(programs: &Programs) -> Result<Vec<Self>> {
        let mut jobs = Vec::new();
        for (name, series, share) in SHARES {
            let tests = test_script(name, &share.filters(programs.test_names(name)?));
            let script = if name == SHORTEST { format!("{}\n{tests}", programs_script()) } else { tests };
            let (guest, accel) = share.guest(name);
            jobs.push(Self { kernel: Some(series), accel, ..Self::shell(&guest, &script) });
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
            stream: true,
        }
    }
}

/// Prints what `injector programs` says as data; what it says there is looked at by the host.
fn programs_script() -> String {
    format!("{GUEST_INJECTOR} programs --json | sed 's/^/{}/'", console::DATA_MARKER)
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
    // Each worker takes the next guest as soon as it is free: of each job the newest kernel first, whose verifier walks
    // furthest, so that nobody waits for the longest alone at the end.
    let of_job = |job| kernels.iter().rev().map(move |kernel| (job, kernel));
    let runs_there =
        |(job, kernel): &(&Job, &Kernel)| job.kernel.is_none_or(|series| series == kernel.series);
    let guests: Vec<(&Job, &Kernel)> = jobs.iter().flat_map(of_job).filter(runs_there).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let take = || guests.get(next.fetch_add(1, Ordering::Relaxed));
        std::iter::from_fn(take).map(|(job, kernel)| run_one(kernel, base.clone(), job)).collect::<Vec<_>>()
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
    let machine = Machine { kernel, initramfs: initramfs.path(), accel: job.accel, timeout: job.timeout };
    let log = dir.join(format!("{name}-{}.log", job.name));
    let mut boots = 0;
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
    if verdict == Verdict::Exited(0) {
        let _ = std::fs::remove_file(&log);
    } else {
        say!("{name}: {verdict}; the whole console is in {}", log.display());
    }
    Ok(Run { kernel: kernel.clone(), verdict, output })
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
    use crate::programs::PRIVILEGED_TESTS;

    #[test]
    fn every_test_program_runs_in_a_guest_of_its_own() {
        let jobs = Job::tests(&["a'b".to_owned(), "--exact".to_owned()]);
        for name in PRIVILEGED_TESTS {
            let script = format!("/usr/bin/{name} --test-threads=1 'a'\\''b' '--exact'");
            assert_eq!(jobs.iter().filter(|job| job.command.last() == Some(&script)).count(), 1, "{name}");
        }
        assert_eq!(jobs.len(), PRIVILEGED_TESTS.len());
    }

    #[test]
    fn tests_about_time_are_those_of_some_modules() {
        let names = ["delay::a", "delayed::a", "loss::rate::b", "rate::c"].map(str::to_owned).to_vec();
        assert_eq!(Share::Timed.filters(names), ["--exact", "delay::a", "rate::c"]);
    }

    #[test]
    fn every_test_runs_on_a_stock_kernel_and_every_program_on_each() {
        let names: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        for program in PRIVILEGED_TESTS {
            let shares = SHARES.iter().filter(|(name, _, _)| *name == program);
            let kernels: BTreeSet<Series> = shares.clone().map(|(_, series, _)| *series).collect();
            assert_eq!(kernels, Series::ALL.into_iter().collect(), "{program}");
            let filters: Vec<_> = shares.map(|(_, _, share)| share.filters(names.clone())).collect();
            let runs = |name| filters.iter().any(|filters| filters.is_empty() || filters.contains(name));
            assert!(names.iter().all(runs), "{program}");
        }
    }
}
