//! Probabilities, in units of 2^-32.

use std::fmt;
use std::str::FromStr;

use super::{Decimal, QuantityError, clip};

/// A probability in units of 2^-32, from 0 to 2^32: what the kernel compares its draws with.
///
/// It is written as a percentage, `"2.5%"`, and rounded once, exactly, to the nearest unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct P32(pub u64);

impl P32 {
    /// Never.
    pub const ZERO: Self = Self(0);
    /// Always.
    pub const ONE: Self = Self(1 << 32);

    /// The probability of the opposite.
    #[must_use]
    pub const fn complement(self) -> Self {
        Self(Self::ONE.0.saturating_sub(self.0))
    }

    /// As a fraction of 1, for reports.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / Self::ONE.0 as f64
    }
}

impl FromStr for P32 {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        const QUANTITY: &str = "a percentage";
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Err(QuantityError::Empty);
        }
        if trimmed.starts_with('-') {
            return Err(QuantityError::Negative { text: clip(text), quantity: "a probability" });
        }
        let (number, rest) =
            Decimal::split(trimmed).ok_or_else(|| QuantityError::malformed(text, QUANTITY))?;
        match rest.trim_start() {
            "%" => {}
            "" => return Err(no_unit(text, trimmed, number)),
            unit => {
                return Err(QuantityError::UnknownUnit {
                    unit: clip(unit),
                    quantity: "probability",
                    units: &["%"],
                });
            }
        }
        // digits / 10^scale percent are digits * 2^32 / (100 * 10^scale) units; the scale is at most 24.
        let denominator = 100 * 10u128.pow(number.scale);
        if number.digits > denominator {
            return Err(QuantityError::out_of_range(text, "is more than 100 %"));
        }
        let units = (number.digits * u128::from(Self::ONE.0) + denominator / 2) / denominator;
        if units == 0 && number.digits != 0 {
            return Err(QuantityError::OutOfRange {
                text: clip(text),
                reason: "is less than the resolution, and would never strike",
                remedy: Some("the smallest probability is 2^-32, about 0.00000003%"),
            });
        }
        Ok(Self(u64::try_from(units).unwrap_or(Self::ONE.0)))
    }
}

/// A number between 0 and 1 was likely meant as a share of 1, which is another percentage than the same digits.
fn no_unit(text: &str, trimmed: &str, number: Decimal) -> QuantityError {
    let is_share = number.digits != 0 && number.digits <= 10u128.pow(number.scale);
    let percent = Decimal { digits: number.digits * 100, ..number };
    let hint = is_share.then(|| format!("as a share of 1, {} is \"{percent}%\"", clip(trimmed)));
    QuantityError::NoUnit { text: clip(text), example: format!("{}%", clip(trimmed)), hint }
}

impl fmt::Display for P32 {
    /// The shortest percentage that reads back as the same value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Ten decimals of a percentage are 10^-12, well below 2^-33: one of the forms always reads back.
        for scale in 0..10u32 {
            let factor = 100 * 10u128.pow(scale);
            let digits = (u128::from(self.0) * factor + u128::from(Self::ONE.0) / 2) >> 32;
            if ((digits << 32) + factor / 2) / factor == u128::from(self.0) {
                return write!(f, "{}%", Decimal { digits, scale });
            }
        }
        let digits = (u128::from(self.0) * 1_000_000_000_000 + u128::from(Self::ONE.0) / 2) >> 32;
        write!(f, "{}%", Decimal { digits, scale: 10 })
    }
}
