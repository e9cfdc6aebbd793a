//! Directions in which a target can't have a fault, on any kernel.

use std::collections::BTreeMap;

use crate::scenario::diagnostic::Errors;
use crate::scenario::effect::Effect;
use crate::scenario::entries::FaultEntry;
use crate::scenario::model::{Direction, Fault, Selector, Target};
use crate::scenario::read::Spanned;

/// Checks what arrives at the target of each fault; what leaves it can have any.
pub(super) fn check(
    targets: &BTreeMap<String, Target>,
    faults: &[Fault],
    entries: &[Spanned<FaultEntry>],
    ids: &[String],
    errors: &mut Errors,
) {
    for fault in faults.iter().filter(|fault| fault.direction != Direction::Egress) {
        let Some((problem, remedy)) = problem(targets, faults, fault) else { continue };
        let Some((entry, _)) = entries.iter().zip(ids).find(|(_, id)| **id == fault.id) else { continue };
        let table = &entry.value.table;
        let kind = table.kind.as_ref().map_or(entry.span, |kind| kind.span);
        let span = table.direction.as_ref().map_or(kind, |direction| direction.span);
        errors.at(span, format!("`{}` {problem}", fault.effect.kind())).hint(remedy);
    }
}

/// What can't be done, and what can be done instead.
fn problem(
    targets: &BTreeMap<String, Target>,
    faults: &[Fault],
    fault: &Fault,
) -> Option<(&'static str, &'static str)> {
    let is_cgroup = |target: &Target| !matches!(target.selector, Selector::Interface(_));
    let on_cgroup = fault.targets.iter().filter_map(|name| targets.get(name)).any(is_cgroup);
    let copies = matches!(fault.effect, Effect::Duplicate { .. });
    if fault.effect.sends()
        && (keeps_back_what_arrives(targets, faults, fault)
            || (copies && keeps_back_at_a_cgroup(targets, faults, fault)))
    {
        return Some((
            "can't send packets of its own where another fault keeps back what arrives: they don't find the way round",
            "take the side that sends as the target of one of the two",
        ));
    }
    if fault.effect.sends() && !copies && on_cgroup {
        return Some((
            "can't answer what arrives at a cgroup: only what a cgroup sends and what arrives at a device is answered",
            "use direction = \"egress\", where what the target sends is answered, or an `interface` as the target",
        ));
    }
    None
}

/// Whether some fault keeps back what arrives at a cgroup, whose packets the fault's target may have too.
fn keeps_back_at_a_cgroup(targets: &BTreeMap<String, Target>, faults: &[Fault], fault: &Fault) -> bool {
    let selectors = |fault: &Fault| {
        let found = fault.targets.iter().filter_map(|name| targets.get(name));
        found.map(|target| target.selector.clone()).collect::<Vec<_>>()
    };
    let own = selectors(fault);
    let others =
        faults.iter().filter(|other| other.direction != Direction::Egress && other.effect.keeps_back());
    others
        .flat_map(selectors)
        .filter(|other| !matches!(other, Selector::Interface(_)))
        .any(|other| own.iter().any(|own| may_share(own, &other)))
}

/// Whether two targets, the second of which is no device, may have the same packets, as far as the file tells.
fn may_share(one: &Selector, other: &Selector) -> bool {
    match (one, other) {
        (Selector::Cgroup(a), Selector::Cgroup(b)) => {
            let parts = |path: &str| {
                path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>()
            };
            let (a, b) = (parts(a), parts(b));
            a.starts_with(&b) || b.starts_with(&a)
        }
        (Selector::Pid(a), Selector::Pid(b)) => a == b,
        // A device has everybody's; where a process or a command is, is not known yet.
        _ => true,
    }
}

/// Whether some fault on the same target keeps back what arrives there.
pub(crate) fn keeps_back_what_arrives(
    targets: &BTreeMap<String, Target>,
    faults: &[Fault],
    fault: &Fault,
) -> bool {
    // Two names of targets may mean the same, as far as the file tells.
    let selector = |name: &String| targets.get(name).map(|target| &target.selector);
    let is_same = |one: &String, two: &String| {
        one == two || (selector(one).is_some() && selector(one) == selector(two))
    };
    faults.iter().any(|other| {
        other.targets.iter().any(|one| fault.targets.iter().any(|two| is_same(one, two)))
            && other.direction != Direction::Egress
            && other.effect.keeps_back()
    })
}
