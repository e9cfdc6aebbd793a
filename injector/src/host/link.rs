//! Network devices of one namespace: listing them, watching them come and go, their GSO limit.
//!
//! Where programs attach is decided by [`attach_points`], which is pure.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::errno_of;
use super::netlink::{Attributes, Netlink, NetlinkError, Reply, Request, u16_at, u32_at};

/// `struct ifinfomsg`: family, padding, type, index, flags, change mask.
const IFINFOMSG_LEN: usize = 16;
const RTNLGRP_LINK: u32 = 1;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_GSO_MAX_SEGS: u16 = 40;
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_TSO_MAX_SEGS: u16 = 60;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name, which may change.
    pub name: String,
    /// The driver's name for virtual devices: `veth`, `bridge`, `vlan`, `dummy`; hardware and `lo` have none.
    pub kind: Option<String>,
    /// The device that it is a port or slave of.
    pub master: Option<u32>,
    /// The device that it is stacked on, or its veth peer; perhaps one of another namespace.
    pub lower: Option<u32>,
    /// Its link-layer type (`ARPHRD_...`).
    pub link_type: u16,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it is a loopback device.
    pub loopback: bool,
    /// The most bytes of a packet behind the link-layer header.
    pub mtu: u32,
    /// The most wire segments that one packet may stand for.
    pub gso_max_segs: u32,
    /// The most bytes that one packet may have.
    pub gso_max_size: u32,
    /// The highest value that `gso_max_segs` may be set to, where the kernel says (5.19+).
    pub tso_max_segs: Option<u32>,
}

impl Device {
    /// Whether its frames start with an Ethernet header; loopback frames do too.
    #[must_use]
    pub fn is_ethernet(&self) -> bool {
        self.link_type == libc::ARPHRD_ETHER || self.link_type == libc::ARPHRD_LOOPBACK
    }

