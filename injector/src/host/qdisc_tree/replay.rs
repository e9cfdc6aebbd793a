//! Putting back what was at the root of a device, and finding out beforehand whether that can be done.

use nix::libc;

use super::{Bytes, Piece, Return, Tree, capture, hidden};
use crate::host::netlink::{Netlink, NetlinkError, Request};
use crate::host::qdisc::{self, TC_H_ROOT};
use crate::host::tc::{TCA_KIND, TCA_OPTIONS, tcmsg};
use crate::host::{Undone, link};
use crate::kill_point::kill_point;

/// How often options are tried that the kernel might show as they were.
const ROUNDS: u32 = 4;

/// Why something is not at the root of its device again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The kernel refused it.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// It is there, and is not what it was.
    #[error("{piece} is back, but the kernel shows it otherwise than before")]
    Differs {
        /// The first of them.
        piece: String,
    },
}

/// Puts a tree on a device that nobody uses, and says of each of its pieces how it would come back.
pub fn rehearse(netlink: &mut Netlink, ifindex: u32, tree: &Tree) -> Result<Vec<Piece>, NetlinkError> {
    let mut pieces = tree.pieces.clone();
    for round in 1..=ROUNDS {
        clear(netlink, ifindex)?;
        for at in 0..pieces.len() {
            if let Err(error) = make_again(netlink, ifindex, &pieces, at) {
                pieces[at].back = Return::Lost { why: error };
            }
        }
        let seen = capture(netlink, ifindex)?.unwrap_or_default().pieces;
        if !compare(&mut pieces, &seen, round < ROUNDS) {
            break;
        }
    }
    clear(netlink, ifindex)?;
    Ok(pieces)
}

/// Takes away what is configured at the root.
fn clear(netlink: &mut Netlink, ifindex: u32) -> Result<(), NetlinkError> {
    match qdisc::root(netlink, ifindex)? {
        Some(root) if !root.is_default() => {
            let fixed = tcmsg(ifindex, root.handle, TC_H_ROOT, 0);
            netlink.execute(&Request::new("delete the root qdisc", libc::RTM_DELQDISC, &fixed))
        }
        _ => Ok(()),
    }
}

/// Makes one piece, unless what it hangs on is lost too.
fn make_again(netlink: &mut Netlink, ifindex: u32, pieces: &[Piece], at: usize) -> Result<(), String> {
    let piece = &pieces[at];
    if let Return::Lost { why } = &piece.back {
        return Err(why.clone());
    }
    let qdisc = if piece.is_class { piece.handle } else { piece.parent } & 0xFFFF_0000;
    // The root's parent is no handle: its major number is nobody's.
    let hangs_on = |other: &&Piece| other.handle == piece.parent || other.handle == qdisc;
    if let Some(lost) = pieces[..at].iter().filter(hangs_on).find(|other| is_lost(other)) {
        return Err(format!("it hangs on {lost}"));
    }
    make(netlink, ifindex, piece).map_err(|error| error.to_string())
}

fn is_lost(piece: &Piece) -> bool {
    matches!(piece.back, Return::Lost { .. })
}

fn make(netlink: &mut Netlink, ifindex: u32, piece: &Piece) -> Result<(), NetlinkError> {
    let (Return::Made { options } | Return::Similar { options }) = &piece.back else { return Ok(()) };
    let fixed = tcmsg(ifindex, piece.handle, piece.parent, 0);
    let (operation, kind) = if piece.is_class {
        ("put a class back", libc::RTM_NEWTCLASS)
    } else {
        ("put a qdisc back", libc::RTM_NEWQDISC)
    };
    // At the root it takes the place of whatever is there; below it there must be nothing.
    let is_root = !piece.is_class && piece.parent == TC_H_ROOT;
    let how = if is_root { libc::NLM_F_REPLACE } else { libc::NLM_F_EXCL };
    let name = [piece.kind.as_bytes(), b"\0"].concat();
    let request =
        Request::new(operation, kind, &fixed).flags(libc::NLM_F_CREATE | how).attribute(TCA_KIND, &name);
    netlink.execute(&match options {
        Some(Bytes(options)) => request.attribute(TCA_OPTIONS, options),
        None => request,
    })
}

