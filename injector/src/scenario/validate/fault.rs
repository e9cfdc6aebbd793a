//! One fault: its target, its frequency, its window, and the rules of its kind.

use super::{Scope, matching, when};
use crate::scenario::diagnostic::Errors;
use crate::scenario::document::FaultTable;
use crate::scenario::effect::{Effect, Loss, Per};
use crate::scenario::entries::{FaultEntry, TargetEntry};
use crate::scenario::harm::OperationFault;
use crate::scenario::model::{Direction, Fault, Frequency, InterfaceHook, Selector, When};
use crate::scenario::nearest;
use crate::scenario::quantity::clip;
use crate::scenario::read::Spanned;

/// `None` if something is missing or wrong, which `errors` then has.
pub(super) fn fault(id: &str, entry: &FaultEntry, scope: &Scope<'_>, errors: &mut Errors) -> Option<Fault> {
    let table = &entry.table;
    // The target that an observer has from its fault is looked at there.
    let of_table = entry.table.target.iter().filter(|_| !entry.is_observer);
    for name in of_table.chain(&entry.references.targets) {
        check_target(name, scope, errors);
    }
    for name in &entry.references.peers {
        matching::check_peers(name.span, &name.value, scope, errors);
    }
    let frequency = frequency(table, errors);
    let window =
        table.when.as_ref().map_or_else(When::default, |given| when::when(given, scope.duration_ns, errors));
    let (matcher, exclude) = table.matcher.as_ref().map_or_else(Default::default, |given| {
        let matcher = matching::matcher(&given.value, scope, errors);
        let exclude = given.value.not.as_ref().map(|not| matching::exclude(not, &matcher, scope, errors));
        (matcher, exclude)
    });
    check_established(entry, scope, errors);
    let effect = entry.effect.clone()?;
    check_calls(&effect, entry, scope, errors);
    check_link(&effect, entry, scope, errors);
    check_fallback(&effect, entry, scope, errors);
    if let Some(kind) = entry.kind {
        kind.check(&effect, table, errors);
    }
    let given = table.direction.as_ref().map(|direction| direction.value);
    let direction = effect.direction().or(given).unwrap_or_default();
    check_hook(entry, &effect, direction, scope, errors);
    Some(Fault {
        id: id.to_owned(),
        targets: match effect.nodes() {
            Some(nodes) => nodes.to_vec(),
            None => vec![table.target.as_ref()?.value.clone()],
        },
        direction,
        after: table.when.as_ref().and_then(|when| Some(when.value.after.as_ref()?.value.clone())),
        after_end: table.when.as_ref().and_then(|when| Some(when.value.after_end.as_ref()?.value.clone())),
        matcher,
        exclude,
        frequency,
        limit: table.limit.as_ref().map(|limit| limit.value.0),
        budget: table.budget.as_ref().map(|budget| budget.value),
        when: match &effect {
            Effect::Process(fault) => fault.when(window),
            _ => window,
        },
        effect,
    })
}

/// Every name of a target in a fault, where it is written.
fn targets(entry: &FaultEntry) -> impl Iterator<Item = &Spanned<String>> {
    entry.table.target.iter().chain(&entry.references.targets)
}

