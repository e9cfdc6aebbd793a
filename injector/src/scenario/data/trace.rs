//! Recordings of links in mahimahi's format.

use injector_common::link_trace::MAX_OPPORTUNITIES;

use super::{DataFile, Field, MOST_LINES};
use crate::scenario::diagnostic::Errors;
use crate::scenario::quantity::clip;
use crate::scenario::read::Spanned;

const _: () = assert!(MOST_LINES <= MAX_OPPORTUNITIES as usize);

/// When a link could send a full packet, over and over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The times in ms, not falling, the last more than 0: it is also the length of the trace.
    at_ms: Vec<u32>,
}

impl Trace {
    /// The times in ms, not falling; at least one.
    #[must_use]
    pub fn at_ms(&self) -> &[u32] {
        &self.at_ms
    }

    /// After so long the trace begins again; more than 0.
    #[must_use]
    pub fn period_ms(&self) -> u32 {
        self.at_ms.last().copied().unwrap_or(1)
    }

    /// Reads the file that a value names; `None` if it is wrong, which `errors` then has.
    pub(crate) fn read(path: &Spanned<String>, errors: &mut Errors) -> Option<Self> {
        let file = DataFile::read(path, errors)?;
        let mut at_ms = Vec::new();
        let mut last = None;
        for line in file.lines() {
            let time_ms = time_ms(line, errors)?;
            let before_ms = at_ms.last().copied().unwrap_or(0);
            if time_ms < before_ms {
                errors
                    .at(line.span(), format!("{time_ms} ms comes after {before_ms} ms"))
                    .expected("a time that is not before the last one")
                    .hint("the lines of a trace are in the order of time");
                return None;
            }
            at_ms.push(time_ms);
            last = Some(line);
        }
        let Some(last) = last else {
            errors
                .at(path.span, format!("the trace \"{}\" has no opportunity", clip(&path.value)))
                .expected("a file with a time in ms on each line");
            return None;
        };
        if at_ms.last() == Some(&0) {
            errors
                .at(last.span(), "the trace takes no time")
                .expected("more than 0 on the last line")
                .hint("the time of the last line is the length of the trace, which is then repeated");
            return None;
        }
        Some(Self { at_ms })
    }

    #[cfg(test)]
    pub(crate) fn of(at_ms: &[u32]) -> Self {
        Self { at_ms: at_ms.to_vec() }
    }
}

fn time_ms(line: Field<'_>, errors: &mut Errors) -> Option<u32> {
    const EXPECTED: &str = "a whole number of milliseconds, up to 4294967295";
    let text = line.text;
    let is_whole = text.bytes().all(|byte| byte.is_ascii_digit());
    let time_ms = text.parse().ok().filter(|_| is_whole);
    if time_ms.is_none() {
        let problem = if is_whole { "is more than 49 days" } else { "is not a time of a trace" };
        errors
            .at(line.span(), format!("\"{}\" {problem}", clip(text)))
            .expected(EXPECTED)
            .hint("each line is one time, without a unit, at which 1500 bytes may leave, as in mahimahi");
    }
    time_ms
}
