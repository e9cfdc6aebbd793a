//! Namespaces, devices, routes and the clsact hook.

use std::os::fd::AsFd as _;
use std::time::Duration;

use injector::host::Undone;
use injector::host::address;
use injector::host::link::{self, LinkEvent, LinkWatch, attach_points};
use injector::host::netns::{self, NetnsId};
use injector::host::route::{Gateway, default_gateways};
use injector::host::tc::{self, Direction, HookQdisc};
use nix::errno::Errno;

use crate::support::{
    Background, ScratchNetns, attach, eventually, load_classifier, own_pid, run, skipped_without_root,
};

#[test]
fn entering_leaves_the_caller_where_it_is() {
    if skipped_without_root() {
        return;
    }
    let before = NetnsId::of_self().unwrap();
    let scratch = ScratchNetns::new("enter");
    assert_ne!(scratch.id, before);
    assert_eq!(scratch.enter(|| NetnsId::of_self().unwrap()), scratch.id);
    assert_eq!(NetnsId::of_self().unwrap(), before);
    assert_eq!(NetnsId::of_process(own_pid()).unwrap(), before);
    let file = std::fs::File::open("/proc/self/ns/uts").unwrap();
    let error = netns::enter(file.as_fd(), || ()).unwrap_err();
    assert_eq!(error.to_string(), "cannot enter a network namespace: setns: EINVAL: Invalid argument");
}

#[test]
fn namespaces_are_found_by_name_and_by_process_and_gone_when_gone() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchNetns::new("find");
    let found = netns::find(scratch.id).unwrap().unwrap();
    assert_eq!(NetnsId::of_fd(found.as_fd()).unwrap(), scratch.id);
    let younger = NetnsId { cookie: scratch.id.cookie + 1, ..scratch.id };
    assert!(
        netns::find(younger).unwrap().is_none(),
        "an inode number that is used again is another namespace"
    );

    let own = NetnsId::of_self().unwrap();
    let mut process = Background::shell("exec unshare --net sleep 60");
    eventually("its own namespace", || NetnsId::of_process(process.pid()).is_ok_and(|id| id != own));
    let id = NetnsId::of_process(process.pid()).unwrap();
    let of_both = netns::namespaces_of([own_pid(), process.pid(), own_pid(), 1 << 23]).unwrap();
    assert_eq!(of_both.into_keys().collect::<Vec<_>>(), if own < id { [own, id] } else { [id, own] });
    assert!(netns::find(id).unwrap().is_some());
    process.end();
    eventually("it is gone", || netns::find(id).unwrap().is_none());
}

#[test]
fn the_addresses_of_a_namespace_are_those_by_which_others_reach_it() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchNetns::new("addr");
    scratch.ip("link add v0 type veth peer name v1");
    for device in ["v0", "v1"] {
        scratch.ip(&format!("link set {device} addrgenmode none"));
    }
    scratch.ip("address add 10.1.0.1/24 dev v0");
    scratch.ip("address add 10.1.1.1 peer 10.1.1.2 dev v0");
    scratch.ip("address add fd01::1/64 dev v1 nodad");
    scratch.ip("address add fe80::1:1/64 dev v0 nodad");
    scratch.ip("link set lo up");
    // An address that is served from here, and not one of loopback, though it is on that device.
    scratch.ip("address add 10.1.2.1/32 dev lo");
    let found = address::list(&mut scratch.netlink()).unwrap();
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found, ["10.1.0.1", "10.1.1.1", "10.1.2.1", "fd01::1", "fe80::1:1"]);
}

#[test]
fn devices_are_read_and_chosen() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchNetns::new("list");
    scratch.ip("link add v0 type veth peer name v1");
    scratch.ip("link add br0 type bridge");
    scratch.ip("link set v1 master br0");
    scratch.ip("link set v0 up");
    scratch.ip("link add link v0 name mac0 type macvlan");
    scratch.ip("tuntap add tun0 mode tun");
    let mut netlink = scratch.netlink();
    let devices = link::list(&mut netlink).unwrap();
    let device = |name: &str| devices.iter().find(|device| device.name == name).unwrap();
    assert!(device("lo").loopback && device("lo").is_ethernet() && device("lo").kind.is_none());
    assert_eq!(device("v0").kind.as_deref(), Some("veth"));
    assert!(device("v0").up && !device("br0").up);
    assert_eq!(device("v1").master, Some(device("br0").index));
    assert_eq!(device("mac0").lower, Some(device("v0").index));
    assert!(!device("tun0").is_ethernet());
    let chosen: Vec<String> = attach_points(&devices).into_iter().map(|device| device.name).collect();
    for name in ["lo", "v0", "br0", "mac0", "tun0"] {
        assert!(chosen.contains(&name.to_owned()), "{name} in {chosen:?}");
    }
    assert!(!chosen.contains(&"v1".to_owned()), "{chosen:?}");
}

