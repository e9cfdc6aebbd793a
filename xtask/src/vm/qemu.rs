//! Runs one guest in QEMU: streams its output, watches its console, kills it when it is lost or late.

use super::console::{self, Verdict};
use super::kernels::{Kernel, Series};
use crate::say::say;
use anyhow::{Context as _, Result};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// How long a boot may take; it takes 3 to 5 s on an idle machine. Emulated processors that run in parallel lose
/// each other at boot once in a while, and then wait for ever.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);

/// How long a guest may print nothing. The slowest test takes about a quarter of this on a machine that does nothing else.
const SILENCE_PATIENCE: Duration = Duration::from_secs(600);

/// How QEMU runs the guest's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Accel {
    /// Emulation
    Tcg,
    /// Emulation in which the guest's clock counts the instructions it executes, 8 ns each, whatever else this machine does
    Counted,
    /// The same with 1 ns each: a fast machine that nobody disturbs, for tests
    CountedFast,
    /// Virtualisation by /dev/kvm
    Kvm,
}

/// Everything that a guest is started from.
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) initramfs: &'a Path,
    pub(crate) accel: Accel,
    /// How many it has.
    pub(crate) processors: u32,
    pub(crate) timeout: Duration,
}

/// A line of the guest.
enum Line {
    /// From the kernel's console (and QEMU's own stderr).
    Console(String),
    /// From the command.
    Output(String),
}

