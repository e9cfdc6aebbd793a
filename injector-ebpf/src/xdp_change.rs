//! Corruption at XDP: the bits that traffic control would flip, with checksums mended by hand.

use core::ffi::c_void;

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::bpf_loop;
use injector_common::answer::mended;
use injector_common::rule::INGRESS;
use injector_common::treatment::{MARK_SILENT, MARK_WIRE, flip};

use crate::act;
use crate::strike::Walk;
use crate::tally::count_failed;
use crate::xdp::{checksum_of, is_partial, read_by_helper, write_by_helper};

const UDP: u8 = 17;
/// Offset of the checksum in the IPv4 header.
const IPV4_CHECKSUM: u32 = 10;

/// Corrupts the packet that `strike` has just left; returns what the program returns.
#[inline(never)]
pub(crate) fn corrupt(ctx: *mut xdp_md) -> u32 {
    let Some(walk) = act::walk(INGRESS) else { return XDP_PASS };
    let silent = walk.way.marks & MARK_SILENT == 0 || flip_silently(ctx, walk);
    let wire = walk.way.marks & MARK_WIRE == 0 || break_header(ctx, walk);
    if !silent || !wire {
        count_failed(walk.treated_by);
    }
    XDP_PASS
}

/// The flips of one packet, for the callback of `bpf_loop`.
struct Flips {
    ctx: *mut xdp_md,
    payload: u32,
    /// Pairs of bytes that the payload has.
    words: u32,
    offset: u32,
    bits: u64,
    checksum: u16,
    failed: bool,
}

/// Flips bits of the payload and mends the checksum: the application gets wrong bytes, and nobody notices.
#[inline(always)]
fn flip_silently(ctx: *mut xdp_md, walk: &Walk) -> bool {
    let offsets = &walk.offsets;
    let Some(field) = checksum_of(walk.packet.protocol) else { return false };
    if offsets.transport == 0 || offsets.end < offsets.payload + 2 {
        return false;
    }
    let at = offsets.network + offsets.transport + field;
    let Some(checksum) = read_by_helper::<u16>(ctx, at) else { return false };
    let mut flips = Flips {
        ctx,
        payload: offsets.network + offsets.payload,
        words: (offsets.end - offsets.payload) / 2,
        offset: walk.way.offset,
        bits: walk.way.bits,
        checksum,
        failed: false,
    };
    // SAFETY: the callback has the signature that the helper wants, and its context outlives the call.
    unsafe { bpf_loop(walk.way.flips, flip_one as *mut c_void, (&raw mut flips).cast(), 0) };
    // What a device has still to compute, or nobody wants, stays.
    let is_udp = walk.packet.protocol == UDP;
    let stays = is_partial(walk, checksum) || (is_udp && checksum == 0);
    // Of UDP 0 says that there is none (RFC 768).
    let mended = if is_udp && flips.checksum == 0 { u16::MAX } else { flips.checksum };
    !flips.failed && (stays || write_by_helper(ctx, at, mended))
}

unsafe extern "C" fn flip_one(number: u32, context: *mut c_void) -> i64 {
    // SAFETY: `flip_silently` passes a pointer to its own `Flips`.
    let flips = unsafe { &mut *context.cast::<Flips>() };
    let (word, bit) = flip(flips.offset, flips.bits, number, flips.words);
    let at = flips.payload + word * 2;
    if word < flips.words
        && let Some(old) = read_by_helper::<u16>(flips.ctx, at)
    {
        let new = old ^ 1 << bit;
        if write_by_helper(flips.ctx, at, new) {
            flips.checksum = mended(flips.checksum, old, new);
            return 0;
        }
    }
    flips.failed = true;
    1
}

/// Damages what every receiver checks, as at traffic control.
#[inline(always)]
fn break_header(ctx: *mut xdp_md, walk: &Walk) -> bool {
    let network = walk.offsets.network;
    if walk.packet.family == 4 {
        let at = network + IPV4_CHECKSUM;
        let Some(old) = read_by_helper::<u16>(ctx, at) else { return false };
        return write_by_helper(ctx, at, old ^ 1 << (walk.way.bits & 15));
    }
    let Some(old) = read_by_helper::<u8>(ctx, network) else { return false };
    write_by_helper(ctx, network, old ^ 0x10 << (walk.way.bits & 3))
}
