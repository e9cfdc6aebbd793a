//! `network.rate`: a link of a given rate, with a bounded queue in front.

use std::sync::Arc;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

use super::Kind;
use crate::scenario::quantity::{BitRate, Bytes, DurationNs, clip};
use crate::scenario::read::{Read, Spanned, Table as _, Whole, read_quantity, read_text, table};
use crate::scenario::tree::Node;
use crate::scenario::{Capacity, Effect, Errors, FaultTable, Key, Queue, Rate, Reader, Trace};

/// See the module.
pub(super) struct NetworkRate;

/// The queue of a link where nothing is said: what a home router has, more or less.
const DEFAULT_QUEUE_NS: u64 = 100_000_000;
/// The same where the link is a recording: its pauses would exceed any time.
const DEFAULT_QUEUE_PACKETS: u64 = 100;
/// Longer queues are a slip.
const MOST_PACKETS: u64 = 1_000_000;

table! {
    /// The own keys of `network.rate`.
    pub(crate) struct RateTable {
        /// What the link carries, such as `"10mbit"`, in bits of IP packets a second. Mandatory without `trace`.
        "rate" rate: BitRate,
        /// A recording of a link, in place of `rate`: a file in mahimahi's format, `"lte.up"`, with a time in ms on each line at
        /// which 1500 bytes may leave.
        "trace" trace: String,
        /// What may wait for the link: a time (`"50ms"`), a size (`"64KiB"`), or full packets (`"100 packets"`); what comes on top
        /// is dropped. Default: `"100ms"`, with `trace` `"100 packets"`.
        "queue" queue: QueueBound,
        /// What may be sent at once after a pause, such as `"15KB"`. Default: nothing. Not with `trace`.
        "burst" burst: Bytes,
        /// Bytes that the link adds to each packet: 18 for Ethernet, 38 with its preamble and gap. Default: 0.
        "overhead" overhead: Whole<0, 1024>,
    }
}

/// A time, a size, or a number of packets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueBound(Queue);

impl Read for QueueBound {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        const EXPECTED: &str = "a time such as \"50ms\", a size such as \"64KiB\", or \"100 packets\"";
        if !node.is_number()
            && let Some(packets) = packets(read_text(node, EXPECTED, errors)?)
        {
            return bounded_packets(packets, node, errors);
        }
        let is_size = |text: &str| text.trim_end().ends_with('B');
        let queue = if !node.is_number() && is_size(read_text(node, EXPECTED, errors)?) {
            Queue::Bytes(read_quantity::<Bytes>(node, EXPECTED, errors)?.0)
        } else {
            Queue::TimeNs(read_quantity::<DurationNs>(node, EXPECTED, errors)?.0)
        };
        Some(Self(queue))
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let packets = json_schema!({
            "type": "string", "pattern": r"^\s*[0-9]+\s*packets?\s*$", "examples": ["100 packets"]
        });
        json_schema!({ "anyOf": [DurationNs::schema(generator), Bytes::schema(generator), packets] })
    }
}

/// The number in front of `packets`, which may be none.
fn packets(text: &str) -> Option<&str> {
    let text = text.trim();
    text.strip_suffix("packets").or_else(|| text.strip_suffix("packet")).map(str::trim_end)
}

fn bounded_packets(number: &str, node: &Node, errors: &mut Errors) -> Option<QueueBound> {
    let is_whole = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let packets = number.parse().ok().filter(|packets| is_whole && *packets <= MOST_PACKETS);
    if packets.is_none() {
        errors
            .at(node.span, format!("\"{}\" is not a number of packets", clip(number)))
            .expected(format!("0 to {MOST_PACKETS} packets"));
    }
    packets.map(|packets| QueueBound(Queue::Packets(packets)))
}

/// What the link carries: one of `rate` and `trace`.
fn capacity(table: &RateTable, own: &Reader<'_>, errors: &mut Errors) -> Option<Capacity> {
    match (&table.rate, &table.trace) {
        (Some(rate), None) => {
            let burst_bytes = table.burst.as_ref().map_or(0, |given| given.value.0);
            Some(Capacity::Constant { rate: rate.value, burst_bytes })
        }
        (None, Some(path)) => recorded(table, path, errors),
        (Some(_), Some(trace)) => {
            errors
                .at(trace.span, "a link has either `rate` or `trace`, not both")
                .hint("leave one of them out; a slow link behind another one is a fault of its own");
            None
        }
        (None, None) => {
            errors.at(own.span(), "`rate` is missing").hint(
                "add `rate`: what the link carries, such as `\"10mbit\"`; or `trace`: a recording of a link",
            );
            None
        }
    }
}

fn recorded(table: &RateTable, path: &Spanned<String>, errors: &mut Errors) -> Option<Capacity> {
    if let Some(burst) = &table.burst {
        errors
            .at(burst.span, "an opportunity of a trace that has passed is lost, so `burst` has no meaning")
            .hint("leave `burst` out; several lines of one time in the trace are a burst");
    }
    let trace = Trace::read(path, errors)?;
    table.burst.is_none().then(|| Capacity::Trace(Arc::new(trace)))
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
        let capacity = capacity(&table, own, errors)?;
        let default = match capacity {
            Capacity::Constant { .. } => Queue::TimeNs(DEFAULT_QUEUE_NS),
            Capacity::Trace(_) => Queue::Packets(DEFAULT_QUEUE_PACKETS),
        };
        Some(Effect::Rate(Rate {
            capacity,
            queue: table.queue.as_ref().map_or(default, |given| given.value.0),
            overhead_bytes: table.overhead.as_ref().map_or(0, |given| given.value.0 as u32),
        }))
    }

    /// What goes over the link is said by `match`: a link does not carry one packet and let another one pass by.
    fn check(&self, _: &Effect, fault: &FaultTable, errors: &mut Errors) {
        for (key, span) in fault.choosing_keys() {
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
