//! The clsact hook of a device: which qdisc and filters are there, and taking away exactly what is ours.
//!
//! aya adds the qdisc and attaches the programs; this module has what aya lacks.

use std::fmt;

use nix::errno::Errno;
use nix::libc;
use serde::{Deserialize, Serialize};

use super::Undone;
use super::netlink::{Attributes, Netlink, NetlinkError, Reply, Request, u32_at};

/// `struct tcmsg`: family, padding, device, handle, parent, info.
pub(super) const TCMSG_LEN: usize = 20;
const TC_H_CLSACT: u32 = 0xFFFF_FFF1;
const CLSACT_HANDLE: u32 = 0xFFFF_0000;
const INGRESS_PARENT: u32 = 0xFFFF_FFF2;
const EGRESS_PARENT: u32 = 0xFFFF_FFF3;
pub(super) const TCA_KIND: u16 = 1;
pub(super) const TCA_OPTIONS: u16 = 2;
const ETH_P_ALL: u16 = 3;
const TCA_CHAIN: u16 = 11;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;

/// Which way a packet goes, seen from the device's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Into the host or container.
    Ingress,
    /// Out of it.
    Egress,
}

impl Direction {
    fn parent(self) -> u32 {
        match self {
            Self::Ingress => INGRESS_PARENT,
            Self::Egress => EGRESS_PARENT,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// The one qdisc at handle `ffff:`, where a device has either of two kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookQdisc {
    /// Filters in both directions; what injector needs before tcx.
    Clsact,
    /// The older kind, for ingress alone. It keeps clsact out.
    Ingress,
}

/// A filter at the hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Which way.
    pub direction: Direction,
    /// Its preference: the lower, the earlier.
    pub pref: u16,
    /// The protocol it takes, host order; `ETH_P_ALL` is 3.
    pub protocol: u16,
    /// Its handle among those of its preference.
    pub handle: u32,
    /// Its chain; 0 unless another filter jumps to it.
    pub chain: u32,
    /// Its kind: `bpf`, `flower`, `u32`, ...
    pub kind: String,
    /// The id of its BPF program.
    pub program_id: Option<u32>,
    /// The name it was given at attachment.
    pub name: Option<String>,
}

impl Filter {
    fn parse(reply: &Reply, direction: Direction) -> Option<Self> {
        let (fixed, attributes) = reply.split(TCMSG_LEN)?;
        let info = u32_at(fixed, 16)?;
        let options = attributes.nested(TCA_OPTIONS);
        let kind = attributes.text(TCA_KIND)?;
        let bpf: Option<Attributes<'_>> = options.filter(|_| kind == "bpf");
        Some(Self {
            direction,
            pref: (info >> 16) as u16,
            protocol: u16::from_be(info as u16),
            handle: u32_at(fixed, 8)?,
            chain: attributes.u32(TCA_CHAIN).unwrap_or_default(),
            program_id: bpf.and_then(|bpf| bpf.u32(TCA_BPF_ID)),
            name: bpf.and_then(|bpf| bpf.text(TCA_BPF_NAME)),
            kind,
        })
    }
}

/// Which qdisc is at the hook of a device, if any.
pub fn hook_qdisc(netlink: &mut Netlink, ifindex: u32) -> Result<Option<HookQdisc>, NetlinkError> {
    let request = Request::new("list the qdiscs", libc::RTM_GETQDISC, &tcmsg(ifindex, 0, 0, 0));
    let replies = netlink.dump(&request)?;
    Ok(replies.iter().find_map(|reply| {
        let (fixed, attributes) = reply.split(TCMSG_LEN)?;
        // The kernel lists the qdiscs of every device of the namespace.
        if u32_at(fixed, 4)? != ifindex || u32_at(fixed, 12)? != TC_H_CLSACT {
            return None;
        }
        match attributes.text(TCA_KIND)?.as_str() {
            "clsact" => Some(HookQdisc::Clsact),
            "ingress" => Some(HookQdisc::Ingress),
            _ => None,
        }
    }))
}

/// Add a clsact qdisc to a device.
pub fn add_clsact(netlink: &mut Netlink, ifindex: u32) -> Result<(), NetlinkError> {
    let fixed = tcmsg(ifindex, CLSACT_HANDLE, TC_H_CLSACT, 0);
    let request = Request::new("add a clsact qdisc", libc::RTM_NEWQDISC, &fixed);
    let request = request.attribute(TCA_KIND, b"clsact\0").flags(libc::NLM_F_CREATE | libc::NLM_F_EXCL);
    netlink.execute(&request)
}

/// Whether the kernel knows filters that are BPF programs, asked of a device with a clsact qdisc. Adds none.
pub fn knows_bpf_filters(netlink: &mut Netlink, ifindex: u32) -> Result<(), NetlinkError> {
    let info = 1 << 16 | u32::from(ETH_P_ALL.to_be());
    let fixed = tcmsg(ifindex, 1, EGRESS_PARENT, info);
    let request = Request::new("add a bpf filter", libc::RTM_NEWTFILTER, &fixed);
    let request = request.attribute(TCA_KIND, b"bpf\0").flags(libc::NLM_F_CREATE | libc::NLM_F_EXCL);
    match netlink.execute(&request) {
        // One without a program is refused by the classifier itself, so there is one.
        Err(error) if matches!(error.errno(), Some(Errno::EINVAL)) => Ok(()),
        asked => asked,
    }
}

/// The filters of one direction, as they are asked.
pub fn filters(
    netlink: &mut Netlink,
    ifindex: u32,
    direction: Direction,
) -> Result<Vec<Filter>, NetlinkError> {
    let mut filters: Vec<Filter> = dump_filters(netlink, ifindex, direction)?
        .iter()
        .filter_map(|reply| Filter::parse(reply, direction))
        // Each preference is announced by an entry of its own, which is no filter.
        .filter(|filter| filter.handle != 0)
        .collect();
    filters.sort_by_key(|filter| (filter.chain, filter.pref, filter.handle));
    Ok(filters)
}

/// Delete the filter at a preference and handle, if it runs the program that we attached there.
pub fn delete_filter(
    netlink: &mut Netlink,
    ifindex: u32,
    direction: Direction,
    pref: u16,
    handle: u32,
    program_id: u32,
) -> Result<Undone, NetlinkError> {
    let found = filters(netlink, ifindex, direction)?
        .into_iter()
        .find(|filter| (filter.chain, filter.pref, filter.handle) == (0, pref, handle));
    let Some(filter) = found else { return Ok(Undone::AlreadyGone) };
    if filter.program_id != Some(program_id) {
        let there = filter.program_id.map_or("no BPF program".to_owned(), |id| format!("program {id}"));
        let why =
            format!("the filter at pref {pref} handle {handle:#x} runs {there}, not program {program_id}");
        return Ok(Undone::NotOurs { why });
    }
    delete(netlink, ifindex, &filter)
}

/// Delete a filter that has just been listed.
pub(super) fn delete(netlink: &mut Netlink, ifindex: u32, filter: &Filter) -> Result<Undone, NetlinkError> {
    let info = u32::from(filter.pref) << 16 | u32::from(filter.protocol.to_be());
    let fixed = tcmsg(ifindex, filter.handle, filter.direction.parent(), info);
    let kind = [filter.kind.as_bytes(), b"\0"].concat();
    let request = Request::new("delete a filter", libc::RTM_DELTFILTER, &fixed).attribute(TCA_KIND, &kind);
    gone_is_fine(netlink.execute(&request))
}

/// What the filters of one direction hang on.
pub(super) fn parent(direction: Direction) -> u32 {
    direction.parent()
}

/// Delete the clsact qdisc of a device, if no filter is left on it.
///
/// Deleting one flushes the device's queue on kernels before 7: only call it for one that we made.
pub fn delete_clsact_if_empty(netlink: &mut Netlink, ifindex: u32) -> Result<Undone, NetlinkError> {
    match hook_qdisc(netlink, ifindex)? {
        None => return Ok(Undone::AlreadyGone),
        Some(HookQdisc::Ingress) => {
            return Ok(Undone::NotOurs { why: "an ingress qdisc is in its place".to_owned() });
        }
        Some(HookQdisc::Clsact) => {}
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        if !dump_filters(netlink, ifindex, direction)?.is_empty() {
            return Ok(Undone::NotOurs { why: format!("others have {direction} filters on it") });
        }
    }
    let fixed = tcmsg(ifindex, CLSACT_HANDLE, TC_H_CLSACT, 0);
    let request =
        Request::new("delete the clsact qdisc", libc::RTM_DELQDISC, &fixed).attribute(TCA_KIND, b"clsact\0");
    gone_is_fine(netlink.execute(&request))
}

fn dump_filters(
    netlink: &mut Netlink,
    ifindex: u32,
    direction: Direction,
) -> Result<Vec<Reply>, NetlinkError> {
    // An ingress qdisc would answer for egress with its ingress filters.
    if direction == Direction::Egress && hook_qdisc(netlink, ifindex)? != Some(HookQdisc::Clsact) {
        return Ok(Vec::new());
    }
    let fixed = tcmsg(ifindex, 0, direction.parent(), 0);
    match netlink.dump(&Request::new("list the filters", libc::RTM_GETTFILTER, &fixed)) {
        Ok(replies) => Ok(replies.into_iter().filter(|reply| reply.kind == libc::RTM_NEWTFILTER).collect()),
        Err(error) if matches!(error.errno(), Some(Errno::ENODEV)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Between looking and deleting, another tool may have deleted it.
fn gone_is_fine(deleted: Result<(), NetlinkError>) -> Result<Undone, NetlinkError> {
    match deleted {
        Ok(()) => Ok(Undone::Removed),
        Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => Ok(Undone::AlreadyGone),
        Err(error) => Err(error),
    }
}

pub(super) fn tcmsg(ifindex: u32, handle: u32, parent: u32, info: u32) -> [u8; TCMSG_LEN] {
    let mut fixed = [0; TCMSG_LEN];
    for (at, value) in [(4, ifindex), (8, handle), (12, parent), (16, info)] {
        fixed[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    fixed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bpf_filter_is_read() {
        let options = Request::nested(&[(TCA_BPF_NAME, b"loss\0"), (TCA_BPF_ID, &77u32.to_ne_bytes())]);
        let attributes = Request::nested(&[(TCA_KIND, b"bpf\0"), (TCA_OPTIONS, &options)]);
        let info = 1 << 16 | u32::from(3u16.to_be());
        let fixed = tcmsg(2, 0x10, EGRESS_PARENT, info);
        let reply = Reply::for_test(libc::RTM_NEWTFILTER, [fixed.to_vec(), attributes].concat());
        let filter = Filter::parse(&reply, Direction::Egress).unwrap();
        assert_eq!((filter.pref, filter.protocol, filter.handle), (1, 3, 0x10));
        assert_eq!((filter.program_id, filter.name.as_deref()), (Some(77), Some("loss")));
    }

    #[test]
    fn the_options_of_other_kinds_are_not_mistaken_for_a_program() {
        let options = Request::nested(&[(TCA_BPF_ID, &77u32.to_ne_bytes())]);
        let attributes = Request::nested(&[(TCA_KIND, b"flower\0"), (TCA_OPTIONS, &options)]);
        let fixed = tcmsg(2, 1, EGRESS_PARENT, 1 << 16);
        let reply = Reply::for_test(libc::RTM_NEWTFILTER, [fixed.to_vec(), attributes].concat());
        assert_eq!(Filter::parse(&reply, Direction::Egress).unwrap().program_id, None);
    }
}
