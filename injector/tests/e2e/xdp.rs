//! What arrives at an interface, struck at XDP: the same packets as at traffic control, and the same ones spared.
//!
//! The controller runs in the client's namespace: the device is looked for where injector is.

use std::process::Command;

use crate::agent::Agent;
use crate::interface::{GATEWAY_V4, GATEWAY_V6, Sides};
use crate::scene::scenario;
use crate::support::{
    CLIENT_V4, CLIENT_V6, DEVICE, Experiment, Located as _, Netns, Pair, Report, SERVER_V4, SERVER_V6, in_vm,
    root_or_skip,
};

/// Datagrams of one flow.
const DATAGRAMS: u32 = 1000;

pub(crate) fn apply(netns: &Netns, device: &str, hook: &str, faults: &[String]) -> Experiment {
    let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
    let text = scenario(11, &format!("interface = \"{device}\"\nhook = \"{hook}\""), &faults);
    Experiment::apply_with(&text, |command| command.in_netns(netns))
}

/// A fault on the datagrams that arrive at a port.
fn on_port(port: u16, frequency: &str) -> String {
    format!(
        "kind = \"network.loss\"\ndirection = \"ingress\"\nid = \"at-{port}\"\n{frequency}\n\
         match = {{ protocol = \"udp\", local_port = {port} }}"
    )
}

pub(crate) fn mechanism(report: &Report) -> &str {
    report.object["faults"][0]["mechanism"].as_str().unwrap()
}

/// What is said of an end of the pair: whether a program is at its XDP.
fn has_xdp(netns: &Netns, device: &str) -> bool {
    netns.ip(&format!("link show {device}")).contains("xdp")
}

const FREQUENCIES: [&str; 6] = [
    "probability = \"10%\"",
    "model = \"gilbert-elliott\"\np = \"3%\"\nr = \"25%\"",
    "model = \"periodic\"\nup = 11\ndown = 2",
    "nth = \"3+7\"\nlimit = 100",
    "probability = \"20%\"\nlimit = 60",
    "",
];

/// The numbers of the datagrams that are lost on the way to each port, and the mechanism.
fn lost(
    (sender, receiver): (&mut Agent, &mut Agent),
    (netns, device): (&Netns, &str),
    to: &str,
    hook: &str,
) -> (Vec<Vec<u32>>, String) {
    let ports = 5001..5001 + FREQUENCIES.len() as u16;
    let faults: Vec<String> =
        ports.clone().zip(FREQUENCIES).map(|(port, keys)| on_port(port, keys)).collect();
    let experiment = apply(netns, device, hook, &faults);
    let lost: Vec<Vec<u32>> = ports
        .clone()
        .map(|port| {
            sender.ask(&format!("steady('{to}', [{port}], {DATAGRAMS}, 20000)"));
            serde_json::from_value(receiver.ask(&format!("missing({DATAGRAMS}, {port})"))).unwrap()
        })
        .collect();
    let report = experiment.end();
    for (port, lost) in ports.zip(&lost) {
        let fault = report.fault(&format!("at-{port}"));
        assert_eq!(fault.injected, lost.len() as u64, "{hook}, to {port}: others were lost too");
        assert_eq!((fault.segments_matched, fault.segments_injected), (fault.matched, fault.injected));
    }
    (lost, mechanism(&report).to_owned())
}

#[test]
fn the_datagrams_that_are_lost_are_those_of_traffic_control() {
    if !root_or_skip() {
        return;
    }
    let pair = Pair::new();
    let mut server = Agent::start(|command| command.in_netns(&pair.server));
    let mut client = Agent::start(|command| command.in_netns(&pair.client));
    for port in 5001..5001 + FREQUENCIES.len() {
        client.ask(&format!("bind({port})"));
    }
    for to in [CLIENT_V4, CLIENT_V6] {
        assert_eq!(server.ask(&format!("ping('{to}')")), 0);
        let at = (&pair.client, DEVICE);
        let (at_tc, mechanism) = lost((&mut server, &mut client), at, to, "tc");
        assert!(mechanism.starts_with("tc ingress"), "{mechanism}");
        let (at_xdp, mechanism) = lost((&mut server, &mut client), at, to, "xdp");
        assert_eq!(mechanism, "xdp (native)");
        assert_eq!(at_xdp, at_tc, "to {to}");
        assert!(
            at_xdp.iter().all(|lost| lost.len() > 50) && at_xdp[5].len() as u32 == DATAGRAMS,
            "{at_xdp:?}"
        );
        assert!(!has_xdp(&pair.client, DEVICE));
    }
}

