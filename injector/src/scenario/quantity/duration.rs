//! Lengths of time, in nanoseconds.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use super::{Decimal, QuantityError, clip};

/// A length of time in nanoseconds, written as `"50ms"`, `"1.5s"` or `"1h30m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DurationNs(pub u64);

/// The units by name, `m` before its longer name so that `Display` writes the short one.
const UNITS: [(&str, u64); 10] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("min", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ns", 1),
];

/// What an error message lists.
const UNIT_NAMES: &[&str] = &["ns", "us", "ms", "s", "m", "h", "d"];

/// Nanoseconds of a unit, by its name.
pub(crate) fn unit_ns(name: &str) -> Option<u64> {
    UNITS.iter().find(|(unit, _)| *unit == name).map(|(_, ns)| *ns)
}

pub(super) fn unknown_unit(unit: &str) -> QuantityError {
    QuantityError::UnknownUnit { unit: clip(unit), quantity: "time", units: UNIT_NAMES }
}

impl FromStr for DurationNs {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Err(QuantityError::Empty);
        }
        if trimmed.starts_with('-') {
            return Err(QuantityError::Negative { text: clip(text), quantity: "a time" });
        }
        let mut rest = trimmed;
        let mut total_ns = 0u64;
        let mut smallest_ns = u64::MAX;
        while !rest.is_empty() {
            let (part_ns, unit_ns, tail) = part(text, trimmed, rest)?;
            // "1m30s" is one time; "30s1m" and "1s2s" are more likely a slip than a sum.
            if unit_ns >= smallest_ns {
                return Err(QuantityError::malformed(text, "a time: its units must go from long to short"));
            }
            smallest_ns = unit_ns;
            total_ns = total_ns.checked_add(part_ns).ok_or_else(|| too_long(text))?;
            rest = tail.trim_start();
        }
        Ok(Self(total_ns))
    }
}

/// One number and its unit from the front of `rest`: the nanoseconds, those of the unit, and what follows.
fn part<'t>(text: &str, trimmed: &str, rest: &'t str) -> Result<(u64, u64, &'t str), QuantityError> {
    let (number, tail) = Decimal::split(rest).ok_or_else(|| QuantityError::malformed(text, "a time"))?;
    let tail = tail.trim_start();
    let unit_len = tail.find(|c: char| c.is_ascii_digit() || c.is_whitespace()).unwrap_or(tail.len());
    let (unit, tail) = tail.split_at(unit_len);
    if unit.is_empty() {
        return Err(QuantityError::NoUnit {
            text: clip(text),
            example: format!("{}ms", clip(trimmed)),
            hint: None,
        });
    }
    let unit_ns = unit_ns(unit).ok_or_else(|| unknown_unit(unit))?;
    let scaled = number.digits.checked_mul(u128::from(unit_ns)).ok_or_else(|| too_long(text))?;
    let divisor = 10u128.pow(number.scale);
    if scaled % divisor != 0 {
        return Err(QuantityError::out_of_range(text, "is finer than a nanosecond"));
    }
    let ns = u64::try_from(scaled / divisor).map_err(|_| too_long(text))?;
    Ok((ns, unit_ns, tail))
}

fn too_long(text: &str) -> QuantityError {
    QuantityError::out_of_range(text, "is more than 2^64 nanoseconds (584 years)")
}

impl fmt::Display for DurationNs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_ns(self.0))
    }
}

/// Nanoseconds as text that reads back as the same time: `1m30s`, `250ms`, `0s`.
#[must_use]
pub fn format_ns(ns: u64) -> String {
    if ns == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    let mut rest = ns;
    for (name, unit_ns) in UNITS {
        if rest >= unit_ns {
            // Writing to a String does not fail.
            let _ = write!(text, "{}{name}", rest / unit_ns);
            rest %= unit_ns;
        }
    }
    text
}
