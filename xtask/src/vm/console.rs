//! Understands what a guest prints: its marker line, and the kernel's words that mean it is lost. Pure.

use std::fmt;
use std::time::Duration;

/// The guest's init prints this and the command's exit status when the command has ended.
pub(crate) const EXIT_MARKER: &str = "injector-vm: exit status ";

/// The guest's init prints this when it has begun, so that a boot that hangs is told from a command that takes long.
pub(crate) const UP_MARKER: &str = "injector-vm: up";

/// What a command prints behind this is for the host's code and not for people.
pub(crate) const DATA_MARKER: &str = "injector-vm: data ";

/// What the kernel says when no verdict will come any more, or none that can be trusted.
const LOST: [&str; 6] =
    ["Kernel panic", "soft lockup", "BUG: ", "Oops: ", "general protection fault", "Internal error: "];

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The command ended with this exit status (128 and the signal's number, if a signal killed it).
    Exited(i32),
    /// The kernel said something that means it is lost.
    KernelLost(String),
    /// It took longer than allowed.
    TimedOut(Duration),
    /// Its init did not begin within this time.
    NotBooted(Duration),
    /// The kernel was lost before its init began.
    LostInBoot(String),
    /// It printed nothing for this time.
    Silent(Duration),
    /// QEMU ended before the marker line.
    NoMarker,
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(0) => write!(out, "passed"),
            Self::Exited(status) => write!(out, "the command ended with exit status {status}"),
            Self::KernelLost(line) => write!(out, "the kernel is lost: {line}"),
            Self::TimedOut(after) => write!(out, "no verdict within {} s", after.as_secs()),
            Self::LostInBoot(line) => write!(out, "the kernel was lost before its init began: {line}"),
            Self::NotBooted(after) => write!(out, "its init did not begin within {} s", after.as_secs()),
            Self::Silent(after) => write!(out, "no line for {} s", after.as_secs()),
            Self::NoMarker => write!(out, "the machine ended before the command did"),
        }
    }
}

/// The verdict in a line of the command's own output, if it is the marker line.
pub(crate) fn verdict_of_output(line: &str) -> Option<Verdict> {
    line.trim().strip_prefix(EXIT_MARKER)?.parse().ok().map(Verdict::Exited)
}

/// The verdict in a line of the kernel's console, if it means that the kernel is lost. Only what follows
/// printk's time stamp counts: a program may print these words too.
pub(crate) fn verdict_of_console(line: &str) -> Option<Verdict> {
    let said = after_time_stamp(line)?;
    let stalled = said.find("rcu").is_some_and(|at| said[at..].contains("stall"));
    (stalled || LOST.iter().any(|word| said.contains(word)))
        .then(|| Verdict::KernelLost(said.trim().to_owned()))
}

/// What follows `[   12.345678] `.
fn after_time_stamp(line: &str) -> Option<&str> {
    line.match_indices('[').find_map(|(at, _)| {
        let (stamp, said) = line[at + 1..].split_once("] ")?;
        let (seconds, micros) = stamp.trim_start().split_once('.')?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        (digits(seconds) && digits(micros) && micros.len() == 6).then_some(said)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_gives_the_exit_status() {
        assert_eq!(verdict_of_output("injector-vm: exit status 0\r"), Some(Verdict::Exited(0)));
        assert_eq!(verdict_of_output("injector-vm: exit status 101"), Some(Verdict::Exited(101)));
        assert_eq!(verdict_of_output("exit status 0"), None);
        assert_eq!(verdict_of_output("injector-vm: exit status x"), None);
    }

    #[test]
    fn a_lost_kernel_is_seen() {
        for line in [
            "[    1.234567] Kernel panic - not syncing: Attempted to kill init!",
            "test a ... [   12.000001] BUG: kernel NULL pointer dereference, address: 0",
            "[  100.000000] watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [e2e:61]",
            "[   61.500000] rcu: INFO: rcu_preempt self-detected stall on CPU",
            "[    9.000000] Oops: 0000 [#1] PREEMPT SMP NOPTI",
        ] {
            assert!(matches!(verdict_of_console(line), Some(Verdict::KernelLost(_))), "{line}");
        }
    }

    #[test]
    fn the_same_words_of_a_program_are_no_panic() {
        for line in [
            "test kernel_panic ... Kernel panic",
            "BUG: none",
            "[ok] BUG: x",
            "[    1.234567] rcu: 2 CPUs",
            "",
        ] {
            assert_eq!(verdict_of_console(line), None, "{line}");
        }
    }
}
