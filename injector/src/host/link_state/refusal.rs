//! Devices that could not be put back as they were, and why.

use std::collections::BTreeSet;
use std::fmt;

use nix::libc;

use super::lists::{
    IFA_F_MANAGETEMPADDR, IFA_FLAGS, IFADDRMSG_LEN, Lists, RTA_CACHEINFO, RTA_OIF, RTM_PROTOCOL_AT,
    RTMSG_LEN, address, route,
};
use crate::host::link::Device;
use crate::host::netlink::{Reply, u16_at, u32_at};

/// The drivers of virtual devices that keep nothing of their own which goes with the link.
const KINDS: [&str; 6] = ["veth", "dummy", "vlan", "macvlan", "ipvlan", "tun"];

const RTA_DST: u16 = 1;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_ENCAP: u16 = 22;
const RTA_NH_ID: u16 = 30;
const RTPROT_RA: u8 = 9;
/// Where `struct rta_cacheinfo` has the time at which a route goes by itself.
const CACHEINFO_EXPIRES_AT: usize = 8;

/// `struct nhmsg`.
pub(super) const NHMSG_LEN: usize = 8;
const NHA_OIF: u16 = 5;

/// More than a host has that is no router of the Internet: all of it is written to the journal, and back one by one.
const MOST: usize = 10_000;

/// Why a device can't be put back as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unrestorable {
    /// It is down.
    Down,
    /// Other devices are stacked on it, and go down with it.
    Lower(String),
    /// It is a port of a bridge, bond or the like.
    Port,
    /// Its driver keeps state of its own.
    Kind(String),
    /// An IPv6 address that goes by itself.
    PassingAddress,
    /// A route that a router advertised, or that goes by itself.
    PassingRoute,
    /// A route over several devices, by a nexthop object, or with an encapsulation.
    SharedRoute,
    /// A nexthop object.
    Nexthop,
    /// An IPv4 route that another device has too, so that their order counts.
    OrderedRoute,
    /// More than is written down.
    TooMuch(usize),
}

impl fmt::Display for Unrestorable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down => f.write_str("it is down already"),
            Self::Lower(upper) => write!(f, "{upper} is stacked on it, and would go down with it"),
            Self::Port => f.write_str("it is a port, and what its master learnt of it is not put back"),
            Self::Kind(kind) => write!(f, "a {kind} forgets more than addresses and routes"),
            Self::PassingAddress => {
                f.write_str("it has an IPv6 address with a lifetime, which is not put back")
            }
            Self::PassingRoute => {
                f.write_str("it has an IPv6 route with a lifetime or of a router, which is not put back")
            }
            Self::SharedRoute => f.write_str(
                "it has a route with several next hops, a nexthop object or an encapsulation, which is not put back",
            ),
            Self::Nexthop => f.write_str("it has a nexthop object, which is not put back"),
            Self::OrderedRoute => f.write_str(
                "it has an IPv4 route that another device has with the same metric, and their order is not put back",
            ),
            Self::TooMuch(count) => {
                write!(f, "it has {count} addresses, routes and neighbours, and {MOST} is the most")
            }
        }
    }
}

/// Why a device could not be put back, as far as the devices tell.
pub(super) fn refusal(device: &Device, devices: &[Device]) -> Option<Unrestorable> {
    if !device.up {
        return Some(Unrestorable::Down);
    }
    if device.master.is_some() {
        return Some(Unrestorable::Port);
    }
    if let Some(kind) = device.kind.as_deref().filter(|kind| !KINDS.contains(kind)) {
        return Some(Unrestorable::Kind(kind.to_owned()));
    }
    // The other end of a veth pair names this one too.
    let is_on_top =
        |other: &&Device| other.lower == Some(device.index) && other.kind.as_deref() != Some("veth");
    devices.iter().find(is_on_top).map(|upper| Unrestorable::Lower(upper.name.clone()))
}

