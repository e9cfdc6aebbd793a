//! Quantities with a direction: how far a clock is off, and how fast it goes wrong.

use std::fmt;
use std::str::FromStr;

use super::{DurationNs, Form, QuantityError, format_ns};

/// A length of time with a sign, in nanoseconds: `"-5m"`, `"+300ms"`; no sign is `+`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OffsetNs(pub i64);

/// How much faster a clock goes than it should, in units of 2^-32: `"+200ppm"`, `"-5%"`; no sign is `+`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClockRate(pub i64);

const RATE_FORM: Form = Form { quantity: "a rate of a clock", units: &["ppb", "ppm", "%"], example: "ppm" };

/// 1 in units of 2^-32.
const ONE: u128 = 1 << 32;

/// A thousand times as fast: 60 s take 60 ms.
const MOST: i64 = (ONE * 1000) as i64;

/// What is behind the sign, and whether it is a minus.
fn split(text: &str) -> (bool, &str) {
    let trimmed = text.trim();
    match (trimmed.strip_prefix('-'), trimmed.strip_prefix('+')) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => (false, trimmed),
    }
}

impl FromStr for OffsetNs {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (is_negative, size) = split(text);
        let ns = i64::try_from(size.parse::<DurationNs>()?.0);
        let ns =
            ns.map_err(|_| QuantityError::out_of_range(text, "is more than 2^63 nanoseconds (292 years)"))?;
        Ok(Self(if is_negative { -ns } else { ns }))
    }
}

impl fmt::Display for OffsetNs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.0 < 0 { '-' } else { '+' }, format_ns(self.0.unsigned_abs()))
    }
}

impl FromStr for ClockRate {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (is_negative, size) = split(text);
        // In parts of 10^9, so that all units are whole numbers.
        let factor = |unit: &str| match unit {
            "ppb" => Some(1),
            "ppm" => Some(1000),
            "%" => Some(10_000_000),
            _ => None,
        };
        let too_fast = || QuantityError::out_of_range(text, "is more than a thousand times as fast");
        let (numerator, denominator) = RATE_FORM.read(size, factor)?.ok_or_else(too_fast)?;
        let denominator = denominator.saturating_mul(1_000_000_000);
        let scaled = numerator.checked_mul(ONE).ok_or_else(too_fast)?;
        // To the nearest unit, which is 0.23 ppb.
        let rate = i64::try_from((scaled + denominator / 2) / denominator).map_err(|_| too_fast())?;
        match if is_negative { -rate } else { rate } {
            rate if rate <= -(ONE as i64) => Err(QuantityError::out_of_range(
                text,
                "stands still, or goes backwards: `clock.freeze` stops a clock",
            )),
            rate if rate > MOST => Err(too_fast()),
            rate => Ok(Self(rate)),
        }
    }
}

impl fmt::Display for ClockRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:+}ppm", (self.0 as f64 / ONE as f64 * 1e9).round() / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_have_a_sign() {
        for (text, ns) in
            [("-5m", -300_000_000_000), ("+1.5s", 1_500_000_000), ("1h", 3_600_000_000_000), (" -1ns", -1)]
        {
            assert_eq!(text.parse(), Ok(OffsetNs(ns)), "{text}");
        }
        for text in ["", "-", "--5m", "5", "+-5m", "300y", "400000d"] {
            assert!(text.parse::<OffsetNs>().is_err(), "{text}");
        }
        assert_eq!(OffsetNs(-300_000_000_000).to_string(), "-5m");
    }

    #[test]
    fn rates_are_parts_of_true_time() {
        for (text, rate) in [("+200ppm", 858_993), ("-50%", -(1 << 31)), ("100%", 1 << 32), ("1ppb", 4)] {
            assert_eq!(text.parse(), Ok(ClockRate(rate)), "{text}");
        }
        for text in ["-100%", "-200%", "200", "1s", "", "200000%"] {
            assert!(text.parse::<ClockRate>().is_err(), "{text}");
        }
        assert_eq!("+200ppm".parse::<ClockRate>().unwrap().to_string(), "+200ppm");
    }
}
