//! `network.loss`: packets are lost as the network loses them, unnoticed by their sender's stack.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

use super::Kind;
use crate::scenario::quantity::{DurationNs, format_ns};
use crate::scenario::read::{Read, Spanned, Table as _, read_quantity, read_whole, table};
use crate::scenario::source::Span;
use crate::scenario::tree::{Node, Table as Tree};
use crate::scenario::words::ModelName;
use crate::scenario::{Effect, Errors, FaultTable, Key, Loss, LossModel, P32, Per, Reader};

/// See the module.
pub(super) struct NetworkLoss;

table! {
    /// The own keys of `network.loss`.
    pub(crate) struct LossTable {
        /// Which packets are lost: `"bernoulli"` (default) each by itself, as `probability` or `nth` says;
        /// `"gilbert-elliott"`, `"markov"` in bursts; `"periodic"` regularly.
        "model" model: ModelName,
        /// What counts as a packet: `"packet"` (default) what the stack handles, a GSO super-packet at once; `"segment"`
        /// what goes over the wire.
        "per" per: Per,
        /// gilbert-elliott: the chance to go from good to bad, per packet. Mandatory.
        "p" p: P32,
        /// gilbert-elliott: the chance to go from bad to good, per packet. Mandatory.
        "r" r: P32,
        /// gilbert-elliott: the chance of a packet to be delivered in the bad state. Default: 0 %.
        "h" h: P32,
        /// gilbert-elliott: the chance of a packet to be delivered in the good state. Default: 100 %.
        "k" k: P32,
        /// markov: the chance that a burst begins. Mandatory.
        "p13" p13: P32,
        /// markov: the chance that a burst ends after a lost packet. Default: 100 % less `p13`.
        "p31" p31: P32,
        /// markov: the chance that a burst goes on with a delivered packet. Default: 0 %.
        "p32" p32: P32,
        /// markov: the chance that the next packet within a burst is lost again. Default: 100 %.
        "p23" p23: P32,
        /// markov: the chance of a single loss between bursts. Default: 0 %.
        "p14" p14: P32,
        /// periodic: how many packets (a number), or for how long (a time), all is delivered. Mandatory.
        "up" up: Stretch,
        /// periodic: how many packets, or for how long, all is lost. Mandatory.
        "down" down: Stretch,
    }
}

/// Part of a period: packets or time.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stretch {
    Packets(u64),
    TimeNs(u64),
}

impl Read for Stretch {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        const MOST: u64 = u64::MAX / 2;
        const EXPECTED: &str = "a number of packets, such as 9, or a time, such as \"2s\"";
        if node.is_number() {
            return read_whole(node, 1, MOST, "the number of packets", errors).map(Self::Packets);
        }
        let time: DurationNs = read_quantity(node, EXPECTED, errors)?;
        if time.0 == 0 || time.0 > MOST {
            errors
                .at(node.span, format!("a period can't have a part of {}", format_ns(time.0)))
                .expected(EXPECTED);
            return None;
        }
        Some(Self::TimeNs(time.0))
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let time = DurationNs::schema(generator);
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1 }, time] })
    }
}

/// The keys of each model besides `model` and `per`.
const fn model_keys(model: ModelName) -> &'static [&'static str] {
    match model {
        ModelName::Bernoulli => &[],
        ModelName::GilbertElliott => &["p", "r", "h", "k"],
        ModelName::Markov => &["p13", "p31", "p32", "p23", "p14"],
        ModelName::Periodic => &["up", "down"],
    }
}

const MODELS: [(&str, ModelName); 3] = [
    ("gilbert-elliott", ModelName::GilbertElliott),
    ("markov", ModelName::Markov),
    ("periodic", ModelName::Periodic),
];

impl Kind for NetworkLoss {
    fn name(&self) -> &'static str {
        "network.loss"
    }

    fn summary(&self) -> &'static str {
        "Loses packets as the network does: silently, so that only their absence tells."
    }

    fn keys(&self) -> &'static [Key] {
        LossTable::KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = LossTable::read_from(own, errors);
        // A model that could not be read is an error already, and would make its keys look wrong too.
        if own.table().get("model").is_some() && table.model.is_none() {
            return None;
        }
        let name = table.model.as_ref().map_or(ModelName::Bernoulli, |model| model.value);
        check_keys(name, own.table(), errors);
        let at = table.model.as_ref().map_or(own.span(), |model| model.span);
        let given = Given { table: own.table(), at };
        let model = match name {
            ModelName::Bernoulli => LossModel::Bernoulli,
            ModelName::GilbertElliott => gilbert_elliott(&table, &given, errors)?,
            ModelName::Markov => markov(&table, &given, errors)?,
            ModelName::Periodic => periodic(&table, &given, errors)?,
        };
        Some(Effect::Loss(Loss { model, per: table.per.map_or(Per::Packet, |per| per.value) }))
    }

    /// Only a memoryless model leaves it to the fault how often it strikes.
    fn check(&self, effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        if matches!(effect, Effect::Loss(Loss { model: LossModel::Bernoulli, .. })) {
            return;
        }
        let probability = fault.probability.as_ref().map(|given| ("probability", given.span));
        let nth = fault.nth.as_ref().map(|given| ("nth", given.span));
        for (key, span) in probability.into_iter().chain(nth) {
            errors
                .at(span, format!("the loss model sets its own frequency, so `{key}` has no meaning"))
                .hint(format!("leave `{key}` out, or use model = \"bernoulli\""));
        }
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        LossTable::properties(generator)
    }
}

