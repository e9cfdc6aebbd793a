//! Faults that begin after others.

use crate::scenario::diagnostic::{Class, Errors};
use crate::scenario::document::WhenTable;
use crate::scenario::entries::FaultEntry;
use crate::scenario::model::Fault;
use crate::scenario::quantity::{clip, format_ns};
use crate::scenario::read::Spanned;
use crate::scenario::{Effect, nearest, on};

/// The faults with those that observe the events of `when.on`, each in front of the one that waits for it; and the ids of all.
pub(super) fn with_observers(
    entries: &[Spanned<FaultEntry>],
    ids: Vec<String>,
    errors: &mut Errors,
) -> (Vec<Spanned<FaultEntry>>, Vec<String>) {
    let mut all = (Vec::new(), Vec::new());
    for (entry, id) in entries.iter().zip(ids) {
        let mut waiting = entry.clone();
        check_one(entry, errors);
        if let Some(observer) = on::observer(&id, &entry.value.table, errors) {
            let name = format!("{id}.on");
            if let Some(when) = &mut waiting.value.table.when {
                on::wait_for(&name, &mut when.value, when.span);
            }
            all.0.push(Spanned { value: observer, span: entry.span });
            all.1.push(name);
        }
        all.0.push(waiting);
        all.1.push(id);
    }
    all
}

/// A fault has one beginning.
fn check_one(entry: &Spanned<FaultEntry>, errors: &mut Errors) {
    let Some(when) = entry.value.table.when.as_ref().map(|when| &when.value) else { return };
    let given = [
        ("after", when.after.as_ref().map(|given| given.span)),
        ("after_end", when.after_end.as_ref().map(|given| given.span)),
        ("on", when.on.as_ref().map(|given| given.span)),
    ];
    let mut given = given.into_iter().filter_map(|(key, span)| Some((key, span?)));
    if let (Some((one, _)), Some((other, span))) = (given.next(), given.next()) {
        errors
            .at(span, format!("a fault has one beginning: `{one}` or `{other}`, not both"))
            .hint("leave one of them out");
    }
}

/// For whom a fault waits, and where that is written.
fn awaited(entry: &Spanned<FaultEntry>) -> Option<&Spanned<String>> {
    let when: &WhenTable = &entry.value.table.when.as_ref()?.value;
    when.after.as_ref().or(when.after_end.as_ref())
}

/// Refuses what nobody would notice the beginning of, and who can't wait for it.
pub(super) fn check(
    entries: &[Spanned<FaultEntry>],
    ids: &[String],
    faults: &[Fault],
    duration_ns: Option<u64>,
    errors: &mut Errors,
) {
    let position = |id: &str| ids.iter().position(|own| own == id);
    for (own, entry) in entries.iter().enumerate() {
        let Some(other_id) = awaited(entry) else { continue };
        let Some(other) = position(&other_id.value) else {
            let hint = nearest::hint(&other_id.value, ids.iter().map(String::as_str));
            errors.at(other_id.span, format!("unknown fault \"{}\"", clip(&other_id.value))).maybe_hint(hint);
            continue;
        };
        // As many steps as there are faults come to an end, or go round.
        let next = |at: &usize| position(&awaited(entries.get(*at)?)?.value);
        if std::iter::successors(Some(other), next).take(entries.len()).any(|at| at == own) {
            errors
                .at(other_id.span, "this fault waits for itself, so it never begins")
                .hint("let one of those that wait for each other begin at a time");
            continue;
        }
        let model = |at: usize| faults.iter().find(|fault| ids.get(at) == Some(&fault.id));
        if let (Some(fault), Some(other)) = (model(own), model(other)) {
            match fault.after_end {
                None => check_strike(fault, other, other_id, errors),
                Some(_) => check_end((fault, other), other_id, duration_ns, errors),
            }
            // Who begins when a time is over can do so wherever that time is known beforehand.
            let is_struck = fault.after.is_some() || chain_strikes(faults, other);
            if is_struck && !fault.effect.waits_for_others() {
                errors
                    .at(other_id.span, "a device and a clock can't wait for another fault or an event")
                    .class(Class::NotInThisVersion)
                    .hint("give it a `start`, or `after_end` of a fault that has one");
            }
        }
    }
}

/// Whether the times of a fault count from something that happens.
fn chain_strikes(faults: &[Fault], fault: &Fault) -> bool {
    let next = |fault: &&Fault| {
        let id = fault.after_end.as_ref()?;
        faults.iter().find(|other| other.id == *id)
    };
    std::iter::successors(Some(fault), next).take(faults.len()).any(|fault| fault.after.is_some())
}

fn check_strike(_fault: &Fault, other: &Fault, id: &Spanned<String>, errors: &mut Errors) {
    if Effect::is_done_by_injector(&other.effect) {
        errors
            .at(
                id.span,
                format!("`{}` strikes at times, and not at something that happens", clip(&id.value)),
            )
            .hint("wait for a fault of packets, operations or system calls; or use `after_end`, or the same `start`");
    }
}

fn check_end(
    (fault, other): (&Fault, &Fault),
    id: &Spanned<String>,
    duration_ns: Option<u64>,
    errors: &mut Errors,
) {
    let when = &other.when;
    let Some(for_ns) = when.for_ns.filter(|_| when.every_ns.is_none()) else {
        let problem =
            if when.for_ns.is_some() { "has many windows" } else { "has no end before that of all" };
        errors
            .at(id.span, format!("`{}` {problem}, so nothing begins after it", clip(&id.value)))
            .hint("give it one window: `for`, and no `every`");
        return;
    };
    let end_ns = when.start_ns.saturating_add(when.jitter_ns).saturating_add(for_ns);
    let begin_ns = end_ns.saturating_add(fault.when.start_ns);
    if let Some(duration_ns) = duration_ns.filter(|duration_ns| begin_ns >= *duration_ns) {
        errors.at(
            id.span,
            format!(
                "it would begin at {}, after the end: the experiment takes {}",
                format_ns(begin_ns),
                format_ns(duration_ns)
            ),
        );
    }
}
