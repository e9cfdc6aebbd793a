//! How errors are shown: to people with the line and what was expected, to programs as JSON.

use std::fmt;

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents, Severity,
    SourceCode, SourceSpan, SpanContents,
};
use serde_json::{Value, json};

use super::diagnostic::{Diagnostic, Diagnostics};
use super::source::SourceText;

/// Columns that a message is wrapped to.
const WIDTH: usize = 110;

/// What `miette` asks for around a place. [`Lines`] takes it to mean "the whole line", without its neighbours.
const CONTEXT_LINES: usize = 1;

impl Diagnostics {
    /// Every error with its line, a mark under the text, what was expected, and a hint.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(WIDTH)
            .with_context_lines(CONTEXT_LINES)
            .with_links(false)
            .without_syntax_highlighting();
        let mut text = String::new();
        for (n, diagnostic) in self.0.iter().enumerate() {
            if n != 0 {
                text.push('\n');
            }
            // Rendering into a String fails only if a span lies outside of its text; then one line must do.
            if handler.render_report(&mut text, &Rendered::new(diagnostic)).is_err() {
                text.push_str(&diagnostic.to_string());
                text.push('\n');
            }
        }
        text
    }

    /// Every error as `{file, line, column, length, message, expected, hint, class}`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let errors = self.0.iter().map(|diagnostic| {
            let position = diagnostic.position();
            json!({
                "file": diagnostic.source.as_ref().map(|source| &source.name),
                "line": position.map(|(line, _)| line),
                "column": position.map(|(_, column)| column),
                "length": diagnostic.length(),
                "message": diagnostic.message,
                "expected": diagnostic.expected,
                "hint": diagnostic.hint,
                "class": diagnostic.class.name(),
            })
        });
        Value::Array(errors.collect())
    }
}

/// A text of which whole lines are shown.
#[derive(Debug)]
struct Lines<'d>(&'d SourceText);

impl SourceCode for Lines<'_> {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        _after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let text = &self.0.text;
        let (start, end) = (span.offset(), span.offset() + span.len());
        let whole = if before == 0 {
            *span
        } else {
            let line_start = text.get(..start).and_then(|text| text.rfind('\n')).map_or(0, |at| at + 1);
            let line_end = text.get(end..).and_then(|text| text.find('\n')).map_or(text.len(), |at| end + at);
            (line_start, line_end - line_start).into()
        };
        let contents = text.read_span(&whole, 0, 0)?;
        Ok(Box::new(MietteSpanContents::new_named(
            self.0.name.clone(),
            contents.data(),
            *contents.span(),
            contents.line(),
            contents.column(),
            contents.line_count(),
        )))
    }
}

/// One error as `miette` wants it.
#[derive(Debug)]
struct Rendered<'d> {
    diagnostic: &'d Diagnostic,
    source: Option<Lines<'d>>,
}

impl<'d> Rendered<'d> {
    fn new(diagnostic: &'d Diagnostic) -> Self {
        Self { diagnostic, source: diagnostic.source.as_deref().map(Lines) }
    }
}

impl fmt::Display for Rendered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.diagnostic.message)
    }
}

impl std::error::Error for Rendered<'_> {}

impl miette::Diagnostic for Rendered<'_> {
    fn severity(&self) -> Option<Severity> {
        Some(Severity::Error)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.diagnostic.hint.as_ref().map(|hint| Box::new(hint) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.source.as_ref()?;
        let label = self.diagnostic.expected.as_ref().map(|expected| format!("expected {expected}"));
        let span = &self.diagnostic.span;
        Some(Box::new(std::iter::once(LabeledSpan::new(label, span.start, span.len()))))
    }
}

impl miette::Diagnostic for Diagnostic {
    fn severity(&self) -> Option<Severity> {
        Some(Severity::Error)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.hint.as_ref().map(|hint| Box::new(hint) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| &source.text as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.source.as_ref()?;
        let label = self.expected.as_ref().map(|expected| format!("expected {expected}"));
        Some(Box::new(std::iter::once(LabeledSpan::new(label, self.span.start, self.span.len()))))
    }
}

impl miette::Diagnostic for Diagnostics {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn miette::Diagnostic> + 'a>> {
        Some(Box::new(self.0.iter().map(|diagnostic| diagnostic as &dyn miette::Diagnostic)))
    }
}
