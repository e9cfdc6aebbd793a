//! Rejections at XDP: the frame becomes the ICMP error about it, and goes back by the device by which it came (`XDP_TX`).

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{
    bpf_check_mtu, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
    bpf_xdp_store_bytes,
};
use injector_common::answer::{REJECT_TOO_BIG, may_be_answered, message};
use injector_common::rule::{INGRESS, Rule};

use crate::act;
use crate::answer::ends_of_answer;
use crate::maps::{QUOTES, RULES};
use crate::reject::{DONT_FRAGMENT, IPV4_HEADERS, IPV6_HEADERS, Message, QUOTE_BYTES, Quote, sum_of};
use crate::strike::Walk;
use crate::tally::count_failed;
use crate::xdp::{checksum_of, is_partial, read_by_helper, write_by_helper};

const SCTP: u8 = 132;
/// Offset of the checksum in the header of SCTP.
const SCTP_CHECKSUM: u32 = 8;
/// Offset of the fragment field in an IPv4 header.
const IPV4_FRAGMENT: u32 = 6;
/// What is behind the addresses of a frame: its type, and at most two tags in front of it.
const BEHIND_ADDRESSES: u32 = 12;
type Types = [u16; 5];

/// Rejects the packet that `strike` has just left; returns what the program returns.
#[inline(never)]
pub(crate) fn reject(ctx: *mut xdp_md) -> u32 {
    let Some(walk) = act::walk(INGRESS) else { return XDP_DROP };
    let Some(rule) = RULES.get(walk.treated_by) else { return XDP_DROP };
    try_reject(ctx, walk, rule).unwrap_or_else(|| {
        count_failed(walk.treated_by);
        XDP_DROP
    })
}

#[inline(always)]
fn try_reject(ctx: *mut xdp_md, walk: &Walk, rule: &Rule) -> Option<u32> {
    let addresses = read_by_helper::<[u16; 6]>(ctx, 0)?;
    let [first, ..] = addresses;
    let is_for_group = first.to_ne_bytes()[0] & 1 != 0;
    if walk.offsets.transport == 0 || is_for_group || !may_be_answered(&walk.packet, INGRESS) {
        return Some(XDP_DROP);
    }
    let (reason, mtu) = (rule.treatment.count, rule.treatment.bits);
    // A router cuts into fragments what may be cut; we can't, and don't lie about it.
    if reason == REJECT_TOO_BIG && walk.packet.family == 4 {
        let fragment = read_by_helper::<u16>(ctx, walk.offsets.network + IPV4_FRAGMENT)?;
        if u16::from_be(fragment) & DONT_FRAGMENT == 0 {
            count_failed(walk.treated_by);
            return Some(XDP_PASS);
        }
    }
    if is_merged(ctx, walk) {
        return None;
    }
    let quote = QUOTES.get_ptr_mut(INGRESS)?;
    // SAFETY: a value of this CPU's own; programs of one direction do not preempt each other on it.
    let quote = unsafe { &mut *quote };
    let (length, quoted) = read_quote(ctx, walk, quote)?;
    let ends = ends_of_answer(&walk.packet, INGRESS);
    let icmp = Message { kind_code: message(reason, walk.packet.family), mtu, quoted };
    quote.write_headers(walk.packet.family, length, &icmp, ends);
    send_back(ctx, walk, quote, length, addresses).then_some(XDP_TX)
}

/// Whether it is longer than the device sends: merged, of segments that its buffer would have it cut into again.
#[inline(always)]
fn is_merged(ctx: *mut xdp_md, walk: &Walk) -> bool {
    // Of the packet and not of the frame, which has tags in front perhaps that count for no MTU.
    let mut length = walk.offsets.end;
    // SAFETY: the helper reads and writes the length.
    unsafe { bpf_check_mtu(ctx.cast(), 0, &raw mut length, 0, 0) != 0 }
}

/// Reads what is quoted; returns the length of that, and its sum as the receiver of the error finds it.
#[inline(always)]
fn read_quote(ctx: *mut xdp_md, walk: &Walk, quote: &mut Quote) -> Option<(u32, u64)> {
    // In this form the number that is bounded is the one that is used, which is all that the verifier of Linux 6.1 can follow.
    let length = walk.offsets.end.wrapping_sub(1).min(QUOTE_BYTES as u32 - 1) + 1;
    // SAFETY: the word with the byte behind the quote is within the 1,024 bytes of the buffer, and so are the bytes of the quote;
    // the verifier checks both as well.
    let status = unsafe {
        quote.bytes.as_mut_ptr().byte_add((length & 0x3fc) as usize).write(0);
        bpf_xdp_load_bytes(ctx, walk.offsets.network, quote.bytes.as_mut_ptr().cast(), length)
    };
    if status != 0 {
        return None;
    }
    let transport = walk.offsets.network + walk.offsets.transport;
    let protocol = walk.packet.protocol;
    // Of which a device computes the checksum, the error's own is not known.
    if protocol == SCTP && read_by_helper::<u32>(ctx, transport + SCTP_CHECKSUM) == Some(0) {
        return None;
    }
    // A packet that is too short for the field has nobody compute it.
    let checksum = checksum_of(protocol).and_then(|field| read_by_helper::<u16>(ctx, transport + field));
    match checksum {
        // As at traffic control: what the device computes makes its part sum up to the complement of what stands there.
        Some(checksum) if is_partial(walk, checksum) => {
            Some((length, sum_of(quote, walk.offsets.transport)? + u64::from(!checksum)))
        }
        _ => Some((length, sum_of(quote, length)?)),
    }
}

/// Cuts the frame to the quote, and puts the headers of the error in front of it.
#[inline(always)]
fn send_back(ctx: *mut xdp_md, walk: &Walk, quote: &Quote, length: u32, addresses: [u16; 6]) -> bool {
    let network = walk.offsets.network;
    let Some(types) = read_by_helper::<Types>(ctx, BEHIND_ADDRESSES) else { return false };
    let [a, b, c, d, e, f] = addresses;
    let headers = quote.headers.as_ptr().cast_mut().cast();
    // SAFETY: the helpers check the frame, and read so many bytes of the headers, which has room for the longer of them.
    unsafe {
        let surplus = bpf_xdp_get_buff_len(ctx) as u32 - (network + length);
        if bpf_xdp_adjust_tail(ctx, -(surplus as i32)) != 0 {
            return false;
        }
        let is_v4 = walk.packet.family == 4;
        let more = if is_v4 { IPV4_HEADERS } else { IPV6_HEADERS };
        // The headers overwrite what of the types is none.
        bpf_xdp_adjust_head(ctx, -(more as i32)) == 0
            && write_by_helper(ctx, 0, [d, e, f, a, b, c])
            && write_by_helper(ctx, BEHIND_ADDRESSES, types)
            && (if is_v4 {
                bpf_xdp_store_bytes(ctx, network, headers, IPV4_HEADERS)
            } else {
                bpf_xdp_store_bytes(ctx, network, headers, IPV6_HEADERS)
            }) == 0
    }
}
