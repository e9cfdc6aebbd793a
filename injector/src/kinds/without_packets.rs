//! A rule that kinds without packets share: nothing that only a packet has is asked for.

use crate::scenario::{Errors, FaultTable};

/// Refuses the keys of packets; `told_by` says by what such things are told apart.
pub(super) fn check(what: &str, told_by: &str, fault: &FaultTable, errors: &mut Errors) {
    if let Some(direction) = &fault.direction {
        errors
            .at(direction.span, format!("{what} has no direction: it is always the target's own"))
            .hint("leave `direction` out");
    }
    if let Some(matcher) = &fault.matcher {
        errors
            .at(matcher.span, format!("`match` is asked of packets, and {what} is none"))
            .hint(format!("leave `match` out: they are told apart by {told_by}"));
    }
}
