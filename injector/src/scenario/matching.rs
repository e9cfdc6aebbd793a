//! The `match` of a network fault: which packets are meant.

use ipnet::IpNet;

use super::quantity::LengthRange;

/// Port ranges in one list, at most: what a rule of the kernel half holds.
pub const MAX_PORT_RANGES: usize = 16;
/// Patterns of TCP flags in one list, at most.
pub const MAX_TCP_FLAGS: usize = 4;
/// Interfaces in one list, at most.
pub const MAX_INTERFACES: usize = 8;

/// IP protocol number of TCP.
pub(super) const TCP: u8 = 6;

/// Which packets are meant: all given keys must hold, and a list is any of. The default is every IP packet.
///
/// Local and remote are seen from the target, in both directions. An empty list and `None` mean "not given".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Match {
    /// IP protocol numbers.
    pub protocols: Vec<u8>,
    /// The target's ports.
    pub local_ports: Vec<PortRange>,
    /// The other side's ports.
    pub remote_ports: Vec<PortRange>,
    /// The target's addresses.
    pub local: Vec<AddressRef>,
    /// The other side's addresses.
    pub remote: Vec<AddressRef>,
    /// Patterns of TCP flags; only with TCP as the one protocol.
    pub tcp_flags: Vec<TcpFlags>,
    /// Length of the IP packet in bytes.
    pub length: Option<LengthRange>,
    /// Differentiated-services code points, each below 64.
    pub dscp: Vec<u8>,
    /// Version of IP.
    pub family: Option<Family>,
    /// Names of interfaces that are meant.
    pub interfaces: Vec<String>,
    /// Names of interfaces that are not meant.
    pub device_exclude: Vec<String>,
    /// True: after the TCP handshake; false: before. Only with TCP as the one protocol.
    pub established: Option<bool>,
}

/// Ports from `low` to `high`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The lowest port meant, at least 1.
    pub low: u16,
    /// The highest port meant.
    pub high: u16,
}

/// Addresses, or the name of a set of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressRef {
    /// An address or a network.
    Net(IpNet),
    /// The name of a `[peers]` set.
    Peers(String),
}

/// TCP flags that must be as in `value` where `mask` is set; bits of byte 13 of the TCP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpFlags {
    /// The flags that are looked at.
    pub mask: u8,
    /// What they must be.
    pub value: u8,
    /// The segment must carry no data besides.
    pub pure_ack: bool,
}

/// Version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}
