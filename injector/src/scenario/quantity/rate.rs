//! Bit rates.

use std::fmt;
use std::str::FromStr;

use super::{Decimal, QuantityError, clip};

/// Bits per second, written as `"10mbit"` or `"1.5gbit"`; the units are those of tc, in steps of 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitRate(pub u64);

const UNITS: [(&str, u64); 5] =
    [("tbit", 1_000_000_000_000), ("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1000), ("bit", 1)];

const UNIT_NAMES: &[&str] = &["bit", "kbit", "mbit", "gbit", "tbit"];

const QUANTITY: &str = "a rate";

/// The least rate: a full packet takes three minutes.
const LEAST: u64 = 64;

impl FromStr for BitRate {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Err(QuantityError::Empty);
        }
        if trimmed.starts_with('-') {
            return Err(QuantityError::Negative { text: clip(text), quantity: QUANTITY });
        }
        let (number, unit) =
            Decimal::split(trimmed).ok_or_else(|| QuantityError::malformed(text, QUANTITY))?;
        let unit = unit.trim();
        if unit.is_empty() {
            let example = format!("{}mbit", clip(trimmed));
            return Err(QuantityError::NoUnit { text: clip(text), example, hint: None });
        }
        let lower = unit.to_ascii_lowercase();
        let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == lower) else {
            return Err(QuantityError::UnknownUnit {
                unit: clip(unit),
                quantity: QUANTITY,
                units: UNIT_NAMES,
            });
        };
        let scaled = number.digits.checked_mul(u128::from(*factor)).ok_or_else(|| too_much(text))?;
        let bits = u64::try_from(scaled / 10u128.pow(number.scale)).map_err(|_| too_much(text))?;
        match bits {
            0..LEAST => Err(QuantityError::OutOfRange {
                text: clip(text),
                reason: "is less than 64 bits a second",
                remedy: Some("to let nothing through, use `network.loss`"),
            }),
            bits if bits > UNITS[0].1 => Err(too_much(text)),
            bits => Ok(Self(bits)),
        }
    }
}

fn too_much(text: &str) -> QuantityError {
    QuantityError::out_of_range(text, "is more than 1tbit")
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, factor) =
            UNITS.iter().find(|(_, factor)| self.0.is_multiple_of(*factor)).copied().unwrap_or(("bit", 1));
        write!(f, "{}{name}", self.0 / factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_with_their_unit() {
        for (text, bits) in [
            ("10mbit", 10_000_000),
            ("1.5gbit", 1_500_000_000),
            ("64 kbit", 64_000),
            ("100Mbit", 100_000_000),
        ] {
            assert_eq!(text.parse(), Ok(BitRate(bits)), "{text}");
        }
        for text in ["", "10", "0mbit", "-1mbit", "10mbps", "63bit", "2tbit", "mbit"] {
            assert!(text.parse::<BitRate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rate_reads_back_as_it_is_written() {
        for bits in [64, 1000, 1500, 10_000_000, 1_000_000_000_000] {
            assert_eq!(BitRate(bits).to_string().parse(), Ok(BitRate(bits)));
        }
    }
}
