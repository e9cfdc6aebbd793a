//! How many injections a stretch of time allows.

use std::fmt;
use std::str::FromStr;

use super::duration::{unit_ns, unknown_unit};
use super::{DurationNs, QuantityError, clip, format_ns, whole};

/// At most `count` injections in each period of `per_ns` nanoseconds, written as `"1000/s"` or `"5/100ms"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Injections that one period allows: from 1 to 2^32 - 1.
    pub count: u64,
    /// Length of a period in nanoseconds, at least 1.
    pub per_ns: u64,
}

const QUANTITY: &str = "a budget";

impl FromStr for Budget {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Err(QuantityError::Empty);
        }
        if trimmed.starts_with('-') {
            return Err(QuantityError::Negative { text: clip(text), quantity: "a budget" });
        }
        let Some((count, per)) = trimmed.split_once('/') else {
            // Without the slash it is a plain number, or no budget at all.
            whole(text, trimmed, QUANTITY)?;
            let example = format!("{}/s", clip(trimmed));
            return Err(QuantityError::NoUnit { text: clip(text), example, hint: None });
        };
        let (count, per) = (whole(text, count.trim(), QUANTITY)?, per.trim());
        let per_ns = if per.starts_with(|c: char| c.is_ascii_digit()) {
            per.parse::<DurationNs>()?.0
        } else {
            unit_ns(per).ok_or_else(|| unknown_unit(per))?
        };
        if per_ns == 0 {
            return Err(QuantityError::out_of_range(text, "has a period of no length"));
        }
        if count == 0 {
            return Err(QuantityError::out_of_range(text, "allows no injection at all"));
        }
        if count > u64::from(u32::MAX) {
            return Err(QuantityError::out_of_range(text, "is more than 2^32 - 1 injections a period"));
        }
        Ok(Self { count, per_ns })
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = format_ns(self.per_ns);
        // "1s" is written as "s", but "15s" stays as it is.
        let unit = per.strip_prefix('1').filter(|unit| unit_ns(unit).is_some());
        write!(f, "{}/{}", self.count, unit.unwrap_or(&per))
    }
}