#[test]
fn the_segment_limit_is_set_on_loopback_and_veth() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchNetns::new("gso");
    scratch.ip("link add v0 type veth peer name v1");
    let mut netlink = scratch.netlink();
    for name in ["lo", "v0"] {
        let before =
            link::list(&mut netlink).unwrap().into_iter().find(|device| device.name == name).unwrap();
        link::set_gso_max_segs(&mut netlink, before.index, 1).unwrap();
        assert!(scratch.ip(&format!("-d link show {name}")).contains("gso_max_segs 1 "), "{name}");
        link::set_gso_max_segs(&mut netlink, before.index, before.gso_max_segs).unwrap();
        assert_eq!(link::get(&mut netlink, before.index).unwrap().unwrap(), before);
    }
    let error = link::set_gso_max_segs(&mut netlink, 1, 1 << 30).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EINVAL), "{error}");
    let error = link::set_gso_max_segs(&mut netlink, 9999, 1).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ENODEV), "{error}");
}

#[test]
fn devices_that_come_and_go_are_told() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchNetns::new("watch");
    let mut watch = LinkWatch::open_in(scratch.fd.as_fd()).unwrap();
    assert_eq!(watch.try_next().unwrap(), None);
    scratch.ip("link add br0 type bridge");
    scratch.ip("link add v0 type veth peer name v1");
    scratch.ip("link set v0 master br0");
    scratch.ip("link set v0 nomaster");
    let events: Vec<LinkEvent> = std::iter::from_fn(|| watch.try_next().unwrap()).collect();
    let present = |name: &str| {
        events.iter().any(|event| matches!(event, LinkEvent::Present(device) if device.name == name))
    };
    assert!(present("v0") && present("v1"), "{events:?}");
    let gone = |event: &LinkEvent| matches!(event, LinkEvent::Gone { .. });
    assert!(!events.iter().any(gone), "leaving a bridge is not going away: {events:?}");
    scratch.ip("link del v0");
    let events: Vec<LinkEvent> = std::iter::from_fn(|| watch.try_next().unwrap()).collect();
    assert_eq!(events.iter().filter(|event| gone(event)).count(), 2, "{events:?}");
}

#[test]
fn the_watch_waits_in_tokio() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchNetns::new("async");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut watch = LinkWatch::open_in(scratch.fd.as_fd()).unwrap().into_async().unwrap();
        let waited = tokio::time::timeout(Duration::from_millis(20), watch.next()).await;
        assert!(waited.is_err(), "nothing has happened: {waited:?}");
        scratch.ip("link add br0 type bridge");
        let event = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap();
        assert!(matches!(&event, LinkEvent::Present(device) if device.name == "br0"), "{event:?}");
    });
}

#[test]
fn gateways_of_both_families() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchNetns::new("route");
    scratch.ip("link add v0 type veth peer name v1");
    for name in ["v0", "v1"] {
        scratch.ip(&format!("link set {name} up"));
    }
    scratch.ip("addr add 10.9.0.2/24 dev v0");
    scratch.ip("-6 addr add fd09::2/64 dev v0 nodad");
    let mut netlink = scratch.netlink();
    assert!(default_gateways(&mut netlink).unwrap().is_empty());
    scratch.ip("route add default via 10.9.0.1");
    scratch.ip("-6 route add default via fd09::1");
    let devices = link::list(&mut netlink).unwrap();
    let ifindex = devices.iter().find(|device| device.name == "v0").unwrap().index;
    let expected =
        ["10.9.0.1", "fd09::1"].map(|address| Gateway { ifindex, address: address.parse().unwrap() });
    assert_eq!(default_gateways(&mut netlink).unwrap().into_iter().collect::<Vec<_>>(), expected);
}

