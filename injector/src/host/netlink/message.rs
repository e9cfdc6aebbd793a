//! The format of netlink messages: building requests, reading answers. Pure.

use netlink_packet_core::NlasIterator;

pub(super) const HEADER_LEN: usize = 16;

/// A request, built attribute by attribute.
#[derive(Debug, Clone)]
pub struct Request {
    pub(super) operation: &'static str,
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Request {
    /// A request of a message type (`RTM_...`) with its fixed header.
    #[must_use]
    pub fn new(operation: &'static str, kind: u16, fixed: &[u8]) -> Self {
        Self { operation, kind, flags: 0, body: fixed.to_vec() }
    }

    /// Add `NLM_F_...` flags.
    #[must_use]
    pub fn flags(mut self, flags: i32) -> Self {
        self.flags |= flags as u16;
        self
    }

    /// Add an attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.body.extend(((value.len() + 4) as u16).to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.body.extend(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    /// The attributes alone, to be nested into another one.
    #[must_use]
    pub fn nested(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let empty = Self::new("", 0, &[]);
        attributes.iter().fold(empty, |request, (kind, value)| request.attribute(*kind, value)).body
    }

    pub(super) fn encode(&self, flags: i32, sequence: u32) -> Vec<u8> {
        let mut message = Vec::with_capacity(HEADER_LEN + self.body.len());
        message.extend(((HEADER_LEN + self.body.len()) as u32).to_ne_bytes());
        message.extend(self.kind.to_ne_bytes());
        message.extend((self.flags | flags as u16).to_ne_bytes());
        message.extend(sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(&self.body);
        message
    }
}

/// One message from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Its type (`RTM_...`).
    pub kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    /// Its fixed header and attributes.
    pub body: Vec<u8>,
}

impl Reply {
    #[cfg(test)]
    pub(crate) fn for_test(kind: u16, body: Vec<u8>) -> Self {
        Self { kind, flags: 0, sequence: 0, body }
    }

    /// The fixed header and, by type, the attributes after it; `None` if it is shorter than that.
    #[must_use]
    pub fn split(&self, fixed_len: usize) -> Option<(&[u8], Attributes<'_>)> {
        Some((self.body.get(..fixed_len)?, Attributes(self.body.get(fixed_len..)?)))
    }
}

/// A row of netlink attributes.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// A row from its bytes, for those inside another attribute.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The value of the first attribute of a type.
    #[must_use]
    pub fn get(self, kind: u16) -> Option<&'a [u8]> {
        NlasIterator::new(self.0).map_while(Result::ok).find(|found| found.kind() == kind).and_then(|found| {
            // The iterator's view borrows from itself; the length is enough to cut from the row.
            let value = found.into_inner();
            value.get(4..usize::from(u16_at(value, 0)?))
        })
    }

    /// All of them but those of some types, as they are.
    #[must_use]
    pub fn without(self, kinds: &[u16]) -> Vec<u8> {
        let (mut left, mut rest) = (Vec::new(), self.0);
        while let (Some(len), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
            let step = usize::from(len).next_multiple_of(4).min(rest.len());
            if usize::from(len) < 4 {
                break;
            }
            if !kinds.contains(&kind) {
                left.extend(&rest[..step]);
            }
            rest = &rest[step..];
        }
        left
    }

    /// A number of 32 bits.
    #[must_use]
    pub fn u32(self, kind: u16) -> Option<u32> {
        self.get(kind).and_then(|value| u32_at(value, 0))
    }

    /// A text that ends in a NUL.
    #[must_use]
    pub fn text(self, kind: u16) -> Option<String> {
        let value = self.get(kind)?;
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        Some(String::from_utf8_lossy(&value[..end]).into_owned())
    }

    /// The attributes inside an attribute.
    #[must_use]
    pub fn nested(self, kind: u16) -> Option<Self> {
        self.get(kind).map(Self)
    }
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

/// The messages of one datagram; `None` if it is cut short.
pub(super) fn parse(datagram: &[u8]) -> Option<Vec<Reply>> {
    let (mut replies, mut rest) = (Vec::new(), datagram);
    while rest.len() >= HEADER_LEN {
        let len = u32_at(rest, 0)? as usize;
        let body = rest.get(HEADER_LEN..len)?.to_vec();
        let (kind, flags, sequence) = (u16_at(rest, 4)?, u16_at(rest, 6)?, u32_at(rest, 8)?);
        replies.push(Reply { kind, flags, sequence, body });
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(replies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_found_again() {
        let bytes = Request::nested(&[(1, b"abc\0"), (2, b"x\0"), (3, &7u32.to_ne_bytes())]);
        assert_eq!(bytes.len() % 4, 0);
        let row = Attributes::new(&bytes);
        assert_eq!(row.text(1).as_deref(), Some("abc"));
        assert_eq!(row.text(2).as_deref(), Some("x"));
        assert_eq!(row.u32(3), Some(7));
        assert_eq!(row.u32(2), None);
        assert_eq!(row.get(4), None);
    }

    #[test]
    fn a_torn_row_gives_what_is_whole() {
        let bytes = Request::nested(&[(1, b"abc\0"), (2, b"defg")]);
        let row = Attributes::new(&bytes[..bytes.len() - 2]);
        assert_eq!(row.text(1).as_deref(), Some("abc"));
        assert_eq!(row.get(2), None);
    }

    #[test]
    fn datagrams_hold_several_messages() {
        let one = Request::new("a", 16, &[1, 2, 3, 4]).encode(0, 5);
        let two = Request::new("b", 17, &[]).encode(0, 6);
        let replies = parse(&[one.clone(), two].concat()).unwrap();
        assert_eq!(
            replies.iter().map(|reply| (reply.kind, reply.sequence)).collect::<Vec<_>>(),
            [(16, 5), (17, 6)]
        );
        assert_eq!(parse(&one[..18]), None);
    }
}
