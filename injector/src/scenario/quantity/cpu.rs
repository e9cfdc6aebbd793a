//! Shares of processor time.

use std::fmt;
use std::str::FromStr;

use super::{Form, QuantityError};

/// Processor time per time, in units of a thousandth of a percent of one processor: `"20%"` is 20000, `"150%"` one and a half processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuShare(pub u64);

const FORM: Form = Form { quantity: "a share of one processor", units: &["%"], example: "%" };

/// The kernel hands out no less than 1 ms of 100 ms (`min_cfs_quota_period` in `kernel/sched/core.c`).
const LEAST: u64 = 1000;
/// More processors than any machine has.
const MOST: u64 = 100_000 * 8192;

impl FromStr for CpuShare {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let factor = |unit: &str| (unit == "%").then_some(1000);
        let (numerator, denominator) = FORM.read(text, factor)?.ok_or_else(|| too_much(text))?;
        let share = u64::try_from(numerator / denominator).ok().filter(|share| *share <= MOST);
        let share = share.ok_or_else(|| too_much(text))?;
        if share < LEAST {
            return Err(QuantityError::out_of_range(
                text,
                "is less than 1%, the least that the kernel hands out",
            ));
        }
        Ok(Self(share))
    }
}

fn too_much(text: &str) -> QuantityError {
    QuantityError::out_of_range(text, "is more than 8192 processors")
}

impl fmt::Display for CpuShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 1000 {
            0 => write!(f, "{}%", self.0 / 1000),
            rest => write!(f, "{}.{}%", self.0 / 1000, format!("{rest:03}").trim_end_matches('0')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percents_of_one_processor() {
        for (text, share) in [("20%", 20_000), ("150 %", 150_000), ("2.5%", 2500), ("1%", 1000)] {
            assert_eq!(text.parse(), Ok(CpuShare(share)), "{text}");
        }
        for text in ["", "20", "-5%", "0%", "0.9%", "900000%", "20ms"] {
            assert!(text.parse::<CpuShare>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_reads_back_as_it_is_written() {
        for text in ["20%", "2.5%", "150%", "33.125%"] {
            assert_eq!(text.parse::<CpuShare>().unwrap().to_string(), text);
        }
    }
}
