//! How the clocks of a target go wrong.

use super::words::Word;

/// A fault of clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockFault {
    /// What becomes of them.
    pub change: ClockChange,
    /// Of which.
    pub clocks: Affected,
}

/// Which clocks go wrong; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affected {
    /// `CLOCK_REALTIME` and what follows it: its coarse form, TAI, `gettimeofday`, `time`.
    pub realtime: bool,
    /// `CLOCK_MONOTONIC` and what follows it: its raw and coarse forms, `CLOCK_BOOTTIME`.
    pub monotonic: bool,
}

/// The name of a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClockName {
    Realtime,
    Monotonic,
}

impl Word for ClockName {
    const WHAT: &'static str = "clock";
    const WORDS: &'static [(&'static str, Self)] =
        &[("realtime", Self::Realtime), ("monotonic", Self::Monotonic)];
}

/// What becomes of clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockChange {
    /// They are off.
    Offset {
        /// By so much.
        add_ns: i64,
    },
    /// They go faster or slower.
    Drift {
        /// By so much, in units of 2^-32.
        rate_q32: i64,
    },
    /// They stand still.
    Freeze,
    /// They jump to and fro.
    Strobe {
        /// By so much.
        add_ns: i64,
        /// They stay so long on either side.
        period_ns: u64,
    },
    /// A leap second is inserted.
    Leap {
        /// So long after the start of the experiment.
        at_ns: u64,
        /// The time over which it is smeared, around that; `None` is that a second comes twice.
        smear_ns: Option<u64>,
    },
}

impl ClockFault {
    /// The name of its kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self.change {
            ClockChange::Offset { .. } => "clock.offset",
            ClockChange::Drift { .. } => "clock.drift",
            ClockChange::Freeze => "clock.freeze",
            ClockChange::Strobe { .. } => "clock.strobe",
            ClockChange::Leap { .. } => "clock.leap",
        }
    }
}
