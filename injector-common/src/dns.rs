//! Questions of the domain name system (RFC 1035): which of them a rule means, and what an answer's header says.
//!
//! A name is kept as it is on the wire, in lower case: labels with their length in front, the empty one of the root last.
//! It is read byte by byte and compared from its end, so that the kernel can do either in one short loop.

use crate::assert_layout;
use crate::packet::Address;

/// Bytes of a name on the wire, that of the root included, at most (RFC 1035, 2.3.4).
pub const MAX_NAME: usize = 255;
/// Bytes of a label, at most.
pub const MAX_LABEL: u8 = 63;
/// Bytes of a message's header.
pub const HEADER: usize = 12;
/// Bytes behind the name of a question: its type and its class.
pub const TYPE_AND_CLASS: usize = 4;
/// Patterns of names of one fault.
pub const MAX_NAMES: usize = 8;
/// Types of one fault.
pub const MAX_TYPES: usize = 8;
/// Steps that a [`Comparison`] takes at most: each byte of each pattern, and its end.
pub const MAX_STEPS: u32 = (MAX_NAMES * (MAX_NAME + 1) + 1) as u32;

/// `Treatment::count` of [`crate::rule::ACTION_DNS`]: the server had a problem (RCODE 2).
pub const ANSWER_SERVFAIL: u32 = 2;
/// `Treatment::count`: there is no such name (RCODE 3).
pub const ANSWER_NXDOMAIN: u32 = 3;
/// `Treatment::count`: the server does not want to (RCODE 5).
pub const ANSWER_REFUSED: u32 = 5;
/// `Treatment::count`: none. No RCODE, which have 4 bits in a header.
pub const ANSWER_SILENCE: u32 = 16;

/// `NamePattern::flags`: every name below this one is meant, and not this one itself.
pub const PATTERN_BELOW: u32 = 1;

/// Name of a question, or what one must end with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamePattern {
    /// The name on the wire, in lower case.
    pub name: [u8; MAX_NAME + 1],
    /// How many bytes of it count.
    pub length: u32,
    /// `PATTERN_` bits.
    pub flags: u32,
}

assert_layout!(NamePattern, size 264, align 4, { name: 0, length: 256, flags: 260 });

impl Default for NamePattern {
    fn default() -> Self {
        Self { name: [0; MAX_NAME + 1], length: 0, flags: 0 }
    }
}

/// The questions that one fault means: an entry of the map `QUESTIONS`, by `Treatment::table`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Questions {
    /// Names that are meant.
    pub names: [NamePattern; MAX_NAMES],
    /// Types that are meant.
    pub types: [u16; MAX_TYPES],
    /// How many of `names` count; 0 means every name.
    pub name_count: u32,
    /// How many of `types` count; 0 means every type.
    pub type_count: u32,
}

assert_layout!(Questions, size 2136, align 4, { names: 0, types: 2112, name_count: 2128, type_count: 2132 });

impl Questions {
    /// Whether a type is meant.
    #[inline(always)]
    #[must_use]
    pub fn means_type(&self, kind: u16) -> bool {
        let mut at = 0;
        let mut listed = self.type_count == 0;
        for &one in &self.types {
            listed |= at < self.type_count && one == kind;
            at += 1;
        }
        listed
    }
}

/// What one more byte made of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// It goes on.
    GoesOn,
    /// It is complete.
    Complete,
    /// It is none: a pointer, which has no place in a question, or too long.
    Broken,
}

/// The name of a question, as it is read.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// Its bytes in lower case.
    pub bytes: [u8; MAX_NAME + 1],
    /// A bit for each byte at which a label begins.
    starts: [u64; 4],
    /// How many bytes there are.
    pub length: u32,
    /// Bytes that the current label still lacks.
    lacking: u32,
}

impl Default for Name {
    fn default() -> Self {
        Self { bytes: [0; MAX_NAME + 1], starts: [0; 4], length: 0, lacking: 0 }
    }
}

impl Name {
    /// Makes it empty. The bytes may stay: the length says how many count.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.starts = [0; 4];
        self.length = 0;
        self.lacking = 0;
    }

    /// Takes the next byte of the message.
    #[inline(always)]
    pub fn push(&mut self, byte: u8) -> Reading {
        let at = self.length;
        if at >= MAX_NAME as u32 {
            return Reading::Broken;
        }
        self.length = at + 1;
        self.bytes[(at & 0xff) as usize] = byte.to_ascii_lowercase();
        if self.lacking > 0 {
            self.lacking -= 1;
            return Reading::GoesOn;
        }
        if byte > MAX_LABEL {
            return Reading::Broken;
        }
        self.lacking = byte as u32;
        self.starts[(at >> 6 & 3) as usize] |= 1 << (at & 63);
        if byte == 0 { Reading::Complete } else { Reading::GoesOn }
    }

    /// Whether a label begins at this byte.
    #[inline(always)]
    fn has_label_at(&self, at: u32) -> bool {
        self.starts[(at >> 6 & 3) as usize] >> (at & 63) & 1 != 0
    }

    /// Whether the pattern could mean it, as far as lengths tell.
    #[inline(always)]
    fn may_match(&self, pattern: &NamePattern) -> bool {
        if pattern.flags & PATTERN_BELOW == 0 {
            return self.length == pattern.length;
        }
        // A label may hold any byte, so what ends alike need not be below.
        self.length > pattern.length && self.has_label_at(self.length - pattern.length)
    }
}

