//! A blocking rtnetlink socket: one request, its answer. `message` has their format.
//!
//! Messages are decoded attribute by attribute and only as far as injector reads them. A decoder of whole
//! messages would fail on the first attribute that a newer kernel lays out otherwise, and would hide the
//! device or filter that carries it.

mod message;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::libc;

pub use message::{Attributes, Reply, Request};
pub(crate) use message::{u16_at, u32_at};

use message::parse;

use super::errno_of;
use super::netns::{self, NetnsError};

const KERNEL: u32 = 0;
/// A dump that changes while it is read is read again, at most so often.
const DUMP_ATTEMPTS: u32 = 5;

/// A netlink exchange that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// The socket could not be used.
    #[error("netlink: {call}: {source}")]
    Socket {
        /// The system call.
        call: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// The kernel refused the request.
    #[error("netlink: {operation}: {source}{}", explained(detail.as_deref()))]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// What the kernel said.
        source: Errno,
        /// The kernel's own sentence about it, if it gave one.
        detail: Option<String>,
    },
    /// The answer could not be understood.
    #[error("netlink: {operation}: the answer is cut short")]
    Truncated {
        /// What was asked.
        operation: &'static str,
    },
    /// The objects kept changing while they were listed.
    #[error("netlink: {operation}: the list changed each time it was read")]
    Unstable {
        /// What was asked.
        operation: &'static str,
    },
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NetnsError),
}

fn explained(detail: Option<&str>) -> String {
    detail.map(|detail| format!(" ({detail})")).unwrap_or_default()
}

impl NetlinkError {
    /// The errno behind it, if the kernel gave one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Socket { source, .. } | Self::Refused { source, .. } => Some(*source),
            _ => None,
        }
    }

    /// The remedy, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Namespace(error) => error.hint(),
            Self::Refused { source: Errno::EPERM | Errno::EACCES, .. } => {
                Some("run as root: changing devices needs CAP_NET_ADMIN".to_owned())
            }
            Self::Unstable { .. } => Some("try again when the network is quieter".to_owned()),
            _ => None,
        }
    }
}

