//! Questions of the domain name system: which are meant, by name and by type, and what they are answered.

use schemars::{Schema, SchemaGenerator, json_schema};

use super::diagnostic::Errors;
use super::nearest;
use super::quantity::clip;
use super::read::{Read, read_text, read_whole};
use super::source::Span;
use super::tree::Node;
use super::words::Word;

/// What becomes of questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// What they are answered.
    pub answer: DnsAnswer,
    /// Names that are meant; empty means every name.
    pub names: Vec<DnsName>,
    /// Types that are meant, as numbers of IANA's registry; empty means every type.
    pub types: Vec<u16>,
}

/// What a question is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DnsAnswer {
    /// There is no such name (RCODE 3).
    #[default]
    NxDomain,
    /// The server has a problem (RCODE 2).
    ServFail,
    /// The server does not want to (RCODE 5).
    Refused,
    /// Nothing: the question is lost.
    Silence,
}

impl Word for DnsAnswer {
    const WHAT: &'static str = "answer";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("nxdomain", Self::NxDomain),
        ("servfail", Self::ServFail),
        ("refused", Self::Refused),
        ("silence", Self::Silence),
    ];
}

/// A name that is meant, or all names below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsName {
    /// In lower case, without a dot at the end.
    pub name: String,
    /// Whether the names below it are meant, with any number of labels in front, and not it itself.
    pub below: bool,
}

/// Characters of a name, at most: 255 bytes on the wire (RFC 1035, 2.3.4).
const MAX_NAME: usize = 253;
/// Characters of a label, at most.
const MAX_LABEL: usize = 63;

const EXPECTED_NAME: &str = "a name such as \"db.example.org\", or all below one, such as \"*.internal\"";

impl Read for DnsName {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        let text = read_text(node, EXPECTED_NAME, errors)?;
        let absolute = text.strip_suffix('.').unwrap_or(text);
        let (name, below) = match absolute.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (absolute, false),
        };
        check_name(node.span, text, name, errors).then(|| Self { name: name.to_ascii_lowercase(), below })
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^(\*\.)?[^*.]{1,63}(\.[^*.]{1,63})*\.?$",
            "examples": ["db.example.org", "*.internal"]
        })
    }
}

/// Whether a name can be asked for. `text` is what was written.
fn check_name(span: Span, text: &str, name: &str, errors: &mut Errors) -> bool {
    let mut refuse = |message: String, hint: &str| {
        errors.at(span, message).expected(EXPECTED_NAME).hint(hint);
        false
    };
    if matches!(name, "*" | "") {
        return refuse(format!("\"{}\" is no name", clip(text)), "leave `names` out to mean every name");
    }
    if !name.is_ascii() {
        return refuse(
            format!("\"{}\" is not ASCII, as names in questions are", clip(text)),
            "write the A-label (punycode, RFC 5891): \"xn--bcher-kva.example\" for \"bücher.example\"",
        );
    }
    if name.contains('*') {
        return refuse(
            format!("the `*` in \"{}\" is not the whole first label", clip(text)),
            "`*` stands for one label or more in front of a name: \"*.example.org\"",
        );
    }
    if let Some(strange) = name.chars().find(|c| !c.is_ascii_graphic() || "?[]{}\\\"".contains(*c)) {
        return refuse(
            format!("{strange:?} in \"{}\" can't be in a name here", clip(text)),
            "there are no patterns but `*.` in front, and no escapes",
        );
    }
    if let Some(label) = name.split('.').find(|label| !(1..=MAX_LABEL).contains(&label.len())) {
        let message = if label.is_empty() {
            format!("\"{}\" has an empty label", clip(text))
        } else {
            format!("the label \"{}\" has {} characters", clip(label), label.len())
        };
        return refuse(message, "the parts between dots have 1 to 63 characters");
    }
    if name.len() > MAX_NAME {
        return refuse(format!("the name has {} characters", name.len()), "a name has at most 253");
    }
    true
}

/// A type of records, by its name or its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordType(pub(crate) u16);

/// Types by their names in IANA's registry, those that clients ask for.
const TYPES: [(&str, u16); 17] = [
    ("A", 1),
    ("AAAA", 28),
    ("ANY", 255),
    ("CAA", 257),
    ("CNAME", 5),
    ("DNSKEY", 48),
    ("DS", 43),
    ("HTTPS", 65),
    ("MX", 15),
    ("NAPTR", 35),
    ("NS", 2),
    ("PTR", 12),
    ("SOA", 6),
    ("SRV", 33),
    ("SVCB", 64),
    ("TLSA", 52),
    ("TXT", 16),
];

impl Read for RecordType {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        const EXPECTED: &str = "a type of records, such as \"A\", or its number";
        if node.is_number() {
            return read_whole(node, 1, u64::from(u16::MAX), "the type", errors)
                .map(|number| Self(number as u16));
        }
        let text = read_text(node, EXPECTED, errors)?;
        if let Some((_, number)) = TYPES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
            return Some(Self(*number));
        }
        let near = nearest::nearest(&text.to_ascii_uppercase(), TYPES.iter().map(|(name, _)| *name));
        let hint = near.map_or_else(
            || "types without a name here are written as their numbers (IANA, DNS parameters)".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        errors.at(node.span, format!("unknown type \"{}\"", clip(text))).expected(EXPECTED).hint(hint);
        None
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
        json_schema!({ "anyOf": [{ "enum": names }, { "type": "integer", "minimum": 1, "maximum": 65535 }] })
    }
}
