//! What arrives at a device, before there is a socket buffer.
//!
//! The rules, the draws and the counters are those of traffic control: only how the packet is read differs. Nothing but loss
//! is possible here, since what stays must stay as it is; the plan has refused all else.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::bpf_xdp_load_bytes;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use injector_common::packet::Packet;
use injector_common::rule::{INGRESS, Rule};
use network_types::eth::{EthHdr, EtherType};

use crate::maps::INTERFACES;
use crate::parse::{self, Headers, IPV4_LENGTH, IPV6_LENGTH, Offsets};
use crate::strike::{Source, Verdict, Walk, armed, span, strike_at};

/// Bytes that a tag puts between the addresses and the type of a frame: the tag's own type and its number.
const TAG_LENGTH: u32 = 4;
/// Tags that are skipped: a provider's and a customer's (802.1ad).
const MAX_TAGS: u32 = 2;
/// Where a frame says what it carries.
const TYPE_OFFSET: usize = EthHdr::LEN - 2;

/// Packets that arrive at a device, whoever they are for. It takes packets in fragments, as drivers hand over jumbo frames.
#[xdp(frags)]
pub fn injector_xdp(ctx: XdpContext) -> u32 {
    match arrive(ctx.ctx) {
        Verdict::Lose => XDP_DROP,
        _ => XDP_PASS,
    }
}

/// Drops all and looks at nothing: what a benchmark compares the other with. Never attached.
#[xdp(frags)]
pub fn injector_xdp_drop(_ctx: XdpContext) -> u32 {
    XDP_DROP
}

#[inline(always)]
fn arrive(ctx: *mut xdp_md) -> Verdict {
    let Some(control) = armed() else { return Verdict::Pass };
    // SAFETY: the verifier checks each access to a field of the context.
    let ifindex = unsafe { (*ctx).ingress_ifindex };
    // SAFETY: the entry is copied out; the controller replaces entries whole and before it arms.
    let Some(target) = (unsafe { INTERFACES.get(ifindex) }) else { return Verdict::Pass };
    strike_at(control, Arrival { ctx, ifindex }, ifindex as u64, span(target, INGRESS), INGRESS)
}

/// A packet that has arrived at a device.
#[derive(Clone, Copy)]
struct Arrival {
    ctx: *mut xdp_md,
    ifindex: u32,
}

impl Source for Arrival {
    #[inline(always)]
    fn parse(self, direction: u32, packet: &mut Packet) -> Option<Offsets> {
        let (view, protocol) = Frame::new(self.ctx)?;
        let offsets = parse::frame(view, protocol, direction, packet)?;
        packet.ifindex = self.ifindex;
        Some(offsets)
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

/// A frame that is being parsed.
#[derive(Clone, Copy)]
struct Frame {
    ctx: *mut xdp_md,
    /// What may be read directly. Loaded once, as of a socket buffer.
    start: usize,
    end: usize,
    /// Where the network header begins.
    network: u32,
}

impl Frame {
    /// The frame, and the type of what it carries behind its tags, as it lies in memory.
    ///
    /// A tag that the card has taken off is not here; traffic control does not see the last one either.
    #[inline(always)]
    fn new(ctx: *mut xdp_md) -> Option<(Self, u16)> {
        // SAFETY: the verifier checks each access to a field of the context. Volatile keeps it at one load.
        let (start, end) = unsafe {
            (
                (&raw const (*ctx).data).read_volatile() as usize,
                (&raw const (*ctx).data_end).read_volatile() as usize,
            )
        };
        let mut frame = Self { ctx, start, end, network: EthHdr::LEN as u32 };
        let mut protocol = frame.read_directly::<u16, TYPE_OFFSET>()?;
        for _ in 0..MAX_TAGS {
            if protocol != EtherType::Ieee8021q as u16 && protocol != EtherType::Ieee8021ad as u16 {
                break;
            }
            // A tag's number, then the type of what follows.
            let [_, following] = frame.read_by_helper::<[u16; 2]>(0)?;
            frame.network += TAG_LENGTH;
            protocol = following;
        }
        Some((frame, protocol))
    }

    #[inline(always)]
    fn read_at<T: Copy, const OFFSET: usize>(self, offset: u32) -> Option<T> {
        // Behind a tag nothing is where it is as a rule.
        let found = if self.network == EthHdr::LEN as u32 { self.read_directly::<T, OFFSET>() } else { None };
        if found.is_some() { found } else { self.read_by_helper(offset) }
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

    /// Reads from wherever the data are.
    #[inline(always)]
    fn read_by_helper<T: Copy>(self, offset: u32) -> Option<T> {
        let mut header = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes exactly `size_of::<T>()` bytes to the buffer or fails.
        let status = unsafe {
            bpf_xdp_load_bytes(
                self.ctx,
                self.network.wrapping_add(offset),
                header.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            )
        };
        // SAFETY: on success every byte is written, and the headers are arrays of numbers.
        (status == 0).then(|| unsafe { header.assume_init() })
    }
}

impl Headers for Frame {
    #[inline(always)]
    fn read_network<T: Copy>(self) -> Option<T> {
        self.read_at::<T, { EthHdr::LEN }>(0)
    }

    #[inline(always)]
    fn read<T: Copy>(self, offset: u32) -> Option<T> {
        match offset {
            IPV4_LENGTH => self.read_at::<T, { EthHdr::LEN + IPV4_LENGTH as usize }>(offset),
            IPV6_LENGTH => self.read_at::<T, { EthHdr::LEN + IPV6_LENGTH as usize }>(offset),
            _ => self.read_by_helper(offset),
        }
    }
}
