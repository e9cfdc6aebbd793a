//! From a socket buffer to a [`Packet`], seen from the target.

use aya_ebpf::bindings::__sk_buff;
use injector_common::layout::MAX_EXTENSION_HEADERS;
use injector_common::packet::{Address, PACKET_ESTABLISHED, PACKET_HAS_PORTS, PACKET_HAS_SOCKET, Packet};
use injector_common::rule::EGRESS;
use network_types::eth::EtherType;

use crate::maps::shape;
pub(crate) use crate::view::{Framing, Headers, Lying};
use crate::view::{Halves, View};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const UDP_LITE: u8 = 136;
const DCCP: u8 = 33;
const SCTP: u8 = 132;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// The kernel's numbers of TCP states (include/net/tcp_states.h).
const TCP_ESTABLISHED: u32 = 1;
const TCP_FIN_WAIT1: u32 = 4;
const TCP_CLOSING: u32 = 11;
const TCP_LISTEN: u32 = 10;

/// The first 20 bytes of an IPv4 header, two to a number, as they lie in memory.
///
/// Two, because network headers lie at even addresses (an Ethernet header is 14 bytes), and a wider read of
/// what may lie anywhere costs an instruction a byte.
type Ipv4 = [u16; 10];
/// The fixed IPv6 header, likewise.
type Ipv6 = [u16; 20];
/// The first 14 bytes of a TCP header, likewise.
type Tcp = [u16; 7];
/// The first 4 bytes of any other header, likewise.
type Head = [u16; 2];

/// Four bytes of a header, as they lie in memory.
#[inline(always)]
const fn word(low: u16, high: u16) -> u32 {
    low as u32 | (high as u32) << 16
}

/// Length of an IPv4 header without options.
pub(crate) const IPV4_LENGTH: u32 = size_of::<Ipv4>() as u32;
/// Length of the fixed IPv6 header.
pub(crate) const IPV6_LENGTH: u32 = size_of::<Ipv6>() as u32;

/// What the network header says of the rest.
struct Network {
    /// Where the transport header begins, from the start of the network header.
    transport_offset: u32,
    /// Bytes of the network header with all that it carries.
    total_length: u32,
    /// The packet is a fragment other than the first and has no transport header.
    later_fragment: bool,
}

/// Where the parts of a packet are, from the start of its network header but for that itself.
#[derive(Clone, Copy)]
pub(crate) struct Offsets {
    /// Where the network header begins in the frame; at XDP alone.
    pub(crate) network: u32,
    /// The transport header; 0 where there is none (a later fragment).
    pub(crate) transport: u32,
    /// What the transport carries.
    pub(crate) payload: u32,
    /// The end of the packet, all segments together.
    pub(crate) end: u32,
}

impl Offsets {
    /// Only who does more than to lose a packet wants to know.
    #[inline(always)]
    fn set(&mut self, network_offset: u32, transport: u32, network: &Network) {
        if shape!(wants.whole) != 0 {
            (self.network, self.transport) = (network_offset, transport);
            (self.payload, self.end) = (network.transport_offset, network.total_length);
        }
    }
}

/// Parses `skb` into `packet`, or returns `None` if it isn't IP or is cut short.
#[inline(always)]
pub(crate) fn packet(
    skb: *mut __sk_buff,
    framing: Framing,
    direction: u32,
    packet: &mut Packet,
    offsets: &mut Offsets,
) -> Option<()> {
    // SAFETY: the verifier checks each access to a field of the context.
    let (protocol, gso_size) = unsafe { ((*skb).protocol as u16, (*skb).gso_size) };
    // A super-packet is counted by what its headers leave for the payload.
    let counted = gso_size != 0;
    let view = View::new(skb, framing);
    let (network, transport_offset) = headers(view, protocol, direction, packet, counted)?;
    segments(skb, &network, packet);
    if shape!(wants.socket) != 0 {
        socket(skb, packet);
    }
    // What arrives may be looked at on its way round by another device.
    // SAFETY: as above.
    packet.ifindex = unsafe { if direction == EGRESS { (*skb).ifindex } else { (*skb).ingress_ifindex } };
    offsets.set(0, transport_offset, &network);
    Some(())
}

/// Parses of the packet at hand what some rule looks at; the rest of `packet` is that of an earlier one. What only its buffer knows is
/// not in it. Where the transport header begins is the second of what is returned.
///
/// `protocol` is the Ethernet type as it lies in memory. `counted`: what the headers leave for the payload must be known.
#[inline(always)]
fn headers(
    view: impl Headers,
    protocol: u16,
    direction: u32,
    packet: &mut Packet,
    counted: bool,
) -> Option<(Network, u32)> {
    let mut network = if protocol == EtherType::Ipv4 as u16 {
        match view.network(IPV4_LENGTH) {
            Some(header) => ipv4(header, direction, packet, counted),
            None => ipv4(view.copy_network::<Ipv4>()?, direction, packet, counted),
        }
    } else if protocol == EtherType::Ipv6 as u16 {
        match view.network(IPV6_LENGTH) {
            Some(header) => ipv6(view, header, direction, packet, counted),
            None => ipv6(view, view.copy_network::<Ipv6>()?, direction, packet, counted),
        }
    } else {
        return None;
    };
    let transport_offset = if network.later_fragment { 0 } else { network.transport_offset };
    packet.flags = 0;
    if wants_transport(counted) {
        (packet.local_port, packet.remote_port) = (0, 0);
        (packet.tcp_flags, packet.icmp_type, packet.tcp_payload) = (0, 0, 0);
        transport(view, direction, &mut network, packet);
    }
    Some((network, transport_offset))
}

