//! From a socket buffer to a [`Packet`], seen from the target.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{__sk_buff, bpf_hdr_start_off};
use aya_ebpf::helpers::generated::bpf_skb_load_bytes_relative;
use injector_common::layout::MAX_EXTENSION_HEADERS;
use injector_common::packet::{Address, PACKET_ESTABLISHED, PACKET_HAS_PORTS, PACKET_HAS_SOCKET, Packet};
use injector_common::rule::EGRESS;
use network_types::eth::{EthHdr, EtherType};

use crate::memory::clear;

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

/// Where the network header begins in what a program may read directly.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Behind an Ethernet header: Ethernet devices and loopback.
    Ethernet,
    /// Not known: other devices. Every read is a call of the kernel. So it is in cgroup programs: there the header
    /// is at the start, but Linux 6.1 gives up on the program when it reads that directly (a million
    /// instructions walked instead of 53,000).
    Unknown,
}

/// A packet whose headers can be read, wherever they lie.
pub(crate) trait Headers: Copy {
    /// Reads the network header. `None`: the packet is shorter.
    fn read_network<T: Copy>(self) -> Option<T>;

    /// Reads a header at `offset` from the start of the network header. `None`: the packet is shorter.
    fn read<T: Copy>(self, offset: u32) -> Option<T>;
}

/// A socket buffer that is being parsed.
#[derive(Clone, Copy)]
struct View {
    skb: *mut __sk_buff,
    framing: Framing,
    /// What may be read directly. Loaded once: a pointer that is loaded again is a new one to the verifier,
    /// which has not seen it compared with the end.
    start: usize,
    end: usize,
}

impl View {
    #[inline(always)]
    fn new(skb: *mut __sk_buff, framing: Framing) -> Self {
        // SAFETY: the verifier checks each access to a field of the context. Volatile keeps it at one load.
        let (start, end) = unsafe {
            (
                (&raw const (*skb).data).read_volatile() as usize,
                (&raw const (*skb).data_end).read_volatile() as usize,
            )
        };
        Self { skb, framing, start, end }
    }

    #[inline(always)]
    fn read_at<T: Copy, const OFFSET: u32>(self) -> Option<T> {
        let found = match self.framing {
            Framing::Ethernet => self.read_directly(EthHdr::LEN + OFFSET as usize),
            Framing::Unknown => None,
        };
        // A header outside of the linear part of the buffer is there all the same.
        if found.is_some() { found } else { self.read_by_helper(OFFSET) }
    }

    /// Reads from the linear part of the buffer, where headers are as a rule.
    #[inline(always)]
    fn read_directly<T: Copy>(self, offset: usize) -> Option<T> {
        if self.start + offset + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: the header lies before the end of the readable data, which the verifier checks as well, and at
        // an even address, which is all that arrays of u16 ask for.
        Some(unsafe { ((self.start + offset) as *const T).read() })
    }

    /// Reads from wherever the data are.
    #[inline(always)]
    fn read_by_helper<T: Copy>(self, offset: u32) -> Option<T> {
        let mut header = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes exactly `size_of::<T>()` bytes to the buffer or fails.
        let status = unsafe {
            bpf_skb_load_bytes_relative(
                self.skb.cast(),
                offset,
                header.as_mut_ptr().cast(),
                size_of::<T>() as u32,
                bpf_hdr_start_off::BPF_HDR_START_NET,
            )
        };
        // SAFETY: on success every byte is written, and the headers are arrays of numbers.
        (status == 0).then(|| unsafe { header.assume_init() })
    }
}

impl Headers for View {
    #[inline(always)]
    fn read_network<T: Copy>(self) -> Option<T> {
        self.read_at::<T, 0>()
    }

