//! Where a scenario's text comes from.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnostic::Diagnostic;
use crate::errno::name_of;

/// Longer files are not scenarios.
const MOST_BYTES: u64 = 1 << 20;

/// Where to read a scenario from.
#[derive(Debug, Clone)]
pub struct Source(Kind);

#[derive(Debug, Clone)]
enum Kind {
    File(PathBuf),
    Text { name: String, text: String },
    Inline,
}

impl Source {
    /// A scenario file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Kind::File(path.into()))
    }

    /// Text that is already there; `name` stands for the file in messages.
    pub fn text(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self(Kind::Text { name: name.into(), text: text.into() })
    }

    /// No file: the scenario is made of the inline faults alone.
    #[must_use]
    pub const fn inline() -> Self {
        Self(Kind::Inline)
    }

    /// The text, where it was given and not a file's name.
    pub(crate) fn given_text(&self) -> Option<&str> {
        match &self.0 {
            Kind::Text { text, .. } => Some(text),
            Kind::File(_) | Kind::Inline => None,
        }
    }

    /// The name that the scenario has unless it gives one.
    pub(crate) fn default_name(&self) -> String {
        match &self.0 {
            Kind::File(path) => stem(path),
            Kind::Text { name, .. } => stem(Path::new(name)),
            Kind::Inline => "inline".to_owned(),
        }
    }

    /// Where the relative paths in it begin: its own folder, else the working directory.
    pub(crate) fn folder(&self) -> &Path {
        match &self.0 {
            Kind::File(path) => path.parent().unwrap_or_else(|| Path::new("")),
            Kind::Text { .. } | Kind::Inline => Path::new(""),
        }
    }

    /// Reads the text; `None` if there is no file.
    pub(crate) fn read(&self) -> Result<Option<SourceText>, Diagnostic> {
        match &self.0 {
            Kind::File(path) => read_file(path).map(Some),
            Kind::Text { name, text } => Ok(Some(SourceText { name: name.clone(), text: text.clone() })),
            Kind::Inline => Ok(None),
        }
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(|| "scenario".to_owned(), |stem| stem.to_string_lossy().into_owned())
}

fn read_file(path: &Path) -> Result<SourceText, Diagnostic> {
    let name = path.display().to_string();
    let unreadable = |error: &std::io::Error| Diagnostic::unplaced(format!("cannot read {name}: {error}"));
    let mut bytes = Vec::new();
    // A path can name a device without end, so the read is bounded, not the size that the file states.
    File::open(path)
        .and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Diagnostic::unplaced(format!(
            "{name} is longer than {MOST_BYTES} bytes: not a scenario"
        )));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        Diagnostic::unplaced(format!("{name} is not text: no UTF-8 at byte {valid}"))
    })?;
    Ok(SourceText { name, text })
}

/// Reads a regular file of text, or says what is wrong with it.
pub(crate) fn read_bounded(path: &Path, most_bytes: u64) -> Result<String, String> {
    // A pipe that nobody writes to would keep the open waiting.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let cannot = |error: &std::io::Error| format!("cannot be read: {}", name_of(error));
    let file = file.map_err(|error| cannot(&error))?;
    if !file.metadata().map_err(|error| cannot(&error))?.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    // A file can grow while it is read, so the read is bounded, not the size that the file states.
    file.take(most_bytes + 1).read_to_end(&mut bytes).map_err(|error| cannot(&error))?;
    if bytes.len() as u64 > most_bytes {
        return Err(format!("is longer than {most_bytes} bytes"));
    }
    String::from_utf8(bytes)
        .map_err(|error| format!("is not text: no UTF-8 at byte {}", error.utf8_error().valid_up_to()))
}

/// A text and the name by which messages call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceText {
    /// A file's path, or the flag that the text was given with.
    pub name: String,
    /// The text.
    pub text: String,
}

/// A stretch of one of the [`Sources`], in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) source: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    /// The place of what no text says.
    pub(crate) const NOWHERE: Self = Self { source: usize::MAX, start: 0, end: 0 };
}

/// Every text of one scenario: the file, what the command line adds to it, the data that they name. Each with the folder
/// in which its relative paths begin.
#[derive(Debug, Default)]
pub(crate) struct Sources(Vec<(Arc<SourceText>, PathBuf)>);

impl Sources {
    /// Adds a text; the number is what spans refer to.
    pub(crate) fn add(&mut self, name: &str, text: &str, folder: &Path) -> usize {
        let text = SourceText { name: name.to_owned(), text: text.to_owned() };
        self.0.push((Arc::new(text), folder.to_owned()));
        self.0.len() - 1
    }

    pub(crate) fn get(&self, source: usize) -> Option<&Arc<SourceText>> {
        self.0.get(source).map(|(text, _)| text)
    }

    /// The folder in which the relative paths of a text begin.
    pub(crate) fn folder(&self, source: usize) -> Option<&Path> {
        self.0.get(source).map(|(_, folder)| folder.as_path())
    }
}
