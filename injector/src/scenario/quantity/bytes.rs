//! Sizes in bytes.

use std::fmt;
use std::str::FromStr;

use super::{Form, QuantityError};

/// A number of bytes, written as `"64KiB"` or `"15KB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

const FORM: Form =
    Form { quantity: "a size", units: &["B", "KB", "MB", "GB", "KiB", "MiB", "GiB"], example: "KiB" };

/// More than any queue has.
const MOST: u64 = 1 << 40;

impl FromStr for Bytes {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let factor = |unit: &str| UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let (numerator, denominator) = FORM.read(text, factor)?.ok_or_else(|| too_much(text))?;
        if !numerator.is_multiple_of(denominator) {
            return Err(QuantityError::out_of_range(text, "is no whole number of bytes"));
        }
        let bytes = u64::try_from(numerator / denominator).ok().filter(|bytes| *bytes <= MOST);
        bytes.map(Self).ok_or_else(|| too_much(text))
    }
}

fn too_much(text: &str) -> QuantityError {
    QuantityError::out_of_range(text, "is more than 1024GiB")
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |factor: u64| self.0 != 0 && self.0.is_multiple_of(factor);
        let (name, factor) = UNITS.iter().find(|(_, factor)| fits(*factor)).copied().unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (text, bytes) in [("64KiB", 65_536), ("15KB", 15_000), ("1.5MiB", 1_572_864), ("0B", 0)] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "64", "64kb", "-1B", "0.5B", "2000GiB", "KiB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_size_reads_back_as_it_is_written() {
        for bytes in [0, 1, 1000, 1024, 1500, 65_536, 1 << 40] {
            assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
        }
    }
}
