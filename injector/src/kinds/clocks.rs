//! What kinds of clocks share: the key `clocks`, and that nothing of packets is asked for.

use super::without_packets;
use crate::scenario::clock::{Affected, ClockName};
use crate::scenario::read::{OneOrMany, Table as _, table};
use crate::scenario::{Errors, FaultTable, Reader};

table! {
    /// Which clocks.
    pub(crate) struct ClocksTable {
        /// Which clocks go wrong: `"realtime"` (the default: wall clocks), `"monotonic"`, or both.
        "clocks" clocks: OneOrMany<ClockName>,
    }
}

/// The clocks that are named; the wall clock, if none is. `None` if they are wrong, which `errors` then has.
pub(super) fn read(own: &mut Reader<'_>, errors: &mut Errors) -> Option<Affected> {
    let table = ClocksTable::read_from(own, errors);
    if !table.unread.is_empty() {
        return None;
    }
    let has =
        |name| table.clocks.as_ref().is_some_and(|list| list.value.0.iter().any(|given| given.value == name));
    Some(Affected {
        realtime: table.clocks.is_none() || has(ClockName::Realtime),
        monotonic: has(ClockName::Monotonic),
    })
}

/// What all of them have no use for.
pub(super) fn check(fault: &FaultTable, errors: &mut Errors) {
    without_packets::check("a clock", "`clocks`", fault, errors);
    for (key, span) in fault.choosing_keys() {
        errors
            .at(span, format!("a clock is read so often that nobody counts, so `{key}` has no meaning"))
            .hint(format!("leave `{key}` out: `when` says from when to when"));
    }
    let Some(when) = fault.when.as_ref().map(|when| &when.value) else { return };
    for (key, given) in [("every", &when.every), ("jitter", &when.jitter)] {
        if let Some(given) = given {
            errors
                .at(given.span, format!("a clock goes wrong once, so `{key}` has no meaning"))
                .hint("several times: one fault for each, or `clock.strobe`");
        }
    }
}