/// How far a name is compared with the patterns of a fault, one after the other, each from its end: names
/// that differ do so there, as a rule within a label.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// The pattern at hand.
    pattern: u32,
    /// Bytes that are equal so far.
    equal: u32,
}

impl Comparison {
    /// Compares one more byte. `Some` says whether a pattern means the name, and ends it.
    #[inline(always)]
    pub fn step(&mut self, name: &Name, questions: &Questions) -> Option<bool> {
        if self.pattern >= questions.name_count {
            return Some(false);
        }
        let pattern = &questions.names[(self.pattern & (MAX_NAMES as u32 - 1)) as usize];
        let equal = self.equal;
        if equal == 0 && !name.may_match(pattern) {
            self.pattern += 1;
            return None;
        }
        if equal >= pattern.length {
            return Some(true);
        }
        let of_name = name.bytes[(name.length.wrapping_sub(1 + equal) & 0xff) as usize];
        let of_pattern = pattern.name[(pattern.length.wrapping_sub(1 + equal) & 0xff) as usize];
        if of_name == of_pattern {
            self.equal = equal + 1;
        } else {
            self.pattern += 1;
            self.equal = 0;
        }
        None
    }
}

/// Bits of the flags of a header, as a number (RFC 1035, 4.1.1; RFC 2535, 6.1).
const FLAG_RESPONSE: u16 = 0x8000;
const FLAG_OPCODE: u16 = 0x7800;
const FLAG_RECURSION_DESIRED: u16 = 0x0100;
const FLAG_RECURSION_AVAILABLE: u16 = 0x0080;
const FLAG_CHECKING_DISABLED: u16 = 0x0010;

/// Whether a header, in six numbers, is that of a question: a query of one question, and no records but additional ones.
#[inline(always)]
#[must_use]
pub const fn is_question(header: [u16; 6]) -> bool {
    let [_, flags, questions, answers, authorities, _] = header;
    flags & (FLAG_RESPONSE | FLAG_OPCODE) == 0 && questions == 1 && answers == 0 && authorities == 0
}

/// The flags of the answer to a question with these flags: what a recursive server says, without claiming authority.
#[inline(always)]
#[must_use]
pub const fn answer_flags(flags: u16, answer: u32) -> u16 {
    let kept = flags & (FLAG_OPCODE | FLAG_RECURSION_DESIRED | FLAG_CHECKING_DISABLED);
    kept | FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | (answer & 0xf) as u16
}