    fn parse(reply: &Reply) -> Option<Self> {
        let (fixed, attributes) = reply.split(IFINFOMSG_LEN)?;
        let (link_type, index, flags) = (u16_at(fixed, 2)?, u32_at(fixed, 4)?, u32_at(fixed, 8)?);
        let has = |flag: i32| flags & flag.cast_unsigned() != 0;
        Some(Self {
            index,
            name: attributes.text(IFLA_IFNAME)?,
            kind: attributes.nested(IFLA_LINKINFO).and_then(|info: Attributes<'_>| info.text(IFLA_INFO_KIND)),
            master: attributes.u32(IFLA_MASTER),
            lower: attributes.u32(IFLA_LINK).filter(|lower| *lower != index && *lower != 0),
            link_type,
            up: has(libc::IFF_UP),
            loopback: has(libc::IFF_LOOPBACK),
            mtu: attributes.u32(IFLA_MTU).unwrap_or_default(),
            gso_max_segs: attributes.u32(IFLA_GSO_MAX_SEGS).unwrap_or_default(),
            gso_max_size: attributes.u32(IFLA_GSO_MAX_SIZE).unwrap_or_default(),
            tso_max_segs: attributes.u32(IFLA_TSO_MAX_SEGS),
        })
    }
}

/// The devices on which a locally made packet is first seen, in the given order.
///
/// A port of a bridge, bond or the like carries only what its master has shown already, or what is only
/// passing through. Slaves of a VRF are the exception: packets leave by them without crossing the VRF
/// device. Loopback stays, and so does what is stacked on another device: the packet is seen there twice,
/// and the programs mark what they have seen. An ifb only gets what another device has shown.
#[must_use]
pub fn attach_points(devices: &[Device]) -> Vec<Device> {
    let is_vrf =
        |index| devices.iter().any(|device| device.index == index && device.kind.as_deref() == Some("vrf"));
    let is_ifb = |device: &Device| device.kind.as_deref() == Some("ifb");
    devices.iter().filter(|device| device.master.is_none_or(is_vrf) && !is_ifb(device)).cloned().collect()
}

/// All devices of the socket's namespace, by index.
pub fn list(netlink: &mut Netlink) -> Result<Vec<Device>, NetlinkError> {
    let request = Request::new("list the devices", libc::RTM_GETLINK, &ifinfomsg(0));
    let replies = netlink.dump(&request)?;
    let mut devices: Vec<Device> = replies
        .iter()
        .filter(|reply| reply.kind == libc::RTM_NEWLINK)
        .map(|reply| Device::parse(reply).ok_or(NetlinkError::Truncated { operation: "list the devices" }))
        .collect::<Result<_, _>>()?;
    devices.sort_by_key(|device| device.index);
    Ok(devices)
}

/// One device of the socket's namespace; `None` if there is no such index.
pub fn get(netlink: &mut Netlink, index: u32) -> Result<Option<Device>, NetlinkError> {
    Ok(list(netlink)?.into_iter().find(|device| device.index == index))
}

/// Set the most wire segments that one packet of the device may stand for. It acts on new packets at once.
pub fn set_gso_max_segs(netlink: &mut Netlink, index: u32, segments: u32) -> Result<(), NetlinkError> {
    let request = Request::new("set gso_max_segs", libc::RTM_NEWLINK, &ifinfomsg(index))
        .attribute(IFLA_GSO_MAX_SEGS, &segments.to_ne_bytes());
    netlink.execute(&request)
}

/// Set a device administratively up or down.
pub fn set_up(netlink: &mut Netlink, index: u32, up: bool) -> Result<(), NetlinkError> {
    let mut fixed = ifinfomsg(index);
    let flag = libc::IFF_UP.to_ne_bytes();
    if up {
        fixed[8..12].copy_from_slice(&flag);
    }
    // Which of the flags are meant.
    fixed[12..16].copy_from_slice(&flag);
    let operation = if up { "set the link up" } else { "set the link down" };
    netlink.execute(&Request::new(operation, libc::RTM_NEWLINK, &fixed))
}

/// Set the MTU of a device.
pub fn set_mtu(netlink: &mut Netlink, index: u32, mtu: u32) -> Result<(), NetlinkError> {
    let request = Request::new("set the MTU", libc::RTM_NEWLINK, &ifinfomsg(index));
    netlink.execute(&request.attribute(IFLA_MTU, &mtu.to_ne_bytes()))
}

/// Make a veth pair of which the end of that name sends by so many queues.
pub fn make_veth(netlink: &mut Netlink, name: &str, queues: usize) -> Result<(), NetlinkError> {
    let kind = Request::nested(&[(IFLA_INFO_KIND, b"veth")]);
    let request = Request::new("make a veth pair", libc::RTM_NEWLINK, &ifinfomsg(0))
        .attribute(IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat())
        .attribute(IFLA_LINKINFO, &kind)
        .flags(libc::NLM_F_CREATE | libc::NLM_F_EXCL);
    // Without the number it uses one, and could use more: some kinds ask for that.
    let number = u32::try_from(queues).unwrap_or(u32::MAX).to_ne_bytes();
    netlink.execute(&if queues > 1 { request.attribute(IFLA_NUM_TX_QUEUES, &number) } else { request })
}

/// The fixed header of a request for a new device that is up.
pub(super) fn ifinfomsg_up() -> [u8; IFINFOMSG_LEN] {
    let mut fixed = ifinfomsg(0);
    for at in [8, 12] {
        fixed[at..at + 4].copy_from_slice(&libc::IFF_UP.to_ne_bytes());
    }
    fixed
}

pub(super) fn ifinfomsg(index: u32) -> [u8; IFINFOMSG_LEN] {
    let mut fixed = [0; IFINFOMSG_LEN];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed
}

/// What happened to the devices of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// A device is new, or something about it has changed.
    Present(Device),
    /// A device was removed, or moved to another namespace.
    Gone {
        /// The index it had.
        index: u32,
        /// The name it had.
        name: String,
    },
    /// Notifications were lost: list the devices again.
    Overrun,
}

/// Notifications about the devices of one namespace.
///
/// Open it first and list the devices after: then no device falls between the two.
#[derive(Debug)]
pub struct LinkWatch {
    netlink: Netlink,
    pending: std::collections::VecDeque<LinkEvent>,
}

impl LinkWatch {
    /// Watch the namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        let netlink = Netlink::open()?;
        netlink.subscribe(RTNLGRP_LINK)?;
        netlink.set_non_blocking()?;
        Ok(Self { netlink, pending: std::collections::VecDeque::new() })
    }

    /// Watch another namespace, from any thread.
    pub fn open_in(namespace: BorrowedFd<'_>) -> Result<Self, NetlinkError> {
        super::netns::enter(namespace, Self::open)?
    }

    /// The next event that is there already; never waits.
    pub fn try_next(&mut self) -> Result<Option<LinkEvent>, NetlinkError> {
        while self.pending.is_empty() {
            match self.netlink.receive("watch the devices") {
                Ok(replies) => self.pending.extend(replies.iter().filter_map(event)),
                Err(error) => match error.errno() {
                    Some(Errno::EAGAIN) => return Ok(None),
                    Some(Errno::ENOBUFS) => return Ok(Some(LinkEvent::Overrun)),
                    _ => return Err(error),
                },
            }
        }
        Ok(self.pending.pop_front())
    }

    /// Hand the watch to the current tokio runtime, whose I/O driver must be enabled.
    pub fn into_async(self) -> Result<AsyncLinkWatch, NetlinkError> {
        // SAFETY: the watch owns its socket, never replaces or closes it, and always gives the same descriptor.
        let registered = unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) };
        registered.map(AsyncLinkWatch).map_err(|error| {
            let (_, error) = error.into_parts();
            NetlinkError::Socket { call: "epoll_ctl", source: errno_of(&error) }
        })
    }
}

