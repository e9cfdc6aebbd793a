//! Faults that begin after others.

use crate::scenario::diagnostic::{Class, Errors};
use crate::scenario::document::WhenTable;
use crate::scenario::entries::FaultEntry;
use crate::scenario::model::Fault;
use crate::scenario::quantity::{clip, format_ns};
use crate::scenario::read::Spanned;
use crate::scenario::{nearest, on};

/// The faults with those that observe the events of `when.on`, each in front of the one that waits for it; and the ids of all.
pub(super) fn with_observers(
    entries: &[Spanned<FaultEntry>],
    ids: Vec<String>,
    errors: &mut Errors,
) -> (Vec<Spanned<FaultEntry>>, Vec<String>) {
    let mut all = (Vec::new(), Vec::new());
    for (entry, id) in entries.iter().zip(ids) {
        let mut waiting = entry.clone();
        if has_one_beginning(entry, errors) {
            if let Some(observer) = on::observer(&id, &entry.value, errors) {
                let name = format!("{id}.on");
                if let Some(when) = &mut waiting.value.table.when {
                    on::wait_for(&name, &mut when.value);
                }
                all.0.push(Spanned { value: observer, span: entry.span });
                all.1.push(name);
            }
        } else if let Some(when) = &mut waiting.value.table.when {
            // That is told, and nothing more is to be said of either.
            (when.value.after, when.value.after_end) = (None, None);
        }
        all.0.push(waiting);
        all.1.push(id);
    }
    all
}

fn has_one_beginning(entry: &Spanned<FaultEntry>, errors: &mut Errors) -> bool {
    let Some(when) = entry.value.table.when.as_ref().map(|when| &when.value) else { return true };
    let given = [
        ("after", when.after.as_ref().map(|given| given.span)),
        ("after_end", when.after_end.as_ref().map(|given| given.span)),
        ("on", when.on.as_ref().map(|given| given.span)),
    ];
    let mut given = given.into_iter().filter_map(|(key, span)| Some((key, span?)));
    let (Some((one, _)), Some((other, span))) = (given.next(), given.next()) else { return true };
    errors
        .at(span, format!("a fault has one beginning: `{one}` or `{other}`, not both"))
        .hint("leave one of them out");
    false
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
        let (Some(fault), Some(other)) = (model(own), model(other)) else { continue };
        // Who begins when a time is over can do so wherever that time is known beforehand.
        let waits_for_strike =
            fault.after.is_some() || ends(faults, other).any(|fault| fault.after.is_some());
        if waits_for_strike && !fault.effect.waits_for_others() {
            errors
                .at(other_id.span, "a device and a clock can't wait for another fault or an event")
                .class(Class::NotInThisVersion)
                .hint("give it a `start`, or `after_end` of a fault that has one");
        } else if fault.after_end.is_some() {
            check_end((fault, other), faults, other_id, duration_ns, errors);
        } else if other.effect.is_done_by_injector() {
            errors
                .at(
                    other_id.span,
                    format!("`{}` strikes at times, and not at something that happens", clip(&other_id.value)),
                )
                .hint(
                    "wait for a fault of packets, operations or system calls; or use `after_end`, or the same `start`",
                );
        }
    }
}

/// A fault, and those in a row for whose ends it waits.
fn ends<'f>(faults: &'f [Fault], fault: &'f Fault) -> impl Iterator<Item = &'f Fault> {
    let next = |fault: &&'f Fault| {
        let id = fault.after_end.as_ref()?;
        faults.iter().find(|other| other.id == *id)
    };
    std::iter::successors(Some(fault), next).take(faults.len())
}

fn check_end(
    (fault, other): (&Fault, &Fault),
    faults: &[Fault],
    id: &Spanned<String>,
    duration_ns: Option<u64>,
    errors: &mut Errors,
) {
    let when = &other.when;
    if when.for_ns.is_none() || when.every_ns.is_some() {
        let problem =
            if when.for_ns.is_some() { "has many windows" } else { "has no end before that of all" };
        errors
            .at(id.span, format!("`{}` {problem}, so nothing begins after it", clip(&id.value)))
            .hint("give it one window: `for`, and no `every`");
        return;
    }
    // All of them in a row, each as late as its jitter lets it.
    let length_ns = |other: &Fault| other.when.for_ns.unwrap_or(0).saturating_add(other.when.start_ns);
    let least_ns = ends(faults, other).map(length_ns).fold(fault.when.start_ns, u64::saturating_add);
    let jitter_ns = ends(faults, other).map(|other| other.when.jitter_ns).fold(0, u64::saturating_add);
    let begin_ns = least_ns.saturating_add(jitter_ns);
    if let Some(duration_ns) = duration_ns.filter(|duration_ns| begin_ns >= *duration_ns) {
        let how = if jitter_ns == 0 { "it would begin" } else { "with all jitter it may begin" };
        errors.at(
            id.span,
            format!(
                "{how} at {}, after the end: the experiment takes {}",
                format_ns(begin_ns),
                format_ns(duration_ns)
            ),
        );
    }
}