/// A socket to the rtnetlink of one namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// A socket in the namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(|error| socket_error("socket", &error))?;
        socket.bind_auto().map_err(|error| socket_error("bind", &error))?;
        socket.set_ext_ack(true).map_err(|error| socket_error("setsockopt NETLINK_EXT_ACK", &error))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// A socket in another namespace, which can be used from any thread.
    pub fn open_in(namespace: BorrowedFd<'_>) -> Result<Self, NetlinkError> {
        netns::enter(namespace, Self::open)?
    }

    /// Subscribe to a group of notifications (`RTNLGRP_...`).
    pub(crate) fn subscribe(&self, group: u32) -> Result<(), NetlinkError> {
        self.socket
            .add_membership(group)
            .map_err(|error| socket_error("setsockopt NETLINK_ADD_MEMBERSHIP", &error))
    }

    pub(crate) fn set_non_blocking(&self) -> Result<(), NetlinkError> {
        self.socket.set_non_blocking(true).map_err(|error| socket_error("fcntl", &error))
    }

    /// Ask for a change, and wait until the kernel has made or refused it.
    pub fn execute(&mut self, request: &Request) -> Result<(), NetlinkError> {
        let sequence = self.send(request, libc::NLM_F_REQUEST | libc::NLM_F_ACK)?;
        loop {
            for reply in self.receive(request.operation)? {
                if reply.sequence == sequence && i32::from(reply.kind) == libc::NLMSG_ERROR {
                    return check(&reply, request.operation);
                }
            }
        }
    }

    /// Ask for one thing: what the kernel says of it.
    pub fn ask(&mut self, request: &Request) -> Result<Vec<Reply>, NetlinkError> {
        let sequence = self.send(request, libc::NLM_F_REQUEST | libc::NLM_F_ACK)?;
        let mut replies = Vec::new();
        loop {
            for reply in self.receive(request.operation)? {
                match i32::from(reply.kind) {
                    _ if reply.sequence != sequence => {}
                    libc::NLMSG_ERROR => return check(&reply, request.operation).map(|()| replies),
                    _ => replies.push(reply),
                }
            }
        }
    }

    /// Ask for a list, and read all of it.
    pub fn dump(&mut self, request: &Request) -> Result<Vec<Reply>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(replies) = self.dump_once(request)? {
                return Ok(replies);
            }
        }
        Err(NetlinkError::Unstable { operation: request.operation })
    }

    /// `None` when the list changed under the reader.
    fn dump_once(&mut self, request: &Request) -> Result<Option<Vec<Reply>>, NetlinkError> {
        let sequence = self.send(request, libc::NLM_F_REQUEST | libc::NLM_F_DUMP)?;
        let (mut replies, mut stable) = (Vec::new(), true);
        loop {
            for reply in self.receive(request.operation)? {
                if reply.sequence != sequence {
                    continue;
                }
                stable &= i32::from(reply.flags) & libc::NLM_F_DUMP_INTR == 0;
                match i32::from(reply.kind) {
                    libc::NLMSG_DONE => {
                        check(&reply, request.operation)?;
                        return Ok(stable.then_some(replies));
                    }
                    libc::NLMSG_ERROR => {
                        check(&reply, request.operation)?;
                        return Ok(Some(replies));
                    }
                    _ => replies.push(reply),
                }
            }
        }
    }

    fn send(&mut self, request: &Request, flags: i32) -> Result<u32, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = request.encode(flags, self.sequence);
        self.socket
            .send_to(&message, &SocketAddr::new(KERNEL, 0), 0)
            .map_err(|error| socket_error("send", &error))?;
        Ok(self.sequence)
    }

    /// The messages of the next datagram from the kernel.
    pub(crate) fn receive(&self, operation: &'static str) -> Result<Vec<Reply>, NetlinkError> {
        loop {
            match self.socket.recv_from_full() {
                Ok((datagram, from)) if from.port_number() == KERNEL => {
                    return parse(&datagram).ok_or(NetlinkError::Truncated { operation });
                }
                // Another process may write to this socket too; only the kernel is believed.
                Ok(_) => {}
                Err(error) if errno_of(&error) == Errno::EINTR => {}
                Err(error) => return Err(socket_error("recv", &error)),
            }
        }
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn socket_error(call: &'static str, error: &std::io::Error) -> NetlinkError {
    NetlinkError::Socket { call, source: errno_of(error) }
}

/// The verdict in an acknowledgement, or at the end of a list: zero or a negative errno.
fn check(reply: &Reply, operation: &'static str) -> Result<(), NetlinkError> {
    const ACK_TLVS: u16 = 0x200;
    const EXT_ACK_MESSAGE: u16 = 1;
    let code = u32_at(&reply.body, 0).ok_or(NetlinkError::Truncated { operation })?.cast_signed();
    if code == 0 {
        return Ok(());
    }
    // A refusal repeats the request (header and body) before the kernel's own words.
    let words = (reply.flags & ACK_TLVS != 0).then(|| {
        let repeated = u32_at(&reply.body, 4).unwrap_or_default() as usize;
        let offset =
            if i32::from(reply.kind) == libc::NLMSG_DONE { 4 } else { 4 + repeated.next_multiple_of(4) };
        Attributes::new(reply.body.get(offset..).unwrap_or_default()).text(EXT_ACK_MESSAGE)
    });
    Err(NetlinkError::Refused {
        operation,
        source: Errno::from_raw(code.wrapping_neg()),
        detail: words.flatten(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_the_errno() {
        let body = (-1i32).to_ne_bytes().to_vec();
        let reply = Reply { kind: libc::NLMSG_ERROR as u16, flags: 0, sequence: 1, body };
        let error = check(&reply, "set the link").unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EPERM));
        assert!(error.to_string().contains("EPERM"), "{error}");
    }
}
