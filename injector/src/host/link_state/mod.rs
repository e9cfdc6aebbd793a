//! What the kernel forgets of a device that is set down, and putting it back.
//!
//! A device that goes down (`dev_close`) loses its IPv6 addresses (`addrconf_ifdown`, unless `keep_addr_on_down`), every route
//! through it but those to its own IPv4 addresses (`fib_disable_ip`, `rt6_disable_ip`), and its neighbours, permanent and proxied ones
//! too (`neigh_ifdown`). When it comes up the kernel makes the routes of its addresses again, and its link-local address; the rest is
//! put back here, message by message as the kernel listed it. IPv4 addresses, rules, qdiscs and programs stay.

mod lists;
mod refusal;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use nix::errno::Errno;
use nix::libc;
use serde::{Deserialize, Serialize};

use super::link::{self, Device};
use super::netlink::{Attributes, Netlink, NetlinkError, Request};
use lists::{IFADDRMSG_LEN, Lists, RTM_PROTOCOL_AT, RTMSG_LEN, RTPROT_KERNEL, bytes, without_detection};
pub use refusal::Unrestorable;

const RTA_DST: u16 = 1;
const RTA_PREFSRC: u16 = 7;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// What a device has that goes when it is set down: the bodies of the messages that make each of them, in hexadecimal.
/// They are good for this kernel alone, and for this boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkState {
    /// IPv4 addresses, which stay: the routes that the kernel makes for those of others are not ours to delete.
    #[serde(default)]
    pub staying: Vec<String>,
    /// IPv6 addresses, in the order of the list.
    pub addresses: Vec<String>,
    /// Routes of both families and every table, but those that the kernel keeps in the table `local`.
    pub routes: Vec<String>,
    /// Permanent neighbours, and those that are answered for.
    pub neighbours: Vec<String>,
}

/// Why the state of a device was not read.
#[derive(Debug, thiserror::Error)]
pub enum LinkStateError {
    /// The kernel could not be asked.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// It could not be put back.
    #[error("{0}")]
    Unrestorable(Unrestorable),
}

impl LinkState {
    /// What a device has now that would go with it. Refuses a device that could not be put back.
    pub fn read(netlink: &mut Netlink, device: &Device) -> Result<Self, LinkStateError> {
        let devices = link::list(netlink)?;
        if let Some(reason) = refusal::refusal(device, &devices) {
            return Err(LinkStateError::Unrestorable(reason));
        }
        let lists = Lists::read(netlink)?;
        match lists.unrestorable(device.index) {
            Some(reason) => Err(LinkStateError::Unrestorable(reason)),
            None => Ok(lists.state(device.index)),
        }
    }

    /// Whether the kernel makes a route for one of the addresses: its source is one, or its destination the network of one.
    fn is_for_an_address(&self, route: &[u8]) -> bool {
        let Some((fixed, attributes)) = route.split_at_checked(RTMSG_LEN) else { return false };
        let attributes = Attributes::new(attributes);
        let Some(to) = attributes.get(RTA_DST) else { return false };
        let is_of = |address: &String| {
            let Some(body) = bytes(address) else { return false };
            let Some((head, of_address)) = body.split_at_checked(IFADDRMSG_LEN) else { return false };
            let own = Attributes::new(of_address);
            let local = own.get(IFA_LOCAL).or(own.get(IFA_ADDRESS)).unwrap_or_default();
            let network = own.get(IFA_ADDRESS).unwrap_or_default();
            head[0] == fixed[0]
                && (attributes.get(RTA_PREFSRC) == Some(local)
                    || (head[1] == fixed[1] && same_bits(to, network, head[1])))
        };
        self.staying.iter().chain(&self.addresses).any(is_of)
    }

    /// Whether one of the routes is a default route.
    #[must_use]
    pub fn has_default_route(&self) -> bool {
        // The second byte is the length of the prefix.
        self.routes.iter().any(|body| body.get(2..4) == Some("00"))
    }