/// Notes what does not look as it was. True if there is something else to try, and it may be.
fn compare(pieces: &mut [Piece], seen: &[Piece], may_try: bool) -> bool {
    let mut is_changed = false;
    for piece in pieces.iter_mut() {
        let found = seen.iter().find(|found| found.is(piece));
        if found.is_some_and(|found| found.shown == piece.shown) {
            continue;
        }
        let next = match (&piece.back, found) {
            (Return::Lost { .. } | Return::Similar { .. }, _) => continue,
            (Return::Implied, _) | (Return::Made { .. }, None) => {
                Return::Lost { why: "the kernel makes another one in its place".to_owned() }
            }
            (Return::Made { options }, Some(found)) => {
                let bytes = |of: &Option<Bytes>| of.clone().unwrap_or_default().0;
                let (given, shown) = (bytes(options), bytes(&piece.shown));
                let other = hidden::adjusted(&piece.kind, &given, &shown, &bytes(&found.shown));
                match other.filter(|_| may_try) {
                    Some(options) => {
                        is_changed = true;
                        Return::Made { options: Some(Bytes(options)) }
                    }
                    None => Return::Similar { options: options.clone() },
                }
            }
        };
        piece.back = next;
    }
    let is_known = |found: &Piece| pieces.iter().any(|piece| piece.is(found));
    if !is_changed && !seen.iter().all(is_known) {
        // The kernel makes more with it than there was.
        if let Some(Piece { back, .. }) = pieces.first_mut()
            && let Return::Made { options } = back
        {
            *back = Return::Similar { options: options.take() };
        }
    }
    is_changed
}

/// What of rehearsed pieces does not come back as it was, each in words.
#[must_use]
pub fn lost(pieces: &[Piece]) -> Vec<String> {
    let words = |piece: &Piece| match &piece.back {
        Return::Lost { why } => Some(format!("{piece} ({why})")),
        Return::Similar { .. } => Some(format!(
            "some parameters of {piece}, which the kernel shows otherwise when it is given them"
        )),
        Return::Made { .. } | Return::Implied => None,
    };
    pieces.iter().filter_map(words).collect()
}

/// Puts back what the fq with our handle took the place of. What has taken the place of that fq since is left.
pub fn put_back(
    netlink: &mut Netlink,
    ifindex: u32,
    ours: u32,
    pieces: &[Piece],
) -> Result<Undone, RestoreError> {
    let Some(first) = pieces.first() else { return Ok(qdisc::delete_fq(netlink, ifindex, ours)?) };
    let Some(root) = qdisc::root(netlink, ifindex)?.filter(|root| !root.is_default()) else {
        if is_lost(first) || link::get(netlink, ifindex)?.is_none() {
            return Ok(Undone::AlreadyGone);
        }
        return Ok(Undone::NotOurs { why: format!("it was taken away since, and {first} is not put back") });
    };
    let there = if root.kind == "fq" && root.handle == ours {
        if is_lost(first) {
            return Ok(qdisc::delete_fq(netlink, ifindex, ours)?);
        }
        Vec::new()
    } else {
        let there = capture(netlink, ifindex)?.unwrap_or_default().pieces;
        if is_all(pieces, &there) {
            return Ok(Undone::AlreadyGone);
        }
        // Somebody was killed while putting it back: what is there is the beginning of what was.
        if !is_beginning(pieces, &there) {
            let why = format!("the root qdisc is {} {:x}: by now", root.kind, root.handle >> 16);
            return Ok(Undone::NotOurs { why });
        }
        there
    };
    for piece in pieces.iter().filter(|piece| !there.iter().any(|other| other.is(piece))) {
        make(netlink, ifindex, piece)?;
        kill_point("a piece put back");
    }
    let there = capture(netlink, ifindex)?.unwrap_or_default().pieces;
    let is_back = |piece: &&Piece| there.iter().any(|other| other.looks_like(piece));
    let must_be = |piece: &&Piece| matches!(piece.back, Return::Made { .. } | Return::Implied);
    match pieces.iter().filter(must_be).find(|piece| !is_back(piece)) {
        Some(piece) => Err(RestoreError::Differs { piece: piece.to_string() }),
        None => Ok(Undone::Removed),
    }
}

