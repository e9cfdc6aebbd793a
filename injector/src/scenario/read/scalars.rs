//! How single values are read: texts, numbers, words, quantities.

use std::str::FromStr;

use schemars::{Schema, SchemaGenerator, json_schema};

use super::Read;
use crate::scenario::diagnostic::Errors;
use crate::scenario::nearest;
use crate::scenario::quantity::{
    BitRate, Budget, Bytes, ClockRate, CpuShare, DurationNs, LengthRange, Nth, OffsetNs, P32, QuantityError,
    clip,
};
use crate::scenario::tree::{Node, Value};
use crate::scenario::words::Word;

/// The text of a value that must be one.
pub(crate) fn read_text<'n>(node: &'n Node, expected: &str, errors: &mut Errors) -> Option<&'n str> {
    match &node.value {
        Value::Text(text) | Value::Bare(text) => Some(text),
        other => {
            errors.at(node.span, format!("{} where text belongs", other.describe())).expected(expected);
            None
        }
    }
}

/// A whole number between bounds.
pub(crate) fn read_whole(node: &Node, min: u64, max: u64, what: &str, errors: &mut Errors) -> Option<u64> {
    // A bound that only the width of the kernel's numbers sets tells a reader nothing.
    let expected = if max >= u64::MAX / 2 { format!("at least {min}") } else { format!("{min} to {max}") };
    let number = match &node.value {
        Value::Integer(number) => Some(*number),
        Value::Bare(text) => text.trim().parse::<i128>().ok(),
        _ => None,
    };
    let Some(number) = number else {
        let (message, hint) = not_whole(&node.value);
        errors.at(node.span, message).expected(expected).maybe_hint(hint);
        return None;
    };
    match u64::try_from(number) {
        Ok(number) if (min..=max).contains(&number) => Some(number),
        _ => {
            let problem = if number < 0 && min == 0 { "is negative" } else { "is out of range" };
            errors.at(node.span, format!("{what} {number} {problem}")).expected(expected);
            None
        }
    }
}

/// What is said of a value that is no whole number.
fn not_whole(value: &Value) -> (String, Option<String>) {
    match value {
        Value::Text(text) if text.trim().parse::<i128>().is_ok() => (
            format!("\"{}\" is text", clip(text)),
            Some(format!("write {} without quotes", clip(text.trim()))),
        ),
        Value::Text(text) | Value::Bare(text) => (format!("\"{}\" is not a whole number", clip(text)), None),
        Value::Float(number) => (format!("{} is not a whole number", clip(number)), None),
        other => (format!("{} where a whole number belongs", other.describe()), None),
    }
}

/// A quantity, from its text. A bare number is refused with the unit that it lacks.
pub(crate) fn read_quantity<T: FromStr<Err = QuantityError>>(
    node: &Node,
    expected: &str,
    errors: &mut Errors,
) -> Option<T> {
    let (text, is_number) = match &node.value {
        Value::Text(text) | Value::Bare(text) => (text.clone(), false),
        Value::Integer(number) => (number.to_string(), true),
        Value::Float(number) => (number.clone(), true),
        other => {
            errors.at(node.span, format!("{} where text belongs", other.describe())).expected(expected);
            return None;
        }
    };
    match text.parse::<T>() {
        // `nth = 3` reads as the quantity "3", but is still a number and no text.
        Ok(quantity) => Some(quantity),
        Err(error) => {
            let hint = error.hint();
            let quoted = is_number && !matches!(error, QuantityError::NoUnit { .. });
            let hint = hint.or_else(|| quoted.then(|| "quantities are written in quotes".to_owned()));
            errors.at(node.span, error.to_string()).expected(expected).maybe_hint(hint);
            None
        }
    }
}

/// Implements `Read` for quantities: what an error expects, and the pattern for the schema.
macro_rules! read_quantity {
    ($($type:ty, $expected:literal, $schema:tt;)*) => { $(
        impl Read for $type {
            fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
                read_quantity(node, $expected, errors)
            }

            fn schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )* };
}

