//! Talk to the person at the terminal: one line at a time on stderr, so that stdout stays for data.
//! (`eprintln!` panics when stderr is closed; these lines are dropped instead.)

use std::fmt::Arguments;
use std::io::Write as _;

/// Writes one line to stderr.
pub(crate) fn line(text: Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes one line of data to stdout.
pub(crate) fn data(text: Arguments<'_>) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// `say!("...")` is one line on stderr.
macro_rules! say {
    ($($arg:tt)*) => { $crate::say::line(format_args!($($arg)*)) };
}
pub(crate) use say;