fn check_target(target: &Spanned<String>, scope: &Scope<'_>, errors: &mut Errors) {
    let Some(targets) = scope.targets else { return };
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
fn check_established(entry: &FaultEntry, scope: &Scope<'_>, errors: &mut Errors) {
    let Some(given) = &entry.table.matcher else { return };
    let in_not = given.value.not.as_ref().and_then(|not| not.value.established.as_ref());
    let strikes_interface = strikes_interface(entry, scope);
    for established in given.value.established.iter().chain(in_not).filter(|_| strikes_interface) {
        errors
            .at(
                established.span,
                "`established` needs the target's sockets, which an interface does not have",
            )
            .hint("use a cgroup as the target, or match `tcp_flags` (a handshake is \"syn\")");
    }
}

/// Programs call, and an interface is none.
fn check_calls(effect: &Effect, entry: &FaultEntry, scope: &Scope<'_>, errors: &mut Errors) {
    let strikes_programs =
        effect.calls().is_some() || effect.strikes_operations() || effect.strikes_processes();
    if let Some(target) = entry.table.target.as_ref().filter(|_| strikes_programs)
        && strikes_interface(entry, scope)
    {
        errors
            .at(target.span, format!("`{}` strikes programs, and an interface is none", effect.kind()))
            .hint(if entry.is_observer {
                "add `target` to `on`: a `cgroup`, `pid` or `command`"
            } else {
                "use `cgroup`, `pid` or `command` as the target"
            });
    }
}

/// Only what injector starts it can put under a filter.
fn check_fallback(effect: &Effect, entry: &FaultEntry, scope: &Scope<'_>, errors: &mut Errors) {
    let Effect::Operations(OperationFault { fallback: Some(_), .. }) = effect else { return };
    let Some(name) = &entry.table.target else { return };
    let mut all = scope.targets.iter().copied().flatten();
    let is_other = |selector: &Selector| *selector != Selector::Command;
    if all.any(|(key, target)| key.text == name.value && target.selector.as_ref().is_some_and(is_other)) {
        errors
            .at(
                name.span,
                "`fallback` is for the command that `injector run` starts, and the target is another",
            )
            .hint("use a target with `command = true`, or leave `fallback` out");
    }
}

/// A cgroup has no link.
fn check_link(effect: &Effect, entry: &FaultEntry, scope: &Scope<'_>, errors: &mut Errors) {
    let Some(name) = entry.table.target.as_ref().filter(|_| *effect == Effect::Link) else { return };
    let mut all = scope.targets.iter().copied().flatten();
    let is_other = |selector: &Selector| !matches!(selector, Selector::Interface(_));
    if all.any(|(key, target)| key.text == name.value && target.selector.as_ref().is_some_and(is_other)) {
        errors
            .at(
                name.span,
                format!("`{}` sets a device down, and the target is no `interface`", effect.kind()),
            )
            .hint("to cut programs off from the network: `network.loss` at 100 % in both directions");
    }
}

fn strikes_interface(entry: &FaultEntry, scope: &Scope<'_>) -> bool {
    let is_target = |name: &str| targets(entry).any(|target| target.value == name);
    let is_interface = |entry: &TargetEntry| matches!(entry.selector, Some(Selector::Interface(_)));
    let all = scope.targets.iter().copied().flatten();
    all.into_iter().any(|(key, entry)| is_target(&key.text) && is_interface(entry))
}

/// At XDP a packet is lost, corrupted or rejected, and nobody knows how many of the wire's packets it is made of.
fn check_hook(
    entry: &FaultEntry,
    effect: &Effect,
    direction: Direction,
    scope: &Scope<'_>,
    errors: &mut Errors,
) {
    let at_xdp = |name: &Spanned<String>| {
        let mut all = scope.targets.iter().copied().flatten();
        all.any(|(key, target)| key.text == name.value && target.hook == InterfaceHook::Xdp)
    };
    let Some(target) = targets(entry).find(|name| at_xdp(name)).filter(|_| direction != Direction::Egress)
    else {
        return;
    };
    let problem = match effect {
        Effect::Loss(Loss { per: Per::Packet, .. })
        | Effect::Corrupt(_)
        | Effect::Reject(_)
        | Effect::Observe => return,
        Effect::Loss(_) => {
            "`per = \"segment\"` is not possible at XDP, which does not know of segments".to_owned()
        }
        _ => format!(
            "`{}` is not possible at XDP, where what arrives is lost, corrupted, rejected or observed",
            effect.kind()
        ),
    };
    let span = entry.table.kind.as_ref().map_or(target.span, |kind| kind.span);
    errors.at(span, problem).hint(format!(
        "leave `hook` out of `[target.{}]`, which then is struck at traffic control, or take direction = \"egress\", which is",
        clip(&target.value)
    ));
}
