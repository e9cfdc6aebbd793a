//! The lists of a namespace in which a device may have something, and the messages that make each of it again.

use nix::libc;

use super::LinkState;
use super::refusal::NHMSG_LEN;
use crate::host::netlink::{Netlink, NetlinkError, Reply, Request, u32_at};

/// `struct ifaddrmsg`: family, prefix length, flags, scope, index.
pub(super) const IFADDRMSG_LEN: usize = 8;
const IFA_CACHEINFO: u16 = 6;
pub(super) const IFA_FLAGS: u16 = 8;
/// The flags that `inet6_rtm_newaddr` takes; the others say how far the kernel is with the address.
const IFA_F_SETTABLE: u32 =
    libc::IFA_F_NODAD | libc::IFA_F_HOMEADDRESS | IFA_F_NOPREFIXROUTE | IFA_F_MCAUTOJOIN;
pub(super) const IFA_F_MANAGETEMPADDR: u32 = 0x100;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
const IFA_F_MCAUTOJOIN: u32 = 0x400;

/// `struct rtmsg`: family, prefix lengths, TOS, table, protocol, scope, type, flags.
pub(super) const RTMSG_LEN: usize = 12;
pub(super) const RTM_PROTOCOL_AT: usize = 5;
const RTM_FLAGS_AT: usize = 8;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_CACHEINFO: u16 = 12;
const RTA_TABLE: u16 = 15;
const RTNH_F_ONLINK: u32 = 4;
const RTM_F_CLONED: u32 = 0x200;
const RT_TABLE_LOCAL: u32 = 255;
/// Routes that the kernel makes by itself.
pub(super) const RTPROT_KERNEL: u8 = 2;

/// `struct ndmsg`: family, padding, index, state, flags, type.
const NDMSG_LEN: usize = 12;
const NDA_CACHEINFO: u16 = 3;
const NDA_PROBES: u16 = 4;
const NDM_STATE_AT: usize = 8;
const NDM_FLAGS_AT: usize = 10;
const NUD_PERMANENT: u8 = 0x80;
const NTF_PROXY: u8 = 0x08;

const RTM_GETNEXTHOP: u16 = 106;

/// Every list of a namespace in which a device may have something.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) addresses: Vec<Reply>,
    pub(super) routes: Vec<Reply>,
    pub(super) neighbours: Vec<Reply>,
    pub(super) nexthops: Vec<Reply>,
}

impl Lists {
    pub(super) fn read(netlink: &mut Netlink) -> Result<Self, NetlinkError> {
        let fixed = |af: i32, len: usize| {
            let mut fixed = vec![0; len];
            fixed[0] = af as u8;
            fixed
        };
        let (mut routes, mut neighbours) = (Vec::new(), Vec::new());
        for af in [libc::AF_INET, libc::AF_INET6] {
            let request = Request::new("list the routes", libc::RTM_GETROUTE, &fixed(af, RTMSG_LEN));
            routes.extend(netlink.dump(&request)?);
            for flags in [0, NTF_PROXY] {
                let mut fixed = fixed(af, NDMSG_LEN);
                fixed[NDM_FLAGS_AT] = flags;
                let request = Request::new("list the neighbours", libc::RTM_GETNEIGH, &fixed);
                neighbours.extend(netlink.dump(&request)?);
            }
        }
        let mut addresses = Vec::new();
        for af in [libc::AF_INET, libc::AF_INET6] {
            let request = Request::new("list the addresses", libc::RTM_GETADDR, &fixed(af, IFADDRMSG_LEN));
            addresses.extend(netlink.dump(&request)?);
        }
        let request = Request::new("list the nexthop objects", RTM_GETNEXTHOP, &[0; NHMSG_LEN]);
        Ok(Self { addresses, routes, neighbours, nexthops: netlink.dump(&request)? })
    }

