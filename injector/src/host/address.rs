//! The addresses of a network namespace by which others reach it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::libc;

use super::netlink::{Netlink, NetlinkError, Reply, Request, u32_at};
use super::route::address_of;

/// `struct ifaddrmsg`: family, prefix length, flags, scope, index.
const IFADDRMSG_LEN: usize = 8;
const INDEX_AT: usize = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// All addresses of the socket's namespace, of both families and every device, but for those of loopback. Link-local
/// ones are among them.
pub fn list(netlink: &mut Netlink) -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let request = Request::new("list the addresses", libc::RTM_GETADDR, &[0; IFADDRMSG_LEN]);
    let replies = netlink.dump(&request)?;
    Ok(replies.iter().filter_map(own_address).filter(|address| !address.is_loopback()).collect())
}

/// The addresses of one device of the socket's namespace.
pub fn of_device(netlink: &mut Netlink, index: u32) -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let request = Request::new("list the addresses", libc::RTM_GETADDR, &[0; IFADDRMSG_LEN]);
    let replies = netlink.dump(&request)?;
    let is_own = |reply: &&Reply| u32_at(&reply.body, INDEX_AT) == Some(index);
    Ok(replies.iter().filter(is_own).filter_map(own_address).collect())
}

fn own_address(reply: &Reply) -> Option<IpAddr> {
    let (_, attributes) = reply.split(IFADDRMSG_LEN)?;
    if reply.kind != libc::RTM_NEWADDR {
        return None;
    }
    // Where there is a peer, `IFA_ADDRESS` is the peer's.
    let bytes = attributes.get(IFA_LOCAL).or_else(|| attributes.get(IFA_ADDRESS))?;
    address_of(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_address_is_told_from_the_peers() {
        let read = |attributes: &[(u16, &[u8])]| {
            let body = [vec![0; IFADDRMSG_LEN], Request::nested(attributes)].concat();
            own_address(&Reply::for_test(libc::RTM_NEWADDR, body)).map(|address| address.to_string())
        };
        let (own, peer) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        assert_eq!(read(&[(IFA_ADDRESS, &peer), (IFA_LOCAL, &own)]).as_deref(), Some("10.0.0.1"));
        let v6 = std::net::Ipv6Addr::LOCALHOST.octets();
        assert_eq!(read(&[(IFA_ADDRESS, &v6)]).as_deref(), Some("::1"));
        assert_eq!(read(&[]), None);
    }
}