#[inline(always)]
fn wants_transport(counted: bool) -> bool {
    shape!(wants.transport) != 0 || counted
}

/// Whether it is IP and has a header that lies in front of the end of what may be read.
#[inline(always)]
pub(crate) fn is_plain_ip(view: impl Headers, protocol: u16) -> bool {
    let length = if protocol == EtherType::Ipv4 as u16 { IPV4_LENGTH } else { IPV6_LENGTH };
    let is_ip = protocol == EtherType::Ipv4 as u16 || protocol == EtherType::Ipv6 as u16;
    is_ip && view.network(length).is_some()
}

/// Parses what arrives as one packet of the wire: without segments to come, and without a socket. `None` as [`packet`].
#[inline(always)]
pub(crate) fn frame(
    (view, network_offset): (impl Headers, u32),
    protocol: u16,
    direction: u32,
    packet: &mut Packet,
    offsets: &mut Offsets,
) -> Option<()> {
    let (network, transport) = headers(view, protocol, direction, packet, false)?;
    packet.segments = 1;
    if shape!(wants.length) != 0 {
        packet.length = network.total_length;
        packet.wire_bytes = network.total_length;
    }
    offsets.set(network_offset, transport, &network);
    Some(())
}

#[inline(always)]
fn ipv4(header: impl Halves, direction: u32, packet: &mut Packet, counted: bool) -> Network {
    if shape!(wants.header) != 0 {
        let [_, tos] = header.half(0).to_ne_bytes();
        packet.family = 4;
        packet.dscp = tos >> 2;
        packet.ecn = tos & 3;
    }
    if shape!(wants.protocol) != 0 || counted {
        let [_, protocol] = header.half(4).to_ne_bytes();
        packet.protocol = protocol;
    }
    let address = |n: usize| Address::from_v4_word(word(header.half(n), header.half(n + 1)));
    orient(packet, direction, address, 6, 8);
    if shape!(wants.length) == 0 && !wants_transport(counted) {
        return Network { transport_offset: 0, total_length: 0, later_fragment: false };
    }
    let [version_ihl, _] = header.half(0).to_ne_bytes();
    Network {
        transport_offset: ((version_ihl & 0x0f) as u32) * 4,
        total_length: u16::from_be(header.half(1)) as u32,
        later_fragment: u16::from_be(header.half(3)) & 0x1fff != 0,
    }
}

#[inline(always)]
fn ipv6(
    view: impl Headers,
    header: impl Halves,
    direction: u32,
    packet: &mut Packet,
    counted: bool,
) -> Network {
    if shape!(wants.header) != 0 {
        let version_class = u16::from_be(header.half(0));
        packet.family = 6;
        packet.dscp = (version_class >> 6 & 0x3f) as u8;
        packet.ecn = (version_class >> 4 & 3) as u8;
    }
    let address = |n: usize| {
        let pair = |n| word(header.half(n), header.half(n + 1));
        Address { words: [pair(n), pair(n + 2), pair(n + 4), pair(n + 6)] }
    };
    orient(packet, direction, address, 4, 12);
    let mut network = Network { transport_offset: IPV6_LENGTH, total_length: 0, later_fragment: false };
    if shape!(wants.length) != 0 || wants_transport(counted) {
        network.total_length = u16::from_be(header.half(2)) as u32 + IPV6_LENGTH;
    }
    if shape!(wants.protocol) != 0 || counted {
        let [next_header, _] = header.half(3).to_ne_bytes();
        (packet.protocol, network.transport_offset, network.later_fragment) =
            skip_extensions(view, next_header);
    }
    network
}

/// Reads the addresses that somebody looks at; `source` and `destination` are their places in the header.
#[inline(always)]
fn orient(
    packet: &mut Packet,
    direction: u32,
    address: impl Fn(usize) -> Address,
    source: usize,
    destination: usize,
) {
    let (local, remote) = if direction == EGRESS { (source, destination) } else { (destination, source) };
    if shape!(wants.local) != 0 {
        packet.local = address(local);
    }
    if shape!(wants.remote) != 0 {
        packet.remote = address(remote);
    }
}