#[test]
fn a_loopback_device_has_the_generic_mode() {
    if !root_or_skip() {
        return;
    }
    let netns = Netns::new();
    let mut sender = Agent::start(|command| command.in_netns(&netns));
    let mut receiver = Agent::start(|command| command.in_netns(&netns));
    for port in 5001..5001 + FREQUENCIES.len() {
        receiver.ask(&format!("bind({port})"));
    }
    for to in ["127.0.0.1", "::1"] {
        let (at_tc, _) = lost((&mut sender, &mut receiver), (&netns, "lo"), to, "tc");
        let (at_xdp, mechanism) = lost((&mut sender, &mut receiver), (&netns, "lo"), to, "xdp");
        assert_eq!(mechanism, "xdp (generic)");
        assert_eq!(at_xdp, at_tc, "to {to}");
        assert!(!has_xdp(&netns, "lo"));
    }
}

#[test]
fn what_a_driver_refuses_is_generic_and_says_why() {
    if !root_or_skip() {
        return;
    }
    let netns = Netns::new();
    // Its driver has no XDP.
    netns.ip("link add d0 type ifb");
    netns.ip("link set d0 up");
    let report = apply(&netns, "d0", "xdp", &[on_port(5001, "")]).end();
    assert_eq!(mechanism(&report), "xdp (generic)");
    let warnings = report.object["warnings"].to_string();
    assert!(warnings.contains("the driver of d0 does not run XDP natively (EOPNOTSUPP"), "{warnings}");
    assert!(!has_xdp(&netns, "d0"));
}

#[test]
fn ssh_neighbours_and_the_gateway_are_spared() {
    if !root_or_skip() {
        return;
    }
    let mut sides = Sides::new();
    let everything = "kind = \"network.loss\"\ndirection = \"ingress\"".to_owned();
    let experiment = apply(&sides.pair.client, DEVICE, "xdp", &[everything]);
    assert!(has_xdp(&sides.pair.client, DEVICE) && !has_xdp(&sides.pair.server, DEVICE));
    sides.forget_neighbours();
    for (here, there, gateway) in [(CLIENT_V4, SERVER_V4, GATEWAY_V4), (CLIENT_V6, SERVER_V6, GATEWAY_V6)] {
        assert_eq!(sides.client.ask(&format!("ping('{there}', wait=1)")), 1, "to {there}");
        assert_eq!(sides.server.ask(&format!("ping('{here}', wait=1)")), 1, "from {there}");
        assert_eq!(sides.client.ask(&format!("ping('{gateway}')")), 0, "to the gateway {gateway}");
        assert_eq!(sides.server.ask(&format!("tcp('{here}', port=22)")), 0, "to the SSH port of {here}");
        sides.server.ask(&format!("udp('{here}', port=5001)"));
    }
    assert_eq!(sides.client.ask("received()"), 0, "UDP");
    let report = experiment.end();
    assert!(report.only().injected >= 6, "{report:?}");
    for address in [SERVER_V4, SERVER_V6] {
        assert_eq!(sides.client.ask(&format!("ping('{address}')")), 0, "{address} after the end");
    }
    assert!(!has_xdp(&sides.pair.client, DEVICE));
}

#[test]
fn what_leaves_is_struck_at_traffic_control_as_ever() {
    if !root_or_skip() {
        return;
    }
    let mut sides = Sides::new();
    let fault = "kind = \"network.loss\"\ndirection = \"both\"\nmatch = { protocol = \"udp\" }";
    // One count of the matches per rule: the second of each direction is spared, and every other one after it.
    let experiment = apply(&sides.pair.client, DEVICE, "xdp", &[format!("{fault}\nnth = \"1+2\"")]);
    sides.client.ask(&format!("[udp('{SERVER_V4}') for _ in range(10)]"));
    sides.server.ask(&format!("[udp('{CLIENT_V4}') for _ in range(10)]"));
    assert_eq!(sides.server.ask("received()"), 5, "left");
    assert_eq!(sides.client.ask("received()"), 5, "arrived");
    let report = experiment.end();
    assert!(mechanism(&report).starts_with("tc egress"), "{report:?}");
    assert!(mechanism(&report).ends_with(" + xdp (native)"), "{report:?}");
    assert_eq!((report.only().matched, report.only().injected), (20, 10));
}

/// A frame from the server with so many tags in front of a UDP datagram, as a card hands it over that takes none off.
fn tagged(pair: &Pair, tags: u32, port: u16) -> String {
    let addresses = |netns: &Netns| {
        let link = netns.ip(&format!("-o link show {DEVICE}"));
        let address = link.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
        address.replace(':', "")
    };
    format!(
        "(lambda s: (s.bind(('{DEVICE}', 0)), s.send(bytes.fromhex('{}{}' + '8100000a' * {tags} + \
         '0800' + '4500001e00000000401100000a6300020a630001' + '1388{port:04x}000a0000' + '0000'))))\
         (socket.socket(socket.AF_PACKET, socket.SOCK_RAW))[1]",
        addresses(&pair.client),
        addresses(&pair.server),
    )
}