    /// What the device has that goes with it.
    pub(super) fn state(&self, index: u32) -> LinkState {
        let own = |list: &[Reply], canonical: fn(&Reply, u32) -> Option<Vec<u8>>| -> Vec<String> {
            list.iter().filter_map(|reply| canonical(reply, index)).map(|body| hex(&body)).collect()
        };
        LinkState {
            staying: own(&self.addresses, staying),
            addresses: own(&self.addresses, address),
            routes: own(&self.routes, route),
            neighbours: own(&self.neighbours, neighbour),
        }
    }
}

/// An IPv4 address of the device, as it is told.
fn staying(reply: &Reply, index: u32) -> Option<Vec<u8>> {
    let (fixed, attributes) = reply.split(IFADDRMSG_LEN)?;
    let is_own =
        reply.kind == libc::RTM_NEWADDR && i32::from(fixed[0]) == libc::AF_INET && u32_at(fixed, 4)? == index;
    is_own.then(|| [fixed.to_vec(), attributes.without(&[IFA_CACHEINFO])].concat())
}

/// The message that makes an IPv6 address of the device again.
pub(super) fn address(reply: &Reply, index: u32) -> Option<Vec<u8>> {
    let (fixed, attributes) = reply.split(IFADDRMSG_LEN)?;
    if reply.kind != libc::RTM_NEWADDR || i32::from(fixed[0]) != libc::AF_INET6 || u32_at(fixed, 4)? != index
    {
        return None;
    }
    let flags = attributes.u32(IFA_FLAGS).unwrap_or(0) & IFA_F_SETTABLE;
    let mut body = fixed.to_vec();
    body[2] = 0;
    body.extend(attributes.without(&[IFA_CACHEINFO, IFA_FLAGS]));
    body.extend(Request::nested(&[(IFA_FLAGS, &flags.to_ne_bytes())]));
    Some(body)
}

/// The same message, and the address is taken for unique. The flags are its last attribute.
pub(super) fn without_detection(body: &[u8]) -> Vec<u8> {
    let (rest, flags) = body.split_at(body.len().saturating_sub(size_of::<u32>()));
    let flags = u32_at(flags, 0).unwrap_or_default() | libc::IFA_F_NODAD;
    [rest, &flags.to_ne_bytes()].concat()
}

/// The message that makes a route through the device again. Of the table `local` the kernel makes its own, and keeps what others have put
/// there for IPv4.
pub(super) fn route(reply: &Reply, index: u32) -> Option<Vec<u8>> {
    let (fixed, attributes) = reply.split(RTMSG_LEN)?;
    let is_own = reply.kind == libc::RTM_NEWROUTE && attributes.u32(RTA_OIF) == Some(index);
    let flags = u32_at(fixed, RTM_FLAGS_AT)?;
    let is_local = attributes.u32(RTA_TABLE) == Some(RT_TABLE_LOCAL)
        && (i32::from(fixed[0]) == libc::AF_INET || fixed[RTM_PROTOCOL_AT] == RTPROT_KERNEL);
    if !is_own || is_local || flags & RTM_F_CLONED != 0 {
        return None;
    }
    let mut body = fixed.to_vec();
    body[RTM_FLAGS_AT..RTMSG_LEN].copy_from_slice(&(flags & RTNH_F_ONLINK).to_ne_bytes());
    body.extend(attributes.without(&[RTA_CACHEINFO]));
    Some(body)
}

/// The message that makes a neighbour of the device again; others than permanent and proxied ones are learnt.
fn neighbour(reply: &Reply, index: u32) -> Option<Vec<u8>> {
    let (fixed, attributes) = reply.split(NDMSG_LEN)?;
    let stays = fixed[NDM_STATE_AT] & NUD_PERMANENT != 0 || fixed[NDM_FLAGS_AT] & NTF_PROXY != 0;
    let is_own = reply.kind == libc::RTM_NEWNEIGH && u32_at(fixed, 4)? == index && stays;
    is_own.then(|| [fixed.to_vec(), attributes.without(&[NDA_CACHEINFO, NDA_PROBES])].concat())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

pub(super) fn bytes(hex: &str) -> Option<Vec<u8>> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
}