impl AsRawFd for LinkWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.netlink.as_raw_fd()
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}

/// A [`LinkWatch`] that waits in a tokio runtime.
#[derive(Debug)]
pub struct AsyncLinkWatch(AsyncFd<LinkWatch>);

impl AsyncLinkWatch {
    /// Wait for the next event. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<LinkEvent, NetlinkError> {
        loop {
            let mut guard = self
                .0
                .readable_mut()
                .await
                .map_err(|error| NetlinkError::Socket { call: "epoll_wait", source: errno_of(&error) })?;
            match guard.get_inner_mut().try_next()? {
                Some(event) => return Ok(event),
                None => guard.clear_ready(),
            }
        }
    }
}

fn event(reply: &Reply) -> Option<LinkEvent> {
    // A bridge announces its ports as links of its own family: the device itself has not changed.
    if i32::from(*reply.body.first()?) != libc::AF_UNSPEC {
        return None;
    }
    let device = Device::parse(reply)?;
    match reply.kind {
        libc::RTM_NEWLINK => Some(LinkEvent::Present(device)),
        libc::RTM_DELLINK => Some(LinkEvent::Gone { index: device.index, name: device.name }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, name: &str, kind: Option<&str>, master: Option<u32>) -> Device {
        Device {
            index,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            master,
            lower: None,
            link_type: libc::ARPHRD_ETHER,
            up: true,
            loopback: name == "lo",
            mtu: 1500,
            gso_max_segs: 65535,
            gso_max_size: 65536,
            tso_max_segs: None,
        }
    }

    fn chosen(devices: &[Device]) -> Vec<String> {
        attach_points(devices).into_iter().map(|device| device.name).collect()
    }

    #[test]
    fn ports_and_slaves_are_left_to_their_masters() {
        let devices = [
            device(1, "lo", None, None),
            device(2, "eth0", None, Some(5)),
            device(3, "eth1", None, Some(6)),
            device(4, "veth0", Some("veth"), Some(5)),
            device(5, "br0", Some("bridge"), None),
            device(6, "bond0", Some("bond"), None),
            device(7, "bond0.5", Some("vlan"), None),
            device(8, "ifb0", Some("ifb"), None),
        ];
        assert_eq!(chosen(&devices), ["lo", "br0", "bond0", "bond0.5"]);
    }

    #[test]
    fn slaves_of_a_vrf_stay() {
        let devices = [device(2, "eth0", None, Some(3)), device(3, "red", Some("vrf"), None)];
        assert_eq!(chosen(&devices), ["eth0", "red"]);
    }

    #[test]
    fn a_container_has_its_loopback_and_one_end() {
        let devices = [device(1, "lo", None, None), device(2, "eth0", Some("veth"), None)];
        assert_eq!(chosen(&devices), ["lo", "eth0"]);
        assert!(chosen(&[]).is_empty());
    }

    fn reply(kind: u16, family: u8) -> Reply {
        let mut fixed = ifinfomsg(9);
        fixed[0] = family;
        fixed[2..4].copy_from_slice(&libc::ARPHRD_ETHER.to_ne_bytes());
        fixed[8..12].copy_from_slice(&libc::IFF_UP.to_ne_bytes());
        let info = Request::nested(&[(IFLA_INFO_KIND, b"veth\0")]);
        let attributes = Request::nested(&[
            (IFLA_IFNAME, b"v0\0"),
            (IFLA_LINK, &9u32.to_ne_bytes()),
            (IFLA_LINKINFO, &info),
            (IFLA_GSO_MAX_SEGS, &17u32.to_ne_bytes()),
        ]);
        Reply::for_test(kind, [fixed.to_vec(), attributes].concat())
    }

    #[test]
    fn a_link_message_is_read() {
        let Some(LinkEvent::Present(device)) = event(&reply(libc::RTM_NEWLINK, 0)) else { unreachable!() };
        assert_eq!((device.index, device.name.as_str(), device.kind.as_deref()), (9, "v0", Some("veth")));
        assert_eq!((device.gso_max_segs, device.up, device.lower), (17, true, None));
        let gone = LinkEvent::Gone { index: 9, name: "v0".to_owned() };
        assert_eq!(event(&reply(libc::RTM_DELLINK, 0)), Some(gone));
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_gone() {
        assert_eq!(event(&reply(libc::RTM_DELLINK, libc::AF_BRIDGE as u8)), None);
    }
}
