//! A rule that several kinds have: `match` must mean TCP, and nothing else.

use crate::scenario::{Errors, FaultTable};

/// IP protocol number of TCP.
const TCP: u8 = 6;

/// Notes a `match` that means more than TCP.
pub(super) fn check(fault: &FaultTable, why: &str, errors: &mut Errors) {
    let protocol = fault.matcher.as_ref().and_then(|matcher| matcher.value.protocol.as_ref());
    if protocol.is_some_and(|given| given.value.0.len() == 1 && given.value.0[0].value.0 == TCP) {
        return;
    }
    let given = protocol.map(|given| given.span);
    let kind = fault.kind.as_ref().map(|given| given.span);
    if let Some(span) = given.or(kind) {
        errors.at(span, why).hint("add match = { protocol = \"tcp\" }");
    }
}
