//! Quantities: text with its unit, and the exact number that it means.
//!
//! Here live the types that a scenario writes as text (`"50ms"`, `"2.5%"`, `"1000/s"`, `"3..10+2"`), their parsers
//! and their inverse, `Display`. All arithmetic is on integers: what a user wrote is what the kernel gets.
//! What does not live here: where in a file a text stood (`diagnostic`), and rules between keys (`validate`).

mod budget;
mod bytes;
mod cpu;
mod duration;
mod length;
mod nth;
mod probability;
mod rate;
mod signed;

use std::fmt;

pub use budget::Budget;
pub use bytes::Bytes;
pub use cpu::CpuShare;
pub(crate) use duration::unit_ns;
pub use duration::{DurationNs, format_ns};
pub use length::LengthRange;
pub use nth::Nth;
pub use probability::P32;
pub use rate::BitRate;
pub use signed::{ClockRate, OffsetNs};

/// Why a text is not the quantity it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Nothing was written.
    #[error("the text is empty")]
    Empty,
    /// A number without a unit.
    #[error("\"{text}\" needs a unit, such as \"{example}\"")]
    NoUnit {
        /// What was written.
        text: String,
        /// The same number with a unit.
        example: String,
        /// What was meant instead, if that is likely.
        hint: Option<String>,
    },
    /// A unit that is none.
    #[error("\"{unit}\" is not a unit of {quantity}")]
    UnknownUnit {
        /// What stands where the unit should.
        unit: String,
        /// What was to be read.
        quantity: &'static str,
        /// The units there are.
        units: &'static [&'static str],
    },
    /// Less than zero.
    #[error("\"{text}\" is negative: {quantity} starts at 0")]
    Negative {
        /// What was written.
        text: String,
        /// What was to be read.
        quantity: &'static str,
    },
    /// Not of the form that the quantity has.
    #[error("\"{text}\" is not {quantity}")]
    Malformed {
        /// What was written.
        text: String,
        /// What was to be read, with its article.
        quantity: &'static str,
    },
    /// A number that does not fit, or that breaks a bound of the quantity.
    #[error("\"{text}\" {reason}")]
    OutOfRange {
        /// What was written.
        text: String,
        /// The bound that it breaks.
        reason: &'static str,
        /// The remedy, if there is one.
        remedy: Option<&'static str>,
    },
}

impl QuantityError {
    /// The remedy, if there is one beyond the expected form.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoUnit { hint, .. } => hint.clone(),
            Self::UnknownUnit { unit, units, .. } => Some(match nearest_unit(unit, units) {
                Some(word) => format!("did you mean `{word}`? The units are {}", units.join(", ")),
                None => format!("the units are {}", units.join(", ")),
            }),
            Self::OutOfRange { remedy, .. } => remedy.map(str::to_owned),
            _ => None,
        }
    }

    fn malformed(text: &str, quantity: &'static str) -> Self {
        Self::Malformed { text: clip(text), quantity }
    }

    fn out_of_range(text: &str, reason: &'static str) -> Self {
        Self::OutOfRange { text: clip(text), reason, remedy: None }
    }
}

/// The unit that a longer word begins with, as `ms` of `msec`, or one that is misspelt.
fn nearest_unit<'u>(word: &str, units: &[&'u str]) -> Option<&'u str> {
    let begins = units.iter().copied().filter(|unit| word.starts_with(unit)).max_by_key(|unit| unit.len());
    begins.or_else(|| super::nearest::nearest(word, units.iter().copied()))
}

/// A text short and plain enough to be quoted in one line of a message.
pub(crate) fn clip(text: &str) -> String {
    const LONGEST: usize = 48;
    let mut plain: String =
        text.chars().take(LONGEST).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        plain.push('…');
    }
    plain
}

/// An unsigned decimal number as it was written: `digits / 10^scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Decimal {
    digits: u128,
    scale: u32,
}

impl Decimal {
    /// Digits that fit together with the largest factor (2^32, or a day in nanoseconds) into 128 bits.
    const MOST_DIGITS: usize = 24;

    /// Splits a text into its leading number and the rest. `None` if it does not start with a digit, has a
    /// point without digits behind it, or more digits than any quantity needs.
    fn split(text: &str) -> Option<(Self, &str)> {
        let whole_len = digits_len(text);
        let (whole, rest) = text.split_at(whole_len);
        let (fraction, rest) = match rest.strip_prefix('.') {
            Some(after) if digits_len(after) > 0 => after.split_at(digits_len(after)),
            _ => ("", rest),
        };
        if whole.is_empty() || rest.starts_with('.') {
            return None;
        }
        let fraction = fraction.trim_end_matches('0');
        let all = format!("{}{fraction}", whole.trim_start_matches('0'));
        if all.len() > Self::MOST_DIGITS {
            return None;
        }
        let digits = if all.is_empty() { 0 } else { all.parse().ok()? };
        Some((Self { digits, scale: u32::try_from(fraction.len()).ok()? }, rest))
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = 10u128.pow(self.scale);
        write!(f, "{}", self.digits / unit)?;
        if self.digits.is_multiple_of(unit) {
            return Ok(());
        }
        let fraction = format!("{:0width$}", self.digits % unit, width = self.scale as usize);
        write!(f, ".{}", fraction.trim_end_matches('0'))
    }
}

fn digits_len(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// How a quantity with one unit is written.
struct Form {
    quantity: &'static str,
    /// The units that a message lists.
    units: &'static [&'static str],
    /// The unit that a message adds to a bare number.
    example: &'static str,
}

impl Form {
    /// Reads a number and its unit, which `factor` knows: their product, as a numerator and a denominator. `None` where the
    /// product is out of all bounds.
    fn read(
        &self,
        text: &str,
        factor: impl Fn(&str) -> Option<u64>,
    ) -> Result<Option<(u128, u128)>, QuantityError> {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Err(QuantityError::Empty);
        }
        if trimmed.starts_with('-') {
            return Err(QuantityError::Negative { text: clip(text), quantity: self.quantity });
        }
        let (number, unit) =
            Decimal::split(trimmed).ok_or_else(|| QuantityError::malformed(text, self.quantity))?;
        let unit = unit.trim();
        if unit.is_empty() {
            let example = format!("{}{}", clip(trimmed), self.example);
            return Err(QuantityError::NoUnit { text: clip(text), example, hint: None });
        }
        let Some(factor) = factor(unit) else {
            let (quantity, units) = (self.quantity, self.units);
            return Err(QuantityError::UnknownUnit { unit: clip(unit), quantity, units });
        };
        Ok(number.digits.checked_mul(u128::from(factor)).zip(10u128.checked_pow(number.scale)))
    }
}

/// Reads a whole number, or says which quantity it was to be a part of.
fn whole(text: &str, part: &str, quantity: &'static str) -> Result<u64, QuantityError> {
    if part.is_empty() || digits_len(part) != part.len() {
        return Err(QuantityError::malformed(text, quantity));
    }
    part.parse().map_err(|_| QuantityError::out_of_range(text, "is more than 2^64 - 1"))
}

#[cfg(test)]
mod tests;