/// Follows the extension headers: the transport protocol, where its header begins, and whether the packet
/// is a later fragment. Gives up at the header where it can't go on, whose number is then the protocol.
#[inline(always)]
fn skip_extensions(view: impl Headers, first: u8) -> (u8, u32, bool) {
    let (mut next, mut offset) = (first, IPV6_LENGTH);
    for _ in 0..MAX_EXTENSION_HEADERS {
        let words = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => 8,
            AUTHENTICATION => 4,
            FRAGMENT => 0,
            _ => break,
        };
        let Some([following_length, fragment]) = view.read::<Head>(offset) else { break };
        let [following, length] = following_length.to_ne_bytes();
        if next == FRAGMENT && u16::from_be(fragment) & 0xfff8 != 0 {
            return (following, offset, true);
        }
        // AH counts 4-byte words less two (RFC 4302), the others 8-byte words less one (RFC 8200).
        offset += match words {
            8 => (length as u32 + 1) * 8,
            4 => (length as u32 + 2) * 4,
            _ => 8,
        };
        next = following;
    }
    (next, offset, false)
}

/// Fills in what the transport header says. A header that can't be read leaves the packet without ports.
#[inline(always)]
fn transport(view: impl Headers, direction: u32, network: &mut Network, packet: &mut Packet) {
    if network.later_fragment {
        return;
    }
    let offset = network.transport_offset;
    match packet.protocol {
        TCP => {
            let Some([source, destination, _, _, _, _, offset_flags]) = view.read::<Tcp>(offset) else {
                return;
            };
            let [data_offset, flags] = offset_flags.to_ne_bytes();
            ports(packet, direction, source, destination);
            packet.tcp_flags = flags;
            let headers = offset + ((data_offset >> 4) as u32) * 4;
            packet.tcp_payload = network.total_length.saturating_sub(headers);
            // Where the payload begins: what each segment of a GSO packet repeats.
            network.transport_offset = headers;
        }
        UDP | UDP_LITE | SCTP | DCCP => {
            let Some([source, destination]) = view.read::<Head>(offset) else { return };
            ports(packet, direction, source, destination);
            network.transport_offset = offset + 8;
        }
        ICMP | ICMPV6 => {
            let Some([kind_code, _]) = view.read::<Head>(offset) else { return };
            let [kind, _] = kind_code.to_ne_bytes();
            packet.icmp_type = kind;
            network.transport_offset = offset + 8;
        }
        _ => {}
    }
}

#[inline(always)]
fn ports(packet: &mut Packet, direction: u32, source: u16, destination: u16) {
    let (source, destination) = (u16::from_be(source), u16::from_be(destination));
    (packet.local_port, packet.remote_port) =
        if direction == EGRESS { (source, destination) } else { (destination, source) };
    packet.flags |= PACKET_HAS_PORTS;
}

/// Counts the packets on the wire. `gso_segs` may be 0 where the buffer came from outside (tun, virtio).
#[inline(always)]
fn segments(skb: *mut __sk_buff, network: &Network, packet: &mut Packet) {
    // SAFETY: the verifier checks each access to a field of the context.
    let (size, count) = unsafe { ((*skb).gso_size, (*skb).gso_segs) };
    packet.segments = 1;
    if shape!(wants.length) != 0 {
        packet.length = network.total_length;
        packet.wire_bytes = network.total_length;
    }
    if size == 0 {
        return;
    }
    packet.length = network.transport_offset + size;
    // A big TCP packet (RFC 2675 jumbograms, `gso_max_size` above 64 KiB) says 0 for its length.
    if packet.tcp_payload == 0 && packet.protocol == TCP {
        packet.tcp_payload = size;
    }
    let payload = network.total_length.saturating_sub(network.transport_offset);
    packet.segments = if count > 0 { count } else { (payload / size).max(1) };
    // The payload of a big TCP packet is not in its header, but its segments are full but for the last.
    let payload = if payload > 0 { payload } else { packet.segments.wrapping_mul(size) };
    packet.wire_bytes = payload.wrapping_add(packet.segments.wrapping_mul(network.transport_offset));
}

/// Says whether the packet's socket is known, and past the TCP handshake.
#[inline(always)]
fn socket(skb: *mut __sk_buff, packet: &mut Packet) {
    // SAFETY: the verifier checks each access to a field of the context.
    let socket = unsafe { (*skb).__bindgen_anon_2.sk };
    if socket.is_null() {
        return;
    }
    // SAFETY: not null, and `state` may be read of every socket, full or not (`struct bpf_sock`).
    connection(packet, unsafe { (*socket).state });
}

/// Notes what the packet's socket says: that there is one, and whether it is past the handshake.
#[inline(always)]
pub(crate) fn connection(packet: &mut Packet, state: u32) {
    packet.flags &= !PACKET_ESTABLISHED;
    packet.flags |= PACKET_HAS_SOCKET;
    let past_handshake = state == TCP_ESTABLISHED || (TCP_FIN_WAIT1..=TCP_CLOSING).contains(&state);
    if packet.protocol == TCP && past_handshake && state != TCP_LISTEN {
        packet.flags |= PACKET_ESTABLISHED;
    }
}
