//! The way round for what arrives at a device: an ifb of our own, and the filter that sends packets there.
//!
//! ifb (`drivers/net/ifb.c`) takes what a `mirred` action redirects to it through its own queue, and hands it back to the device
//! it came from. The filter takes every packet, so it is the last one of its device.

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

use super::Undone;
use super::link::{self, Device};
use super::module;
use super::netlink::{Netlink, NetlinkError, Request};
use super::tc::{self, Direction, TCA_KIND, TCA_OPTIONS, tcmsg};

const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const NLA_F_NESTED: u16 = 1 << 15;

const ETH_P_ALL: u16 = 3;
const TCA_MATCHALL_ACT: u16 = 2;
const TCA_BPF_ACT: u16 = 1;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TCA_GACT_PARMS: u16 = 2;
/// `TC_ACT_PIPE`: on to the next action. A redirection that does not end the list is made of a clone.
const TC_ACT_PIPE: u32 = 3;
/// `TC_ACT_SHOT`: the packet is dropped.
const TC_ACT_SHOT: u32 = 2;
/// `TCA_EGRESS_REDIR`.
const EGRESS_REDIRECT: u32 = 1;

/// Makes an ifb and sets it up. Where the module is not loaded yet it is, without the two devices that it makes by default.
pub fn make(netlink: &mut Netlink, name: &str) -> Result<Device, NetlinkError> {
    if !Path::new("/sys/module/ifb").exists() {
        // Where that fails, the kernel loads the module itself below, in its own way.
        module::load(&[&["ifb", "numifbs=0"]]);
    }
    let kind = Request::nested(&[(IFLA_INFO_KIND, b"ifb"), (IFLA_INFO_DATA, &[])]);
    let request = Request::new("make an ifb", libc::RTM_NEWLINK, &link::ifinfomsg_up())
        .attribute(libc::IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat())
        .attribute(libc::IFLA_LINKINFO | NLA_F_NESTED, &kind);
    netlink.execute(&request.flags(libc::NLM_F_CREATE | libc::NLM_F_EXCL))?;
    let made = link::list(netlink)?.into_iter().find(|device| device.name == name);
    made.ok_or(NetlinkError::Truncated { operation: "make an ifb" })
}

/// Deletes the ifb of that name. What waits in it is dropped.
pub fn delete(netlink: &mut Netlink, name: &str) -> Result<Undone, NetlinkError> {
    let Some(device) = link::list(netlink)?.into_iter().find(|device| device.name == name) else {
        return Ok(Undone::AlreadyGone);
    };
    if device.kind.as_deref() != Some("ifb") {
        return Ok(Undone::NotOurs { why: format!("{name} is no ifb") });
    }
    let request = Request::new("delete the ifb", libc::RTM_DELLINK, &link::ifinfomsg(device.index));
    match netlink.execute(&request) {
        Ok(()) => Ok(Undone::Removed),
        Err(error) if matches!(error.errno(), Some(Errno::ENODEV)) => Ok(Undone::AlreadyGone),
        Err(error) => Err(error),
    }
}

/// Which packets a filter sends the way round.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// All that arrive, and that no filter before it has taken.
    All,
    /// Those of them for which a loaded program of that name returns a class.
    Chosen(BorrowedFd<'a>, &'static str),
}

/// Redirects what arrives at a device, and what no filter before `pref` has taken, to the ifb.
pub fn redirect(
    netlink: &mut Netlink,
    ifindex: u32,
    (pref, handle): (u16, u32),
    ifb: u32,
    which: Which<'_>,
) -> Result<(), NetlinkError> {
    let (kind, options) = match which {
        Which::All => {
            ("matchall\0", Request::nested(&[(TCA_MATCHALL_ACT | NLA_F_NESTED, &redirection(ifb))]))
        }
        // Without `TCA_BPF_FLAG_ACT_DIRECT` what the program returns is a class, and not what to do.
        Which::Chosen(program, name) => {
            let fd = program.as_raw_fd().to_ne_bytes();
            let name = [name.as_bytes(), b"\0"].concat();
            let actions = redirection(ifb);
            let attributes: [(u16, &[u8]); 3] =
                [(TCA_BPF_ACT | NLA_F_NESTED, &actions), (TCA_BPF_FD, &fd), (TCA_BPF_NAME, &name)];
            ("bpf\0", Request::nested(&attributes))
        }
    };
    let info = u32::from(pref) << 16 | u32::from(ETH_P_ALL.to_be());
    let fixed = tcmsg(ifindex, handle, tc::parent(Direction::Ingress), info);
    let request = Request::new("redirect what arrives", libc::RTM_NEWTFILTER, &fixed)
        .attribute(TCA_KIND, kind.as_bytes())
        .attribute(TCA_OPTIONS, &options);
    netlink.execute(&request.flags(libc::NLM_F_CREATE | libc::NLM_F_EXCL))
}

/// A list of two actions: `mirred egress redirect` of a clone, and `gact drop` of the packet itself.
///
/// A packet from another namespace of this host has its sender's socket still (`veth_xmit`; it loses it in `ip_rcv`). fq would sort by
/// that socket instead of by the packet's hash, and the sender would wait for its own packets. A clone has none.
fn redirection(ifb: u32) -> Vec<u8> {
    let numbers = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<u8>>();
    // `struct tc_mirred`: index, capab, action, refcnt, bindcnt, eaction, ifindex; `struct tc_gact` is its first five.
    let redirect =
        action(b"mirred\0", TCA_MIRRED_PARMS, &numbers(&[0, 0, TC_ACT_PIPE, 0, 0, EGRESS_REDIRECT, ifb]));
    let drop = action(b"gact\0", TCA_GACT_PARMS, &numbers(&[0, 0, TC_ACT_SHOT, 0, 0]));
    Request::nested(&[(1 | NLA_F_NESTED, &redirect), (2 | NLA_F_NESTED, &drop)])
}

fn action(kind: &[u8], parameters_kind: u16, parameters: &[u8]) -> Vec<u8> {
    let options = Request::nested(&[(parameters_kind, parameters)]);
    Request::nested(&[(TCA_ACT_KIND, kind), (TCA_ACT_OPTIONS | NLA_F_NESTED, &options)])
}

/// Deletes the filter that redirects, if it is still the one with our handle.
pub fn delete_redirect(
    netlink: &mut Netlink,
    ifindex: u32,
    (pref, handle): (u16, u32),
) -> Result<Undone, NetlinkError> {
    let found = tc::filters(netlink, ifindex, Direction::Ingress)?
        .into_iter()
        .find(|filter| (filter.chain, filter.pref, filter.handle) == (0, pref, handle));
    match found {
        None => Ok(Undone::AlreadyGone),
        Some(filter) if !["matchall", "bpf"].contains(&filter.kind.as_str()) => {
            let why = format!("the filter at pref {pref} handle {handle:#x} is of the kind {}", filter.kind);
            Ok(Undone::NotOurs { why })
        }
        Some(filter) => tc::delete(netlink, ifindex, &filter),
    }
}
