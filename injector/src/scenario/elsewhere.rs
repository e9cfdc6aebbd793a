//! Keys that a table does not have, but of which something better than "unknown" can be said.

use super::document::{MatchTable, WhenTable};
use super::read::{Elsewhere, Table as _};

pub(crate) fn document(key: &str) -> Option<Elsewhere> {
    let hint = match key {
        "guard" => return Some(Elsewhere::NotInThisVersion(None)),
        "faults" => "each fault is a `[[fault]]`",
        "targets" => "each target is a `[target.NAME]`",
        "peer" => "each set of addresses is a `[peers.NAME]`",
        "for" | "timeout" => "the length of the experiment is `duration`",
        _ => return None,
    };
    Some(Elsewhere::Hint(hint.to_owned()))
}

pub(crate) fn target(key: &str) -> Option<Elsewhere> {
    let is_planned = matches!(key, "unit" | "container" | "pod" | "process" | "user" | "host");
    is_planned.then(|| {
        Elsewhere::NotInThisVersion(Some("it has: `cgroup`, `pid`, `interface`, `command`".to_owned()))
    })
}

/// Keys of a `match` or of a `when` that were written into the fault itself.
pub(crate) fn fault(key: &str) -> Option<Elsewhere> {
    if MatchTable::KEYS.iter().any(|known| known.name == key) {
        return Some(Elsewhere::Hint(format!("`{key}` belongs in `match = {{ {key} = ... }}`")));
    }
    if WhenTable::KEYS.iter().any(|known| known.name == key) {
        return Some(Elsewhere::Hint(format!("`{key}` belongs in `when = {{ {key} = ... }}`")));
    }
    None
}
