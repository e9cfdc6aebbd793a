//! `network.reject`: which error each call gets, as the kernel's own tables have it, and what is never answered.

use serde_json::{Value, json};

use crate::agent::Agent;
use crate::scene::Scene;
use crate::support::{
    CLIENT_V4, CLIENT_V6, DEVICE, Experiment, Located as _, Report, SERVER_V4, SERVER_V6, root_or_skip,
};
use crate::talk::{Ends, Stage, check_nothing_wrong, talker};

/// What each error is: its name, and for IPv4 and IPv6 the errno, the type and the code (`icmp_err_convert` in
/// net/ipv4/icmp.c, `icmpv6_err_convert` in net/ipv6/icmp.c).
pub(crate) const ERRORS: [(&str, [Answer; 2]); 5] = [
    ("port-unreachable", [("ECONNREFUSED", 3, 3), ("ECONNREFUSED", 1, 4)]),
    ("host-unreachable", [("EHOSTUNREACH", 3, 1), ("EHOSTUNREACH", 1, 3)]),
    ("net-unreachable", [("ENETUNREACH", 3, 0), ("ENETUNREACH", 1, 0)]),
    ("admin-prohibited", [("EHOSTUNREACH", 3, 13), ("EACCES", 1, 1)]),
    ("fragmentation-needed", [("EMSGSIZE", 3, 4), ("EMSGSIZE", 2, 0)]),
];
/// An errno, a type and a code.
pub(crate) type Answer = (&'static str, u32, u32);

const HOSTS: [&str; 2] = [SERVER_V4, SERVER_V6];

const COUNTERS: [&str; 4] =
    ["IcmpInDestUnreachs", "Icmp6InDestUnreachs", "Icmp6InPktTooBigs", "IcmpInErrors"];

/// A fault for each error, with these further keys: on what goes to or comes to a port of its own, the first of which is
/// 5001 or 7001.
fn faults(protocol: &str, port: &str, keys: &str) -> Vec<String> {
    let first = if protocol == "udp" { 5001 } else { 7001 };
    let fault = |(number, (icmp, _)): (u16, (&str, [Answer; 2]))| {
        let only = format!("match = {{ protocol = \"{protocol}\", {port} = {number} }}");
        let id = format!("id = \"{icmp}-{protocol}-{port}\"");
        format!("{id}\nkind = \"network.reject\"\nicmp = \"{icmp}\"\n{keys}\n{only}")
    };
    (first..).zip(ERRORS).map(fault).collect()
}

/// Fails if an answer could not be made.
#[track_caller]
fn assert_none_failed(report: &Report) {
    assert!(
        report.object["faults"].as_array().unwrap().iter().all(|fault| fault["failed"] == 0),
        "{report:?}"
    );
}

/// Sends so much; what the next call on the socket says.
fn told(agent: &mut Agent, (host, port): (&str, u16), size: u32, recverr: bool) -> Value {
    let flag = if recverr { "True" } else { "False" };
    agent.ask(&format!("open_udp('c', '{host}', {port}, {flag})"));
    assert!(agent.ask(&format!("send('c', {size})")).is_null());
    let told = agent.ask("receive('c', 1)");
    agent.ask("shut('c')");
    told
}

#[test]
fn each_error_is_the_errno_of_the_next_call_and_quotes_the_packet() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    let faults = faults("udp", "remote_port", "");
    let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
    let experiment = Experiment::apply(&stage.scene.scenario(1, &faults));
    let Stage { scene, client, sibling, server } = &mut stage;
    for (port, (icmp, by_family)) in (5001..).zip(ERRORS) {
        server.ask(&format!("bind({port})"));
        let before = scene.pair.client.counters(&COUNTERS);
        for (host, (errno, kind, code)) in HOSTS.into_iter().zip(by_family) {
            // Longer than what is quoted. The second time the path's MTU would be known, and kept to.
            let sizes = if icmp == "fragmentation-needed" { &[1400][..] } else { &[1301, 1400] };
            for size in sizes {
                client.ask(&format!("open_udp('c', '{host}', {port})"));
                assert!(client.ask(&format!("send('c', {size})")).is_null());
                assert_eq!(client.ask("receive('c')"), errno, "{icmp} {host}");
                let mtu = if icmp == "fragmentation-needed" { 1280 } else { 0 };
                let headers = if host == SERVER_V4 { 28 } else { 48 };
                let origin = if host == SERVER_V4 { 2 } else { 3 };
                assert_eq!(
                    client.ask(&format!("error_queue('c', {size})")),
                    json!([errno, origin, kind, code, mtu, 512 - headers]),
                    "{icmp} {host}"
                );
                client.ask("shut('c')");
            }
            sibling.ask(&format!("udp('{host}', port={port})"));
        }
        let after = scene.pair.client.counters(&COUNTERS);
        let grown: Vec<u64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
        let expected = if icmp == "fragmentation-needed" { [1, 0, 1, 0] } else { [2, 2, 0, 0] };
        assert_eq!(grown, expected, "{icmp}: {COUNTERS:?}");
        assert_eq!(server.ask(&format!("received({port})")), 2, "what the sibling sent, and nothing else");
    }
    check_unasked(client);
    check_short(client);
    let report = experiment.end();
    assert_none_failed(&report);
    assert_eq!(report.fault("net-unreachable-udp-remote_port").injected, 4);
    assert_eq!(report.fault("fragmentation-needed-udp-remote_port").injected, 2);
    stage.check_nothing_wrong();
}

