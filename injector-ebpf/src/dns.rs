//! DNS questions: which of them a rule means, and how one becomes its own answer.
//!
//! A question over UDP is turned round in place: its header says what the answer is, and what came from the target goes back to
//! it. To keep the answer well-formed nothing is taken out of it, so an OPT record (RFC 6891) stays, as it must.
//! Swapped addresses and ports leave every checksum as it was; the header's flags are mended.

use core::ffi::c_void;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{bpf_loop, bpf_redirect, bpf_skb_load_bytes};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use injector_common::dns::{
    ANSWER_SILENCE, Comparison, HEADER, MAX_NAME, MAX_STEPS, Name, Questions, Reading, TYPE_AND_CLASS,
    answer_flags, is_of_one_host, is_question,
};
use injector_common::rule::{EGRESS, Rule};
use network_types::eth::EthHdr;

use crate::act;
use crate::change::{load, network_offset, replace_word, store};
use crate::parse::Framing;
use crate::strike::Walk;
use crate::tally::count_failed;
use crate::tc::lose;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Length of a UDP header, which is in front of the message.
const BEFORE_UDP: u32 = 8;
/// Over TCP the message's length is in front of it (RFC 7766, 8).
const BEFORE_TCP: u32 = 2;
/// What is read of a packet at most: the longest question, from the UDP header on.
const LONGEST: u32 = BEFORE_UDP + (HEADER + MAX_NAME + TYPE_AND_CLASS) as u32;
/// The shortest: that of the root, over TCP.
const SHORTEST: u32 = BEFORE_TCP + (HEADER + 1 + TYPE_AND_CLASS) as u32;
/// Room for that, a power of two: what is masked with it is in bounds, as the verifier sees.
const ROOM: usize = 512;

/// Where the flags are, from the start of the UDP header.
const FLAGS: u32 = BEFORE_UDP + 2;
/// Where the addresses are in the network headers.
const IPV4_ADDRESSES: u32 = 12;
const IPV6_ADDRESSES: u32 = 8;
const IPV4_LENGTH: u32 = 20;
const IPV6_LENGTH: u32 = 40;

/// `BPF_F_INGRESS` of `bpf_redirect`.
const TO_INGRESS: u64 = 1;
/// Index of `lo` in every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// The questions that faults mean, one entry for each such fault.
#[map]
static QUESTIONS: Array<Questions> = Array::with_max_entries(1, 0);

/// The question at hand, one per direction and CPU.
#[map]
static ASKED: PerCpuArray<Asked> = PerCpuArray::with_max_entries(2, 0);

/// A question that is read and compared.
struct Asked {
    /// The packet from the UDP header or the length of the TCP message on.
    message: [u8; ROOM],
    name: Name,
    comparison: Comparison,
    kind: u32,
    /// 1: the name has its end.
    complete: u32,
}

/// `Walk::asked`: nobody has looked.
pub(crate) const UNREAD: u32 = 0;
/// `Walk::asked`: a question, and `ASKED` has it.
const QUESTION: u32 = 1;
/// `Walk::asked`: anything else.
const NO_QUESTION: u32 = 2;

/// Whether the packet carries a question that the rule means. It is read once for all rules.
#[inline(never)]
pub(crate) fn asks(skb: *mut __sk_buff, framing: Framing, walk: &mut Walk, rule: &Rule) -> bool {
    let Some(asked) = ASKED.get_ptr_mut(rule.direction) else { return false };
    // SAFETY: a value of this CPU's own; programs of one direction do not preempt each other on it.
    let asked = unsafe { &mut *asked };
    if walk.asked == UNREAD {
        walk.asked = if read(skb, framing, walk, rule.direction, asked) { QUESTION } else { NO_QUESTION };
    }
    if walk.asked != QUESTION {
        return false;
    }
    let Some(questions) = QUESTIONS.get(rule.treatment.table) else { return false };
    if !questions.means_type(asked.kind as u16) {
        return false;
    }
    questions.name_count == 0 || has_name(asked, questions)
}

