//! Changes to a packet in place: congestion marks, flipped bits, another TCP window.
//!
//! The kernel copies what the sender may send again before it lets us write (`skb_ensure_writable`), so a retransmission
//! carries the right bytes. Where a checksum is still to be computed by the device (`CHECKSUM_PARTIAL`), what we write to the
//! payload gets a right checksum by itself; elsewhere it is mended.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::generated::{
    bpf_l4_csum_replace, bpf_loop, bpf_skb_ecn_set_ce, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use injector_common::rule::{ACTION_CORRUPT, ACTION_MARK_CE, ACTION_WINDOW};
use injector_common::treatment::{MARK_CE, MARK_SILENT, MARK_WINDOW, MARK_WIRE, flip};
use network_types::eth::EthHdr;

use crate::maps::needs;
use crate::parse::Framing;
use crate::strike::Walk;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Offset of the window in a TCP header, and of the checksums in their headers.
const TCP_WINDOW: u32 = 14;
const TCP_CHECKSUM: u32 = 16;
const UDP_CHECKSUM: u32 = 6;
const ICMP_CHECKSUM: u32 = 2;
const IPV4_CHECKSUM: u32 = 10;

/// Applies every mark of the walk. What fails is noted in the walk, where the verifier forgets it: the paths come together.
#[inline(always)]
pub(crate) fn apply(skb: *mut __sk_buff, framing: Framing, walk: &mut Walk) {
    walk.failed = 0;
    let needs = needs();
    let changes = needs.action(ACTION_CORRUPT) || needs.action(ACTION_MARK_CE) || needs.action(ACTION_WINDOW);
    if !changes || walk.way.marks == 0 {
        return;
    }
    let Some(network) = network_offset(skb, framing, walk.packet.family) else {
        walk.failed = 1;
        return;
    };
    walk.network = network;
    // SAFETY: the helper checks the packet itself. It answers 0 for a packet that is not capable of ECN.
    if needs.action(ACTION_MARK_CE)
        && walk.way.marks & MARK_CE != 0
        && unsafe { bpf_skb_ecn_set_ce(skb) } != 1
    {
        walk.failed = 1;
    }
    if needs.action(ACTION_WINDOW) && walk.way.marks & MARK_WINDOW != 0 && !set_window(skb, walk) {
        walk.failed = 1;
    }
    if needs.action(ACTION_CORRUPT) && walk.way.marks & MARK_SILENT != 0 && !flip_silently(skb, walk) {
        walk.failed = 1;
    }
    if needs.action(ACTION_CORRUPT) && walk.way.marks & MARK_WIRE != 0 && !break_header(skb, walk) {
        walk.failed = 1;
    }
}

/// Where the network header begins in the buffer; `None` where the device has a header of its own that we don't know.
#[inline(always)]
pub(crate) fn network_offset(skb: *mut __sk_buff, framing: Framing, family: u8) -> Option<u32> {
    if framing == Framing::Ethernet {
        return Some(EthHdr::LEN as u32);
    }
    let first = load::<u8>(skb, 0)?;
    (first >> 4 == family).then_some(0)
}

#[inline(always)]
pub(crate) fn load<T: Copy>(skb: *mut __sk_buff, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes exactly `size_of::<T>()` bytes to the buffer or fails.
    let status =
        unsafe { bpf_skb_load_bytes(skb.cast(), offset, value.as_mut_ptr().cast(), size_of::<T>() as u32) };
    // SAFETY: on success every byte is written, and what is loaded are numbers and arrays of them.
    (status == 0).then(|| unsafe { value.assume_init() })
}

/// Writes to the packet. `flags` says whether a checksum of the whole packet (`CHECKSUM_COMPLETE`) follows, which it must
/// unless the transport's own is mended.
#[inline(always)]
pub(crate) fn store<T: Copy>(skb: *mut __sk_buff, offset: u32, value: T, flags: u64) -> bool {
    // SAFETY: the helper reads exactly `size_of::<T>()` bytes of the value.
    unsafe { bpf_skb_store_bytes(skb, offset, (&raw const value).cast(), size_of::<T>() as u32, flags) == 0 }
}

/// The offset of the checksum in the transport header, and the flags by which it is mended. `None` for a protocol
/// whose checksum the kernel can't mend.
#[inline(always)]
fn checksum_of(protocol: u8) -> Option<(u32, u64)> {
    match protocol {
        TCP => Some((TCP_CHECKSUM, 0)),
        // A checksum of 0 is "none", and stays.
        UDP => Some((UDP_CHECKSUM, BPF_F_MARK_MANGLED_0 as u64)),
        ICMP | ICMPV6 => Some((ICMP_CHECKSUM, 0)),
        _ => None,
    }
}

