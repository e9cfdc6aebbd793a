//! `network.rate`: a link of a given rate, with a bounded queue in front.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

use super::Kind;
use crate::scenario::quantity::{BitRate, Bytes, DurationNs};
use crate::scenario::read::{Read, Table as _, Whole, read_quantity, read_text, table};
use crate::scenario::tree::Node;
use crate::scenario::{Effect, Errors, FaultTable, Key, Queue, Rate, Reader};

/// See the module.
pub(super) struct NetworkRate;

/// The queue of a link where nothing is said: what a home router has, more or less.
const DEFAULT_QUEUE_NS: u64 = 100_000_000;

table! {
    /// The own keys of `network.rate`.
    pub(crate) struct RateTable {
        /// What the link carries, such as `"10mbit"`, in bits of IP packets a second.
        required "rate" rate: BitRate,
        /// What may wait for the link: a time (`"50ms"`) or a size (`"64KiB"`); what comes on top is dropped. Default: `"100ms"`.
        "queue" queue: QueueBound,
        /// What may be sent at once after a pause, such as `"15KB"`. Default: nothing.
        "burst" burst: Bytes,
        /// Bytes that the link adds to each packet: 18 for Ethernet, 38 with its preamble and gap. Default: 0.
        "overhead" overhead: Whole<0, 1024>,
    }
}

/// A time or a size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueBound(Queue);

impl Read for QueueBound {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        const EXPECTED: &str = "a time such as \"50ms\", or a size such as \"64KiB\"";
        let is_size = |text: &str| text.trim_end().ends_with('B');
        let queue = if !node.is_number() && is_size(read_text(node, EXPECTED, errors)?) {
            Queue::Bytes(read_quantity::<Bytes>(node, EXPECTED, errors)?.0)
        } else {
            Queue::TimeNs(read_quantity::<DurationNs>(node, EXPECTED, errors)?.0)
        };
        Some(Self(queue))
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [DurationNs::schema(generator), Bytes::schema(generator)] })
    }
}

impl Kind for NetworkRate {
    fn name(&self) -> &'static str {
        "network.rate"
    }

    fn summary(&self) -> &'static str {
        "Sends packets over a link of a given rate with a bounded queue: they wait for it, and are lost when it is full."
    }

    fn keys(&self) -> &'static [Key] {
        RateTable::KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = RateTable::read_from(own, errors);
        if !table.unread.is_empty() {
            return None;
        }
        Some(Effect::Rate(Rate {
            rate: table.rate.as_ref()?.value,
            queue: table.queue.as_ref().map_or(Queue::TimeNs(DEFAULT_QUEUE_NS), |given| given.value.0),
            burst_bytes: table.burst.as_ref().map_or(0, |given| given.value.0),
            overhead_bytes: table.overhead.as_ref().map_or(0, |given| given.value.0 as u32),
        }))
    }

    /// What goes over the link is said by `match`: a link does not carry one packet and let another one pass by.
    fn check(&self, _: &Effect, fault: &FaultTable, errors: &mut Errors) {
        let given = [
            ("probability", fault.probability.as_ref().map(|given| given.span)),
            ("nth", fault.nth.as_ref().map(|given| given.span)),
            ("limit", fault.limit.as_ref().map(|given| given.span)),
            ("budget", fault.budget.as_ref().map(|given| given.span)),
        ];
        for (key, span) in given.into_iter().filter_map(|(key, span)| Some((key, span?))) {
            errors
                .at(span, format!("every matching packet takes the link, so `{key}` has no meaning"))
                .hint(format!("leave `{key}` out; `match` says which packets take the link"));
        }
    }

    fn keeps_back(&self) -> bool {
        true
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        RateTable::properties(generator)
    }
}
