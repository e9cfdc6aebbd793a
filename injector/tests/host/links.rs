//! What the kernel forgets of a device that is set down, and putting it back.

use injector::host::link::{self, Device};
use injector::host::link_state::{LinkState, LinkStateError};

use crate::support::{ScratchNetns, eventually, skipped_without_root};

/// A namespace with a device that has something of all that the kernel forgets.
struct Scene {
    netns: ScratchNetns,
}

impl Scene {
    fn new(name: &str) -> Self {
        let netns = ScratchNetns::new(name);
        for line in [
            "link set lo up",
            "link add eth1 type veth peer name far1",
            "link set far1 addrgenmode none",
            "link set far1 up",
            "address add 10.97.0.1/24 dev eth1",
            "address add 10.97.0.5/24 dev eth1 noprefixroute",
            "address add 10.97.1.1 peer 10.97.1.2 dev eth1 metric 77",
            "link set eth1 up",
            "address add fd97::1/64 dev eth1 nodad",
            "address add fd97::2/64 dev eth1 noprefixroute",
            "address add fd97:1::1/128 dev eth1",
        ] {
            netns.ip(line);
        }
        let scene = Self { netns };
        scene.wait_until_unique();
        for line in [
            "route add 10.96.0.0/16 via 10.97.0.2 dev eth1 metric 50 proto static",
            "route add 10.95.0.1 dev eth1 scope link",
            "route add 10.94.0.0/16 via 10.95.0.1 dev eth1",
            "route add 10.93.0.0/16 via 10.97.0.2 dev eth1 table 100 onlink mtu 1400 src 10.97.0.5",
            "route add 10.92.0.0/16 via inet6 fe80::9 dev eth1",
            "-6 route add fd96::/64 via fd97::9 dev eth1 metric 5",
            "-6 route add fd95::/64 via fe80::9 dev eth1 src fd97::2",
            "-6 route add fd94::/64 via fd97::9 dev eth1 table 100",
            "neighbour add 10.97.0.77 lladdr 02:00:00:00:00:77 dev eth1 nud permanent",
            "neighbour add fd97::77 lladdr 02:00:00:00:00:77 dev eth1 nud permanent",
            "neighbour add proxy 10.97.0.78 dev eth1",
        ] {
            scene.netns.ip(line);
        }
        scene
    }

    fn wait_until_unique(&self) {
        eventually("unique", || !self.netns.ip("-6 address show dev eth1").contains("tentative"));
    }

    fn device(&self) -> Device {
        let devices = link::list(&mut self.netns.netlink()).unwrap();
        devices.into_iter().find(|device| device.name == "eth1").unwrap()
    }

    fn read(&self) -> Result<LinkState, LinkStateError> {
        LinkState::read(&mut self.netns.netlink(), &self.device())
    }

    fn set_up(&self, up: bool) {
        link::set_up(&mut self.netns.netlink(), self.device().index, up).unwrap();
    }

    fn restore(&self, state: &LinkState) {
        state.restore(&mut self.netns.netlink(), &self.device()).unwrap();
        // The link-local address is the kernel's to make, and unique only after a while.
        self.wait_until_unique();
    }

    /// What `ip` shows of all that could have gone.
    fn listing(&self) -> String {
        [
            "address show dev eth1",
            "route show table all dev eth1",
            "-6 route show table all dev eth1",
            "neighbour show dev eth1 nud permanent",
            "neighbour show proxy dev eth1",
            "rule show",
        ]
        .map(|what| self.netns.ip(what))
        .concat()
    }
}

#[test]
fn a_device_comes_up_with_all_that_it_had() {
    if skipped_without_root() {
        return;
    }
    let scene = Scene::new("linkup");
    // The kernel makes this one again by itself: it must not come back.
    scene.netns.ip("route del 10.97.1.2 dev eth1");
    let (before, state) = (scene.listing(), scene.read().unwrap());
    for _ in 0..2 {
        scene.set_up(false);
        let down = scene.listing();
        for gone in ["fd97::2", "10.96.0.0/16", "fd94::/64", "10.97.0.77", "10.97.0.78 proxy"] {
            assert!(before.contains(gone) && !down.contains(gone), "{gone}: {down}");
        }
        scene.restore(&state);
        assert_eq!(scene.listing(), before);
        assert_eq!(scene.read().unwrap(), state);
    }
}

#[test]
fn what_others_have_done_meanwhile_stays() {
    if skipped_without_root() {
        return;
    }
    let scene = Scene::new("linkothers");
    let state = scene.read().unwrap();
    scene.set_up(false);
    // Somebody sets it up before us, and it gets a route that it did not have.
    scene.set_up(true);
    scene.netns.ip("address add 10.90.0.1/24 dev eth1");
    scene.netns.ip("route add 10.91.0.0/16 via 10.97.0.2 dev eth1");
    // One of ours can't be put back: its gateway is another's address now.
    scene.netns.ip("address del 10.97.0.1/24 dev eth1");
    scene.netns.ip("address add 10.95.0.1/32 dev eth1");
    let error = state.restore(&mut scene.netns.netlink(), &scene.device()).unwrap_err();
    assert!(error.to_string().starts_with("netlink: put a route back: "), "{error}");
    let listing = scene.listing();
    for kept in
        ["10.90.0.0/24 proto kernel", "10.91.0.0/16 via", "fd96::/64 via", "10.97.0.77 lladdr", "fd97::2"]
    {
        assert!(listing.contains(kept), "{kept}: {listing}");
    }
}

#[test]
fn devices_that_could_not_be_put_back_are_refused() {
    if skipped_without_root() {
        return;
    }
    let scene = Scene::new("linkrefused");
    let state = scene.read().unwrap();
    assert!(!state.has_default_route());
    scene.netns.ip("link add br0 type bridge");
    // Each is made, refused, and taken away again.
    for (make, unmake, reason) in [
        ("link set eth1 master br0", "link set eth1 nomaster", "it is a port"),
        (
            "link add link eth1 name upper1 type macvlan mode bridge",
            "link del upper1",
            "upper1 is stacked on it",
        ),
        (
            "address add fd97::3/64 dev eth1 valid_lft 5000 preferred_lft 4000",
            "address del fd97::3/64 dev eth1",
            "an IPv6 address with a lifetime",
        ),
        (
            "-6 route add fd93::/64 via fd97::9 dev eth1 expires 500",
            "-6 route del fd93::/64",
            "an IPv6 route with a lifetime",
        ),
        ("nexthop add id 7 via 10.97.0.2 dev eth1", "nexthop del id 7", "a nexthop object"),
        (
            "route add 10.91.0.0/16 nexthop via 10.97.0.2 dev eth1 nexthop via 10.97.0.3 dev eth1",
            "route del 10.91.0.0/16",
            "several next hops",
        ),
        (
            "route append 10.97.0.0/24 dev far1 src 10.97.0.1 proto kernel",
            "route del 10.97.0.0/24 dev far1",
            "with the same metric",
        ),
    ] {
        scene.netns.ip(make);
        let refused = scene.read().map_err(|error| error.to_string());
        scene.netns.ip(unmake);
        assert!(refused.as_ref().is_err_and(|why| why.contains(reason)), "{make}: {refused:?}");
    }
    assert_eq!(scene.read().unwrap(), state);
    scene.netns.ip("route add default via 10.97.0.2 dev eth1");
    assert!(scene.read().unwrap().has_default_route());
    scene.set_up(false);
    assert_eq!(scene.read().unwrap_err().to_string(), "it is down already");
}
