//! Values that only a `match` or an `[[expect]]` has: protocols, ports, flags, code points, comparisons.

use ipnet::IpNet;
use schemars::{Schema, SchemaGenerator, json_schema};

use super::diagnostic::Errors;
use super::matching::{AddressRef, Family, PortRange, TcpFlags};
use super::model::Comparison;
use super::nearest;
use super::quantity::{P32, clip};
use super::read::{Read, read_text, read_whole};
use super::tree::Node;

/// An IP protocol: a name or a number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Protocol(pub(crate) u8);

/// The names there are. IANA's numbers; any other protocol is written as its number.
const PROTOCOLS: &[(&str, u8)] = &[("tcp", 6), ("udp", 17), ("icmp", 1), ("icmp6", 58)];

impl Read for Protocol {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        const EXPECTED: &str = "\"tcp\", \"udp\", \"icmp\", \"icmp6\", or a number";
        if node.is_number() {
            return read_whole(node, 0, 255, "the protocol", errors).map(|number| Self(number as u8));
        }
        let text = read_text(node, EXPECTED, errors)?;
        named(PROTOCOLS, node, text, "protocol", EXPECTED, errors).map(Self)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
        json_schema!({ "anyOf": [{ "enum": names }, { "type": "integer", "minimum": 0, "maximum": 255 }] })
    }
}

/// The value of a name, or an error with the nearest name.
fn named<T: Copy>(
    names: &[(&str, T)],
    node: &Node,
    text: &str,
    what: &str,
    expected: &str,
    errors: &mut Errors,
) -> Option<T> {
    let found = names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    if found.is_none() {
        let hint = nearest::nearest(text, names.iter().map(|(name, _)| *name));
        let hint = hint.map(|name| format!("did you mean `{name}`?"));
        errors
            .at(node.span, format!("unknown {what} \"{}\"", clip(text)))
            .expected(expected)
            .maybe_hint(hint);
    }
    found
}

/// A port, or a range of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports(pub(crate) PortRange);

impl Read for Ports {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        const EXPECTED: &str = "a port from 1 to 65535, or a range such as \"6000-6010\"";
        if node.is_number() {
            let port = read_whole(node, 1, 65_535, "the port", errors)? as u16;
            return Some(Self(PortRange { low: port, high: port }));
        }
        let text = read_text(node, EXPECTED, errors)?;
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let (Ok(low), Ok(high)) = (low.trim().parse::<u32>(), high.trim().parse::<u32>()) else {
            errors
                .at(node.span, format!("\"{}\" is neither a port nor a range", clip(text)))
                .expected(EXPECTED);
            return None;
        };
        if low > high {
            errors
                .at(node.span, format!("the range \"{}\" ends before it starts", clip(text)))
                .expected(EXPECTED)
                .hint(format!("did you mean \"{high}-{low}\"?"));
            return None;
        }
        if let (Ok(low @ 1..), Ok(high)) = (u16::try_from(low), u16::try_from(high)) {
            return Some(Self(PortRange { low, high }));
        }
        errors.at(node.span, format!("\"{}\" is out of range", clip(text))).expected(EXPECTED);
        None
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 65535 },
            { "type": "string", "pattern": "^\\s*[0-9]+\\s*(-\\s*[0-9]+\\s*)?$", "examples": ["6000-6010"] }
        ] })
    }
}

/// An address, a network, or a name that `[peers]` may have.
#[derive(Debug, Clone)]
pub(crate) enum AddressText {
    Net(IpNet),
    Name(String),
}

impl AddressText {
    /// What it stands for.
    pub(crate) fn reference(&self) -> AddressRef {
        match self {
            Self::Net(net) => AddressRef::Net(*net),
            Self::Name(name) => AddressRef::Peers(name.clone()),
        }
    }
}

impl Read for AddressText {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        let text = read_text(node, "an address, a network, or the name of `[peers]`", errors)?.trim();
        match read_net(node, text, errors) {
            Ok(Some(net)) => Some(Self::Net(net)),
            Ok(None) => Some(Self::Name(text.to_owned())),
            Err(Reported) => None,
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "examples": ["10.0.1.0/24", "fd00::1", "replicas"] })
    }
}

/// An error that `errors` already has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reported;

/// An address or a network; `None` if the text looks like neither.
pub(crate) fn read_net(node: &Node, text: &str, errors: &mut Errors) -> Result<Option<IpNet>, Reported> {
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Ok(Some(IpNet::from(address)));
    }
    if let Ok(net) = text.parse::<IpNet>() {
        if net.addr() == net.network() {
            return Ok(Some(net));
        }
        errors
            .at(node.span, format!("\"{text}\" has bits set behind its prefix"))
            .expected("a network, or a single address")
            .hint(format!("the network is \"{}\", the address \"{}\"", net.trunc(), net.addr()));
        return Err(Reported);
    }
    // No host name has a colon or a slash, or is made of digits and dots: that was meant as an address.
    if text.contains([':', '/']) || text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        errors
            .at(node.span, format!("\"{}\" is no address", clip(text)))
            .expected("an address such as \"10.0.0.2\" or \"fd00::2\", or a network such as \"10.0.1.0/24\"");
        return Err(Reported);
    }
    Ok(None)
}

/// A pattern of TCP flags.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FlagsText(pub(crate) TcpFlags);

/// Bits of byte 13 of the TCP header (RFC 9293, and RFC 3168 for the last two).
const FLAGS: &[(&str, u8)] = &[
    ("fin", 0x01),
    ("syn", 0x02),
    ("rst", 0x04),
    ("psh", 0x08),
    ("ack", 0x10),
    ("urg", 0x20),
    ("ece", 0x40),
    ("cwr", 0x80),
];