/// Who did not ask for errors gets the hard ones alone.
#[track_caller]
fn check_unasked(client: &mut Agent) {
    for (port, expected) in [
        (5001, ["ECONNREFUSED", "ECONNREFUSED"]),
        (5002, ["timeout", "timeout"]),
        (5004, ["EHOSTUNREACH", "EACCES"]),
    ] {
        for (host, errno) in HOSTS.into_iter().zip(expected) {
            assert_eq!(told(client, (host, port), 5, false), errno, "{port} {host}");
        }
    }
}

/// A short packet is quoted whole.
#[track_caller]
fn check_short(client: &mut Agent) {
    for host in HOSTS {
        for size in [1, 2, 3, 8, 483, 484, 485] {
            client.ask(&format!("open_udp('c', '{host}', 5001)"));
            client.ask(&format!("send('c', {size})"));
            assert_eq!(client.ask("receive('c')"), "ECONNREFUSED");
            let room = if host == SERVER_V4 { 484 } else { 464 };
            assert_eq!(client.ask(&format!("error_queue('c', {size})"))[5], size.min(room), "{host}");
            client.ask("shut('c')");
        }
    }
}

/// Where the path is to be narrow.
const NARROW: u16 = 7009;

#[test]
fn a_connect_fails_with_the_error_and_what_is_established_goes_on_in_smaller_packets_if_told_to() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    let Stage { scene, client, server, .. } = &mut stage;
    for port in (7001..=7004).chain([NARROW]) {
        server.ask(&format!("serve({port})"));
    }
    for port in 7001..=7004 {
        for host in HOSTS {
            assert!(client.ask(&format!("open_tcp('{port} {host}', '{host}', {port})")).is_null());
            server.ask(&format!("take('{port} {host}', {port})"));
        }
    }
    let mut faults = faults("tcp", "remote_port", "");
    faults.truncate(4);
    faults.push(format!(
        "id = \"narrow\"\nkind = \"network.reject\"\nicmp = \"fragmentation-needed\"\nmtu = 1300\n\
         match = {{ protocol = \"tcp\", remote_port = {NARROW} }}"
    ));
    let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
    let experiment = Experiment::apply(&scene.scenario(1, &faults));
    for (port, (icmp, by_family)) in (7001..).zip(&ERRORS[..4]) {
        for (host, (errno, ..)) in HOSTS.into_iter().zip(by_family) {
            assert!(client.ask(&format!("send('{port} {host}', 100)")).is_null());
            assert_eq!(client.ask(&format!("open_tcp('new', '{host}', {port})")), *errno, "{icmp} {host}");
            assert_eq!(server.ask(&format!("receive('{port} {host}', 0.1)")), "timeout", "{icmp} {host}");
            client.ask("shut('new')");
        }
    }
    for host in HOSTS {
        assert!(client.ask(&format!("open_tcp('c', '{host}', {NARROW})")).is_null());
        server.ask(&format!("take('c', {NARROW})"));
        assert!(client.ask("send('c', 200_000)").is_null());
        client.ask("shut('c')");
        assert_eq!(server.ask("drain_all('c')"), json!([200_000, 0]), "{host}");
        let route = scene.pair.client.ip(&format!("route get {host}"));
        assert!(route.contains("mtu 1300"), "{route}");
    }
    let other = scene.pair.client.ip("route get 10.99.0.3");
    assert!(!other.contains("mtu"), "{other}");
    let report = experiment.end();
    let narrow = report.fault("narrow");
    assert!(narrow.injected >= 2, "{report:?}");
    assert_eq!(narrow.matched, narrow.injected, "what fits is not meant");
    assert_none_failed(&report);
    for port in 7001..=7004 {
        for host in HOSTS {
            assert_eq!(server.ask(&format!("receive('{port} {host}')")), 100, "{port} {host}: sent again");
        }
    }
    stage.check_nothing_wrong();
}