#[test]
fn up_to_two_tags_are_skipped() {
    if !root_or_skip() {
        return;
    }
    let pair = Pair::new();
    let mut server = Agent::start(|command| command.in_netns(&pair.server));
    let ports = 5000..5004_u16;
    let faults: Vec<String> = ports.clone().map(|port| on_port(port, "")).collect();
    let experiment = apply(&pair.client, DEVICE, "xdp", &faults);
    for (tags, port) in (0..).zip(ports.clone()) {
        for _ in 0..3 {
            assert_eq!(server.ask(&tagged(&pair, tags, port)), 14 + 4 * tags + 30);
        }
    }
    let report = experiment.end();
    let injected: Vec<u64> = ports.map(|port| report.fault(&format!("at-{port}")).injected).collect();
    assert_eq!(injected, [3, 3, 3, 0]);
}

#[test]
fn packets_of_devices_on_top_are_struck_below() {
    if !root_or_skip() {
        return;
    }
    let pair = Pair::new();
    let line = format!("-n {} link add link {DEVICE} name v5 type vlan id 5", pair.client.name());
    let made = Command::new("ip").args(line.split(' ')).output().unwrap();
    if !made.status.success() {
        // The kernels of the virtual machines have it.
        assert_eq!(String::from_utf8_lossy(&made.stderr).trim(), "Error: Unknown device type.");
        assert!(!in_vm());
        return;
    }
    pair.server.ip(&format!("link add link {DEVICE} name v5 type vlan id 5"));
    for (netns, own) in [(&pair.client, 1), (&pair.server, 2)] {
        netns.ip(&format!("link add link {DEVICE} name s6 type vlan proto 802.1ad id 6"));
        netns.ip("link add link s6 name c7 type vlan id 7");
        for device in ["v5", "s6", "c7"] {
            netns.ip(&format!("link set {device} up"));
        }
        netns.ip(&format!("address add 10.95.0.{own}/24 dev v5"));
        netns.ip(&format!("address add 10.97.0.{own}/24 dev c7"));
    }
    let mut server = Agent::start(|command| command.in_netns(&pair.server));
    let mut client = Agent::start(|command| command.in_netns(&pair.client));
    client.ask("bind()");
    for to in ["10.95.0.1", "10.97.0.1"] {
        assert_eq!(server.ask(&format!("ping('{to}')")), 0);
        let experiment = apply(&pair.client, DEVICE, "xdp", &[on_port(5001, "nth = \"1+2\"")]);
        server.ask(&format!("[udp('{to}') for _ in range(10)]"));
        assert_eq!(client.ask("received()"), 5, "{to}");
        let report = experiment.end();
        assert_eq!((report.only().matched, report.only().injected), (10, 5), "{to}");
    }
}

/// The shortest way through the program: nothing is looked at but whether it is IP.
#[test]
fn all_of_ip_is_lost_and_nothing_else_until_the_deadline() {
    if !root_or_skip() {
        return;
    }
    let pair = Pair::new();
    let mut client = Agent::start(|command| command.in_netns(&pair.client));
    let mut ping = |count: u32| client.ask(&format!("ping('{SERVER_V4}', {count})"));
    assert_eq!(ping(1), 0);
    // In an emulated machine beside others a look takes seconds.
    let seconds = if in_vm() { 20 } else { 4 };
    let text = format!(
        "duration = \"{seconds}s\"\n{}",
        scenario(
            11,
            &format!("interface = \"{DEVICE}\"\nhook = \"xdp\"\nspare = false"),
            &["kind = \"network.loss\"\ndirection = \"ingress\""],
        )
    );
    let experiment = Experiment::apply_with(&text, |command| command.in_netns(&pair.client));
    assert!(experiment.talk().contains("spares nothing"), "{}", experiment.talk());
    // Who is asked for by ARP answers, and is heard.
    pair.client.ip(&format!("neighbour flush dev {DEVICE}"));
    assert_ne!(ping(1), 0);
    let found = pair.client.ip(&format!("neighbour show {SERVER_V4} dev {DEVICE}"));
    assert!(found.contains("lladdr"), "{found}");
    let lost = experiment.live().only();
    assert!(lost.injected >= 1 && lost.matched == lost.injected, "{lost:?}");
    assert_eq!((lost.segments_matched, lost.segments_injected), (lost.matched, lost.injected));
    // A controller that is stopped detaches nothing: the program itself keeps the deadline.
    let controller = nix::unistd::Pid::from_raw(experiment.pid());
    nix::sys::signal::kill(controller, nix::sys::signal::Signal::SIGSTOP).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(seconds + 1));
    assert!(has_xdp(&pair.client, DEVICE));
    assert_eq!(ping(1), 0, "after the deadline");
    nix::sys::signal::kill(controller, nix::sys::signal::Signal::SIGCONT).unwrap();
    assert_eq!(experiment.wait(std::time::Duration::from_secs(60)).status, Some(0));
    assert!(!has_xdp(&pair.client, DEVICE));
}
