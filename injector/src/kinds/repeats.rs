//! What kinds of whole processes share: the keys `for`, `every` and `jitter` of their own, and that nothing of packets is asked for.

use super::without_packets;
use crate::scenario::quantity::{DurationNs, format_ns};
use crate::scenario::read::{Spanned, table};
use crate::scenario::{Errors, FaultTable, ProcessFault, Repeats};

/// The shortest time that something lasts.
const LEAST_NS: u64 = 100_000;
/// The shortest time between two.
const LEAST_EVERY_NS: u64 = 1_000_000;

table! {
    /// How long it lasts, and how often again.
    pub(crate) struct RepeatsTable {
        /// How long it lasts. Default: as `when` says, and without that to the end.
        "for" for_: DurationNs,
        /// It happens again each time this has passed. Only with `for`.
        "every" every: DurationNs,
        /// Each time it happens later by a random time below this, drawn from the seed.
        "jitter" jitter: DurationNs,
    }
}

/// The times are wrong, which has been told.
pub(super) struct Wrong;

/// Reads the own times; `None` if there are none.
pub(super) fn read(table: &RepeatsTable, errors: &mut Errors) -> Result<Option<Repeats>, Wrong> {
    if !table.unread.is_empty() {
        return Err(Wrong);
    }
    let Some(for_) = &table.for_ else {
        let orphan = table.every.as_ref().or(table.jitter.as_ref());
        return match orphan {
            None => Ok(None),
            Some(given) => {
                errors
                    .at(given.span, "it says how often, but not how long")
                    .hint("add `for`, the time that it lasts");
                Err(Wrong)
            }
        };
    };
    if for_.value.0 < LEAST_NS {
        errors
            .at(for_.span, "no timer is as exact as that")
            .expected(format!("at least \"{}\"", format_ns(LEAST_NS)));
        return Err(Wrong);
    }
    of(for_.value.0, table.every.as_ref(), table.jitter.as_ref(), errors).map(Some).ok_or(Wrong)
}

/// Windows of a given length; `None` if they would overlap.
pub(super) fn of(
    for_ns: u64,
    every: Option<&Spanned<DurationNs>>,
    jitter: Option<&Spanned<DurationNs>>,
    errors: &mut Errors,
) -> Option<Repeats> {
    let jitter_ns = jitter.map_or(0, |jitter| jitter.value.0);
    let longest_ns = for_ns.saturating_add(jitter_ns);
    if let Some(every) = every.filter(|every| longest_ns > every.value.0) {
        let problem = format!(
            "one may take until {} after its time, and the next comes after {}",
            format_ns(longest_ns),
            every.value
        );
        errors.at(every.span, problem).expected(format!("at least \"{}\"", format_ns(longest_ns)));
        return None;
    }
    if let Some(every) = every.filter(|every| every.value.0 < LEAST_EVERY_NS) {
        errors
            .at(every.span, "nothing is done as often as that")
            .expected(format!("at least \"{}\"", format_ns(LEAST_EVERY_NS)));
        return None;
    }
    Some(Repeats { for_ns, every_ns: every.map(|every| every.value.0), jitter_ns })
}

/// What all of them have no use for.
pub(super) fn check(process: &ProcessFault, fault: &FaultTable, errors: &mut Errors) {
    without_packets::check("a process", "their target", fault, errors);
    for (key, span) in fault.choosing_keys() {
        errors
            .at(span, format!("the whole target is struck each time, so `{key}` has no meaning"))
            .hint(format!("leave `{key}` out: `for`, `every` and `jitter` say when"));
    }
    let Some(when) = fault.when.as_ref().map(|when| &when.value).filter(|_| process.repeats.is_some()) else {
        return;
    };
    for (key, given) in [("for", &when.for_), ("every", &when.every), ("jitter", &when.jitter)] {
        if let Some(given) = given {
            errors
                .at(
                    given.span,
                    format!(
                        "the fault's own keys say how long and how often, so `{key}` of `when` has no meaning"
                    ),
                )
                .hint("give the times either in the fault or in `when`; `start` of `when` goes with both");
        }
    }
}
