//! Whose socket a packet arrives at, told before the packet has reached it.
//!
//! At traffic control a packet that arrives has no socket yet. It can be looked up there (`bpf_sk_lookup_tcp`, `bpf_sk_lookup_udp`),
//! but its cgroup can't be asked for: `bpf_sk_cgroup_id` is for cgroup programs alone (`cg_skb_func_proto` in net/core/filter.c). So the
//! sockets of targets carry a note, in the kernel's storage for sockets, of the target that they belong to. What a socket is
//! given by its cgroup it keeps for good, and so the note is right for good; one that is accepted has its listener's.
//!
//! Three programs write it, all on the cgroups of targets: when a socket is made, for those that were there before when the controller
//! asks, and for what neither of them has seen when the first packet arrives.

use core::ptr::null_mut;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    __sk_buff, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_SK_STORAGE_GET_F_CREATE,
    bpf_sock, bpf_sock_tuple,
};
use aya_ebpf::helpers::generated::{
    bpf_fib_lookup, bpf_sk_fullsock, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release, bpf_sk_storage_get,
};
use aya_ebpf::macros::{btf_map, cgroup_skb, cgroup_sock, cgroup_sockopt, map};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::{SkBuffContext, SockContext, SockoptContext};
use injector_common::layout::{ASK_LEVEL, Control};
use injector_common::packet::{PACKET_HAS_PORTS, Packet};
use injector_common::rule::INGRESS;

use crate::maps::CONTROL;
use crate::parse;
use crate::strike::Walk;
use crate::target::rules_of_socket;
use crate::task::rules_of_task;

const PASS: i32 = 1;

const TCP: u8 = 6;
const UDP: u8 = 17;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
/// The kernel's numbers of the states of sockets (include/net/tcp_states.h). A UDP socket that is not connected is in the second.
const TCP_LISTEN: u32 = 10;
const UNCONNECTED: u32 = 7;

/// `BPF_F_CURRENT_NETNS`: the network namespace of the packet's device.
const CURRENT_NETNS: u64 = u64::MAX;

/// `BPF_MAP_TYPE_SK_STORAGE`.
const SK_STORAGE: usize = 24;
/// `BPF_F_NO_PREALLOC`, which the kernel asks for, and `BPF_F_CLONE`: an accepted socket has what its listener has.
const INHERITED: usize = 1 | 512;

/// A map as the loader reads it from the object's types: the kernel takes storage for sockets with types alone. aya's own has no
/// `BPF_F_CLONE`.
#[repr(C)]
pub(crate) struct SocketNotes {
    r#type: *const [i32; SK_STORAGE],
    key: *const i32,
    value: *const u64,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; INHERITED],
}

// SAFETY: nobody follows the pointers, which are there for their types; the kernel keeps accesses to the map apart.
unsafe impl Sync for SocketNotes {}

/// The targets of sockets, by their cgroup ids.
#[btf_map]
pub(crate) static SOCKETS: SocketNotes = SocketNotes {
    r#type: null_mut(),
    key: null_mut(),
    value: null_mut(),
    max_entries: null_mut(),
    map_flags: null_mut(),
};

/// The target whose sockets the controller asks about.
#[map]
static OWNER: Array<u64> = Array::with_max_entries(1, 0);

impl SocketNotes {
    #[inline(always)]
    fn as_ptr(&self) -> *mut core::ffi::c_void {
        (&raw const *self).cast_mut().cast()
    }

    /// The target that a socket belongs to, 0 if none is noted.
    #[inline(always)]
    fn get(&self, socket: *mut bpf_sock) -> u64 {
        // SAFETY: the verifier checks the socket.
        let note = unsafe { bpf_sk_storage_get(self.as_ptr(), socket.cast(), null_mut(), 0) }.cast::<u64>();
        // SAFETY: not null, so a value of the map. Volatile keeps the read in front of the socket's release.
        if note.is_null() { 0 } else { unsafe { note.read_volatile() } }
    }

    /// Notes the target that a socket belongs to. Without memory it stays nobody's.
    #[inline(always)]
    fn set(&self, socket: *mut bpf_sock, target: u64) {
        let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
        // SAFETY: the verifier checks the socket.
        let note =
            unsafe { bpf_sk_storage_get(self.as_ptr(), socket.cast(), null_mut(), create) }.cast::<u64>();
        if !note.is_null() {
            // SAFETY: not null, so a value of the map; an aligned word, written whole.
            unsafe { note.write_volatile(target) };
        }
    }
}

/// A socket is made by a process of a target.
#[cgroup_sock(sock_create)]
pub fn injector_sock_new(ctx: SockContext) -> i32 {
    if let Some((id, _)) = control().and_then(rules_of_task) {
        SOCKETS.set(ctx.sock, id);
    }
    PASS
}

/// A packet has arrived at a socket of a target.
#[cgroup_skb(ingress)]
pub fn injector_sock_seen(ctx: SkBuffContext) -> i32 {
    let skb: *mut __sk_buff = ctx.as_ptr().cast();
    // SAFETY: the verifier checks each access to a field of the context.
    let socket = unsafe { (*skb).__bindgen_anon_2.sk };
    if socket.is_null() {
        return PASS;
    }
    // SAFETY: not null.
    let socket = unsafe { bpf_sk_fullsock(socket) };
    if socket.is_null() || SOCKETS.get(socket) != 0 {
        return PASS;
    }
    if let Some((id, _)) = control().and_then(|control| rules_of_socket(control, skb, INGRESS)) {
        SOCKETS.set(socket, id);
    }
    PASS
}

