//! Lengths of an IP packet, in bytes.

use std::fmt;
use std::str::FromStr;

use super::{QuantityError, clip, whole};

/// Lengths of an IP packet in bytes, both ends included; `None` is open.
///
/// Written as a comparison, `">= 1000"`, `"< 100"`, `"== 40"`, or as a range, `"100..200"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LengthRange {
    /// The shortest packet meant.
    pub min: u32,
    /// The longest packet meant.
    pub max: Option<u32>,
}

const QUANTITY: &str = "a range of lengths";

impl FromStr for LengthRange {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Err(QuantityError::Empty);
        }
        if let Some((min, max)) = trimmed.split_once("..") {
            let (min, max) = (bytes(text, min)?, bytes(text, max)?);
            if max < min {
                return Err(refuse(text, "ends before it starts", "a range goes up: \"100..200\""));
            }
            return Ok(Self { min, max: Some(max) });
        }
        let operator_len =
            trimmed.find(|c: char| !matches!(c, '<' | '>' | '=' | '!')).unwrap_or(trimmed.len());
        let (operator, number) = trimmed.split_at(operator_len);
        let n = bytes(text, number)?;
        match operator {
            "==" => Ok(Self { min: n, max: Some(n) }),
            ">=" => Ok(Self { min: n, max: None }),
            "<=" => Ok(Self { min: 0, max: Some(n) }),
            ">" => Ok(Self { min: n.checked_add(1).ok_or_else(|| nothing(text))?, max: None }),
            "<" => Ok(Self { min: 0, max: Some(n.checked_sub(1).ok_or_else(|| nothing(text))?) }),
            "" => Err(refuse(text, "does not say how to compare", "write \"== 1000\" or \">= 1000\"")),
            _ => Err(QuantityError::malformed(text, QUANTITY)),
        }
    }
}

fn bytes(text: &str, number: &str) -> Result<u32, QuantityError> {
    let number = number.trim();
    if number.starts_with('-') {
        return Err(QuantityError::Negative { text: clip(text), quantity: "a length" });
    }
    let bytes = whole(text, number, QUANTITY)?;
    u32::try_from(bytes).map_err(|_| QuantityError::out_of_range(text, "is more than 2^32 - 1 bytes"))
}

fn nothing(text: &str) -> QuantityError {
    QuantityError::out_of_range(text, "is the length of no packet")
}

fn refuse(text: &str, reason: &'static str, remedy: &'static str) -> QuantityError {
    QuantityError::OutOfRange { text: clip(text), reason, remedy: Some(remedy) }
}

impl fmt::Display for LengthRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self { min, max: Some(max) } if min == max => write!(f, "== {min}"),
            Self { min: 0, max: Some(max) } => write!(f, "<= {max}"),
            Self { min, max: Some(max) } => write!(f, "{min}..{max}"),
            Self { min, max: None } => write!(f, ">= {min}"),
        }
    }
}