/// The name of the pattern for an acknowledgement that carries nothing else.
const PURE_ACK: &str = "pure-ack";

impl Read for FlagsText {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        const EXPECTED: &str = "flags such as \"syn\" or \"ack,!syn\", or \"pure-ack\"";
        let text = read_text(node, EXPECTED, errors)?;
        let mut flags = TcpFlags { mask: 0, value: 0, pure_ack: false };
        for part in text.split(',').map(str::trim) {
            let (is_set, name) = part.strip_prefix('!').map_or((true, part), |name| (false, name.trim()));
            let (mask, value) = if name == PURE_ACK && is_set {
                flags.pure_ack = true;
                // SYN, FIN and RST take a sequence number or end the connection: with them it is no pure ACK.
                (0x10 | 0x07, 0x10)
            } else {
                let bit = named(FLAGS, node, name, "TCP flag", EXPECTED, errors)?;
                (bit, if is_set { bit } else { 0 })
            };
            if flags.mask & mask & (flags.value ^ value) != 0 {
                errors.at(node.span, format!("\"{}\" asks for a flag both set and not set", clip(text)));
                return None;
            }
            flags.mask |= mask;
            flags.value |= value;
        }
        Some(Self(flags))
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "examples": ["syn", "ack,!syn", "pure-ack", "fin", "rst"] })
    }
}

/// A differentiated-services code point: a number or a name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dscp(pub(crate) u8);

/// The names of RFC 2474, 2597, 3246, 5865 and 8622.
#[rustfmt::skip]
const CODE_POINTS: &[(&str, u8)] = &[
    ("default", 0), ("le", 1), ("ef", 46), ("voice-admit", 44),
    ("cs0", 0), ("cs1", 8), ("cs2", 16), ("cs3", 24), ("cs4", 32), ("cs5", 40), ("cs6", 48), ("cs7", 56),
    ("af11", 10), ("af12", 12), ("af13", 14), ("af21", 18), ("af22", 20), ("af23", 22),
    ("af31", 26), ("af32", 28), ("af33", 30), ("af41", 34), ("af42", 36), ("af43", 38),
];

impl Read for Dscp {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        const EXPECTED: &str = "0 to 63, or a name such as \"ef\"";
        if node.is_number() {
            return read_whole(node, 0, 63, "the code point", errors).map(|number| Self(number as u8));
        }
        let text = read_text(node, EXPECTED, errors)?;
        named(CODE_POINTS, node, text, "code point", EXPECTED, errors).map(Self)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = CODE_POINTS.iter().map(|(name, _)| *name).collect();
        json_schema!({ "anyOf": [{ "enum": names }, { "type": "integer", "minimum": 0, "maximum": 63 }] })
    }
}

/// The version of IP, as a number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FamilyNumber(pub(crate) Family);

impl Read for FamilyNumber {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        match read_whole(node, 4, 6, "the version of IP", errors)? {
            4 => Some(Self(Family::V4)),
            6 => Some(Self(Family::V6)),
            _ => {
                errors.at(node.span, "there is no IP version 5").expected("4 or 6");
                None
            }
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": [4, 6] })
    }
}

/// A comparison with a count: `"> 0"`, or a number, which means "equal".
#[derive(Debug, Clone, Copy)]
pub(crate) struct Comparable(pub(crate) Comparison, pub(crate) u64);

/// A comparison with a share: `"<= 12%"`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RateBound(pub(crate) Comparison, pub(crate) P32);

/// Longer operators first, so that `>=` is not read as `>`.
const COMPARISONS: [Comparison; 6] =
    [Comparison::Eq, Comparison::Ne, Comparison::Le, Comparison::Ge, Comparison::Lt, Comparison::Gt];

fn split_comparison<'t>(node: &Node, text: &'t str, errors: &mut Errors) -> Option<(Comparison, &'t str)> {
    let trimmed = text.trim();
    for comparison in COMPARISONS {
        if let Some(value) = trimmed.strip_prefix(comparison.symbol()) {
            return Some((comparison, value.trim()));
        }
    }
    let value = trimmed.trim_start_matches('=').trim();
    errors
        .at(node.span, format!("\"{}\" is no comparison", clip(text)))
        .expected("==, !=, <, <=, > or >=, and a value")
        .hint(format!("write \"== {}\"", clip(value)));
    None
}

impl Read for Comparable {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        const EXPECTED: &str = "a comparison such as \"> 0\", or a number";
        if node.is_number() {
            return read_whole(node, 0, u64::MAX, "the count", errors)
                .map(|count| Self(Comparison::Eq, count));
        }
        let text = read_text(node, EXPECTED, errors)?;
        let (comparison, value) = split_comparison(node, text, errors)?;
        let Ok(count) = value.parse() else {
            errors.at(node.span, format!("\"{}\" is not a count", clip(value))).expected(EXPECTED);
            return None;
        };
        Some(Self(comparison, count))
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 0 },
            { "type": "string", "pattern": "^\\s*(==|!=|<=|>=|<|>)\\s*[0-9]+\\s*$", "examples": ["> 0", "== 1"] }
        ] })
    }
}

impl Read for RateBound {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        const EXPECTED: &str = "a comparison such as \"<= 12%\"";
        let text = read_text(node, EXPECTED, errors)?;
        let (comparison, value) = split_comparison(node, text, errors)?;
        match value.parse::<P32>() {
            Ok(rate) => Some(Self(comparison, rate)),
            Err(error) => {
                errors.at(node.span, error.to_string()).expected(EXPECTED).maybe_hint(error.hint());
                None
            }
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^\\s*(==|!=|<=|>=|<|>)\\s*[0-9]+(\\.[0-9]+)?\\s*%\\s*$",
            "examples": ["<= 12%"]
        })
    }
}
