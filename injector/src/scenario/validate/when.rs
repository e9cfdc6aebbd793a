//! The window of a fault.

use crate::scenario::diagnostic::Errors;
use crate::scenario::document::WhenTable;
use crate::scenario::model::When;
use crate::scenario::quantity::{DurationNs, format_ns};
use crate::scenario::read::Spanned;

/// Checks a window against itself and, if that is known, against the length of the experiment.
pub(super) fn when(given: &Spanned<WhenTable>, duration_ns: Option<u64>, errors: &mut Errors) -> When {
    let table = &given.value;
    let ns = |time: &Option<Spanned<DurationNs>>| time.as_ref().map(|time| time.value.0);
    let window = When {
        start_ns: ns(&table.start).unwrap_or(0),
        for_ns: ns(&table.for_),
        every_ns: ns(&table.every),
        jitter_ns: ns(&table.jitter).unwrap_or(0),
    };
    if let Some(for_) = table.for_.as_ref().filter(|for_| for_.value.0 == 0) {
        errors.at(for_.span, "a window has some length").expected("more than 0");
    }
    check_every(table, &window, errors);
    if let Some(duration_ns) = duration_ns {
        check_start(given, &window, duration_ns, errors);
    }
    window
}

/// Windows must not overlap, wherever jitter moves them.
fn check_every(table: &WhenTable, window: &When, errors: &mut Errors) {
    let Some(every) = &table.every else { return };
    let Some(for_ns) = window.for_ns else {
        // A `for` that could not be read is an error already.
        if !table.unread.contains(&"for") {
            errors
                .at(every.span, "`every` repeats a window that has no end")
                .hint("add `for`, the window's length");
        }
        return;
    };
    let longest_ns = for_ns.saturating_add(window.jitter_ns);
    if longest_ns > every.value.0 {
        let (sum, jitter) = match window.jitter_ns {
            0 => ("`for`".to_owned(), ""),
            _ => ("`for` and `jitter`".to_owned(), " together"),
        };
        errors
            .at(
                every.span,
                format!(
                    "{sum} take {}{jitter}, but a window opens every {}",
                    format_ns(longest_ns),
                    every.value
                ),
            )
            .expected(format!("at least \"{}\"", format_ns(longest_ns)));
    }
}

fn check_start(given: &Spanned<WhenTable>, window: &When, duration_ns: u64, errors: &mut Errors) {
    let table = &given.value;
    let end = format_ns(duration_ns);
    if window.start_ns >= duration_ns {
        let span = table.start.as_ref().map_or(given.span, |start| start.span);
        errors
            .at(span, format!("the window opens after the end: the experiment takes {end}"))
            .expected(format!("less than \"{end}\""));
    } else if window.every_ns.is_none() && window.start_ns.saturating_add(window.jitter_ns) > duration_ns {
        let span = table.jitter.as_ref().map_or(given.span, |jitter| jitter.span);
        errors
            .at(
                span,
                format!("with its jitter the window may open after the end: the experiment takes {end}"),
            )
            .expected(format!("at most \"{}\"", format_ns(duration_ns - window.start_ns)));
    }
}