read_quantity! {
    P32, "a percentage, such as \"2.5%\"", {
        "type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*%\s*$", "examples": ["2.5%", "0.01%"]
    };
    DurationNs, "a time, such as \"50ms\"", {
        "type": "string",
        "pattern": r"^\s*([0-9]+(\.[0-9]+)?\s*(d|h|min|m|s|ms|us|µs|μs|ns)\s*)+$",
        "examples": ["50ms", "1.5s", "1h30m"]
    };
    Nth, "\"3\", \"3+2\", \"3..10\" or \"3..10+2\"", {
        "anyOf": [
            { "type": "integer", "minimum": 1 },
            { "type": "string", "pattern": r"^\s*[0-9]+(\.\.[0-9]+)?(\+[0-9]+)?\s*$", "examples": ["3", "3+2", "3..10"] }
        ]
    };
    Budget, "a count per time, such as \"1000/s\"", {
        "type": "string", "pattern": r"^\s*[0-9]+\s*/.+$", "examples": ["1000/s", "5/100ms"]
    };
    BitRate, "a rate, such as \"10mbit\"", {
        "type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*([kKmMgGtT]?[bB][iI][tT])\s*$", "examples": ["10mbit", "1gbit"]
    };
    Bytes, "a size, such as \"64KiB\"", {
        "type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*(B|KB|MB|GB|KiB|MiB|GiB)\s*$", "examples": ["64KiB", "15KB"]
    };
    CpuShare, "a share of one processor, such as \"20%\"", {
        "type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*%\s*$", "examples": ["20%", "150%"]
    };
    OffsetNs, "a time with a sign, such as \"-5m\"", {
        "type": "string",
        "pattern": r"^\s*[+-]?([0-9]+(\.[0-9]+)?\s*(d|h|min|m|s|ms|us|µs|μs|ns)\s*)+$",
        "examples": ["-5m", "+300ms"]
    };
    ClockRate, "a rate with a sign, such as \"+200ppm\"", {
        "type": "string", "pattern": r"^\s*[+-]?[0-9]+(\.[0-9]+)?\s*(ppb|ppm|%)\s*$", "examples": ["+200ppm", "-5%"]
    };
    LengthRange, "a range of lengths in bytes, such as \">= 1000\"", {
        "type": "string",
        "pattern": r"^\s*((==|<=|>=|<|>)\s*[0-9]+|[0-9]+\s*\.\.\s*[0-9]+)\s*$",
        "examples": [">= 1000", "100..200"]
    };
}

impl Read for String {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        read_text(node, "text in quotes", errors).map(str::to_owned)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

impl Read for bool {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        match &node.value {
            Value::Boolean(value) => return Some(*value),
            Value::Bare(text) if text == "true" => return Some(true),
            Value::Bare(text) if text == "false" => return Some(false),
            _ => {}
        }
        errors.at(node.span, "neither true nor false").expected("true or false, without quotes");
        None
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "boolean" })
    }
}

/// A whole number of at least `MIN` and at most `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Whole<const MIN: u64, const MAX: u64>(pub(crate) u64);

impl<const MIN: u64, const MAX: u64> Read for Whole<MIN, MAX> {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        read_whole(node, MIN, MAX, "the number", errors).map(Self)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        if MAX == u64::MAX {
            json_schema!({ "type": "integer", "minimum": MIN })
        } else {
            json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
        }
    }
}

impl<T: Word> Read for T {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        let words = || T::WORDS.iter().map(|(word, _)| *word);
        let expected = words().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let text = read_text(node, &expected, errors)?;
        let found = T::WORDS.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let hint = nearest::nearest(text, words()).map(|word| format!("did you mean `{word}`?"));
            errors
                .at(node.span, format!("unknown {} \"{}\"", T::WHAT, clip(text)))
                .expected(expected)
                .maybe_hint(hint);
        }
        found
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        json_schema!({ "enum": words })
    }
}