/// Reads the question of a packet to one server; false if it has none.
#[inline(always)]
fn read(skb: *mut __sk_buff, framing: Framing, walk: &Walk, direction: u32, asked: &mut Asked) -> bool {
    let packet = &walk.packet;
    let (server, plain) = (
        if direction == EGRESS { &packet.remote } else { &packet.local },
        if packet.family == 4 { IPV4_LENGTH } else { IPV6_LENGTH },
    );
    // A source route would make more of an answer than swapped addresses.
    if packet.segments != 1 || walk.offsets.transport != plain || !is_of_one_host(server, packet.family) {
        return false;
    }
    let (start, before) = match packet.protocol {
        UDP => (plain, BEFORE_UDP),
        TCP => (walk.offsets.payload, BEFORE_TCP),
        _ => return false,
    };
    let carried = walk.offsets.end.saturating_sub(start);
    let Some(network) = network_offset(skb, framing, packet.family) else { return false };
    let Some(loaded) = load_message(skb, network + start, carried, asked) else { return false };
    // Over UDP the length of the datagram, which is less in the packet if that is the first fragment only.
    if packet.protocol == UDP && word(asked, 4) != carried {
        return false;
    }
    let header = [0, 2, 4, 6, 8, 10].map(|at| word(asked, before + at) as u16);
    if !is_question(header) || !read_name(asked, before + HEADER as u32) {
        return false;
    }
    let end = before + HEADER as u32 + asked.name.length;
    asked.kind = word(asked, end);
    // What lies behind is of another packet.
    end + TYPE_AND_CLASS as u32 <= loaded
}

/// Loads as much of the message as a question can have; returns how much that is.
#[inline(always)]
fn load_message(skb: *mut __sk_buff, start: u32, carried: u32, asked: &mut Asked) -> Option<u32> {
    // Counted from the shortest, so that the verifier sees that there is something to load, and room for it.
    let beyond = carried.wrapping_sub(SHORTEST);
    if carried < SHORTEST {
        return None;
    }
    let length = SHORTEST + if beyond < LONGEST - SHORTEST { beyond } else { LONGEST - SHORTEST };
    // SAFETY: the helper writes exactly `length` bytes to the buffer, which is longer, or fails.
    let status = unsafe { bpf_skb_load_bytes(skb.cast(), start, asked.message.as_mut_ptr().cast(), length) };
    (status == 0).then_some(length)
}

/// Two bytes of the message as a number.
#[inline(always)]
fn word(asked: &Asked, at: u32) -> u32 {
    let byte = |at: u32| asked.message[at as usize & (ROOM - 1)] as u32;
    byte(at) << 8 | byte(at + 1)
}

/// For the callback of `bpf_loop`.
struct Cursor {
    asked: *mut Asked,
    /// Where the name begins in the message.
    start: u32,
}

#[inline(always)]
fn read_name(asked: &mut Asked, start: u32) -> bool {
    asked.name.clear();
    asked.complete = 0;
    let mut cursor = Cursor { asked, start };
    // SAFETY: the callback has the signature that the helper wants, and its context outlives the call.
    unsafe {
        bpf_loop(MAX_NAME as u32, read_byte as *mut c_void, (&raw mut cursor).cast(), 0);
        (*cursor.asked).complete != 0
    }
}

/// One byte of the name. Returns 1 to stop.
unsafe extern "C" fn read_byte(number: u32, context: *mut c_void) -> i64 {
    // SAFETY: `read_name` passes a pointer to its own `Cursor`, which points to a value of this CPU's own.
    let (cursor, asked) = unsafe {
        let cursor = &*context.cast::<Cursor>();
        (cursor, &mut *cursor.asked)
    };
    let byte = asked.message[(cursor.start + number) as usize & (ROOM - 1)];
    match asked.name.push(byte) {
        Reading::GoesOn => 0,
        Reading::Complete => {
            asked.complete = 1;
            1
        }
        Reading::Broken => 1,
    }
}

/// For the callback of `bpf_loop`.
struct Matching {
    asked: *mut Asked,
    questions: *const Questions,
    found: bool,
}

#[inline(always)]
fn has_name(asked: &mut Asked, questions: &Questions) -> bool {
    asked.comparison = Comparison::default();
    let mut matching = Matching { asked, questions, found: false };
    // SAFETY: the callback has the signature that the helper wants, and its context outlives the call.
    unsafe { bpf_loop(MAX_STEPS, compare_byte as *mut c_void, (&raw mut matching).cast(), 0) };
    matching.found
}