impl Lists {
    /// Why a device could not be put back, as far as its addresses and routes tell.
    pub(super) fn unrestorable(&self, index: u32) -> Option<Unrestorable> {
        if self.addresses.iter().any(|reply| address(reply, index).is_some() && passes(reply)) {
            return Some(Unrestorable::PassingAddress);
        }
        let of_index = |reply: &Reply| reply.split(NHMSG_LEN)?.1.u32(NHA_OIF).filter(|oif| *oif == index);
        if self.nexthops.iter().any(|reply| of_index(reply).is_some()) {
            return Some(Unrestorable::Nexthop);
        }
        let others: BTreeSet<Place<'_>> =
            self.routes.iter().filter(|reply| device_of(reply) != Some(index)).filter_map(place).collect();
        let state = self.state(index);
        let count = state.addresses.len() + state.routes.len() + state.neighbours.len();
        let refused = self.routes.iter().find_map(|reply| unrestorable_route(reply, index, &others));
        refused.or((count > MOST).then_some(Unrestorable::TooMuch(count)))
    }
}

/// Whether an address goes by itself, or has others made after it that do.
fn passes(reply: &Reply) -> bool {
    let flags = reply.split(IFADDRMSG_LEN).and_then(|(_, attributes)| attributes.u32(IFA_FLAGS));
    let flags = flags.unwrap_or_default();
    flags & libc::IFA_F_PERMANENT == 0 || flags & IFA_F_MANAGETEMPADDR != 0
}

fn unrestorable_route(reply: &Reply, index: u32, others: &BTreeSet<Place<'_>>) -> Option<Unrestorable> {
    let (fixed, attributes) = reply.split(RTMSG_LEN)?;
    // Which devices the other hops are of does not matter.
    if attributes.get(RTA_MULTIPATH).is_some_and(|hops| names(hops, index)) {
        return Some(Unrestorable::SharedRoute);
    }
    route(reply, index)?;
    if attributes.get(RTA_NH_ID).or(attributes.get(RTA_ENCAP)).is_some() {
        return Some(Unrestorable::SharedRoute);
    }
    let expires = attributes.get(RTA_CACHEINFO).and_then(|info| u32_at(info, CACHEINFO_EXPIRES_AT));
    if fixed[RTM_PROTOCOL_AT] == RTPROT_RA || expires.unwrap_or_default() != 0 {
        return Some(Unrestorable::PassingRoute);
    }
    // In IPv6 those with a gateway are one route of several hops, and the others, as fe80::/64, are each its device's.
    let has_order = i32::from(fixed[0]) == libc::AF_INET;
    (has_order && others.contains(&place(reply)?)).then_some(Unrestorable::OrderedRoute)
}

/// Whether the next hops of a route name a device.
fn names(mut hops: &[u8], index: u32) -> bool {
    while let (Some(len), Some(oif)) = (u16_at(hops, 0), u32_at(hops, 4)) {
        if oif == index {
            return true;
        }
        let step = usize::from(len).next_multiple_of(4);
        if step == 0 {
            break;
        }
        hops = hops.get(step..).unwrap_or_default();
    }
    false
}

/// The device that a route of one hop leads through.
fn device_of(reply: &Reply) -> Option<u32> {
    reply.split(RTMSG_LEN)?.1.u32(RTA_OIF)
}

/// Where a route stands among others: those with the same family, prefix, TOS, table and metric are told apart by their order.
type Place<'a> = ([u8; 3], Option<&'a [u8]>, Option<u32>, Option<u32>);

fn place(reply: &Reply) -> Option<Place<'_>> {
    let (fixed, attributes) = reply.split(RTMSG_LEN)?;
    let (to, table) = (attributes.get(RTA_DST), attributes.u32(RTA_TABLE));
    Some(([fixed[0], fixed[1], fixed[3]], to, table, attributes.u32(RTA_PRIORITY)))
}
