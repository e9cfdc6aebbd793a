//! Routes of a namespace: its default gateways, which a fault on a whole interface should spare, and the way to an address.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::libc;

use super::netlink::{Attributes, Netlink, NetlinkError, Reply, Request, u16_at, u32_at};

/// `struct rtmsg`: family, prefix lengths, TOS, table, protocol, scope, type, flags.
const RTMSG_LEN: usize = 12;
/// `struct rtnexthop`: length, flags, hops, device.
const NEXTHOP_LEN: usize = 8;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_VIA: u16 = 18;

/// The next hop of a default route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gateway {
    /// The device that it is reached by.
    pub ifindex: u32,
    /// Its address.
    pub address: IpAddr,
}

/// The device by which packets from an address of this host leave for another; `None` if there is no way.
pub fn device_towards(netlink: &mut Netlink, from: IpAddr, to: IpAddr) -> Result<Option<u32>, NetlinkError> {
    let octets = |address| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (from, to) = (octets(from), octets(to));
    let family = if to.len() == 4 { libc::AF_INET } else { libc::AF_INET6 };
    let bits = (8 * to.len()) as u8;
    let mut fixed = [0; RTMSG_LEN];
    (fixed[0], fixed[1], fixed[2]) = (family as u8, bits, bits);
    let request = Request::new("look a route up", libc::RTM_GETROUTE, &fixed);
    match netlink.ask(&request.attribute(RTA_DST, &to).attribute(RTA_SRC, &from)) {
        Ok(replies) => Ok(replies.iter().find_map(|reply| reply.split(RTMSG_LEN)?.1.u32(RTA_OIF))),
        Err(NetlinkError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The gateways of all default routes, of both families and of every table.
pub fn default_gateways(netlink: &mut Netlink) -> Result<BTreeSet<Gateway>, NetlinkError> {
    let mut gateways = BTreeSet::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut fixed = [0; RTMSG_LEN];
        fixed[0] = family as u8;
        let replies = netlink.dump(&Request::new("list the routes", libc::RTM_GETROUTE, &fixed))?;
        gateways.extend(replies.iter().flat_map(gateways_of));
    }
    Ok(gateways)
}

fn gateways_of(reply: &Reply) -> Vec<Gateway> {
    let Some((fixed, attributes)) = reply.split(RTMSG_LEN) else { return Vec::new() };
    let (prefix_len, kind) = (fixed[1], fixed[7]);
    if reply.kind != libc::RTM_NEWROUTE || prefix_len != 0 || kind != libc::RTN_UNICAST {
        return Vec::new();
    }
    let single = attributes.u32(RTA_OIF).and_then(|ifindex| next_hop(ifindex, attributes));
    let several = attributes.get(RTA_MULTIPATH).map(several_hops).unwrap_or_default();
    single.into_iter().chain(several).collect()
}

fn several_hops(mut hops: &[u8]) -> Vec<Gateway> {
    let mut gateways = Vec::new();
    while let (Some(len), Some(ifindex)) = (u16_at(hops, 0), u32_at(hops, 4)) {
        let Some(attributes) = hops.get(NEXTHOP_LEN..usize::from(len)) else { break };
        gateways.extend(next_hop(ifindex, Attributes::new(attributes)));
        hops = hops.get(usize::from(len).next_multiple_of(4)..).unwrap_or_default();
    }
    gateways
}

fn next_hop(ifindex: u32, attributes: Attributes<'_>) -> Option<Gateway> {
    // An IPv4 route may lead through an IPv6 neighbour: then the address follows its family.
    let address = attributes.get(RTA_GATEWAY).or_else(|| attributes.get(RTA_VIA)?.get(2..))?;
    Some(Gateway { ifindex, address: address_of(address)? })
}

/// An address of either family from its bytes; `None` if they are of neither.
pub(super) fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix_len: u8, attributes: &[(u16, &[u8])]) -> Reply {
        let mut fixed = [0; RTMSG_LEN];
        (fixed[0], fixed[1], fixed[7]) = (libc::AF_INET as u8, prefix_len, libc::RTN_UNICAST);
        Reply::for_test(libc::RTM_NEWROUTE, [fixed.to_vec(), Request::nested(attributes)].concat())
    }

    fn gateway(ifindex: u32, address: &str) -> Gateway {
        Gateway { ifindex, address: address.parse().unwrap() }
    }

    #[test]
    fn the_way_to_oneself_is_by_loopback() {
        let mut netlink = Netlink::open().unwrap();
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(device_towards(&mut netlink, local, local).unwrap(), Some(1));
        // From an address that is not this host's no packet leaves.
        let foreign = "192.0.2.1".parse().unwrap();
        assert_eq!(device_towards(&mut netlink, foreign, "192.0.2.2".parse().unwrap()).unwrap(), None);
    }

    #[test]
    fn one_hop() {
        let attributes: [(u16, &[u8]); 2] = [(RTA_GATEWAY, &[10, 0, 0, 1]), (RTA_OIF, &2u32.to_ne_bytes())];
        assert_eq!(gateways_of(&route(0, &attributes)), [gateway(2, "10.0.0.1")]);
        // A route to a network is not the default.
        assert!(gateways_of(&route(24, &attributes)).is_empty());
        // A default route onto a link has no gateway.
        assert!(gateways_of(&route(0, &attributes[1..])).is_empty());
    }

    #[test]
    fn several_hops_of_both_families() {
        let hop = |ifindex: u32, attributes: Vec<u8>| {
            let len = (NEXTHOP_LEN + attributes.len()) as u16;
            [&len.to_ne_bytes()[..], &[0, 0], &ifindex.to_ne_bytes(), &attributes].concat()
        };
        let via = [&(libc::AF_INET6 as u16).to_ne_bytes()[..], &Ipv6Addr::LOCALHOST.octets()].concat();
        let hops = [
            hop(2, Request::nested(&[(RTA_GATEWAY, &[10, 0, 0, 1])])),
            hop(3, Request::nested(&[(RTA_VIA, &via)])),
        ]
        .concat();
        let found = gateways_of(&route(0, &[(RTA_MULTIPATH, &hops)]));
        assert_eq!(found, [gateway(2, "10.0.0.1"), gateway(3, "::1")]);
    }

    #[test]
    fn a_torn_list_of_hops_ends() {
        assert!(several_hops(&[0, 0, 0, 0, 1, 0, 0, 0]).is_empty());
        assert!(several_hops(&[200, 0, 0, 0, 1, 0, 0, 0]).is_empty());
    }
}
