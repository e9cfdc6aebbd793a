use super::lists::*;
use super::refusal::{Unrestorable, refusal};
use super::*;
use crate::host::netlink::Reply;

const OWN: u32 = 7;
const OTHER: u32 = 8;

/// A change of a message's fixed header and its attributes.
type Change = fn(&mut Vec<u8>, &mut Vec<(u16, Vec<u8>)>);

/// `10.<to>.0.0/16`, or the default route, through a device.
fn route_to(to: u8, device: u32, change: impl FnOnce(&mut Vec<u8>, &mut Vec<(u16, Vec<u8>)>)) -> Reply {
    let bits = if to == 0 { 0 } else { 16 };
    let mut fixed = vec![libc::AF_INET as u8, bits, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    let mut attributes = vec![
        (15, 254u32.to_ne_bytes().to_vec()),
        (1, vec![10, to, 0, 0]),
        (6, 50u32.to_ne_bytes().to_vec()),
        (4, device.to_ne_bytes().to_vec()),
    ];
    change(&mut fixed, &mut attributes);
    reply(libc::RTM_NEWROUTE, fixed, &attributes)
}

fn reply(kind: u16, fixed: Vec<u8>, attributes: &[(u16, Vec<u8>)]) -> Reply {
    let attributes: Vec<(u16, &[u8])> = attributes.iter().map(|(kind, value)| (*kind, &value[..])).collect();
    Reply::for_test(kind, [fixed, Request::nested(&attributes)].concat())
}

fn address_of(device: u32, flags: u32) -> Reply {
    let fixed = [&[libc::AF_INET6 as u8, 64, 0, 0][..], &device.to_ne_bytes()].concat();
    let attributes = [(1, vec![0xfd; 16]), (6, vec![9; 16]), (8, flags.to_ne_bytes().to_vec())];
    reply(libc::RTM_NEWADDR, fixed, &attributes)
}

fn neighbour_of(device: u32, state: u8, flags: u8) -> Reply {
    let fixed = [&[libc::AF_INET as u8, 0, 0, 0][..], &device.to_ne_bytes(), &[state, 0, flags, 0]].concat();
    reply(libc::RTM_NEWNEIGH, fixed, &[(1, vec![10, 0, 0, 9]), (3, vec![1; 16]), (4, vec![3; 4])])
}

fn routes(routes: Vec<Reply>) -> Lists {
    Lists { routes, ..Lists::default() }
}

#[test]
fn what_goes_with_a_device_is_its_own_and_no_others() {
    let lists = Lists {
        addresses: vec![address_of(OWN, libc::IFA_F_PERMANENT), address_of(OTHER, libc::IFA_F_PERMANENT)],
        routes: vec![
            route_to(1, OWN, |_, _| {}),
            route_to(2, OTHER, |_, _| {}),
            // The kernel's own: the table `local`, and a way that it keeps in mind.
            route_to(3, OWN, |_, attributes| attributes[0].1 = 255u32.to_ne_bytes().to_vec()),
            route_to(4, OWN, |fixed, _| fixed[8..12].copy_from_slice(&0x200u32.to_ne_bytes())),
        ],
        // Permanent, learnt, proxied, another's.
        neighbours: vec![
            neighbour_of(OWN, 0x80, 0),
            neighbour_of(OWN, 0x02, 0),
            neighbour_of(OWN, 0, 0x08),
            neighbour_of(OTHER, 0x80, 0),
        ],
        nexthops: Vec::new(),
    };
    let state = lists.state(OWN);
    assert_eq!((state.addresses.len(), state.routes.len(), state.neighbours.len()), (1, 1, 2));
    assert_eq!(lists.unrestorable(OWN), None);
    assert!(!state.has_default_route());
    assert!(routes(vec![route_to(0, OWN, |_, _| {})]).state(OWN).has_default_route());
}

#[test]
fn what_the_kernel_alone_knows_does_not_go_back_to_it() {
    // Times, and how far it is with an address; that it needs no look for duplicates is the operator's word.
    let once = address(&address_of(OWN, libc::IFA_F_PERMANENT | libc::IFA_F_TENTATIVE), OWN).unwrap();
    let later = address(&address_of(OWN, libc::IFA_F_PERMANENT), OWN).unwrap();
    assert_eq!(once, later);
    assert_eq!(Reply::for_test(0, once.clone()).split(IFADDRMSG_LEN).unwrap().1.get(6), None);
    assert_eq!(address_flags(&once), 0);
    assert_eq!(address_flags(&without_detection(&once)), libc::IFA_F_NODAD);
    let kept = address(&address_of(OWN, libc::IFA_F_PERMANENT | libc::IFA_F_NODAD), OWN).unwrap();
    assert_eq!(address_flags(&kept), libc::IFA_F_NODAD);
    // Of the flags of a route only "onlink" is the operator's.
    let flagged = route_to(1, OWN, |fixed, _| fixed[8..12].copy_from_slice(&(4u32 | 16).to_ne_bytes()));
    assert_eq!(route(&flagged, OWN).unwrap()[8..12], 4u32.to_ne_bytes());
}

#[test]
fn a_kernels_route_is_old_only_if_it_is_for_an_address_that_the_device_had() {
    // 10.1.0.9/16, as `ip address` shows it; the route of an IPv6 address has no source.
    let own = [&[libc::AF_INET as u8, 16, 0, 0][..], &OWN.to_ne_bytes()].concat();
    let own = reply(libc::RTM_NEWADDR, own, &[(1, vec![10, 1, 0, 9]), (2, vec![10, 1, 0, 9])]);
    let state =
        Lists { addresses: vec![own, address_of(OWN, libc::IFA_F_PERMANENT)], ..Lists::default() }.state(OWN);
    assert_eq!((state.staying.len(), state.addresses.len()), (1, 1));
    let is_old = |reply: &Reply| {
        let body = route(reply, OWN).unwrap();
        state.is_for_an_address(&body)
    };
    assert!(is_old(&route_to(1, OWN, |_, _| {})));
    assert!(!is_old(&route_to(2, OWN, |_, _| {})));
    // Another prefix of the same network is another address's, unless its source tells.
    assert!(!is_old(&route_to(1, OWN, |fixed, _| fixed[1] = 24)));
    let told = route_to(2, OWN, |_, attributes| attributes.push((7, vec![10, 1, 0, 9])));
    assert!(is_old(&told));
    let of_ipv6 = |to: u8, bits: u8| {
        route_to(1, OWN, |fixed, attributes| {
            (fixed[0], fixed[1]) = (libc::AF_INET6 as u8, bits);
            attributes[1].1 = [&[0xfd; 8][..], &[to; 8]].concat();
        })
    };
    assert!(is_old(&of_ipv6(0, 64)));
    assert!(!is_old(&of_ipv6(0, 56)));
}

#[test]
fn addresses_are_compared_by_their_first_bits() {
    assert!(same_bits(&[10, 1, 0x80, 1], &[10, 1, 0xff, 2], 17));
    assert!(!same_bits(&[10, 1, 0x80, 1], &[10, 1, 0x7f, 2], 17));
    assert!(same_bits(&[1, 2], &[3, 4], 0));
    assert!(same_bits(&[1, 2], &[1, 2], 16));
    assert!(!same_bits(&[1, 2], &[1, 3], 16));
    assert!(!same_bits(&[1, 2, 3, 4], &[1, 2], 8));
}

fn address_flags(body: &[u8]) -> u32 {
    Reply::for_test(0, body.to_vec()).split(IFADDRMSG_LEN).unwrap().1.u32(IFA_FLAGS).unwrap()
}

#[test]
fn what_could_not_be_put_back_is_refused() {
    let because = |lists: Lists| lists.unrestorable(OWN);
    for flags in [0, libc::IFA_F_PERMANENT | 0x100] {
        let lists = Lists { addresses: vec![address_of(OWN, flags)], ..Lists::default() };
        assert_eq!(because(lists), Some(Unrestorable::PassingAddress));
    }
    let nexthop = reply(104, vec![2, 0, 0, 0, 0, 0, 0, 0], &[(5, OWN.to_ne_bytes().to_vec())]);
    let lists = Lists { nexthops: vec![nexthop], ..Lists::default() };
    assert_eq!(because(lists), Some(Unrestorable::Nexthop));

    let hop = |device: u32| [&[8, 0, 0, 0][..], &device.to_ne_bytes()].concat();
    let over = |devices: [u32; 2]| {
        let hops = devices.map(hop).concat();
        route_to(1, OTHER, |_, attributes| attributes[3] = (9, hops))
    };
    assert_eq!(because(routes(vec![over([OTHER, OWN])])), Some(Unrestorable::SharedRoute));
    assert_eq!(because(routes(vec![over([OTHER, 9])])), None);
    for kind in [22, 30] {
        let route = route_to(1, OWN, |_, attributes| attributes.push((kind, vec![1; 4])));
        assert_eq!(because(routes(vec![route])), Some(Unrestorable::SharedRoute));
    }
    let advertised = route_to(1, OWN, |fixed, _| fixed[5] = 9);
    assert_eq!(because(routes(vec![advertised])), Some(Unrestorable::PassingRoute));
    for (expires, refused) in [(500u32, Some(Unrestorable::PassingRoute)), (0, None)] {
        let info = [&[0; 8][..], &expires.to_ne_bytes(), &[0; 20]].concat();
        let route = route_to(1, OWN, |_, attributes| attributes.push((12, info)));
        assert_eq!(because(routes(vec![route])), refused);
    }
    let many = (0..=10_000).map(|_| route_to(1, OWN, |_, _| {})).collect();
    assert_eq!(because(routes(many)), Some(Unrestorable::TooMuch(10_001)));
}

#[test]
fn the_order_of_ipv4_routes_to_one_place_is_not_put_back() {
    let pair = |change: Change| routes(vec![route_to(1, OWN, |_, _| {}), route_to(1, OTHER, change)]);
    assert_eq!(pair(|_, _| {}).unrestorable(OWN), Some(Unrestorable::OrderedRoute));
    // Another prefix length, TOS, table or metric is another place.
    assert_eq!(pair(|fixed, _| fixed[1] = 24).unrestorable(OWN), None);
    assert_eq!(pair(|fixed, _| fixed[3] = 8).unrestorable(OWN), None);
    assert_eq!(pair(|_, attributes| attributes[0].1[0] = 100).unrestorable(OWN), None);
    assert_eq!(pair(|_, attributes| attributes[2].1[0] = 51).unrestorable(OWN), None);
    // In IPv6 each device has its own.
    let both = [OWN, OTHER].map(|device| route_to(1, device, |fixed, _| fixed[0] = libc::AF_INET6 as u8));
    assert_eq!(routes(both.to_vec()).unrestorable(OWN), None);
}

fn device(index: u32, kind: Option<&str>, lower: Option<u32>) -> Device {
    Device {
        index,
        name: format!("dev{index}"),
        kind: kind.map(str::to_owned),
        master: None,
        lower,
        link_type: libc::ARPHRD_ETHER,
        up: true,
        loopback: false,
        mtu: 1500,
        gso_max_segs: 0,
        gso_max_size: 0,
        tso_max_segs: None,
    }
}

#[test]
fn devices_that_are_part_of_others_stay_up() {
    let refused = |own: Device, others: &[Device]| refusal(&own, others);
    let (nic, veth) = (device(OWN, None, None), device(OWN, Some("veth"), Some(OTHER)));
    assert_eq!(refused(nic.clone(), &[]), None);
    // Both ends of a pair name each other, and neither is on top.
    assert_eq!(refused(veth, &[device(OTHER, Some("veth"), Some(OWN))]), None);
    let vlan = device(OTHER, Some("vlan"), Some(OWN));
    assert_eq!(refused(nic.clone(), &[vlan]), Some(Unrestorable::Lower("dev8".to_owned())));
    assert_eq!(refused(Device { master: Some(OTHER), ..nic.clone() }, &[]), Some(Unrestorable::Port));
    assert_eq!(refused(Device { up: false, ..nic }, &[]), Some(Unrestorable::Down));
    let bridge = device(OWN, Some("bridge"), None);
    assert_eq!(refused(bridge, &[]), Some(Unrestorable::Kind("bridge".to_owned())));
}

#[test]
fn bodies_survive_the_journal() {
    let state = routes(vec![route_to(0, OWN, |_, _| {}), route_to(1, OWN, |_, _| {})]).state(OWN);
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<LinkState>(&text).unwrap(), state);
    let body = route(&route_to(1, OWN, |_, _| {}), OWN).unwrap();
    assert_eq!(missing(&state.routes, &state.routes[..1]), [body]);
    assert!(missing(&state.routes, &state.routes).is_empty());
    assert!(is_kernels(&[2, 16, 0, 0, 254, 2]) && !is_kernels(&[2, 16, 0, 0, 254, 3]));
    // What is no hexadecimal is nothing to put back.
    assert_eq!(bytes("0g"), None);
    assert_eq!(bytes("0ff"), None);
}