/// Kills and reaps QEMU when the scope is left early.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine<'_> {
    /// Boots, runs to the verdict, and returns it with what the command printed. Everything goes to `log` too.
    pub(crate) fn run(&self, log: &Path, stream: bool) -> Result<(Verdict, Vec<String>)> {
        let mut log =
            std::fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = self.command();
        let mut child =
            Guard(command.spawn().context("cannot start qemu-system-x86_64: run `cargo xtask setup`")?);
        let (sender, lines) = mpsc::channel();
        let stdout = child.0.stdout.take().context("QEMU has no stdout")?;
        let stderr = child.0.stderr.take().context("QEMU has no stderr")?;
        let other = sender.clone();
        let readers = [
            std::thread::spawn(move || read_lines(stdout, &sender, Line::Output)),
            std::thread::spawn(move || read_lines(stderr, &other, Line::Console)),
        ];
        let name = self.kernel.series.name();
        let mut patience = Patience::new(self.timeout);
        let mut output = Vec::new();
        let verdict = loop {
            let (until, late) = patience.next();
            let line = match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => break late,
                Err(RecvTimeoutError::Disconnected) => break Verdict::NoMarker,
            };
            patience.heard(&line);
            let (text, verdict) = match line {
                Line::Console(text) => (format!("# {text}"), console::verdict_of_console(&text)),
                Line::Output(text) => {
                    let verdict = console::verdict_of_output(&text);
                    if verdict.is_none() && text != console::UP_MARKER {
                        if stream && !text.starts_with(console::DATA_MARKER) {
                            say!("{name}: {text}");
                        }
                        output.push(text.clone());
                    }
                    (text, verdict)
                }
            };
            writeln!(log, "{text}").context("cannot write the console log")?;
            if let Some(verdict) = verdict {
                break verdict;
            }
        };
        let verdict = patience.in_boot(verdict);
        self.wind_up(child, &verdict, &lines, &mut log);
        for reader in readers {
            let _ = reader.join();
        }
        Ok((verdict, output))
    }

    /// Gives the machine a moment to end by itself (a panic's call trace follows its first line), then kills it.
    fn wind_up(
        &self,
        child: Guard,
        verdict: &Verdict,
        lines: &mpsc::Receiver<Line>,
        log: &mut std::fs::File,
    ) {
        let patience = match verdict {
            Verdict::TimedOut(_) | Verdict::NotBooted(_) | Verdict::Silent(_) => Duration::ZERO,
            _ => Duration::from_secs(3),
        };
        let until = Instant::now() + patience.min(self.timeout);
        while let Ok(line) = lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            let (Line::Console(text) | Line::Output(text)) = line;
            let _ = writeln!(log, "# {text}");
        }
        drop(child);
    }

    /// The emulated processor. Its `rep movsb` is a loop of single bytes, so what tests run on says that it has no fast one:
    /// then the kernel copies and clears by eight, and a bulk transfer is two or three times as fast.
    fn processor(&self) -> &'static str {
        match self.accel {
            Accel::Tcg | Accel::CountedFast => "max,erms=off,fsrm=off",
            // Figures are published of this one.
            Accel::Counted => "max",
            Accel::Kvm => "host",
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        match self.accel {
            Accel::Tcg => command.args(["-accel", "tcg,thread=multi"]),
            // 2^shift ns for each instruction of all processors together; a guest that sleeps goes on at once.
            Accel::Counted | Accel::CountedFast => {
                let shift = if self.accel == Accel::Counted { 3 } else { 0 };
                command.args(["-accel", "tcg,thread=single"]);
                command.args(["-icount", &format!("shift={shift},align=off,sleep=off")])
            }
            Accel::Kvm => command.args(["-accel", "kvm"]),
        };
        command.args(["-cpu", self.processor()]);
        command.args(["-machine", "q35", "-m", "2G", "-no-reboot", "-nodefaults"]);
        command.args(["-smp", &self.processors.to_string()]);
        command.args(["-display", "none", "-monitor", "none"]);
        // The kernel's console and the command's output are two ports: printk must not cut into a line of JSON.
        command.args(["-serial", "file:/proc/self/fd/2", "-serial", "stdio"]);
        command.arg("-kernel").arg(&self.kernel.vmlinuz).arg("-initrd").arg(self.initramfs);
        command.args(["-append", &self.kernel_arguments()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn kernel_arguments(&self) -> String {
        // Emulation on a busy machine is slow, not stuck: the watchdogs wait longer than usual.
        let mut arguments = "console=ttyS0 quiet panic=-1 oops=panic watchdog_thresh=30 \
                             rcupdate.rcu_cpu_stall_timeout=60"
            .to_owned();
        if self.accel != Accel::Kvm {
            // Nothing is speculated in emulation, and what guards against it costs a jump that can't be predicted each.
            arguments.push_str(" mitigations=off");
        }
        if matches!(self.accel, Accel::Tcg | Accel::CountedFast) {
            // Debian's kernels clear all memory that they hand out, which nobody here looks at.
            arguments.push_str(" init_on_alloc=0");
        }
        if matches!(self.accel, Accel::Counted | Accel::CountedFast) {
            // What the kernel does not know it hands to init, which hands it to the tests.
            arguments.push_str(" INJECTOR_CLOCK=counted");
        }
        if self.kernel.series == Series::V6_1 && self.accel != Accel::Kvm {
            // 6.1 takes the emulated TSC for unstable and falls back to a clock that is much slower to read.
            arguments.push_str(" tsc=reliable clocksource=tsc");
        }
        arguments
    }
}

/// Until when a guest is waited for, and what it is when that has passed.
struct Patience {
    start: Instant,
    timeout: Duration,
    /// When the last line of the command came; `None` before init has begun.
    last_line: Option<Instant>,
}

impl Patience {
    fn new(timeout: Duration) -> Self {
        Self { start: Instant::now(), timeout, last_line: None }
    }

    fn heard(&mut self, line: &Line) {
        if matches!(line, Line::Output(_)) {
            self.last_line = Some(Instant::now());
        }
    }

    /// What is lost before init has begun is lost in the boot, where nothing of ours has run.
    fn in_boot(&self, verdict: Verdict) -> Verdict {
        match verdict {
            Verdict::KernelLost(line) if self.last_line.is_none() => Verdict::LostInBoot(line),
            Verdict::NoMarker if self.last_line.is_none() => Verdict::LostInBoot("QEMU ended".to_owned()),
            other => other,
        }
    }

    /// The soonest of the bounds, and the verdict when it has passed.
    fn next(&self) -> (Instant, Verdict) {
        let end = (self.start + self.timeout, Verdict::TimedOut(self.timeout));
        let other = match self.last_line {
            None => (self.start + BOOT_PATIENCE, Verdict::NotBooted(BOOT_PATIENCE)),
            Some(last) => (last + SILENCE_PATIENCE, Verdict::Silent(SILENCE_PATIENCE)),
        };
        if other.0 < end.0 { other } else { end }
    }
}

fn read_lines(from: impl Read, to: &Sender<Line>, kind: fn(String) -> Line) {
    for line in BufReader::new(from).split(b'\n') {
        let Ok(bytes) = line else { return };
        let text = String::from_utf8_lossy(&bytes).replace('\r', "");
        if to.send(kind(text)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_has_time_to_boot_then_to_say_something_and_in_all() {
        let mut patience = Patience::new(Duration::from_secs(3600));
        assert_eq!(patience.next().1, Verdict::NotBooted(BOOT_PATIENCE));
        let lost = || Verdict::KernelLost("Oops".to_owned());
        assert_eq!(patience.in_boot(lost()), Verdict::LostInBoot("Oops".to_owned()));
        assert_eq!(patience.in_boot(Verdict::Exited(1)), Verdict::Exited(1));
        patience.heard(&Line::Console("[    1.000000] Linux".to_owned()));
        assert_eq!(patience.next().1, Verdict::NotBooted(BOOT_PATIENCE));
        patience.heard(&Line::Output(console::UP_MARKER.to_owned()));
        assert_eq!(patience.next().1, Verdict::Silent(SILENCE_PATIENCE));
        patience.timeout = Duration::from_secs(1);
        assert_eq!(patience.next().1, Verdict::TimedOut(Duration::from_secs(1)));
    }
}