/// One step of the comparison. Returns 1 to stop.
unsafe extern "C" fn compare_byte(_number: u32, context: *mut c_void) -> i64 {
    // SAFETY: `has_name` passes a pointer to its own `Matching`, which points to two map values.
    let (matching, asked) = unsafe {
        let matching = &mut *context.cast::<Matching>();
        let asked = &mut *matching.asked;
        (matching, asked)
    };
    // SAFETY: as above.
    let questions = unsafe { &*matching.questions };
    match asked.comparison.step(&asked.name, questions) {
        Some(found) => {
            matching.found = found;
            1
        }
        None => 0,
    }
}

/// What has become of a packet that was to be turned round.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turned {
    /// It is the answer.
    Done,
    /// Nothing could be written.
    Untouched,
    /// It is neither.
    Halfway,
}

/// Whether the question that is struck ends its connection: one segment can't answer what is asked over TCP.
#[inline(always)]
pub(crate) fn ends_connection(walk: &Walk) -> bool {
    walk.packet.protocol == TCP && walk.way.answer != ANSWER_SILENCE
}

/// Answers the question that `strike` has just struck, or swallows it.
#[inline(never)]
pub(crate) fn answer(skb: *mut __sk_buff, framing: Framing, direction: u32) -> i32 {
    let Some(walk) = act::walk(direction) else { return TC_ACT_UNSPEC };
    if walk.way.answer == ANSWER_SILENCE {
        return swallow(direction);
    }
    let turned = turn_round(skb, framing, walk);
    if turned != Turned::Done {
        count_failed(walk.treated_by);
    }
    match turned {
        Turned::Done => send_back(skb, direction),
        Turned::Untouched => TC_ACT_UNSPEC,
        Turned::Halfway => swallow(direction),
    }
}

#[inline(always)]
fn swallow(direction: u32) -> i32 {
    // At ingress nobody is told of a drop.
    if direction == EGRESS { lose() } else { TC_ACT_SHOT as i32 }
}

/// Sends the answer to where the question came from.
#[inline(always)]
fn send_back(skb: *mut __sk_buff, direction: u32) -> i32 {
    // SAFETY: the verifier checks each access to a field of the context; the helper has no preconditions.
    unsafe {
        // An answer of ours is a packet like another further on.
        (*skb).tc_index = 0;
        let device = (*skb).ifindex;
        // On loopback what leaves arrives. A redirect would drop its route, and without one what is for 127.0.0.0/8 is martian.
        if direction == EGRESS && device == LOOPBACK {
            return TC_ACT_UNSPEC;
        }
        bpf_redirect(device, if direction == EGRESS { TO_INGRESS } else { 0 }) as i32
    }
}

/// Makes an answer of the question over UDP. What can fail as a rule is written first.
#[inline(always)]
fn turn_round(skb: *mut __sk_buff, framing: Framing, walk: &Walk) -> Turned {
    let Some(network) = network_offset(skb, framing, walk.packet.family) else { return Turned::Untouched };
    let transport = network + walk.offsets.transport;
    let Some(flags) = load::<u16>(skb, transport + FLAGS) else { return Turned::Untouched };
    let answer = answer_flags(u16::from_be(flags), walk.way.answer).to_be();
    if !replace_word(skb, transport, UDP, transport + FLAGS, flags, answer) {
        return Turned::Untouched;
    }
    let swapped = swap::<u16>(skb, transport)
        && if walk.packet.family == 4 {
            swap::<[u16; 2]>(skb, network + IPV4_ADDRESSES)
        } else {
            swap::<[u16; 8]>(skb, network + IPV6_ADDRESSES)
        }
        && (network != EthHdr::LEN as u32 || swap::<[u16; 3]>(skb, 0));
    if swapped { Turned::Done } else { Turned::Halfway }
}

/// Swaps two neighbours, sender and receiver. A sum over both stays.
#[inline(always)]
fn swap<T: Copy + Default>(skb: *mut __sk_buff, at: u32) -> bool {
    let Some([first, second]) = load::<[T; 2]>(skb, at) else { return false };
    store(skb, at, [second, first], 0)
}
