//! What arrives at a device, before there is a socket buffer.
//!
//! The rules, the draws and the counters are those of traffic control: only how the packet is read and written differs. It can be
//! lost, corrupted and rejected here; the plan has refused all else.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{bpf_xdp_load_bytes, bpf_xdp_store_bytes};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use injector_common::answer::{fold, pseudo_header};
use injector_common::layout::Control;
use injector_common::packet::Packet;
use injector_common::rule::{ACTION_CORRUPT, ACTION_REJECT, INGRESS, Rule};
use network_types::eth::{EthHdr, EtherType};

use crate::maps::{WALKS, needs, shape};
use crate::parse::{self, Headers, IPV4_LENGTH, IPV6_LENGTH, Lying, Offsets};
use crate::strike::{Source, Verdict, Walk, armed, is_over_by_tick, strike_at};
use crate::tally::count_lost;
use crate::target::rules_of_device;
use crate::{xdp_change, xdp_reject};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Bytes that a tag puts between the addresses and the type of a frame: the tag's own type and its number.
const TAG_LENGTH: u32 = 4;
/// Tags that are skipped: a provider's and a customer's (802.1ad).
const MAX_TAGS: u32 = 2;
/// Where a frame says what it carries.
const TYPE_OFFSET: usize = EthHdr::LEN - 2;

/// Packets that arrive at a device, whoever they are for. It takes packets in fragments, as drivers hand over jumbo frames.
#[xdp(frags)]
#[inline(always)]
pub fn injector_xdp(ctx: XdpContext) -> u32 {
    match arrive(ctx.ctx) {
        Verdict::Lose => XDP_DROP,
        Verdict::Treat if needs().action(ACTION_CORRUPT) => xdp_change::corrupt(ctx.ctx),
        Verdict::Reject if needs().action(ACTION_REJECT) => xdp_reject::reject(ctx.ctx),
        _ => XDP_PASS,
    }
}

/// Drops all and looks at nothing: what a benchmark compares the other with. Never attached.
#[xdp(frags)]
#[inline(always)]
pub fn injector_xdp_drop(_ctx: XdpContext) -> u32 {
    XDP_DROP
}

#[inline(always)]
fn arrive(ctx: *mut xdp_md) -> Verdict {
    let Some(control) = armed() else { return Verdict::Pass };
    if shape!(wants.loses_all) != 0
        && shape!(device) != 0
        && let Some(verdict) = lose(ctx, control)
    {
        return verdict;
    }
    // The program is attached to no other device than the targets, so where there is one nobody needs to ask which it is: that takes three
    // loads in a row.
    let only = shape!(device);
    let (ifindex, rules) = if only != 0 {
        (only, shape!(of_device.ingress))
    } else {
        let ifindex = ingress_ifindex(ctx);
        let Some(rules) = rules_of_device(ifindex, INGRESS) else { return Verdict::Pass };
        (ifindex, rules)
    };
    strike_at(control, Arrival { ctx, ifindex }, ifindex as u64, rules, INGRESS)
}

/// The verdict where the only device loses all that is IP: the same as by the rules, in a third of the instructions. `None` where it is not seen at once
/// whether it is IP.
#[inline(always)]
fn lose(ctx: *mut xdp_md, control: &Control) -> Option<Verdict> {
    let rules = shape!(of_device.ingress);
    if rules.count == 0 {
        return Some(Verdict::Pass);
    }
    let frame = Frame::new(ctx);
    if !parse::is_plain_ip(frame, frame.protocol()?) {
        return None;
    }
    // SAFETY: a value of this CPU's own; programs of one direction do not preempt each other on it.
    if is_over_by_tick(control, unsafe { &mut *WALKS.get_ptr_mut(INGRESS)? }) {
        return Some(Verdict::Pass);
    }
    count_lost(rules.first);
    Some(Verdict::Lose)
}

#[inline(always)]
fn ingress_ifindex(ctx: *mut xdp_md) -> u32 {
    // SAFETY: the verifier checks each access to a field of the context.
    unsafe { (*ctx).ingress_ifindex }
}

/// A packet that has arrived at a device.
#[derive(Clone, Copy)]
struct Arrival {
    ctx: *mut xdp_md,
    ifindex: u32,
}

impl Source for Arrival {
    const IS_ONE_SEGMENT: bool = true;

    #[inline(always)]
    fn parse(self, direction: u32, packet: &mut Packet, offsets: &mut Offsets) -> Option<()> {
        let frame = Frame::new(self.ctx);
        let protocol = frame.protocol()?;
        // That it is IP is then all there is to know.
        if shape!(wants.any) == 0 && parse::is_plain_ip(frame, protocol) {
            return Some(());
        }
        if shape!(wants.device) != 0 {
            packet.ifindex = self.ifindex;
        }
        if is_tag(protocol) {
            return tagged(self.ctx, protocol, direction, packet, offsets);
        }
        parse::frame((frame, EthHdr::LEN as u32), protocol, direction, packet, offsets)
    }

    #[inline(always)]
    fn start_ns(self, _direction: u32, now_ns: u64) -> u64 {
        now_ns
    }

    /// No question is answered here.
    #[inline(always)]
    fn asks(self, _walk: &mut Walk, _rule: &Rule) -> bool {
        false
    }
}

/// A frame without tags: nearly all are.
#[derive(Clone, Copy)]
struct Frame {
    ctx: *mut xdp_md,
    /// What may be read directly. Loaded once, as of a socket buffer.
    start: usize,
    end: usize,
}

