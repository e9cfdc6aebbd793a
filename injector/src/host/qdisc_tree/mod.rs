//! What somebody has configured at the root of a device, as far as the kernel shows it: qdiscs and classes, each with its
//! options as bytes. `hidden` knows what the kernel does not show, `replay` puts it back.
//!
//! Nothing here knows what the options of a kind mean, but for the few that are not shown as they were given. Whether the
//! kernel takes what it shows is found out by trying it, on a device that nobody uses.

mod hidden;
mod replay;

use std::collections::VecDeque;
use std::fmt;

use nix::libc;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::netlink::{Attributes, Netlink, NetlinkError, Reply, Request, u32_at};
use super::qdisc::TC_H_ROOT;
use super::tc::{TCA_KIND, TCA_OPTIONS, TCMSG_LEN, tcmsg};

pub use replay::{RestoreError, is_all, lost, put_back, rehearse};

/// Kinds whose classes somebody makes. Those of all others come with the qdisc.
const CLASSFUL: [&str; 4] = ["htb", "hfsc", "drr", "qfq"];

/// Kinds that have a qdisc for each queue of the device.
const PER_QUEUE: [&str; 3] = ["mq", "mqprio", "taprio"];

/// Bytes, as hexadecimal text in a journal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let text: Option<String> = digits.map(|digit| char::from_digit(digit.into(), 16)).collect();
        serializer.serialize_str(&text.unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |digit: &u8| char::from(*digit).to_digit(16);
        let byte = |pair: &[u8]| match pair {
            [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("not pairs of hexadecimal digits"))
    }
}

/// How a piece comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Return {
    /// It is made again with these options.
    Made {
        /// What the kernel is given; not always what it shows.
        options: Option<Bytes>,
    },
    /// As `Made`, but the kernel then shows other options.
    Similar {
        /// What the kernel is given.
        options: Option<Bytes>,
    },
    /// The kernel makes it with its parent.
    Implied,
    /// It does not.
    Lost {
        /// Why not.
        why: String,
    },
}

/// A qdisc or a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Whether it is a class, and not a qdisc.
    pub is_class: bool,
    /// What it hangs on; `TC_H_ROOT` is the device or, of a class, its qdisc.
    pub parent: u32,
    /// Its own handle, or the id of the class. A qdisc that the kernel made with its parent has 0.
    pub handle: u32,
    /// Its kind; of a class that of its qdisc.
    pub kind: String,
    /// Its options as the kernel shows them, without statistics.
    pub shown: Option<Bytes>,
    /// How it comes back.
    pub back: Return,
}

impl Piece {
    fn parse(reply: &Reply, is_class: bool) -> Option<(Self, Attributes<'_>)> {
        let (fixed, attributes) = reply.split(TCMSG_LEN)?;
        let kind = attributes.text(TCA_KIND)?;
        let shown = attributes.get(TCA_OPTIONS).map(|options| hidden::without_statistics(&kind, options));
        let handle = u32_at(fixed, 8)?;
        let back = if handle == 0 {
            Return::Implied
        } else {
            Return::Made { options: shown.as_deref().map(|shown| Bytes(hidden::as_given(&kind, shown))) }
        };
        let parent = u32_at(fixed, 12)?;
        Some((Self { is_class, parent, handle, kind, shown: shown.map(Bytes), back }, attributes))
    }

    /// Whether both are the same thing, perhaps with other options.
    fn is(&self, other: &Self) -> bool {
        (self.is_class, self.parent, self.handle) == (other.is_class, other.parent, other.handle)
            && self.kind == other.kind
    }

    /// Whether both look the same to who asks the kernel.
    fn looks_like(&self, other: &Self) -> bool {
        self.is(other) && self.shown == other.shown
    }

    /// Whether it hangs on a qdisc, or on one of its classes.
    fn is_below(&self, qdisc: u32) -> bool {
        self.parent != TC_H_ROOT && self.parent >> 16 == qdisc >> 16
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_class, self.handle) {
            (true, id) => write!(formatter, "class {} of {}", Handle(id), self.kind),
            (false, 0) => write!(formatter, "{} at {}", self.kind, Handle(self.parent)),
            (false, handle) => write!(formatter, "{} {}", self.kind, Handle(handle)),
        }
    }
}

/// A handle as `tc` writes it.
struct Handle(u32);

impl fmt::Display for Handle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 >> 16, self.0 & 0xFFFF) {
            (major, 0) => write!(formatter, "{major:x}:"),
            (major, minor) => write!(formatter, "{major:x}:{minor:x}"),
        }
    }
}

/// All that hangs at the root of a device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    /// Parents before what hangs on them, the root first.
    pub pieces: Vec<Piece>,
    /// What belongs to it and can't be put back, each in words.
    pub hidden: Vec<String>,
}

