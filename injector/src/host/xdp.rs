//! What is at a device's XDP, as the kernel tells it.

use nix::libc;

use super::link::ifinfomsg;
use super::netlink::{Netlink, NetlinkError, Request, u32_at};

/// Length of `struct ifinfomsg`.
const IFINFOMSG_LEN: usize = 16;
const IFLA_XDP: u16 = 43;
/// Ids of the programs: of the only one, then by mode (native, generic, offloaded).
const IFLA_XDP_PROG_IDS: [u16; 4] = [4, 5, 6, 7];

/// The id of the program at the XDP of a device; `None` if there is none.
pub fn program(netlink: &mut Netlink, ifindex: u32) -> Result<Option<u32>, NetlinkError> {
    let request = Request::new("look for an XDP program", libc::RTM_GETLINK, &ifinfomsg(0));
    let replies = netlink.dump(&request)?;
    let parts = replies.iter().filter_map(|reply| reply.split(IFINFOMSG_LEN));
    let own = parts.filter(|(fixed, _)| u32_at(fixed, 4) == Some(ifindex)).map(|(_, attributes)| attributes);
    Ok(own.into_iter().find_map(|attributes| {
        let xdp = attributes.nested(IFLA_XDP)?;
        IFLA_XDP_PROG_IDS.iter().find_map(|kind| xdp.u32(*kind))
    }))
}
