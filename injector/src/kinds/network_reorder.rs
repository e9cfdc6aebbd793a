//! `network.reorder`: some packets are held back, so that those behind overtake them.

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::Kind;
use super::times::check_delay;
use crate::scenario::quantity::DurationNs;
use crate::scenario::read::{Table as _, Whole, table};
use crate::scenario::{Effect, Errors, FaultTable, Key, P32, Reader, Reorder};

/// See the module.
pub(super) struct NetworkReorder;

table! {
    /// The own keys of `network.reorder`.
    pub(crate) struct ReorderTable {
        /// For how long a struck packet is held back, such as `"10ms"`.
        required "delay" delay: DurationNs,
        /// Every so-manieth matching packet is held back. Not with `probability` or `nth`, which say it otherwise.
        "gap" gap: Whole<2, { u32::MAX as u64 }>,
    }
}

impl Kind for NetworkReorder {
    fn name(&self) -> &'static str {
        "network.reorder"
    }

    fn summary(&self) -> &'static str {
        "Reorders packets: some are held back for a while, and what was sent after them arrives before."
    }

    fn keys(&self) -> &'static [Key] {
        ReorderTable::KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = ReorderTable::read_from(own, errors);
        if !table.unread.is_empty() {
            return None;
        }
        let delay = table.delay.as_ref()?;
        check_delay(delay, errors)?;
        Some(Effect::Reorder(Reorder {
            delay_ns: delay.value.0,
            gap: table.gap.as_ref().map(|gap| gap.value.0),
        }))
    }

    /// If every packet is held back, none is overtaken.
    fn check(&self, effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        let Effect::Reorder(reorder) = effect else { return };
        let probability = fault.probability.as_ref().map(|given| ("probability", given.span));
        let other = probability.or_else(|| fault.nth.as_ref().map(|given| ("nth", given.span)));
        match (reorder.gap, other) {
            (Some(_), Some((key, span))) => {
                errors
                    .at(span, format!("`gap` says which packets are held back, so `{key}` has no meaning"))
                    .hint(format!("leave `gap` or `{key}` out"));
            }
            (None, Some((_, span)))
                if fault.probability.as_ref().is_some_and(|given| given.value == P32::ONE) =>
            {
                errors
                    .at(span, "if every packet is held back, none is overtaken")
                    .expected("less than 100 %");
            }
            (None, None) => {
                let at = fault.kind.as_ref().map_or(crate::scenario::source::Span::NOWHERE, |kind| kind.span);
                errors
                    .at(at, "if every packet is held back, none is overtaken")
                    .hint("add `gap = 10`, `probability = \"10%\"` or `nth`");
            }
            _ => {}
        }
    }

    fn keeps_back(&self) -> bool {
        true
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        ReorderTable::properties(generator)
    }
}
