//! What comes instead of a packet: a reset, or an error.

/// How a TCP connection is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    /// Who gets the reset.
    pub side: ResetSide,
    /// Bytes of payload that the connection carries in the fault's direction before.
    pub after_bytes: u64,
}

/// Who gets a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResetSide {
    /// The target, as if the other side had sent it.
    Local,
    /// The other side, as if the target had sent it.
    Remote,
    /// Both, as from a middlebox that has forgotten the connection.
    #[default]
    Both,
}

/// How a packet is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reject {
    /// What the ICMP error says.
    pub icmp: IcmpError,
    /// The MTU that it names, in bytes, if it is [`IcmpError::FragmentationNeeded`].
    pub mtu: u16,
}

/// What an ICMP error says (RFC 792, RFC 1812; RFC 4443 has the like for IPv6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IcmpError {
    /// Nobody listens on the port.
    #[default]
    PortUnreachable,
    /// The host can't be reached.
    HostUnreachable,
    /// There is no route to the network.
    NetUnreachable,
    /// A filter forbids it.
    AdminProhibited,
    /// The packet is too big for the next link.
    FragmentationNeeded,
}
