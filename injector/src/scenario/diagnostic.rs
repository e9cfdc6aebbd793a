//! What is wrong with a scenario, and where: the errors, all of one reading together.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::source::{SourceText, Sources, Span};

/// What sort of error it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The scenario is wrong in any version.
    Invalid,
    /// The language has it, this version does not do it.
    NotInThisVersion,
}

impl Class {
    /// Name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotInThisVersion => "not-in-this-version",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    /// The text it is about; `None` if there was none to read.
    pub source: Option<Arc<SourceText>>,
    /// Which bytes of the text.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What was expected there.
    pub expected: Option<String>,
    /// The remedy, or the nearest valid word.
    pub hint: Option<String>,
    /// What sort of error it is.
    pub class: Class,
    /// Number of the source, so that the file's errors come before those of the flags.
    order: usize,
}

impl Diagnostic {
    /// An error that is not about a place in a text.
    pub(crate) fn unplaced(message: String) -> Self {
        Self {
            source: None,
            span: 0..0,
            message,
            expected: None,
            hint: None,
            class: Class::Invalid,
            order: 0,
        }
    }

    pub(crate) fn expected(&mut self, expected: impl Into<String>) -> &mut Self {
        self.expected = Some(expected.into());
        self
    }

    pub(crate) fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn maybe_hint(&mut self, hint: Option<String>) -> &mut Self {
        self.hint = hint;
        self
    }

    pub(crate) fn class(&mut self, class: Class) -> &mut Self {
        self.class = class;
        self
    }

    /// Line and column of the first character, both from 1, the column in characters.
    #[must_use]
    pub fn position(&self) -> Option<(usize, usize)> {
        let text = &self.source.as_ref()?.text;
        let before = text.get(..self.span.start)?;
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        Some((line, before.get(line_start..)?.chars().count() + 1))
    }

    /// How many characters it is about.
    #[must_use]
    pub fn length(&self) -> usize {
        let text = self.source.as_ref().and_then(|source| source.text.get(self.span.clone()));
        text.map_or(0, |text| text.chars().count())
    }
}

impl fmt::Display for Diagnostic {
    /// One line: `file:line:column: message`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(source), Some((line, column))) = (&self.source, self.position()) {
            write!(f, "{}:{line}:{column}: ", source.name)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

/// All that is wrong with a scenario, in the order of the text.
#[derive(Debug, Clone)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, diagnostic) in self.0.iter().enumerate() {
            if n != 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// Collects what is wrong while a scenario is read.
#[derive(Debug, Default)]
pub struct Errors {
    sources: Sources,
    found: Vec<Diagnostic>,
}

impl Errors {
    /// Adds a text that spans can refer to.
    pub(crate) fn add_source(&mut self, name: &str, text: &str) -> usize {
        self.sources.add(name, text, Path::new(""))
    }

    /// The same for a text whose relative paths begin in a folder.
    pub(crate) fn add_source_in(&mut self, folder: &Path, name: &str, text: &str) -> usize {
        self.sources.add(name, text, folder)
    }

    pub(crate) fn source(&self, source: usize) -> Option<Arc<SourceText>> {
        self.sources.get(source).cloned()
    }

    /// The path that is meant by one that stands at `span`.
    pub(crate) fn beside(&self, span: Span, path: &str) -> PathBuf {
        self.sources.folder(span.source).map_or_else(|| path.into(), |folder| folder.join(path))
    }

    /// Notes that something is wrong at a place.
    pub(crate) fn at(&mut self, span: Span, message: impl Into<String>) -> &mut Diagnostic {
        let mut diagnostic = Diagnostic::unplaced(message.into());
        diagnostic.source = self.sources.get(span.source).cloned();
        diagnostic.span = span.start..span.end;
        diagnostic.order = span.source;
        self.push(diagnostic)
    }

    pub(crate) fn push(&mut self, diagnostic: Diagnostic) -> &mut Diagnostic {
        let at = self.found.len();
        self.found.push(diagnostic);
        &mut self.found[at]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The value if nothing was wrong, else all that was.
    pub(crate) fn finish<T>(mut self, value: Option<T>) -> Result<T, Diagnostics> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => {
                self.found.sort_by_key(|diagnostic| (diagnostic.order, diagnostic.span.start));
                Err(Diagnostics(self.found))
            }
        }
    }
}