#[test]
fn a_device_rejects_what_leaves_and_what_arrives() {
    if !root_or_skip() {
        return;
    }
    let mut ends = Ends::new();
    for number in 1..=4 {
        ends.client.ask(&format!("bind(500{number})"));
        ends.server.ask(&format!("bind(500{number})"));
        ends.client.ask(&format!("serve(700{number})"));
    }
    let mut all = Vec::new();
    for (protocol, direction, port) in
        [("udp", "egress", "remote_port"), ("udp", "ingress", "local_port"), ("tcp", "ingress", "local_port")]
    {
        let mut some = faults(protocol, port, &format!("direction = \"{direction}\""));
        some.truncate(4);
        all.extend(some);
    }
    let experiment = ends.apply(&all);
    for (number, (icmp, by_family)) in (1..).zip(&ERRORS[..4]) {
        let (udp, tcp) = (5000 + number, 7000 + number);
        for (there, (here, (errno, ..))) in
            HOSTS.into_iter().zip([CLIENT_V4, CLIENT_V6].into_iter().zip(by_family))
        {
            assert_eq!(told(&mut ends.client, (there, udp), 700, true), *errno, "{icmp} {there}");
            assert_eq!(told(&mut ends.server, (here, udp), 701, true), *errno, "{icmp} {here}");
            // It comes from outside, when the caller has let go of its socket.
            let connected = ends.server.ask(&format!("open_tcp('c', '{here}', {tcp})"));
            assert_eq!(connected, *errno, "{icmp} {here}");
        }
        for agent in [&mut ends.client, &mut ends.server] {
            assert_eq!(agent.ask(&format!("received({udp})")), 0, "{icmp}");
        }
    }
    assert_none_failed(&experiment.end());
    ends.check_nothing_wrong();
}

#[test]
fn loopback_rejects_too() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut client = talker(|command| scene.struck(command));
    let mut text = format!(
        "seed = 1\n[target.c]\ncgroup = \"{}\"\n[target.lo]\ninterface = \"lo\"\n",
        scene.cgroup.path()
    );
    let ways = [("c", "egress", 5001), ("lo", "egress", 5002), ("lo", "ingress", 5003)];
    for (target, direction, port) in ways {
        client.ask(&format!("bind({port})"));
        text += &format!(
            "[[fault]]\nid = \"to-{port}\"\ntarget = \"{target}\"\nkind = \"network.reject\"\n\
             icmp = \"admin-prohibited\"\ndirection = \"{direction}\"\n\
             match = {{ protocol = \"udp\", {} = {port} }}\n",
            if direction == "egress" { "remote_port" } else { "local_port" }
        );
    }
    let experiment = Experiment::apply_with(&text, |command| command.in_netns(&scene.pair.client));
    for (target, direction, port) in ways {
        for (host, errno) in [("127.0.0.1", "EHOSTUNREACH"), ("::1", "EACCES")] {
            assert_eq!(told(&mut client, (host, port), 700, true), errno, "{target} {direction} {host}");
        }
        assert_eq!(client.ask(&format!("received({port})")), 0);
    }
    let report = experiment.end();
    for (.., port) in ways {
        assert_eq!(report.fault(&format!("to-{port}")).injected, 2);
    }
    assert_none_failed(&report);
    check_nothing_wrong(&scene.pair.client);
}

#[test]
fn what_must_not_be_answered_is_lost_in_silence() {
    if !root_or_skip() {
        return;
    }
    let mut ends = Ends::new();
    ends.server.ask("bind()");
    ends.client.ask("serve(7001)");
    assert!(ends.server.ask(&format!("open_tcp('c', '{CLIENT_V4}', 7001)")).is_null());
    ends.client.ask("take('c', 7001)");
    let fault = "kind = \"network.reject\"\nmatch = { not = { protocol = \"icmp6\" } }".to_owned();
    let experiment = ends.apply(&[fault]);
    let Ends { pair, client, server } = &mut ends;
    let before = pair.client.counters(&COUNTERS);
    let broadcast = "sockets['b'].setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)";
    pair.client.ip(&format!("route add 239.1.2.3/32 dev {DEVICE}"));
    client.ask("sockets.update(b=socket.socket(socket.AF_INET, socket.SOCK_DGRAM))");
    client.ask(broadcast);
    for address in ["239.1.2.3", "255.255.255.255", "10.99.0.255"] {
        let bound = format!("sockets['b'].sendto(b'x', ('{address}', 5001))");
        pair.client.ip("route replace 255.255.255.255/32 dev veth0");
        assert_eq!(client.ask(&bound), 1, "{address}");
    }
    // An error about a datagram for a port on which nobody listens; and a reset.
    server.ask(&format!("udp('{CLIENT_V4}', port=5999)"));
    server.ask("send('c', 10)");
    client.ask("sockets['c'].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))");
    client.ask("shut('c')");
    let report = experiment.end();
    assert!(report.only().injected >= 5, "{report:?}");
    assert_eq!(report.object["faults"][0]["failed"], 0);
    assert_eq!(server.ask("received()"), 0, "they are lost");
    let after = pair.client.counters(&COUNTERS);
    // What is answered is the acknowledgement of the 10 bytes, at most.
    let acknowledgements = after[0] - before[0];
    assert!(acknowledgements <= 2, "{acknowledgements} errors");
}
