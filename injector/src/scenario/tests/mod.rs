//! The language from outside: what a text means, and what is said about a wrong one.

mod bad;
mod flags;
mod good;
mod properties;
mod schema;

use super::{Diagnostics, Overrides, Scenario, Source, load};

/// Loads a text without flags.
fn read(text: &str) -> Result<Scenario, Diagnostics> {
    load(&Source::text("scenario.toml", text), &Overrides::default())
}

/// The errors of a text, as a user without colours sees them.
fn errors(text: &str) -> String {
    read(text).unwrap_err().render(false)
}

/// A scenario with one fault, made of a valid head and the given lines.
fn with_fault(lines: &str) -> String {
    format!(
        "version = 1\nduration = \"1m\"\n\n[target.db]\ncgroup = \"/db\"\n\n[[fault]]\ntarget = \"db\"\nkind = \"network.loss\"\n{lines}\n"
    )
}
