//! `network.link`: a network device is set down, and up again.

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::Kind;
use crate::scenario::quantity::{DurationNs, format_ns};
use crate::scenario::read::{Spanned, Table as _, table};
use crate::scenario::words::LinkWord;
use crate::scenario::{Effect, Errors, FaultTable, Key, Reader};

/// See the module.
pub(super) struct NetworkLink;

/// The shortest time down, and up between two: the controller looks ten times a second.
const SHORTEST_NS: u64 = 1_000_000_000;

table! {
    /// The own keys of `network.link`.
    pub(crate) struct LinkTable {
        /// What becomes of the device: `"down"` (default).
        "state" state: LinkWord,
    }
}

impl Kind for NetworkLink {
    fn name(&self) -> &'static str {
        "network.link"
    }

    fn summary(&self) -> &'static str {
        "Sets a network device down, and up again with all that it had."
    }

    fn keys(&self) -> &'static [Key] {
        LinkTable::KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = LinkTable::read_from(own, errors);
        // The one state there is, which is also the default.
        let LinkWord::Down = table.state.as_ref().map_or(LinkWord::Down, |given| given.value);
        table.unread.is_empty().then_some(Effect::Link)
    }

    /// A device is down or it is not: nothing of a packet matters.
    fn check(&self, _: &Effect, fault: &FaultTable, errors: &mut Errors) {
        let given = [
            ("direction", fault.direction.as_ref().map(|given| given.span)),
            ("match", fault.matcher.as_ref().map(|given| given.span)),
        ];
        let given = given.into_iter().filter_map(|(key, span)| Some((key, span?)));
        for (key, span) in given.chain(fault.choosing_keys()) {
            errors
                .at(span, format!("a link is down for everything, so `{key}` has no meaning"))
                .hint(format!("leave `{key}` out; for some packets: `network.loss`"));
        }
        check_times(fault, errors);
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        LinkTable::properties(generator)
    }
}

/// What is shorter than a few looks of the controller may pass between two of them.
fn check_times(fault: &FaultTable, errors: &mut Errors) {
    const HINT: &str = "for shorter outages: `network.loss` at 100 %";
    let Some(when) = fault.when.as_ref().map(|when| &when.value) else { return };
    let shortest = format_ns(SHORTEST_NS);
    let ns = |time: &Option<Spanned<DurationNs>>| time.as_ref().map_or(0, |time| time.value.0);
    let down_ns = ns(&when.for_);
    if let Some(given) = when.for_.as_ref().filter(|_| (1..SHORTEST_NS).contains(&down_ns)) {
        errors
            .at(given.span, "the link can't be down for so short a time")
            .expected(format!("at least \"{shortest}\""))
            .hint(HINT);
    }
    // Windows that overlap are told of elsewhere.
    let Some(every) = when.every.as_ref() else { return };
    let taken_ns = down_ns.saturating_add(ns(&when.jitter));
    if (taken_ns..taken_ns.saturating_add(SHORTEST_NS)).contains(&every.value.0) {
        errors
            .at(every.span, "the link would come up for too short a time between two windows")
            .expected(format!("at least \"{}\"", format_ns(taken_ns.saturating_add(SHORTEST_NS))))
            .hint(HINT);
    }
}
