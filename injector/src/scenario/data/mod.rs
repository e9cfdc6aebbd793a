//! Files of numbers that a scenario names: measured delays, recordings of links.
//!
//! They are read with the scenario, and what is wrong in them is shown like what is wrong in it. What does not live here:
//! what the numbers mean for the kernel, which is the plan's.

mod profile;
mod trace;

use std::path::Path;
use std::sync::Arc;

pub use profile::{Point, Profile};
pub use trace::Trace;

use super::diagnostic::Errors;
use super::read::Spanned;
use super::source::{SourceText, Span, read_bounded};

/// Longer files are refused.
const MOST_BYTES: u64 = 16 << 20;
/// Files with more lines are refused.
const MOST_LINES: usize = 1_000_000;
/// No line of numbers is longer.
const LONGEST_LINE: usize = 256;

/// A file whose lines are numbers. `#` begins a comment, and empty lines mean nothing.
#[derive(Debug)]
struct DataFile {
    source: usize,
    text: Arc<SourceText>,
}

impl DataFile {
    /// Reads the file that a value names, relative to the file in which the value stands.
    fn read(path: &Spanned<String>, errors: &mut Errors) -> Option<Self> {
        let full = errors.beside(path.span, &path.value);
        let read = read_bounded(&full, MOST_BYTES).and_then(|text| {
            let too_long = text.lines().position(|line| line.len() > LONGEST_LINE);
            match too_long {
                Some(line) => {
                    Err(format!("has a line of more than {LONGEST_LINE} bytes, number {}", line + 1))
                }
                None if text.lines().nth(MOST_LINES).is_some() => {
                    Err(format!("has more than {MOST_LINES} lines"))
                }
                None => Ok(text),
            }
        });
        match read {
            Ok(text) => {
                let source = errors.add_source(&full.display().to_string(), &text);
                Some(Self { source, text: errors.source(source)? })
            }
            Err(problem) => {
                let message = format!("{} {problem}", shown(&full));
                errors.at(path.span, message).maybe_hint(start_of(&full, &path.value));
                None
            }
        }
    }

    /// The lines that say something, each without its comment.
    fn lines(&self) -> impl Iterator<Item = Field<'_>> {
        let mut start = 0;
        let lines = self.text.text.split_inclusive('\n').map(move |line| {
            let field = Field { source: self.source, start, text: line };
            start += line.len();
            field
        });
        lines.map(Field::without_comment).filter(|line| !line.text.is_empty())
    }
}

/// A path as messages show it: whole, in one line.
fn shown(path: &Path) -> String {
    path.display().to_string().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Where a relative path began that has become `full`.
fn start_of(full: &Path, given: &str) -> Option<String> {
    let folder = full.to_str()?.strip_suffix(given)?;
    let start = if folder.is_empty() { "in the working directory" } else { "where the scenario file is" };
    Path::new(given).is_relative().then(|| format!("a relative path begins {start}"))
}

/// A stretch of a data file.
#[derive(Debug, Clone, Copy)]
struct Field<'t> {
    source: usize,
    start: usize,
    text: &'t str,
}

impl Field<'_> {
    fn span(self) -> Span {
        Span { source: self.source, start: self.start, end: self.start + self.text.len() }
    }

    /// Without white space, and without the mark that some programs put in front of text.
    fn trimmed(self) -> Self {
        let text = self.text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
        Self { start: self.start + (self.text.len() - text.len()), text: text.trim_end(), ..self }
    }

    fn without_comment(self) -> Self {
        let text = self.text.split_once('#').map_or(self.text, |(before, _)| before);
        Self { text, ..self }.trimmed()
    }

    /// The fields between commas.
    fn fields(self) -> impl Iterator<Item = Self> {
        let mut start = self.start;
        self.text.split(',').map(move |text| {
            let field = Self { start, text, ..self };
            start += text.len() + 1;
            field.trimmed()
        })
    }
}

#[cfg(test)]
mod tests;
