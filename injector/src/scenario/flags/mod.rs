//! What the command line adds to a scenario: `--fault`, `--set`, `--for` and `--seed`.
//!
//! Each value is grafted into the tree of the file before anything is checked, and keeps the flag as its place, so
//! that an error in it is shown in the flag's own text.

mod inline;
mod set;
mod text;

use super::diagnostic::Errors;
use super::source::Span;
use super::tree::{Key, Node, Table, Value};

/// What the command line says besides the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Inline faults, `KIND=VALUE[:key=value]...`, as `--fault` has them.
    pub inline: Vec<String>,
    /// Values for keys of the file, `PATH=VALUE`, as `--set` has them.
    pub set: Vec<String>,
    /// The seed, as `--seed` has it.
    pub seed: Option<u64>,
    /// The length of the experiment, as `--for` has it.
    pub for_: Option<String>,
}

/// Grafts everything into the document.
pub(crate) fn apply(overrides: &Overrides, document: &mut Table, errors: &mut Errors) {
    for fault in &overrides.inline {
        inline::add(fault, document, errors);
    }
    for assignment in &overrides.set {
        set::set(assignment, document, errors);
    }
    if let Some(text) = &overrides.for_ {
        let span = whole("--for", text, errors);
        document
            .set(Key { span, text: "duration".to_owned() }, Node { span, value: Value::Bare(text.clone()) });
    }
    if let Some(seed) = overrides.seed {
        let span = whole("--seed", &seed.to_string(), errors);
        document
            .set(Key { span, text: "seed".to_owned() }, Node { span, value: Value::Integer(seed.into()) });
    }
}

/// Adds the text of a flag, and is all of it.
fn whole(flag: &str, text: &str, errors: &mut Errors) -> Span {
    Span { source: errors.add_source(flag, text), start: 0, end: text.len() }
}