/// Whether all is as it was.
#[must_use]
pub fn is_all(pieces: &[Piece], there: &[Piece]) -> bool {
    pieces.len() == there.len() && pieces.iter().all(|piece| there.iter().any(|one| one.looks_like(piece)))
}

/// Whether what is there is what there was before some of the last pieces were put back.
fn is_beginning(pieces: &[Piece], there: &[Piece]) -> bool {
    // One that comes back only nearly as it was is known by its place.
    let is_known = |one: &Piece, other: &Piece| match other.back {
        Return::Similar { .. } => one.is(other),
        _ => one.looks_like(other) && !is_lost(other),
    };
    let known = there.iter().all(|one| pieces.iter().any(|other| is_known(one, other)));
    let made: Vec<bool> = pieces
        .iter()
        .filter(|piece| matches!(piece.back, Return::Made { .. }))
        .map(|piece| there.iter().any(|other| other.is(piece)))
        .collect();
    known && made.first() == Some(&true) && made.is_sorted_by(|one, next| one >= next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(parent: u32, handle: u32, option: u8) -> Piece {
        let options = Some(Bytes(vec![option, 0, 0, 0]));
        Piece {
            is_class: false,
            parent,
            handle,
            kind: "pfifo".to_owned(),
            shown: options.clone(),
            back: if handle == 0 { Return::Implied } else { Return::Made { options } },
        }
    }

    fn tree() -> Vec<Piece> {
        vec![
            piece(TC_H_ROOT, 0x0017_0000, 1),
            piece(0x0017_0001, 0, 2),
            piece(0x0017_0002, 0x0018_0000, 3),
            piece(0x0017_0003, 0x0019_0000, 4),
        ]
    }

    #[test]
    fn a_half_restored_tree_is_known_and_a_foreign_one_is_not() {
        let whole = tree();
        assert!(is_all(&whole, &whole) && is_beginning(&whole, &whole));
        assert!(is_beginning(&whole, &whole[..3]) && !is_all(&whole, &whole[..3]));
        assert!(is_beginning(&whole, &whole[..1]));
        assert!(!is_beginning(&whole, &[]));
        let without_the_second = [&whole[..2], &whole[3..]].concat();
        assert!(!is_beginning(&whole, &without_the_second), "nobody puts it back in this order");
        let changed = [piece(TC_H_ROOT, 0x0017_0000, 9)];
        assert!(!is_beginning(&whole, &changed));
        let more = [&whole[..], &[piece(0x0019_0001, 0x0020_0000, 5)]].concat();
        assert!(!is_beginning(&whole, &more));
    }

    #[test]
    fn what_looks_otherwise_is_lost_in_words() {
        let mut pieces = tree();
        let mut seen = tree();
        seen[0].shown = Some(Bytes(vec![9, 0, 0, 0]));
        seen.remove(1);
        assert!(!compare(&mut pieces, &seen, true), "nothing is known that would be shown as it was");
        let words = lost(&pieces);
        assert_eq!(words.len(), 2, "{words:?}");
        assert!(words[0].starts_with("some parameters of pfifo 17:"), "{words:?}");
        assert!(words[1].starts_with("pfifo at 17:1 (the kernel makes another"), "{words:?}");
        assert!(lost(&tree()).is_empty());
    }

    #[test]
    fn what_was_tried_often_enough_is_not_taken_for_right() {
        let options = |limit: u32| Some(Bytes(Request::nested(&[(1, &limit.to_ne_bytes())])));
        let shown = |limit| Piece {
            shown: options(limit),
            back: Return::Made { options: options(limit) },
            ..piece(TC_H_ROOT, 0x0017_0000, 0)
        };
        let (mut pieces, seen) = ([shown(5000)], [shown(4999)]);
        assert!(compare(&mut pieces, &seen, true));
        assert_eq!(pieces[0].back, Return::Made { options: options(5001) });
        assert!(!compare(&mut pieces, &seen, false));
        assert_eq!(pieces[0].back, Return::Similar { options: options(5001) });
        assert_eq!(lost(&pieces).len(), 1);
    }
}