/// What is configured at the root of a device of the socket's namespace; `None` if that is the kernel's default, or nothing.
pub fn capture(netlink: &mut Netlink, ifindex: u32) -> Result<Option<Tree>, NetlinkError> {
    let request = Request::new("list the qdiscs", libc::RTM_GETQDISC, &tcmsg(ifindex, 0, 0, 0));
    let replies = netlink.dump(&request)?;
    let qdiscs: Vec<(Piece, Attributes<'_>)> = replies
        .iter()
        .filter(|reply| u32_at(&reply.body, 4) == Some(ifindex))
        .filter_map(|reply| Piece::parse(reply, false))
        .collect();
    let is_root = |(piece, _): &&(Piece, Attributes<'_>)| piece.parent == TC_H_ROOT && piece.handle != 0;
    let Some(root) = qdiscs.iter().find(is_root) else { return Ok(None) };
    let mut tree = Tree::default();
    let mut queue = VecDeque::from([root]);
    while let Some((qdisc, attributes)) = queue.pop_front() {
        tree.hidden.extend(hidden::of(qdisc, *attributes));
        tree.pieces.push(qdisc.clone());
        if qdisc.handle == 0 {
            continue;
        }
        tree.add_filters(netlink, ifindex, qdisc)?;
        if CLASSFUL.contains(&qdisc.kind.as_str()) {
            tree.add_classes(netlink, ifindex, qdisc)?;
        }
        queue.extend(qdiscs.iter().filter(|(other, _)| other.is_below(qdisc.handle)));
    }
    Ok(Some(tree))
}

impl Tree {
    /// The classes of a qdisc, parents first: the kernel lists them in the order of a hash.
    fn add_classes(
        &mut self,
        netlink: &mut Netlink,
        ifindex: u32,
        qdisc: &Piece,
    ) -> Result<(), NetlinkError> {
        let fixed = tcmsg(ifindex, 0, qdisc.handle, 0);
        let replies = netlink.dump(&Request::new("list the classes", libc::RTM_GETTCLASS, &fixed))?;
        let mut left: Vec<(Piece, Attributes<'_>)> = replies
            .iter()
            .filter_map(|reply| Piece::parse(reply, true))
            // hfsc lists itself as the class above all others.
            .filter(|(class, _)| class.handle != qdisc.handle)
            .collect();
        left.sort_by_key(|(class, _)| class.handle);
        let mut known = vec![TC_H_ROOT, qdisc.handle];
        while let Some(next) = left.iter().position(|(class, _)| known.contains(&class.parent)) {
            let (class, attributes) = left.remove(next);
            self.hidden.extend(hidden::of(&class, attributes));
            self.add_filters(netlink, ifindex, &class)?;
            known.push(class.handle);
            self.pieces.push(class);
        }
        Ok(())
    }

    fn add_filters(
        &mut self,
        netlink: &mut Netlink,
        ifindex: u32,
        piece: &Piece,
    ) -> Result<(), NetlinkError> {
        let fixed = tcmsg(ifindex, 0, piece.handle, 0);
        let replies = netlink.dump(&Request::new("list the filters", libc::RTM_GETTFILTER, &fixed))?;
        if replies.iter().any(|reply| reply.kind == libc::RTM_NEWTFILTER) {
            self.hidden.push(format!("the filters of {piece}"));
        }
        Ok(())
    }

    /// How many queues of the device it has a qdisc for, if its root is of a kind that has one for each.
    #[must_use]
    pub fn queues(&self) -> Option<usize> {
        let root = self.pieces.first().filter(|root| PER_QUEUE.contains(&root.kind.as_str()))?;
        Some(self.pieces.iter().filter(|piece| !piece.is_class && piece.is_below(root.handle)).count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_pairs_of_digits() {
        let bytes = Bytes(vec![0, 15, 255]);
        assert_eq!(serde_json::to_string(&bytes).unwrap(), "\"000fff\"");
        assert_eq!(serde_json::from_str::<Bytes>("\"000fff\"").unwrap(), bytes);
        for wrong in ["\"000\"", "\"0g\"", "\"+f\"", "\"\u{e9}\""] {
            let read = serde_json::from_str::<Bytes>(wrong);
            assert!(read.is_err(), "{wrong}: {read:?}");
        }
    }

    #[test]
    fn pieces_are_named_as_tc_names_them() {
        let piece = |is_class, handle| Piece {
            is_class,
            parent: 0x0017_0001,
            handle,
            kind: "htb".to_owned(),
            shown: None,
            back: Return::Implied,
        };
        assert_eq!(piece(false, 0x0017_0000).to_string(), "htb 17:");
        assert_eq!(piece(false, 0).to_string(), "htb at 17:1");
        assert_eq!(piece(true, 0x0017_000a).to_string(), "class 17:a of htb");
    }
}