/// Notes each key that belongs to another model.
fn check_keys(name: ModelName, table: &Tree, errors: &mut Errors) {
    for (model, other) in MODELS.iter().filter(|(_, other)| *other != name) {
        for (key, _) in model_keys(*other).iter().filter_map(|key| table.entry(key)) {
            errors
                .at(key.span, format!("`{}` is a key of another loss model", key.text))
                .hint(format!("did you mean model = \"{model}\"?"));
        }
    }
}

/// What was written, to tell a missing key from a wrong one, and where to complain about a missing one.
struct Given<'t> {
    table: &'t Tree,
    at: Span,
}

impl Given<'_> {
    /// The value of a key that the model can't do without.
    fn need<T: Copy>(&self, key: &str, value: Option<&Spanned<T>>, errors: &mut Errors) -> Option<T> {
        if value.is_none() && self.table.get(key).is_none() {
            errors.at(self.at, format!("the loss model needs `{key}`")).hint(format!("add `{key}`"));
        }
        value.map(|value| value.value)
    }

    /// The value of a key, or its default; `None` if it could not be read.
    fn or(&self, key: &str, value: Option<&Spanned<P32>>, default: P32) -> Option<P32> {
        match value {
            Some(value) => Some(value.value),
            None => self.table.get(key).is_none().then_some(default),
        }
    }
}

fn gilbert_elliott(table: &LossTable, given: &Given<'_>, errors: &mut Errors) -> Option<LossModel> {
    let p = given.need("p", table.p.as_ref(), errors);
    let r = given.need("r", table.r.as_ref(), errors);
    let h = given.or("h", table.h.as_ref(), P32::ZERO);
    let k = given.or("k", table.k.as_ref(), P32::ONE);
    Some(LossModel::GilbertElliott { p: p?, r: r?, h: h?, k: k? })
}

fn markov(table: &LossTable, given: &Given<'_>, errors: &mut Errors) -> Option<LossModel> {
    let p13 = given.need("p13", table.p13.as_ref(), errors)?;
    // netem's defaults (`loss state` in tc's q_netem.c).
    let p31 = given.or("p31", table.p31.as_ref(), p13.complement())?;
    let p32 = given.or("p32", table.p32.as_ref(), P32::ZERO)?;
    let p23 = given.or("p23", table.p23.as_ref(), P32::ONE)?;
    let p14 = given.or("p14", table.p14.as_ref(), P32::ZERO)?;
    let at = |key: &str| given.table.get(key).map_or(given.at, |node| node.span);
    if p13.0 + p14.0 > P32::ONE.0 {
        errors
            .at(at("p14"), format!("p13 ({p13}) and p14 ({p14}) are more than 100 % together"))
            .hint("both are chances to leave the same state, delivered between bursts");
        return None;
    }
    if p31.0 + p32.0 > P32::ONE.0 {
        let by_default = if given.table.get("p31").is_none() { ", by default 100 % less p13" } else { "" };
        errors
            .at(at("p32"), format!("p31 ({p31}{by_default}) and p32 ({p32}) are more than 100 % together"))
            .hint("both are chances to leave the same state, lost within a burst: give a smaller p31 or p32");
        return None;
    }
    Some(LossModel::Markov { p13, p31, p32, p23, p14 })
}

fn periodic(table: &LossTable, given: &Given<'_>, errors: &mut Errors) -> Option<LossModel> {
    let up = given.need("up", table.up.as_ref(), errors);
    let down = given.need("down", table.down.as_ref(), errors);
    match (up?, down?) {
        (Stretch::Packets(up), Stretch::Packets(down)) => Some(LossModel::PeriodicPackets { up, down }),
        (Stretch::TimeNs(up_ns), Stretch::TimeNs(down_ns)) => {
            Some(LossModel::PeriodicTime { up_ns, down_ns })
        }
        _ => {
            let at = table.down.as_ref().map_or(given.at, |down| down.span);
            errors
                .at(at, "`up` and `down` must both count packets, or both be times")
                .hint("write up = 9 and down = 1, or up = \"9s\" and down = \"1s\"");
            None
        }
    }
}
