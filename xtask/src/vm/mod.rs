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

use crate::programs::{PRIVILEGED_TESTS, Programs};
use crate::say::{data, say};
use crate::stage::Tally;
use crate::workspace;
use anyhow::{Context as _, Result, bail};
use console::Verdict;
use image::Image;
use kernels::{Kernel, Series};
use qemu::Machine;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What may run at once: each machine has two virtual processors.
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
    /// Look for a newer package of the kernel even if one is cached
    #[arg(long)]
    refresh: bool,
    /// Kill the guest after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 4500)]
    timeout_s: u64,
    /// How QEMU runs the guest: tcg works everywhere, kvm is faster where it works
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
    pub(crate) command: Vec<String>,
    pub(crate) bins: Vec<String>,
    pub(crate) timeout: Duration,
    pub(crate) accel: qemu::Accel,
    /// Print the guest's lines as they come.
    pub(crate) stream: bool,
}

impl Job {
    /// The tests that need a kernel to themselves, one after the other.
    pub(crate) fn tests(filters: &[String]) -> Self {
        Self::shell(&tests_script(filters))
    }

    /// How the kernel takes every program, as data; then all tests. One boot for both.
    pub(crate) fn programs_and_tests() -> Self {
        Self::shell(&format!("{}\n{}", programs_script(), tests_script(&[])))
    }

    /// How the kernel takes every program, as data.
    pub(crate) fn programs() -> Self {
        Self::shell(&programs_script())
    }

    /// A command for the guest's shell.
    fn shell(script: &str) -> Self {
        Self::of(["/bin/sh", "-c", script].map(str::to_owned).to_vec())
    }

    /// Any command line.
    pub(crate) fn of(command: Vec<String>) -> Self {
        Self {
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

/// Runs each test program, goes on after a failure, and ends with the last failure's exit status.
fn tests_script(filters: &[String]) -> String {
    let quoted = filters.iter().map(|filter| format!(" '{}'", filter.replace('\'', "'\\''")));
    let filters = quoted.collect::<String>();
    let each = PRIVILEGED_TESTS
        .iter()
        .map(|name| format!("{} --test-threads=1{filters} || status=$?\n", guest_test(name)));
    format!("status=0\n{}exit $status", each.collect::<String>())
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
    let mut job = match &args.shell_command {
        Some(command) => Job::shell(command),
        None => Job::tests(&args.filters),
    };
    job.bins.clone_from(&args.bins);
    job.timeout = Duration::from_secs(args.timeout_s);
    job.accel = args.accel;
    let runs = run_all(&kernels, &programs, &job)?;
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

/// Runs the job on every kernel, at most two at once, and returns the runs, the oldest kernel first.
pub(crate) fn run_all(kernels: &[Kernel], programs: &Programs, job: &Job) -> Result<Vec<Run>> {
    let mut base = Image::base()?;
    for bin in &job.bins {
        base.add_tool(bin)?;
    }
    base.add_program(&programs.injector, GUEST_INJECTOR)?;
    for (name, path) in &programs.tests {
        base.add_program(path, &guest_test(name))?;
    }
    base.add_libraries()?;
    // Each worker takes the next kernel as soon as it is free, the newest first: its verifier walks furthest, so it takes
    // longest, and nobody waits for it alone at the end.
    let next = AtomicUsize::new(0);
    let work = || {
        let take = || kernels.iter().rev().nth(next.fetch_add(1, Ordering::Relaxed));
        std::iter::from_fn(take).map(|kernel| run_one(kernel, base.clone(), job)).collect::<Vec<_>>()
    };
    let mut runs = std::thread::scope(|scope| {
        let workers = (0..MACHINES_AT_ONCE).map(|_| scope.spawn(work)).collect::<Vec<_>>();
        let results = workers.into_iter().map(|worker| {
            worker
                .join()
                .unwrap_or_else(|_| vec![Err(anyhow::anyhow!("a thread that ran a machine panicked"))])
        });
        results.flatten().collect::<Result<Vec<_>>>()
    })?;
    runs.sort_by_key(|run| run.kernel.series);
    Ok(runs)
}

fn run_one(kernel: &Kernel, mut image: Image, job: &Job) -> Result<Run> {
    let name = kernel.series.name();
    let dir = workspace::root().join("target/vm");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    remove_stale(&dir);
    let prefix = format!("{name}-{}-", std::process::id());
    let initramfs = tempfile::Builder::new().prefix(&prefix).suffix(".cpio").tempfile_in(&dir)?;
    image.add_modules(kernel)?;
    image.add_command(&job.command);
    image.write(initramfs.path()).with_context(|| format!("cannot write the initramfs for {name}"))?;
    drop(image);
    let machine = Machine { kernel, initramfs: initramfs.path(), accel: job.accel, timeout: job.timeout };
    let log = dir.join(format!("{name}.log"));
    let mut boots = 0;
    let (verdict, output) = loop {
        boots += 1;
        say!("{name}: booting {} (package version {})", kernel.release, kernel.version);
        let ended = machine.run(&log, job.stream)?;
        // Nothing of ours has run yet: that is the emulator's, and is tried again.
        if !matches!(ended.0, Verdict::NotBooted(_)) || boots == BOOTS {
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

    #[test]
    fn the_script_runs_every_test_program_and_remembers_a_failure() {
        let script = tests_script(&["a'b".to_owned(), "--exact".to_owned()]);
        for name in PRIVILEGED_TESTS {
            assert!(
                script
                    .contains(&format!("/usr/bin/{name} --test-threads=1 'a'\\''b' '--exact' || status=$?"))
            );
        }
        assert!(script.ends_with("exit $status"));
    }
}