/// A filter of somebody else's: classic BPF, which has no program id.
fn classic_filter(scratch: &ScratchNetns, direction: &str) {
    let filter = format!("-n {} filter add dev lo {direction} pref 3 bpf da bytecode", scratch.name);
    let arguments: Vec<&str> = filter.split(' ').chain(["1,6 0 0 0"]).collect();
    run("tc", &arguments);
}

#[test]
fn exactly_our_filter_is_deleted() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchNetns::new("filter");
    let mut netlink = scratch.netlink();
    assert_eq!(tc::hook_qdisc(&mut netlink, 1).unwrap(), None);
    assert!(tc::filters(&mut netlink, 1, Direction::Egress).unwrap().is_empty());
    scratch.tc("qdisc add dev lo clsact");
    assert_eq!(tc::hook_qdisc(&mut netlink, 1).unwrap(), Some(HookQdisc::Clsact));
    let ((ours, our_id), (theirs, their_id)) = (load_classifier(), load_classifier());
    attach(&mut netlink, 1, Direction::Egress, 1, 0x10, &ours);
    attach(&mut netlink, 1, Direction::Egress, 1, 0x11, &theirs);
    attach(&mut netlink, 1, Direction::Ingress, 7, 0x10, &theirs);
    classic_filter(&scratch, "egress");

    let filters = tc::filters(&mut netlink, 1, Direction::Egress).unwrap();
    let seen: Vec<_> =
        filters.iter().map(|one| (one.pref, one.handle, one.kind.as_str(), one.program_id)).collect();
    let expected = [(1, 0x10, "bpf", Some(our_id)), (1, 0x11, "bpf", Some(their_id)), (3, 1, "bpf", None)];
    assert_eq!(seen, expected);
    assert_eq!(filters[0].name.as_deref(), Some("test"));

    let mut delete = |direction, pref, handle| {
        tc::delete_filter(&mut netlink, 1, direction, pref, handle, our_id).unwrap()
    };
    assert!(matches!(delete(Direction::Egress, 1, 0x11), Undone::NotOurs { .. }));
    assert!(matches!(delete(Direction::Egress, 3, 1), Undone::NotOurs { .. }));
    assert!(matches!(delete(Direction::Ingress, 7, 0x10), Undone::NotOurs { .. }));
    assert_eq!(delete(Direction::Egress, 1, 0x10), Undone::Removed);
    assert_eq!(delete(Direction::Egress, 1, 0x10), Undone::AlreadyGone);
    let left = tc::filters(&mut netlink, 1, Direction::Egress).unwrap();
    assert_eq!(left.iter().map(|one| one.handle).collect::<Vec<_>>(), [0x11, 1]);
}

#[test]
fn a_clsact_qdisc_stays_while_somebody_uses_it() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchNetns::new("clsact");
    let mut netlink = scratch.netlink();
    assert_eq!(tc::delete_clsact_if_empty(&mut netlink, 1).unwrap(), Undone::AlreadyGone);
    scratch.tc("qdisc add dev lo clsact");
    classic_filter(&scratch, "ingress");
    let left = tc::delete_clsact_if_empty(&mut netlink, 1).unwrap();
    assert_eq!(left, Undone::NotOurs { why: "others have ingress filters on it".to_owned() });
    scratch.tc("filter del dev lo ingress");
    assert_eq!(tc::delete_clsact_if_empty(&mut netlink, 1).unwrap(), Undone::Removed);
    assert!(!scratch.tc("qdisc show dev lo").contains("clsact"));
}

#[test]
fn an_ingress_qdisc_is_not_mistaken_for_clsact() {
    if skipped_without_root() {
        return;
    }
    let scratch = ScratchNetns::new("ingress");
    scratch.tc("qdisc add dev lo ingress");
    classic_filter(&scratch, "ingress");
    let mut netlink = scratch.netlink();
    assert_eq!(tc::hook_qdisc(&mut netlink, 1).unwrap(), Some(HookQdisc::Ingress));
    assert!(tc::filters(&mut netlink, 1, Direction::Egress).unwrap().is_empty());
    assert!(matches!(tc::delete_clsact_if_empty(&mut netlink, 1).unwrap(), Undone::NotOurs { .. }));
    assert!(scratch.tc("qdisc show dev lo").contains("ingress"));
}
