//! A device's XDP has room for one program: ours goes however the experiment ends, and another's stays.

use nix::libc;
use nix::sys::signal::Signal;

use crate::bench::{Bench, LONG, loss_of};
use crate::foreign_program::{ForeignLink, GENERIC, NATIVE};
use crate::listing::{assert_no_bpf_objects_since, bpf_objects};
use crate::support::{SERVER_V4, root_or_skip};

/// A scenario that loses all ICMP that arrives at a device.
fn scenario(bench: &Bench, name: &str, device: &str) -> String {
    let text = loss_of(&format!("interface = \"{device}\"\nhook = \"xdp\""), LONG);
    bench.scenario(name, &(text + "direction = \"ingress\"\nmatch = { protocol = \"icmp\" }\n"))
}

fn index(bench: &Bench, device: &str) -> u32 {
    let link = bench.netns.ip(&format!("-o link show {device}"));
    link.split(':').next().unwrap().parse().unwrap()
}

fn has_xdp(bench: &Bench) -> bool {
    bench.netns.ip("link show veth0").contains("xdp")
}

#[test]
fn nothing_is_left_by_a_kill_nor_by_the_end() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let scenario = scenario(&bench, "arrivals", "veth0");
    let (before, objects) = (bench.listing(), bpf_objects());
    for signal in [Signal::SIGKILL, Signal::SIGINT] {
        let mut controller = bench.armed(&["apply", &scenario, "--json"]);
        assert!(has_xdp(&bench));
        assert_eq!(bench.replies(), 0, "from {SERVER_V4}");
        let ended = controller.end_by(signal);
        assert!(ended.signal() == Some(libc::SIGKILL) || ended.status.code() == Some(130), "{ended}");
        assert!(!has_xdp(&bench), "after {signal}");
        assert_eq!(bench.replies(), 3, "after {signal}");
        assert_no_bpf_objects_since(&objects, signal.as_str());
        bench.injector(&["clean"]).expect(0);
        bench.listing().assert_same_as(&before, signal.as_str());
    }
}

#[test]
fn another_program_stays_and_is_named() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let on_veth = scenario(&bench, "arrivals", "veth0");
    for mode in [NATIVE, GENERIC] {
        let foreign = ForeignLink::at_xdp(&bench.netns, index(&bench, "veth0"), mode);
        let (before, objects) = (bench.listing(), bpf_objects());
        let link = bench.netns.ip("-d link show veth0");
        let id = link.split("prog/xdp id ").nth(1).unwrap().split(' ').next().unwrap();
        bench
            .injector(&["apply", &on_veth])
            .expect(5)
            .says("the device veth0 has an XDP program")
            .says(&format!("number {id} "))
            .says("leave `hook` out of the target");
        bench.listing().assert_same_as(&before, "after the refusal");
        assert_no_bpf_objects_since(&objects, "after the refusal");
        assert_eq!(bench.replies(), 3);
        // Traffic control strikes behind it.
        let tc = std::fs::read_to_string(&on_veth).unwrap().replace("hook = \"xdp\"\n", "");
        let mut controller = bench.armed(&["apply", &bench.scenario("behind", &tc)]);
        assert_eq!(bench.replies(), 0);
        controller.end_by(Signal::SIGINT).expect(130);
        bench.listing().assert_same_as(&before, "after the end");
        drop(foreign);
        assert!(!has_xdp(&bench));
    }
}

#[test]
fn the_plan_says_which_modes_are_tried_and_targets_of_one_device_agree() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    bench
        .injector(&["plan", &scenario(&bench, "arrivals", "veth0")])
        .expect(0)
        .prints("xdp (native, else generic)")
        .prints("native on veth: super-packets are taken apart");
    let two = loss_of("interface = \"veth0\"\nhook = \"xdp\"", LONG)
        + "[target.u]\ninterface = \"veth0\"\n[[fault]]\ntarget = \"u\"\nkind = \"network.loss\"\n";
    bench
        .injector(&["plan", &bench.scenario("two", &two)])
        .expect(2)
        .says("the targets `t` and `u` are one device, veth0")
        .says("give both the same `hook`");
    bench.netns.ip("tuntap add dev tun9 mode tun");
    bench
        .injector(&["plan", &scenario(&bench, "tun", "tun9")])
        .expect(2)
        .says("the frames of the device tun9 have no Ethernet header")
        .says("leave `hook` out");
}