impl Frame {
    #[inline(always)]
    fn new(ctx: *mut xdp_md) -> Self {
        // SAFETY: the verifier checks each access to a field of the context. Volatile keeps it at one load.
        let (start, end) = unsafe {
            (
                (&raw const (*ctx).data).read_volatile() as usize,
                (&raw const (*ctx).data_end).read_volatile() as usize,
            )
        };
        Self { ctx, start, end }
    }

    /// The type of what it carries, as it lies in memory.
    #[inline(always)]
    fn protocol(self) -> Option<u16> {
        self.read_directly::<u16, TYPE_OFFSET>()
    }

    #[inline(always)]
    fn read_at<T: Copy, const OFFSET: usize>(self) -> Option<T> {
        let found = self.read_directly::<T, OFFSET>();
        if found.is_some() { found } else { read_by_helper(self.ctx, OFFSET as u32) }
    }

    /// Reads from the linear part of the frame at a constant offset, which is what the verifier can follow.
    #[inline(always)]
    fn read_directly<T: Copy, const OFFSET: usize>(self) -> Option<T> {
        if self.start + OFFSET + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: the header lies before the end of the readable data, which the verifier checks as well, and at
        // an even address, which is all that arrays of u16 ask for.
        Some(unsafe { ((self.start + OFFSET) as *const T).read() })
    }
}

impl Headers for Frame {
    #[inline(always)]
    fn network(self, length: u32) -> Option<Lying> {
        Lying::new(self.start + EthHdr::LEN, length, self.end)
    }

    #[inline(always)]
    fn copy_network<T: Copy>(self) -> Option<T> {
        read_by_helper(self.ctx, EthHdr::LEN as u32)
    }

    #[inline(always)]
    fn read<T: Copy>(self, offset: u32) -> Option<T> {
        match offset {
            IPV4_LENGTH => self.read_at::<T, { EthHdr::LEN + IPV4_LENGTH as usize }>(),
            IPV6_LENGTH => self.read_at::<T, { EthHdr::LEN + IPV6_LENGTH as usize }>(),
            _ => read_by_helper(self.ctx, offset.wrapping_add(EthHdr::LEN as u32)),
        }
    }
}

/// A frame with tags, behind which nothing is where it is as a rule.
#[derive(Clone, Copy)]
struct Tagged {
    ctx: *mut xdp_md,
    /// Where the network header begins.
    network: u32,
}

/// Whether the type of a frame says that a tag follows.
#[inline(always)]
const fn is_tag(protocol: u16) -> bool {
    protocol == EtherType::Ieee8021q as u16 || protocol == EtherType::Ieee8021ad as u16
}

/// Parses a frame with tags. A tag that the card has taken off is not here; traffic control does not see the last one either.
#[inline(never)]
fn tagged(
    ctx: *mut xdp_md,
    protocol: u16,
    direction: u32,
    packet: &mut Packet,
    offsets: &mut Offsets,
) -> Option<()> {
    let (mut frame, mut protocol) = (Tagged { ctx, network: EthHdr::LEN as u32 }, protocol);
    for _ in 0..MAX_TAGS {
        if !is_tag(protocol) {
            break;
        }
        // A tag's number, then the type of what follows.
        let [_, following] = read_by_helper::<[u16; 2]>(ctx, frame.network)?;
        frame.network += TAG_LENGTH;
        protocol = following;
    }
    parse::frame((frame, frame.network), protocol, direction, packet, offsets)
}

impl Headers for Tagged {
    #[inline(always)]
    fn network(self, _length: u32) -> Option<Lying> {
        None
    }

    #[inline(always)]
    fn copy_network<T: Copy>(self) -> Option<T> {
        read_by_helper(self.ctx, self.network)
    }

    #[inline(always)]
    fn read<T: Copy>(self, offset: u32) -> Option<T> {
        read_by_helper(self.ctx, self.network.wrapping_add(offset))
    }
}

/// Reads from wherever the data are.
#[inline(always)]
pub(crate) fn read_by_helper<T: Copy>(ctx: *mut xdp_md, offset: u32) -> Option<T> {
    let mut header = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes exactly `size_of::<T>()` bytes to the buffer or fails.
    let status =
        unsafe { bpf_xdp_load_bytes(ctx, offset, header.as_mut_ptr().cast(), size_of::<T>() as u32) };
    // SAFETY: on success every byte is written, and the headers are arrays of numbers.
    (status == 0).then(|| unsafe { header.assume_init() })
}

/// Writes to wherever the data are.
#[inline(always)]
pub(crate) fn write_by_helper<T: Copy>(ctx: *mut xdp_md, offset: u32, mut value: T) -> bool {
    // SAFETY: the helper reads exactly `size_of::<T>()` bytes of the value.
    unsafe { bpf_xdp_store_bytes(ctx, offset, (&raw mut value).cast(), size_of::<T>() as u32) == 0 }
}

/// Where the checksum of a transport is in its header; `None` for those that we don't compute.
#[inline(always)]
pub(crate) const fn checksum_of(protocol: u8) -> Option<u32> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        ICMP | ICMPV6 => Some(2),
        _ => None,
    }
}

/// Whether a checksum is still to be computed by a device (`CHECKSUM_PARTIAL`), as what another namespace of the same host has sent:
/// then the sum of the pseudo header stands there. No helper says so. A checksum that is complete happens to be that sum once in
/// 65,536 packets.
#[inline(always)]
pub(crate) fn is_partial(walk: &Walk, checksum: u16) -> bool {
    let (packet, offsets) = (&walk.packet, &walk.offsets);
    if packet.protocol != TCP && packet.protocol != UDP {
        return false;
    }
    let length = offsets.end.wrapping_sub(offsets.transport) as u16;
    checksum == fold(pseudo_header(&packet.local, &packet.remote, packet.protocol, length))
}
