//! What a plan says beside its numbers: what the hooks of a fault don't see, and what they cost others.

use super::{Hook, dns, link, per_segment};
use crate::scenario::errno;
use crate::scenario::{Capacity, CorruptMode, Deed, Effect, Rate};

/// What each hook can't see, so that nobody takes a silence for a proof.
pub(super) fn notes(hooks: &[Hook], effect: &Effect) -> Vec<String> {
    let mut notes = Vec::new();
    if hooks.contains(&Hook::CgroupEgress) {
        notes.push("egress: resets of closed ports, ICMP errors and the last ACKs of TIME-WAIT have no socket of the target and are not hit".to_owned());
    }
    if hooks.contains(&Hook::CgroupIngress) && !matches!(effect, Effect::MarkEcn | Effect::Observe) {
        notes.push("ingress: dropped at the socket, so the receiver's UDP counts it in InErrors; segments for TIME-WAIT and closed ports are not hit".to_owned());
    }
    if hooks.contains(&Hook::CgroupIngress) && *effect == Effect::Observe {
        notes.push("ingress: segments for TIME-WAIT and closed ports are not seen".to_owned());
    }
    if hooks.contains(&Hook::CgroupArrival) {
        notes.push("ingress: TCP and UDP, by the socket that is looked up where a packet arrives; other protocols, groups (multicast and broadcast), later fragments, segments for TIME-WAIT, and what NAT in the target's own network namespace translates are not hit".to_owned());
        if effect.keeps_back() {
            notes.push("ingress: what is kept back goes through an ifb of ours, one in each network namespace of the target, and waits there in an fq; what others receive goes its usual way; captures see a packet before it waits".to_owned());
        }
    }
    if effect.keeps_back() && hooks.iter().any(|hook| matches!(hook, Hook::CgroupEgress | Hook::DeviceEgress))
    {
        notes.push("fq takes the place of the root qdisc on each device by which packets leave, for all who send there; it is taken away again".to_owned());
    }
    if effect.keeps_back() && hooks.contains(&Hook::DeviceIngress) {
        notes.push("ingress: all that arrives at the device, and that no other filter takes, goes through an ifb of ours and waits there in an fq; captures see it before it waits".to_owned());
    }
    if let Some(refusal) = effect.calls() {
        notes.push(format!("calls fail with {}, before anything else is done; sockets that were made in another cgroup are not hit", errno::name(refusal.errno)));
    }
    for (hook, note) in [
        (
            Hook::CgroupConnect,
            "connect: TCP and UDP, blocking or not, by whatever call it is made; no packet leaves, and connections that are there go on",
        ),
        (
            Hook::CgroupBind,
            "bind: TCP and UDP sockets; the port that a socket gets by itself when it connects or sends is no bind",
        ),
        (
            Hook::CgroupSendmsg,
            "sendmsg: UDP sends that name an address; what goes out on a connected UDP socket, by send or write, does not come by",
        ),
    ] {
        if hooks.contains(&hook) {
            notes.push(note.to_owned());
        }
    }
    match effect {
        Effect::Rate(Rate { capacity: Capacity::Trace(trace), .. }) => notes.push(link::note(trace)),
        Effect::Corrupt(corrupt) if corrupt.mode == CorruptMode::Wire => notes.push("wire: the checksum of the IPv4 header is broken, or the version of IPv6; where a super-packet is segmented behind us, in hardware or by the stack, the header is written anew and is right again (`ip link set DEV gso_max_segs 1` avoids it)".to_owned()),
        Effect::Corrupt(_) => notes.push("silent: TCP, UDP and ICMP that carry at least 2 bytes; other packets are counted as not treated".to_owned()),
        Effect::Reset(_) => notes.push("the reset that takes the place of a segment is in the receiver's window if all before it has arrived; else the next segment strikes again, as long as `limit` and `when` let it".to_owned()),
        Effect::Reject(_) => notes.push("ICMP errors, resets, later fragments, and what goes to a group are lost without an answer (RFC 1122, 3.2.2)".to_owned()),
        Effect::Link => notes.push("set down and up by injector itself, to a tenth of a second; a second process of it sets the device up if the first is killed, or misses the deadline".to_owned()),
        Effect::Process(process) => notes.push(of_processes(&process.deed).to_owned()),
        Effect::Clock(_) => {
            notes.push("read by libc or the vDSO, static programs too; a program that begins reads the true time for a millisecond or some, and whoever makes the system call itself always".to_owned());
            notes.push("timers of the kernel keep the true time, and so do time stamps of files".to_owned());
        }
        Effect::MarkEcn => notes.push("only packets of connections with ECN can be marked; others match and are not struck".to_owned()),
        Effect::Dns(dns) => notes.extend(dns::notes(dns)),
        _ => {}
    }
    if per_segment(effect) {
        notes.push("per segment: the devices' gso_max_segs is set to 1 while the experiment runs, which costs throughput".to_owned());
        if hooks
            .iter()
            .any(|hook| matches!(hook, Hook::CgroupIngress | Hook::CgroupArrival | Hook::DeviceIngress))
        {
            notes.push("per segment, ingress: what another host or namespace sends merged, or what GRO merges, is still decided at once; `unsplit` in the report counts it".to_owned());
        }
    }
    notes
}

/// What is to be known of a deed.
const fn of_processes(deed: &Deed) -> &'static str {
    match deed {
        Deed::Pause => {
            "all threads at once, unseen by parents; a second process of injector lets the target go on if the first is killed, or late"
        }
        Deed::Stop => {
            "one process after the other, seen by parents; who was stopped before stays so; a second process of injector lets the target go on if the first is killed, or late"
        }
        Deed::Kill(_) => {
            "all processes that are in the target then, and those that are started in it again if it is to happen again"
        }
        Deed::Throttle(_) => {
            "of one processor, for all processes of the target together; a tighter limit that it has already stays"
        }
        Deed::Memory { .. } => {
            "nobody is killed: who wants more waits; a tighter limit that it has already stays"
        }
    }
}
