//! Faults that begin after others.

use crate::scenario::diagnostic::{Class, Errors};
use crate::scenario::entries::FaultEntry;
use crate::scenario::nearest;
use crate::scenario::quantity::clip;
use crate::scenario::read::Spanned;

/// Refuses what nobody would notice the beginning of, and who can't wait for it.
pub(super) fn check(entries: &[Spanned<FaultEntry>], ids: &[String], errors: &mut Errors) {
    for entry in entries {
        let Some(when) = &entry.value.table.when else { continue };
        let Some(after) = &when.value.after else { continue };
        let waits = entry.value.effect.as_ref().is_none_or(crate::scenario::Effect::waits_for_others);
        if !waits {
            errors
                .at(after.span, "`after` of a fault that the kernel decides is not in this version")
                .class(Class::NotInThisVersion)
                .hint("`after` is for `process.pause`, `process.stop`, `process.kill`, `process.throttle` and `process.memory`");
        }
        let Some(other) = ids.iter().position(|id| *id == after.value) else {
            let hint = nearest::hint(&after.value, ids.iter().map(String::as_str));
            errors.at(after.span, format!("unknown fault \"{}\"", clip(&after.value))).maybe_hint(hint);
            continue;
        };
        let other = entries.get(other).and_then(|entry| entry.value.effect.as_ref());
        if other.is_some_and(crate::scenario::Effect::is_done_by_injector) {
            errors
                .at(
                    after.span,
                    format!("`{}` strikes at times, and not at something that happens", clip(&after.value)),
                )
                .hint(
                    "wait for a fault of packets, operations or system calls; or give both the same `start`",
                );
        }
    }
}
