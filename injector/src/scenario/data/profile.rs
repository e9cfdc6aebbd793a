//! Measured delays: the points of their distribution function, or the samples themselves.

use super::{DataFile, Field};
use crate::scenario::diagnostic::Errors;
use crate::scenario::nearest;
use crate::scenario::quantity::{P32, QuantityError, clip, format_ns, unit_ns};
use crate::scenario::read::Spanned;

/// The longest delay of a profile.
const MAX_DELAY_NS: u64 = injector_common::distribution::MAX_DELAY_NS;
const PROBABILITY: &str = "cumulative_probability";
const HEADERS: [&str; 4] = ["delay_ms", "delay_us", "delay_s", "delay_ns"];
const TWO_COLUMNS: &str = "a delay, or a delay, a comma and a cumulative probability";

/// The distribution of delays that somebody has measured; some delay is more than 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    /// Points of the distribution function, between which it is a straight line: neither column falls, and the last
    /// probability is 1.
    Points(Vec<Point>),
    /// Delays in ns, the shortest first; each is as likely as the others.
    Samples(Vec<u64>),
}

/// A point of a distribution function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// A delay.
    pub delay_ns: u64,
    /// The chance of a delay of at most this.
    pub probability: P32,
}

impl Profile {
    /// The longest delay.
    #[must_use]
    pub fn longest_ns(&self) -> u64 {
        match self {
            Self::Points(points) => points.last().map_or(0, |point| point.delay_ns),
            Self::Samples(samples) => samples.last().copied().unwrap_or(0),
        }
    }

    /// Reads the file that a value names; `None` if it is wrong, which `errors` then has.
    pub(crate) fn read(path: &Spanned<String>, errors: &mut Errors) -> Option<Self> {
        let file = DataFile::read(path, errors)?;
        let mut lines = file.lines().peekable();
        let header = match lines.peek() {
            Some(first) if first.text.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                let header = Header::read(*first, errors)?;
                lines.next();
                header
            }
            _ => Header::default(),
        };
        let Some(first) = lines.peek().copied() else {
            errors
                .at(path.span, format!("the profile \"{}\" has no delay", clip(&path.value)))
                .expected(format!("a file whose lines are {TWO_COLUMNS}"));
            return None;
        };
        let has_probability = header.has_probability.unwrap_or_else(|| first.fields().nth(1).is_some());
        let profile = if has_probability {
            Self::Points(points(lines, header.unit_ns, errors)?)
        } else {
            Self::Samples(samples(lines, header.unit_ns, errors)?)
        };
        if profile.longest_ns() == 0 {
            errors.at(path.span, "every delay of the profile is nothing").expected("some delay above 0");
            return None;
        }
        Some(profile)
    }
}

/// What the first line says of the columns.
#[derive(Debug, Default)]
struct Header {
    /// Nanoseconds of the delays' unit; without one each delay has its own.
    unit_ns: Option<u64>,
    has_probability: Option<bool>,
}

impl Header {
    fn read(line: Field<'_>, errors: &mut Errors) -> Option<Self> {
        let mut fields = line.fields();
        let delay = fields.next()?;
        let Some(unit) = delay.text.strip_prefix("delay_").and_then(unit_ns) else {
            let hint = nearest::nearest(delay.text, HEADERS).map(|name| format!("did you mean `{name}`?"));
            errors
                .at(
                    delay.span(),
                    format!("\"{}\" is neither a delay nor the name of its column", clip(delay.text)),
                )
                .expected(
                    "`delay_ms`, `delay_us`, `delay_s` or `delay_ns`, or delays with units and no names",
                )
                .maybe_hint(hint);
            return None;
        };
        let probability = fields.next();
        if let Some(name) = probability.filter(|name| name.text != PROBABILITY) {
            errors
                .at(name.span(), format!("unknown column \"{}\"", clip(name.text)))
                .expected(format!("`{PROBABILITY}`"));
            return None;
        }
        refuse_more(fields.next(), errors)?;
        Some(Self { unit_ns: Some(unit), has_probability: Some(probability.is_some()) })
    }
}

fn refuse_more(field: Option<Field<'_>>, errors: &mut Errors) -> Option<()> {
    let Some(field) = field else { return Some(()) };
    errors.at(field.span(), "one column too many").expected(TWO_COLUMNS);
    None
}

fn samples<'t>(
    lines: impl Iterator<Item = Field<'t>>,
    unit: Option<u64>,
    errors: &mut Errors,
) -> Option<Vec<u64>> {
    let mut samples = Vec::new();
    for line in lines {
        let mut fields = line.fields();
        samples.push(delay_ns(fields.next()?, unit, errors)?);
        if let Some(field) = fields.next() {
            errors
                .at(field.span(), "a second column, which the lines before do not have")
                .hint("samples have one column, the points of a distribution function two");
            return None;
        }
    }
    samples.sort_unstable();
    Some(samples)
}

