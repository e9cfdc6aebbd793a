//! `network.dns`: questions of the domain name system get a wrong answer, or none.

use injector_common::dns::{MAX_NAMES, MAX_TYPES};
use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::Kind;
use crate::scenario::dns::RecordType;
use crate::scenario::read::{OneOrMany, Spanned, Table as _, table};
use crate::scenario::{Dns, DnsAnswer, DnsName, Effect, Errors, FaultTable, Key, Reader};

/// See the module.
pub(super) struct NetworkDns;

table! {
    /// The own keys of `network.dns`.
    pub(crate) struct DnsTable {
        /// What a question gets: `"nxdomain"` (default), `"servfail"`, `"refused"`, or `"silence"`: nothing.
        "answer" answer: DnsAnswer,
        /// The names that are meant: a name, all below one (`"*.internal"`), or a list of at most 8. Default: every name.
        "names" names: OneOrMany<DnsName>,
        /// The types of records that are meant, such as `"AAAA"`, or a list of at most 8. Default: every type.
        "types" types: OneOrMany<RecordType>,
    }
}

impl Kind for NetworkDns {
    fn name(&self) -> &'static str {
        "network.dns"
    }

    fn summary(&self) -> &'static str {
        "Answers DNS questions wrongly, or not at all: the name does not exist, the server fails, refuses, or is silent."
    }

    fn keys(&self) -> &'static [Key] {
        DnsTable::KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = DnsTable::read_from(own, errors);
        let (names, types) = (table.names.as_ref(), table.types.as_ref());
        let fits = at_most(MAX_NAMES, "names", names, errors) & at_most(MAX_TYPES, "types", types, errors);
        (fits && table.unread.is_empty()).then(|| {
            Effect::Dns(Dns {
                answer: table.answer.as_ref().map_or_else(DnsAnswer::default, |given| given.value),
                names: list(names, Clone::clone),
                types: list(types, |kind| kind.0),
            })
        })
    }

    /// Questions go over UDP and TCP.
    fn check(&self, _: &Effect, fault: &FaultTable, errors: &mut Errors) {
        let protocol = fault.matcher.as_ref().and_then(|matcher| matcher.value.protocol.as_ref());
        for given in protocol.iter().flat_map(|given| &given.value.0) {
            if ![TCP, UDP].contains(&given.value.0) {
                errors
                    .at(given.span, "DNS questions go over UDP or TCP")
                    .hint("leave `protocol` out to mean both");
            }
        }
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        DnsTable::properties(generator)
    }
}

/// IP protocol number of TCP.
const TCP: u8 = 6;
/// IP protocol number of UDP.
const UDP: u8 = 17;

/// Whether a list is no longer than the kernel half holds.
fn at_most<T>(most: usize, key: &str, given: Option<&Spanned<OneOrMany<T>>>, errors: &mut Errors) -> bool {
    let Some(first_too_many) = given.and_then(|given| given.value.0.get(most)) else { return true };
    let count = given.map_or(0, |given| given.value.0.len());
    errors
        .at(first_too_many.span, format!("`{key}` has {count} items"))
        .expected(format!("at most {most}"))
        .hint("split the fault in two");
    false
}

fn list<T, U>(given: Option<&Spanned<OneOrMany<T>>>, convert: impl Fn(&T) -> U) -> Vec<U> {
    given.map_or_else(Vec::new, |given| given.value.0.iter().map(|item| convert(&item.value)).collect())
}