/// Whether an address is of one host: the answer comes from it.
#[inline(always)]
#[must_use]
pub const fn is_of_one_host(address: &Address, family: u8) -> bool {
    let [first, _, _, last] = address.words;
    // IPv4: 224.0.0.0/4 is multicast (RFC 5771), what is above reserved or broadcast. IPv6: ff00::/8.
    if family == 4 { last.to_ne_bytes()[0] < 224 } else { first.to_ne_bytes()[0] != 0xff }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A name on the wire, from its labels.
    fn wire(labels: &[&[u8]]) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            labels.iter().flat_map(|label| [&[label.len() as u8], *label].concat()).collect();
        bytes.push(0);
        bytes
    }

    fn text(name: &str) -> Vec<u8> {
        wire(&name.split('.').map(str::as_bytes).collect::<Vec<_>>())
    }

    fn read(wire: &[u8]) -> (Name, Reading) {
        let mut name = Name::default();
        for &byte in wire {
            let reading = name.push(byte);
            if reading != Reading::GoesOn {
                return (name, reading);
            }
        }
        (name, Reading::GoesOn)
    }

    fn pattern(wire: &[u8], flags: u32) -> NamePattern {
        let mut pattern = NamePattern { length: wire.len() as u32, flags, ..NamePattern::default() };
        pattern.name[..wire.len()].copy_from_slice(wire);
        pattern
    }

    fn questions(patterns: &[NamePattern]) -> Questions {
        let mut questions = Questions { name_count: patterns.len() as u32, ..Questions::default() };
        questions.names[..patterns.len()].copy_from_slice(patterns);
        questions
    }

    fn means(questions: &Questions, wire: &[u8]) -> bool {
        let (name, reading) = read(wire);
        assert_eq!(reading, Reading::Complete, "{wire:?}");
        let mut comparison = Comparison::default();
        (0..MAX_STEPS).find_map(|_| comparison.step(&name, questions)).unwrap()
    }

    #[test]
    fn a_pattern_means_a_name_or_all_below_it() {
        let both =
            questions(&[pattern(&text("db.example.org"), 0), pattern(&text("internal"), PATTERN_BELOW)]);
        for name in ["db.example.org", "DB.Example.ORG", "a.internal", "a.b.c.INTERNAL", "internal.internal"]
        {
            assert!(means(&both, &text(name)), "{name}");
        }
        for name in [
            "internal",
            "xinternal",
            "a.internals",
            "a.internal.org",
            "example.org",
            "a.db.example.org",
            "db.example.com",
        ] {
            assert!(!means(&both, &text(name)), "{name}");
        }
        assert!(!means(&both, &[0]), "the root");
        assert!(!means(&questions(&[]), &text("a")), "the caller knows that no pattern means every name");
    }

    #[test]
    fn what_ends_alike_inside_of_a_label_is_not_below() {
        let below = questions(&[pattern(&text("internal"), PATTERN_BELOW)]);
        assert!(!means(&below, &wire(&[b"x\x08internal"])));
        assert!(means(&below, &wire(&[b"x", b"internal"])));
        // A digit is a length too: "5" is 53.
        let label = [b'a'; 53];
        let long = questions(&[pattern(&wire(&[&label]), PATTERN_BELOW)]);
        assert!(!means(&long, &wire(&[&[b"x5".as_slice(), &label].concat()])));
        assert!(means(&long, &wire(&[b"x", &label])));
    }

    #[test]
    fn a_name_has_no_pointers_and_an_end() {
        assert_eq!(read(&[0xc0, 12]).1, Reading::Broken);
        assert_eq!(read(&[64, 1]).1, Reading::Broken);
        assert_eq!(read(&[1, b'a', 0xc0]).1, Reading::Broken);
        assert_eq!(read(&[1, b'a']).1, Reading::GoesOn);
        let labels: Vec<&[u8]> = vec![&[b'a'; 63], &[b'a'; 63], &[b'a'; 63], &[b'a'; 61]];
        let longest = wire(&labels);
        assert_eq!((longest.len(), read(&longest).1), (MAX_NAME, Reading::Complete));
        assert!(means(&questions(&[pattern(&longest, 0)]), &longest));
        let labels: Vec<&[u8]> = vec![&[b'a'; 63], &[b'a'; 63], &[b'a'; 63], &[b'a'; 62]];
        assert_eq!(read(&wire(&labels)).1, Reading::Broken);
    }

    #[test]
    fn types_are_any_or_those_listed() {
        assert!(Questions::default().means_type(1));
        let addresses = Questions { types: [1, 28, 0, 0, 0, 0, 0, 0], type_count: 2, ..Questions::default() };
        assert!(addresses.means_type(1) && addresses.means_type(28));
        assert!(!addresses.means_type(0) && !addresses.means_type(5));
    }

    #[test]
    fn a_question_is_a_query_with_one_and_its_answer_keeps_what_it_must() {
        assert!(is_question([7, 0x0120, 1, 0, 0, 1]));
        for header in
            [[7, 0x8120, 1, 0, 0, 0], [7, 0x2800, 1, 0, 0, 0], [7, 0, 0, 0, 0, 0], [7, 0, 1, 0, 1, 0]]
        {
            assert!(!is_question(header), "{header:?}");
        }
        // Recursion desired and checking disabled are copied; the server's authentic data and truncation are not claimed.
        assert_eq!(answer_flags(0x0130, ANSWER_NXDOMAIN), 0x8193);
        assert_eq!(answer_flags(0x0000, ANSWER_SERVFAIL), 0x8082);
        assert_eq!(answer_flags(0x0220, ANSWER_REFUSED), 0x8085);
    }

    #[test]
    fn a_server_is_one_host() {
        let v6 = |first: u8| {
            let mut octets = [0; 16];
            octets[0] = first;
            Address::from_octets(octets)
        };
        assert!(is_of_one_host(&Address::from_v4([127, 0, 0, 53]), 4));
        assert!(!is_of_one_host(&Address::from_v4([224, 0, 0, 251]), 4));
        assert!(!is_of_one_host(&Address::from_v4([255; 4]), 4));
        assert!(is_of_one_host(&v6(0xfe), 6) && !is_of_one_host(&v6(0xff), 6));
    }

    proptest! {
        /// The comparison by steps is the comparison of lists of labels.
        #[test]
        fn labels_decide(
            name in prop::collection::vec("[a-cA-C]{1,2}", 1..5),
            patterns in prop::collection::vec((prop::collection::vec("[a-c]{1,2}", 1..4), any::<bool>()), 1..8),
        ) {
            let lower: Vec<String> = name.iter().map(|label| label.to_lowercase()).collect();
            let expected = patterns.iter().any(|(labels, below)| {
                if *below { lower.len() > labels.len() && lower.ends_with(labels) } else { lower == *labels }
            });
            let lowered: Vec<NamePattern> =
                patterns.iter().map(|(labels, below)| pattern(&text(&labels.join(".")), u32::from(*below))).collect();
            prop_assert_eq!(means(&questions(&lowered), &text(&name.join("."))), expected);
        }

        /// Whatever arrives is read to an end within a name's length.
        #[test]
        fn any_bytes_are_a_name_or_broken(bytes in prop::collection::vec(any::<u8>(), 256)) {
            prop_assert_ne!(read(&bytes).1, Reading::GoesOn);
        }
    }
}