/// Replaces two bytes and mends the transport's checksum.
#[inline(always)]
pub(crate) fn replace_word(
    skb: *mut __sk_buff,
    transport: u32,
    protocol: u8,
    at: u32,
    old: u16,
    new: u16,
) -> bool {
    let Some((checksum, flags)) = checksum_of(protocol) else { return false };
    if !store(skb, at, new, 0) {
        return false;
    }
    // SAFETY: the helper checks the offset.
    let status = unsafe {
        bpf_l4_csum_replace(
            skb,
            transport + checksum,
            u64::from(old),
            u64::from(new),
            flags | size_of::<u16>() as u64,
        )
    };
    status == 0
}

#[inline(never)]
fn set_window(skb: *mut __sk_buff, walk: &Walk) -> bool {
    let network = walk.network;
    if walk.packet.protocol != TCP || walk.offsets.transport == 0 {
        return false;
    }
    let transport = network + walk.offsets.transport;
    let at = transport + TCP_WINDOW;
    let Some(old) = load::<u16>(skb, at) else { return false };
    let new = (walk.way.window as u16).to_be();
    old == new || replace_word(skb, transport, TCP, at, old, new)
}

/// The flips of one packet, for the callback of `bpf_loop`.
struct Flips {
    skb: *mut __sk_buff,
    transport: u32,
    payload: u32,
    /// Pairs of bytes that the payload has.
    words: u32,
    /// First byte of the payload to change, or `u32::MAX`.
    offset: u32,
    bits: u64,
    protocol: u8,
    failed: bool,
}

/// Flips bits of the payload and mends the checksum: the application gets wrong bytes, and nobody notices.
#[inline(never)]
fn flip_silently(skb: *mut __sk_buff, walk: &Walk) -> bool {
    let network = walk.network;
    let offsets = walk.offsets;
    if offsets.transport == 0 || offsets.end < offsets.payload + 2 {
        return false;
    }
    let mut flips = Flips {
        skb,
        transport: network + offsets.transport,
        payload: network + offsets.payload,
        words: (offsets.end - offsets.payload) / 2,
        offset: walk.way.offset,
        bits: walk.way.bits,
        protocol: walk.packet.protocol,
        failed: false,
    };
    // SAFETY: the callback has the signature that the helper wants, and its context outlives the call.
    unsafe { bpf_loop(walk.way.flips, flip_one as *mut c_void, (&raw mut flips).cast(), 0) };
    !flips.failed
}

/// One flip: of the drawn bit of the drawn byte, or of consecutive bits from the given byte on.
unsafe extern "C" fn flip_one(number: u32, context: *mut c_void) -> i64 {
    // SAFETY: `flip_silently` passes a pointer to its own `Flips`.
    let flips = unsafe { &mut *context.cast::<Flips>() };
    let (word, bit) = flip(flips.offset, flips.bits, number, flips.words);
    if word >= flips.words || !flip_bit(flips, word, bit) {
        flips.failed = true;
        return 1;
    }
    0
}

#[inline(always)]
fn flip_bit(flips: &Flips, word: u32, bit: u32) -> bool {
    let at = flips.payload + word * 2;
    let Some(old) = load::<u16>(flips.skb, at) else { return false };
    // Bit 0 is the lowest of the first byte, as the bytes lie.
    let new = old ^ 1 << bit;
    replace_word(flips.skb, flips.transport, flips.protocol, at, old, new)
}

/// Damages what every receiver checks, whatever its device does: the checksum of the IPv4 header, or the version of
/// IPv6, which has no such checksum. The transport's checksum is no help: between veths and on loopback nobody looks at it.
#[inline(never)]
fn break_header(skb: *mut __sk_buff, walk: &Walk) -> bool {
    let network = walk.network;
    if walk.packet.family == 4 {
        let at = network + IPV4_CHECKSUM;
        let Some(old) = load::<u16>(skb, at) else { return false };
        return store(skb, at, old ^ 1 << (walk.way.bits & 15), BPF_F_RECOMPUTE_CSUM as u64);
    }
    let Some(old) = load::<u8>(skb, network) else { return false };
    store(skb, network, old ^ 0x10 << (walk.way.bits & 3), BPF_F_RECOMPUTE_CSUM as u64)
}