    /// Sets a device up, and puts back what it lacks. What it has already stays, and of what it did not have before only
    /// the routes go that the kernel itself made when it came up. A failure does not keep the rest from being put back.
    pub fn restore(&self, netlink: &mut Netlink, device: &Device) -> Result<(), NetlinkError> {
        if !device.up {
            link::set_up(netlink, device.index, true)?;
        }
        let present = Lists::read(netlink)?.state(device.index);
        let mut work = Restoration { netlink, refused: None };
        work.put_addresses(&missing(&self.addresses, &present.addresses));
        work.put_routes(missing(&self.routes, &present.routes));
        let replace = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        for body in missing(&self.neighbours, &present.neighbours) {
            work.put("put a neighbour back", libc::RTM_NEWNEIGH, &body, replace);
        }
        // Somebody who has set it up before us may have routes of his own by now.
        if !device.up {
            let present = Lists::read(work.netlink)?.state(device.index);
            let is_old = |body: &Vec<u8>| is_kernels(body) && self.is_for_an_address(body);
            for body in missing(&present.routes, &self.routes).into_iter().filter(is_old) {
                work.put("delete a route", libc::RTM_DELROUTE, &body, 0);
            }
        }
        work.refused.map_or(Ok(()), Err)
    }
}

/// Whether two addresses begin with the same so many bits.
fn same_bits(one: &[u8], other: &[u8], bits: u8) -> bool {
    let (whole, rest) = (usize::from(bits / 8), bits % 8);
    let mask = !(0xff_u8 >> rest);
    let byte = |address: &[u8]| address.get(whole).copied().unwrap_or_default() & mask;
    one.len() == other.len() && one.get(..whole) == other.get(..whole) && byte(one) == byte(other)
}

/// What is wanted and not present.
fn missing(wanted: &[String], present: &[String]) -> Vec<Vec<u8>> {
    let present: BTreeSet<&String> = present.iter().collect();
    wanted.iter().filter(|body| !present.contains(body)).filter_map(|body| bytes(body)).collect()
}

/// Whether the kernel made a route by itself, for an address.
fn is_kernels(route: &[u8]) -> bool {
    route.get(RTM_PROTOCOL_AT) == Some(&RTPROT_KERNEL)
}

/// Putting back one by one; the first refusal is kept.
struct Restoration<'a> {
    netlink: &'a mut Netlink,
    refused: Option<NetlinkError>,
}

impl Restoration<'_> {
    fn try_put(
        &mut self,
        operation: &'static str,
        kind: u16,
        body: &[u8],
        flags: i32,
    ) -> Result<(), NetlinkError> {
        match self.netlink.execute(&Request::new(operation, kind, body).flags(flags)) {
            // Somebody else was faster: the watchdog, `clean`, the kernel.
            Err(error) if matches!(error.errno(), Some(Errno::EEXIST | Errno::ESRCH)) => Ok(()),
            result => result,
        }
    }

    fn put(&mut self, operation: &'static str, kind: u16, body: &[u8], flags: i32) {
        if let Err(error) = self.try_put(operation, kind, body, flags) {
            self.refused.get_or_insert(error);
        }
    }

    /// The last of the list is the oldest, and the kernel puts a new one in front.
    fn put_addresses(&mut self, bodies: &[Vec<u8>]) {
        let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        for body in bodies.iter().rev() {
            // It was found unique before, and routes may want it as their source at once.
            self.put("put an address back", libc::RTM_NEWADDR, &without_detection(body), create);
            self.put("set the flags of an address", libc::RTM_NEWADDR, body, libc::NLM_F_REPLACE);
        }
    }

    /// Those first by which the gateways of others are reached.
    fn put_routes(&mut self, mut left: Vec<Vec<u8>>) {
        while !left.is_empty() {
            let (before, mut refused) = (left.len(), None);
            left.retain(|body| {
                // IPv4 has an order among routes to one place, and IPv6 would join them to one route.
                let append = if i32::from(body[0]) == libc::AF_INET { libc::NLM_F_APPEND } else { 0 };
                let flags = libc::NLM_F_CREATE | append;
                let result = self.try_put("put a route back", libc::RTM_NEWROUTE, body, flags);
                let is_left = result.is_err();
                refused = refused.take().or(result.err());
                is_left
            });
            if left.len() == before {
                self.refused = self.refused.take().or(refused);
                return;
            }
        }
    }
}