/// The controller asks about a socket that was there before. The kernel runs the program for the socket's cgroup, not for who asks
/// (`__cgroup_bpf_run_filter_getsockopt` in kernel/bpf/cgroup.c), so to be asked is the answer.
#[cgroup_sockopt(getsockopt)]
pub fn injector_sock_old(ctx: SockoptContext) -> i32 {
    // SAFETY: the verifier checks each access to a field of the context.
    let (level, socket) = unsafe { ((*ctx.sockopt).level, (*ctx.sockopt).__bindgen_anon_1.sk) };
    if level != ASK_LEVEL || socket.is_null() {
        return PASS;
    }
    // SAFETY: not null.
    let family = unsafe { (*socket).family };
    if let Some(target) = OWNER.get(0)
        && (family == AF_INET || family == AF_INET6)
    {
        SOCKETS.set(socket, *target);
    }
    PASS
}

/// The experiment, armed or not.
#[inline(always)]
fn control() -> Option<&'static Control> {
    CONTROL.get(0)
}

/// What `struct bpf_sock_tuple` has of an IPv4 packet: source, destination, ports.
type Tuple4 = [u32; 3];
/// What it has of an IPv6 packet, likewise.
type Tuple6 = [u32; 9];
/// `struct bpf_fib_lookup`: family, protocol and ports in two words, index of the device, class, source and destination, and what the
/// kernel answers.
type Route = [u32; 16];

/// Finds the target of the socket that the walk's packet will reach: [`Walk::target`], 0 for none. What the socket says of the connection
/// is noted in the packet.
#[inline(always)]
pub(crate) fn find_receiver(skb: *mut __sk_buff, walk: &mut Walk) {
    walk.target = 0;
    let (protocol, flags) = (walk.packet.protocol, walk.packet.flags);
    if flags & PACKET_HAS_PORTS == 0 || (protocol != TCP && protocol != UDP) {
        return;
    }
    if walk.packet.family == 4 { receiver_v4(skb, walk) } else { receiver_v6(skb, walk) }
}

// By itself for each family, since the verifier wants the length of the tuple to be a number that it knows.
#[inline(never)]
fn receiver_v4(skb: *mut __sk_buff, walk: &mut Walk) {
    let ([.., source], [.., destination]) = (walk.packet.remote.words, walk.packet.local.words);
    let tuple: Tuple4 = [source, destination, ports(&walk.packet)];
    if receiver_by(skb, walk, tuple) && is_forwarded(skb, AF_INET, [source, 0, 0, 0], [destination, 0, 0, 0])
    {
        walk.target = 0;
    }
}

#[inline(never)]
fn receiver_v6(skb: *mut __sk_buff, walk: &mut Walk) {
    let (source, destination) = (walk.packet.remote.words, walk.packet.local.words);
    let ([a, b, c, d], [e, f, g, h]) = (source, destination);
    let tuple: Tuple6 = [a, b, c, d, e, f, g, h, ports(&walk.packet)];
    if receiver_by(skb, walk, tuple) && is_forwarded(skb, AF_INET6, source, destination) {
        walk.target = 0;
    }
}

/// The source port and the destination port, as they lie in a packet.
#[inline(always)]
fn ports(packet: &Packet) -> u32 {
    let ([a, b], [c, d]) = (packet.remote_port.to_be_bytes(), packet.local_port.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// Finds the target by the addresses and ports; whether the socket would be found for packets to other hosts too.
#[inline(always)]
fn receiver_by<T>(skb: *mut __sk_buff, walk: &mut Walk, mut tuple: T) -> bool {
    let of: *mut bpf_sock_tuple = (&raw mut tuple).cast();
    let length = size_of::<T>() as u32;
    // SAFETY: the helpers read the tuple, all of which is written.
    let socket = unsafe {
        if walk.packet.protocol == TCP {
            bpf_sk_lookup_tcp(skb.cast(), of, length, CURRENT_NETNS, 0)
        } else {
            bpf_sk_lookup_udp(skb.cast(), of, length, CURRENT_NETNS, 0)
        }
    };
    if socket.is_null() {
        return false;
    }
    // SAFETY: not null, and `state` may be read of every socket. Volatile keeps the read in front of the socket's release.
    let state = unsafe { (&raw const (*socket).state).read_volatile() };
    walk.target = SOCKETS.get(socket);
    // SAFETY: a socket that was looked up, and is used no more.
    unsafe { bpf_sk_release(socket.cast()) };
    parse::connection(&mut walk.packet, state);
    // One that listens, or that is not connected, as a rule has no address of its own, and any would do for the look-up.
    walk.target != 0 && (state == TCP_LISTEN || state == UNCONNECTED)
}

/// Whether the packet only comes through here, on its way to another host.
#[inline(always)]
fn is_forwarded(skb: *mut __sk_buff, family: u32, source: [u32; 4], destination: [u32; 4]) -> bool {
    let ([a, b, c, d], [e, f, g, h]) = (source, destination);
    // SAFETY: the verifier checks each access to a field of the context.
    let ifindex = unsafe { (*skb).ifindex };
    let family = u32::from_le(family);
    let mut route: Route = [family, 0, ifindex, 0, a, b, c, d, e, f, g, h, 0, 0, 0, 0];
    // SAFETY: the helper reads and writes the structure, which is so long.
    let answer = unsafe { bpf_fib_lookup(skb.cast(), (&raw mut route).cast(), size_of::<Route>() as i32, 0) };
    // Not forwarded where it is for this host, or where nothing is forwarded from that device.
    answer >= 0
        && answer != i64::from(BPF_FIB_LKUP_RET_NOT_FWDED)
        && answer != i64::from(BPF_FIB_LKUP_RET_FWD_DISABLED)
}