    /// Only the places where headers are as a rule are read directly, each by a constant offset, which is what
    /// the verifier can follow; IPv4 options and IPv6 extensions take the slower way.
    #[inline(always)]
    fn read<T: Copy>(self, offset: u32) -> Option<T> {
        match offset {
            IPV4_LENGTH => self.read_at::<T, IPV4_LENGTH>(),
            IPV6_LENGTH => self.read_at::<T, IPV6_LENGTH>(),
            _ => self.read_by_helper(offset),
        }
    }
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

/// Where the parts of a packet are, from the start of its network header.
#[derive(Clone, Copy)]
pub(crate) struct Offsets {
    /// The transport header; 0 where there is none (a later fragment).
    pub(crate) transport: u32,
    /// What the transport carries.
    pub(crate) payload: u32,
    /// The end of the packet, all segments together.
    pub(crate) end: u32,
}

/// Parses `skb` into `packet`, or returns `None` if it isn't IP or is cut short.
#[inline(always)]
pub(crate) fn packet(
    skb: *mut __sk_buff,
    framing: Framing,
    direction: u32,
    packet: &mut Packet,
) -> Option<Offsets> {
    // SAFETY: the verifier checks each access to a field of the context.
    let protocol = unsafe { (*skb).protocol } as u16;
    let (network, transport_offset) = headers(View::new(skb, framing), protocol, direction, packet)?;
    segments(skb, &network, packet);
    socket(skb, packet);
    // What arrives may be looked at on its way round by another device.
    // SAFETY: as above.
    packet.ifindex = unsafe { if direction == EGRESS { (*skb).ifindex } else { (*skb).ingress_ifindex } };
    Some(Offsets {
        transport: transport_offset,
        payload: network.transport_offset,
        end: network.total_length,
    })
}

/// Parses the packet at hand into `packet`, but for what only its buffer knows; where the transport header begins is the
/// second of what is returned. `protocol` is the Ethernet type as it lies in memory.
#[inline(always)]
fn headers(view: impl Headers, protocol: u16, direction: u32, packet: &mut Packet) -> Option<(Network, u32)> {
    // SAFETY: a packet is made of numbers.
    unsafe { clear(packet) };
    let mut network = if protocol == EtherType::Ipv4 as u16 {
        ipv4(view, direction, packet)?
    } else if protocol == EtherType::Ipv6 as u16 {
        ipv6(view, direction, packet)?
    } else {
        return None;
    };
    let transport_offset = if network.later_fragment { 0 } else { network.transport_offset };
    transport(view, direction, &mut network, packet);
    Some((network, transport_offset))
}

/// Parses what arrives as one packet of the wire: without segments to come, and without a socket. `None` as [`packet`].
#[inline(always)]
pub(crate) fn frame(
    view: impl Headers,
    protocol: u16,
    direction: u32,
    packet: &mut Packet,
) -> Option<Offsets> {
    let (network, transport) = headers(view, protocol, direction, packet)?;
    packet.length = network.total_length;
    packet.segments = 1;
    packet.wire_bytes = network.total_length;
    Some(Offsets { transport, payload: network.transport_offset, end: network.total_length })
}

#[inline(always)]
fn ipv4(view: impl Headers, direction: u32, packet: &mut Packet) -> Option<Network> {
    let [version_tos, length, _, fragment, ttl_protocol, _, s0, s1, d0, d1]: Ipv4 = view.read_network()?;
    let [version_ihl, tos] = version_tos.to_ne_bytes();
    let [_, protocol] = ttl_protocol.to_ne_bytes();
    packet.family = 4;
    packet.protocol = protocol;
    packet.dscp = tos >> 2;
    packet.ecn = tos & 3;
    orient(packet, direction, Address::from_v4_word(word(s0, s1)), Address::from_v4_word(word(d0, d1)));
    Some(Network {
        transport_offset: ((version_ihl & 0x0f) as u32) * 4,
        total_length: u16::from_be(length) as u32,
        later_fragment: u16::from_be(fragment) & 0x1fff != 0,
    })
}

#[inline(always)]
fn ipv6(view: impl Headers, direction: u32, packet: &mut Packet) -> Option<Network> {
    let header: Ipv6 = view.read_network()?;
    let [version_class, _, length, next_hop, s0, s1, s2, s3, s4, s5, s6, s7, d0, d1, d2, d3, d4, d5, d6, d7] =
        header;
    let [next_header, _] = next_hop.to_ne_bytes();
    packet.family = 6;
    packet.dscp = (u16::from_be(version_class) >> 6 & 0x3f) as u8;
    packet.ecn = (u16::from_be(version_class) >> 4 & 3) as u8;
    let source = Address { words: [word(s0, s1), word(s2, s3), word(s4, s5), word(s6, s7)] };
    let destination = Address { words: [word(d0, d1), word(d2, d3), word(d4, d5), word(d6, d7)] };
    orient(packet, direction, source, destination);
    let (protocol, transport_offset, later_fragment) = skip_extensions(view, next_header);
    packet.protocol = protocol;
    Some(Network {
        transport_offset,
        total_length: u16::from_be(length) as u32 + IPV6_LENGTH,
        later_fragment,
    })
}

#[inline(always)]
fn orient(packet: &mut Packet, direction: u32, source: Address, destination: Address) {
    (packet.local, packet.remote) =
        if direction == EGRESS { (source, destination) } else { (destination, source) };
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
    packet.length = network.total_length;
    packet.segments = 1;
    packet.wire_bytes = network.total_length;
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
