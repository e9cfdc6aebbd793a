//! Bit rates.

use std::fmt;
use std::str::FromStr;

use super::{Form, QuantityError, clip};

/// Bits per second, written as `"10mbit"` or `"1.5gbit"`; the units are those of tc, in steps of 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitRate(pub u64);

const UNITS: [(&str, u64); 5] =
    [("tbit", 1_000_000_000_000), ("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1000), ("bit", 1)];

const FORM: Form =
    Form { quantity: "a rate", units: &["bit", "kbit", "mbit", "gbit", "tbit"], example: "mbit" };

/// The least rate: a full packet takes three minutes.
const LEAST: u64 = 64;

impl FromStr for BitRate {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let factor = |unit: &str| {
            let named = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
            named.map(|(_, factor)| *factor)
        };
        let (numerator, denominator) = FORM.read(text, factor)?.ok_or_else(|| too_much(text))?;
        match u64::try_from(numerator / denominator).map_err(|_| too_much(text))? {
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