fn points<'t>(
    lines: impl Iterator<Item = Field<'t>>,
    unit: Option<u64>,
    errors: &mut Errors,
) -> Option<Vec<Point>> {
    let mut points: Vec<Point> = Vec::new();
    let mut last = None;
    for line in lines {
        let mut fields = line.fields();
        let delay = fields.next()?;
        let Some(probability) = fields.next() else {
            errors
                .at(line.span(), "the cumulative probability is missing")
                .expected(format!("a comma and the share of delays of at most {}", clip(line.text)));
            return None;
        };
        refuse_more(fields.next(), errors)?;
        let point =
            Point { delay_ns: delay_ns(delay, unit, errors)?, probability: share(probability, errors)? };
        if let Some(before) = points.last() {
            check_order(*before, point, (delay, probability), errors)?;
        }
        points.push(point);
        last = Some(probability);
    }
    let last = last?;
    if points.last().is_some_and(|point| point.probability != P32::ONE) {
        errors
            .at(last.span(), format!("the last cumulative probability is {}", clip(last.text)))
            .expected("1, or 100%")
            .hint("the last line has the longest delay, which no packet exceeds");
        return None;
    }
    Some(points)
}

fn check_order(
    before: Point,
    point: Point,
    (delay, probability): (Field<'_>, Field<'_>),
    errors: &mut Errors,
) -> Option<()> {
    let falls = if point.delay_ns < before.delay_ns {
        Some((
            delay,
            format!("a delay of {} after one of {}", format_ns(point.delay_ns), format_ns(before.delay_ns)),
        ))
    } else if point.probability < before.probability {
        let message =
            format!("a cumulative probability of {} after {}", point.probability, before.probability);
        Some((probability, message))
    } else {
        None
    };
    let Some((field, message)) = falls else { return Some(()) };
    errors
        .at(field.span(), message)
        .expected("no less than on the line before")
        .hint("neither column of a distribution function falls; a file of samples has one column");
    None
}

/// A delay with its unit, or without where the header has it.
fn delay_ns(field: Field<'_>, header_ns: Option<u64>, errors: &mut Errors) -> Option<u64> {
    let error = match parse_delay(field.text, header_ns) {
        Ok(ns) => return Some(ns),
        Err(error) => error,
    };
    let expected = match header_ns {
        Some(_) => "a number, at most an hour",
        None => "a time, such as \"1.2ms\", at most \"1h\"",
    };
    let is_separated = field.text.contains([';', '\t', ' ']);
    let hint = error.hint().or_else(|| is_separated.then(|| "a comma separates columns".to_owned()));
    errors.at(field.span(), error.to_string()).expected(expected).maybe_hint(hint);
    None
}

fn parse_delay(text: &str, header_ns: Option<u64>) -> Result<u64, QuantityError> {
    let (number, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let is_number = number_of(number.trim_end()).is_some();
    match (header_ns, unit_ns(unit)) {
        (Some(_), Some(_)) => Err(QuantityError::OutOfRange {
            text: clip(text),
            reason: "has a unit, and the name of its column has one too",
            remedy: Some("leave one of them out"),
        }),
        (Some(header_ns), None) => scaled(text, text, header_ns),
        (None, Some(unit_ns)) => scaled(text, number, unit_ns),
        (None, None) if is_number && unit.is_empty() => Err(no_unit(text)),
        (None, None) if is_number => Err(QuantityError::UnknownUnit {
            unit: clip(unit),
            quantity: "time",
            units: &["ns", "us", "ms", "s"],
        }),
        (None, None) => Err(QuantityError::Malformed { text: clip(text), quantity: "a time" }),
    }
}

fn no_unit(text: &str) -> QuantityError {
    let hint = format!(
        "the first line can name the columns, and so the unit: `delay_ms`, or `delay_ms,{PROBABILITY}`"
    );
    QuantityError::NoUnit { text: clip(text), example: format!("{}ms", clip(text)), hint: Some(hint) }
}

/// A number times its unit, to the nearest nanosecond: what was measured is no finer.
fn scaled(text: &str, number: &str, unit_ns: u64) -> Result<u64, QuantityError> {
    let quantity = "a time";
    let value = number_of(number.trim_end())
        .ok_or_else(|| QuantityError::Malformed { text: clip(text), quantity })?;
    if value < 0.0 {
        return Err(QuantityError::Negative { text: clip(text), quantity });
    }
    let ns = (value * unit_ns as f64).round();
    if ns > MAX_DELAY_NS as f64 {
        let reason = "is longer than an hour, the longest delay";
        return Err(QuantityError::OutOfRange { text: clip(text), reason, remedy: None });
    }
    Ok(ns as u64)
}

/// A cumulative probability: a share of 1, or a percentage.
fn share(field: Field<'_>, errors: &mut Errors) -> Option<P32> {
    let percent = field.text.strip_suffix('%');
    let value = match percent {
        Some(number) => number_of(number.trim_end()).map(|number| number / 100.0),
        None => number_of(field.text),
    };
    let Some(value) = value.filter(|value| (0.0..=1.0).contains(value)) else {
        let hint = value.filter(|value| percent.is_none() && (1.0..=100.0).contains(value));
        errors
            .at(field.span(), format!("\"{}\" is not a cumulative probability", clip(field.text)))
            .expected("0 to 1, or 0% to 100%")
            .maybe_hint(hint.map(|value| format!("as a percentage it is {value}%")));
        return None;
    };
    Some(P32((value * P32::ONE.0 as f64).round() as u64))
}

/// A finite decimal number, perhaps with an exponent.
fn number_of(text: &str) -> Option<f64> {
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+'));
    text.parse::<f64>().ok().filter(|value| is_number && value.is_finite())
}
