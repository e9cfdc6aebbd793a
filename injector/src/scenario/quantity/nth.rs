//! Which matches are struck, by their number.

use std::fmt;
use std::str::FromStr;

use super::{QuantityError, clip, whole};

/// The matches that are struck, counted from 1: `first`, `first + step`, ... up to `last`.
///
/// `"3"` is the third alone, `"3+2"` the third, fifth, seventh ..., `"3..10"` the third to the tenth, and
/// `"3..10+2"` the third, fifth, seventh and ninth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nth {
    /// The first match that is struck, at least 1.
    pub first: u64,
    /// The last match that may be struck; `u64::MAX` is open.
    pub last: u64,
    /// Distance of two strikes, at least 1.
    pub step: u64,
}

const QUANTITY: &str = "a choice of matches";

impl FromStr for Nth {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Err(QuantityError::Empty);
        }
        if trimmed.starts_with('-') {
            return Err(QuantityError::Negative { text: clip(text), quantity: "the count of matches" });
        }
        if trimmed == "last" {
            return Err(refuse(
                text,
                "can't be known before it is over",
                "count from the first match: \"3\"",
            ));
        }
        let (range, step) = match trimmed.split_once('+') {
            Some((range, step)) => (range, Some(whole(text, step, QUANTITY)?)),
            None => (trimmed, None),
        };
        let (first, last) = match range.split_once("..") {
            Some((first, last)) => (whole(text, first, QUANTITY)?, Some(whole(text, last, QUANTITY)?)),
            None => (whole(text, range, QUANTITY)?, None),
        };
        if first == 0 {
            return Err(refuse(text, "starts at 0, but matches count from 1", "the first match is \"1\""));
        }
        if step == Some(0) {
            return Err(refuse(text, "has a step of 0", "every match from the third on is \"3+1\""));
        }
        if last.is_some_and(|last| last < first) {
            return Err(refuse(text, "ends before it starts", "a range goes up: \"3..10\""));
        }
        let last = last.unwrap_or(if step.is_some() { u64::MAX } else { first });
        Ok(Self { first, last, step: step.unwrap_or(1) })
    }
}

fn refuse(text: &str, reason: &'static str, remedy: &'static str) -> QuantityError {
    QuantityError::OutOfRange { text: clip(text), reason, remedy: Some(remedy) }
}

impl fmt::Display for Nth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last, step } = *self;
        match (last, step) {
            (u64::MAX, step) if first != last => write!(f, "{first}+{step}"),
            (last, 1) if last == first => write!(f, "{first}"),
            (last, 1) => write!(f, "{first}..{last}"),
            (last, step) => write!(f, "{first}..{last}+{step}"),
        }
    }
}
