//! One fault: its target, its frequency, its window, and the rules of its kind.

use super::{Scope, matching, when};
use crate::scenario::diagnostic::Errors;
use crate::scenario::document::FaultTable;
use crate::scenario::entries::FaultEntry;
use crate::scenario::model::{Direction, Fault, Frequency, Selector, When};
use crate::scenario::nearest;
use crate::scenario::quantity::clip;

/// `None` if something is missing or wrong, which `errors` then has.
pub(super) fn fault(id: &str, entry: &FaultEntry, scope: &Scope<'_>, errors: &mut Errors) -> Option<Fault> {
    let table = &entry.table;
    check_target(table, scope, errors);
    let frequency = frequency(table, errors);
    let window =
        table.when.as_ref().map_or_else(When::default, |given| when::when(given, scope.duration_ns, errors));
    let (matcher, exclude) = table.matcher.as_ref().map_or_else(Default::default, |given| {
        let matcher = matching::matcher(&given.value, scope, errors);
        let exclude = given.value.not.as_ref().map(|not| matching::exclude(not, &matcher, scope, errors));
        (matcher, exclude)
    });
    check_established(table, scope, errors);
    let effect = entry.effect?;
    if let Some(kind) = entry.kind {
        kind.check(&effect, table, errors);
    }
    Some(Fault {
        id: id.to_owned(),
        target: table.target.as_ref()?.value.clone(),
        effect,
        direction: table.direction.as_ref().map_or(Direction::Egress, |direction| direction.value),
        matcher,
        exclude,
        frequency,
        limit: table.limit.as_ref().map(|limit| limit.value.0),
        budget: table.budget.as_ref().map(|budget| budget.value),
        when: window,
    })
}

fn check_target(table: &FaultTable, scope: &Scope<'_>, errors: &mut Errors) {
    let (Some(target), Some(targets)) = (&table.target, scope.targets) else { return };
    let names = targets.iter().map(|(key, _)| key.text.as_str());
    if names.clone().any(|name| name == target.value) {
        return;
    }
    let hint = nearest::hint(&target.value, names)
        .unwrap_or_else(|| format!("add `[target.{}]` with a selector", clip(&target.value)));
    errors.at(target.span, format!("unknown target \"{}\"", clip(&target.value))).hint(hint);
}

fn frequency(table: &FaultTable, errors: &mut Errors) -> Frequency {
    match (&table.probability, &table.nth) {
        (Some(_), Some(nth)) => {
            errors
                .at(nth.span, "a fault has either `probability` or `nth`, not both")
                .hint("to strike a share of some matches, narrow `match`; to bound the number, use `limit`");
            Frequency::default()
        }
        (Some(probability), None) => Frequency::Probability(probability.value),
        (None, Some(nth)) => Frequency::Nth(nth.value),
        (None, None) => Frequency::default(),
    }
}

/// An interface has no sockets, so nobody knows there whether a connection is established.
fn check_established(table: &FaultTable, scope: &Scope<'_>, errors: &mut Errors) {
    let (Some(target), Some(given)) = (&table.target, &table.matcher) else { return };
    let is_interface = scope
        .targets
        .iter()
        .copied()
        .flatten()
        .any(|(key, entry)| key.text == target.value && matches!(entry.0, Some(Selector::Interface(_))));
    let in_not = given.value.not.as_ref().and_then(|not| not.value.established.as_ref());
    for established in given.value.established.iter().chain(in_not).filter(|_| is_interface) {
        errors
            .at(
                established.span,
                "`established` needs the target's sockets, which an interface does not have",
            )
            .hint("use a cgroup as the target, or match `tcp_flags` (a handshake is \"syn\")");
    }
}
