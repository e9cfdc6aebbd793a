//! The only place that prints: data to stdout, talk to stderr.

use std::cell::RefCell;
use std::io::{self, IsTerminal as _, Write as _};

use owo_colors::OwoColorize as _;
use serde::Serialize;
use serde_json::json;

use super::args::When;
use super::exit::{Exit, Failure};
use crate::errno::name_of;

/// Where things are printed, and how.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) json: bool,
    stdout_colour: bool,
    stderr_colour: bool,
    /// Why data were lost: the first error of writing them.
    lost: RefCell<Option<io::Error>>,
}

#[allow(
    clippy::unused_self,
    reason = "who prints says through what, also where today's form makes no difference"
)]
impl Output {
    pub(super) fn new(json: bool, when: When) -> Self {
        let wanted = |terminal: bool| match when {
            When::Always => true,
            When::Never => false,
            // https://no-color.org
            When::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        Self {
            json,
            stdout_colour: wanted(io::stdout().is_terminal()),
            stderr_colour: wanted(io::stderr().is_terminal()),
            lost: RefCell::new(None),
        }
    }

    pub(super) const fn stdout_colour(&self) -> bool {
        self.stdout_colour
    }

    pub(super) const fn stderr_colour(&self) -> bool {
        self.stderr_colour
    }

    /// Data, as it is. An error does not end the command, which may have an experiment to take back: it is kept for
    /// [`Self::loss`].
    pub(super) fn data(&self, text: &str) {
        let mut stdout = io::stdout().lock();
        // Flushed each time: what is left to the end of the process fails unseen.
        self.written(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
    }

    /// Keeps the error of a write to stdout.
    pub(super) fn written(&self, result: io::Result<()>) {
        match result {
            // A reader that hung up (`| head`) has what it wanted.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                self.lost.borrow_mut().get_or_insert(error);
            }
            _ => {}
        }
    }

    /// The failure of a command whose data did not all reach stdout.
    pub(super) fn loss(&self) -> Option<Failure> {
        let error = self.lost.take()?;
        let message = format!("not everything could be written to stdout: {}", name_of(&error));
        let hint = "the command itself was done: make room, or send the output elsewhere".to_owned();
        Some(Failure { in_report: true, ..Failure::new(Exit::Failed, message, Some(hint)) })
    }

    /// One line of JSON.
    pub(super) fn object(&self, value: &impl Serialize) {
        if let Ok(text) = serde_json::to_string(value) {
            self.data(&format!("{text}\n"));
        }
    }

    /// Talk, as it is.
    pub(super) fn talk(&self, text: &str) {
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }

    /// A line of talk behind a coloured word.
    pub(super) fn warning(&self, text: &str) {
        let word = if self.stderr_colour { "warning".yellow().to_string() } else { "warning".to_owned() };
        self.talk(&format!("{word}: {text}\n"));
    }

    /// What happened at a step.
    pub(super) fn note(&self, word: &str, text: &str) {
        let word = if self.stderr_colour { word.cyan().bold().to_string() } else { word.to_owned() };
        self.talk(&format!("{word} {text}\n"));
    }

    /// An error: what failed, a blank line, a hint. With `--json` also an object on stdout.
    pub(super) fn failure(&self, failure: &Failure) {
        if self.json && !failure.in_report {
            self.object(&json!({ "error": {
                "message": failure.message,
                "hint": failure.hint,
                "errors": failure.diagnostics.as_ref().map(crate::scenario::Diagnostics::to_json),
            }}));
        }
        if let Some(diagnostics) = &failure.diagnostics {
            self.talk(&diagnostics.render(self.stderr_colour));
            return;
        }
        let word = if self.stderr_colour { "error".red().bold().to_string() } else { "error".to_owned() };
        self.talk(&format!("{word}: {}\n", failure.message));
        if let Some(hint) = &failure.hint {
            let word = if self.stderr_colour { "hint".green().to_string() } else { "hint".to_owned() };
            self.talk(&format!("\n{word}: {hint}\n"));
        }
    }
}
