//! `network.reject`: which error each call gets, as the kernel's own tables have it, and what is never answered.

use serde_json::{Value, json};

use crate::agent::Agent;
use crate::scene::{Scene, scenario};
use crate::support::{
    CLIENT_V4, CLIENT_V6, DEVICE, Experiment, Located as _, Netns, Pair, SERVER_V4, SERVER_V6, root_or_skip,
};
use crate::talk::talker;

/// What each error is: its name, and for IPv4 and IPv6 the errno, the type and the code (`icmp_err_convert` in
/// net/ipv4/icmp.c, `icmpv6_err_convert` in net/ipv6/icmp.c).
const ERRORS: [(&str, [Answer; 2]); 5] = [
    ("port-unreachable", [("ECONNREFUSED", 3, 3), ("ECONNREFUSED", 1, 4)]),
    ("host-unreachable", [("EHOSTUNREACH", 3, 1), ("EHOSTUNREACH", 1, 3)]),
    ("net-unreachable", [("ENETUNREACH", 3, 0), ("ENETUNREACH", 1, 0)]),
    ("admin-prohibited", [("EHOSTUNREACH", 3, 13), ("EACCES", 1, 1)]),
    ("fragmentation-needed", [("EMSGSIZE", 3, 4), ("EMSGSIZE", 2, 0)]),
];
/// An errno, a type and a code.
type Answer = (&'static str, u32, u32);

const HOSTS: [&str; 2] = [SERVER_V4, SERVER_V6];

const COUNTERS: [&str; 4] =
    ["IcmpInDestUnreachs", "Icmp6InDestUnreachs", "Icmp6InPktTooBigs", "IcmpInErrors"];
/// What must not grow when the errors that we make are right.
const WRONG: [&str; 5] =
    ["IcmpInCsumErrors", "Icmp6InCsumErrors", "Icmp6InErrors", "IpInHdrErrors", "UdpInCsumErrors"];

fn check_nothing_wrong(netns: &Netns) {
    assert_eq!(netns.counters(&WRONG), [0; 5], "{WRONG:?}");
}

#[test]
fn each_error_is_the_errno_of_the_next_call_and_quotes_the_packet() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut client = talker(|command| scene.struck(command));
    let mut sibling = talker(|command| scene.spared(command));
    let mut server = talker(|command| scene.remote(command));
    server.ask("bind()");
    for (icmp, by_family) in ERRORS {
        let before = scene.pair.client.counters(&COUNTERS);
        let fault = format!("kind = \"network.reject\"\nicmp = \"{icmp}\"\nmatch = {{ protocol = \"udp\" }}");
        let experiment = Experiment::apply(&scene.scenario(1, &[&fault]));
        for (host, (errno, kind, code)) in HOSTS.into_iter().zip(by_family) {
            // Longer than what is quoted. The second time the path's MTU would be known, and kept to.
            let sizes = if icmp == "fragmentation-needed" { &[1400][..] } else { &[1301, 1400] };
            for size in sizes {
                client.ask(&format!("open_udp('c', '{host}', 5001)"));
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
            sibling.ask(&format!("udp('{host}')"));
        }
        let report = experiment.end();
        assert_eq!(report.object["faults"][0]["failed"], 0);
        assert_eq!(report.only().injected, if icmp == "fragmentation-needed" { 2 } else { 4 }, "{icmp}");
        let after = scene.pair.client.counters(&COUNTERS);
        let grown: Vec<u64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
        let expected = if icmp == "fragmentation-needed" { [1, 0, 1, 0] } else { [2, 2, 0, 0] };
        assert_eq!(grown, expected, "{icmp}: {COUNTERS:?}");
        scene.pair.client.ip("route flush cache");
        scene.pair.client.ip("-6 route flush cache");
    }
    assert_eq!(server.ask("received()"), 10, "what the sibling sent, and nothing else");
    check_nothing_wrong(&scene.pair.client);
}

/// Sends so much; what the next call on the socket says.
fn told(agent: &mut Agent, host: &str, size: u32, recverr: bool) -> Value {
    let flag = if recverr { "True" } else { "False" };
    agent.ask(&format!("open_udp('c', '{host}', 5001, {flag})"));
    assert!(agent.ask(&format!("send('c', {size})")).is_null());
    let told = agent.ask("receive('c', 1)");
    agent.ask("shut('c')");
    told
}

#[test]
fn who_did_not_ask_for_errors_gets_the_hard_ones_alone() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut client = talker(|command| scene.struck(command));
    for (icmp, expected) in [
        ("port-unreachable", ["ECONNREFUSED", "ECONNREFUSED"]),
        ("host-unreachable", ["timeout", "timeout"]),
        ("admin-prohibited", ["EHOSTUNREACH", "EACCES"]),
    ] {
        let fault = format!("kind = \"network.reject\"\nicmp = \"{icmp}\"");
        let experiment = Experiment::apply(&scene.scenario(1, &[&fault]));
        for (host, errno) in HOSTS.into_iter().zip(expected) {
            assert_eq!(told(&mut client, host, 5, false), errno, "{icmp} {host}");
        }
        drop(experiment);
    }
    check_nothing_wrong(&scene.pair.client);
}

#[test]
fn a_short_packet_is_quoted_whole() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut client = talker(|command| scene.struck(command));
    let experiment = Experiment::apply(&scene.scenario(1, &["kind = \"network.reject\""]));
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
    drop(experiment);
    check_nothing_wrong(&scene.pair.client);
}

#[test]
fn a_connect_fails_with_the_error_and_an_established_connection_goes_on() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut client = talker(|command| scene.struck(command));
    let mut server = talker(|command| scene.remote(command));
    server.ask("serve(7001)");
    for (icmp, by_family) in &ERRORS[..4] {
        for host in HOSTS {
            assert!(client.ask(&format!("open_tcp('{host}', '{host}', 7001)")).is_null());
            server.ask(&format!("take('{host}', 7001)"));
        }
        let fault = format!("kind = \"network.reject\"\nicmp = \"{icmp}\"\nmatch = {{ protocol = \"tcp\" }}");
        let experiment = Experiment::apply(&scene.scenario(1, &[&fault]));
        for (host, (errno, ..)) in HOSTS.into_iter().zip(by_family) {
            assert!(client.ask(&format!("send('{host}', 100)")).is_null());
            assert_eq!(client.ask(&format!("open_tcp('new', '{host}', 7001)")), *errno, "{icmp} {host}");
            assert_eq!(server.ask(&format!("receive('{host}', 0.1)")), "timeout", "{icmp} {host}");
            client.ask("shut('new')");
        }
        assert_eq!(experiment.end().object["faults"][0]["failed"], 0);
        for host in HOSTS {
            assert_eq!(server.ask(&format!("receive('{host}')")), 100, "{icmp} {host}: sent again");
            client.ask(&format!("shut('{host}')"));
            server.ask(&format!("shut('{host}')"));
        }
    }
    check_nothing_wrong(&scene.pair.client);
}

#[test]
fn the_path_mtu_falls_for_that_destination_and_what_fits_goes_through() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut client = talker(|command| scene.struck(command));
    let mut server = talker(|command| scene.remote(command));
    server.ask("serve(7001)");
    let fault = "kind = \"network.reject\"\nicmp = \"fragmentation-needed\"\nmtu = 1300";
    let experiment = Experiment::apply(&scene.scenario(1, &[fault]));
    for host in HOSTS {
        assert!(client.ask(&format!("open_tcp('c', '{host}', 7001)")).is_null());
        server.ask("take('c', 7001)");
        assert!(client.ask("send('c', 200_000)").is_null());
        client.ask("shut('c')");
        assert_eq!(server.ask("drain_all('c')"), json!([200_000, 0]), "{host}");
        let route = scene.pair.client.ip(&format!("route get {host}"));
        assert!(route.contains("mtu 1300"), "{route}");
    }
    let other = scene.pair.client.ip("route get 10.99.0.3");
    assert!(!other.contains("mtu"), "{other}");
    let report = experiment.end();
    let fault = report.only();
    assert_eq!(report.object["faults"][0]["failed"], 0);
    assert!(fault.injected >= 2, "{report:?}");
    assert_eq!(fault.matched, fault.injected, "what fits is not meant");
    check_nothing_wrong(&scene.pair.client);
}

#[test]
fn a_device_rejects_what_leaves_and_what_arrives() {
    if !root_or_skip() {
        return;
    }
    let pair = Pair::new();
    let mut client = talker(|command| command.in_netns(&pair.client));
    let mut server = talker(|command| command.in_netns(&pair.server));
    client.ask("bind()");
    server.ask("bind()");
    client.ask("serve(7001)");
    for (icmp, by_family) in &ERRORS[..4] {
        let faults = ["egress", "ingress"].map(|direction| {
            format!("kind = \"network.reject\"\nicmp = \"{icmp}\"\ndirection = \"{direction}\"")
        });
        let text = scenario(1, &format!("interface = \"{DEVICE}\""), &faults.each_ref().map(String::as_str));
        let experiment = Experiment::apply_with(&text, |command| command.in_netns(&pair.client));
        for (there, (here, (errno, ..))) in
            HOSTS.into_iter().zip([CLIENT_V4, CLIENT_V6].into_iter().zip(by_family))
        {
            assert_eq!(told(&mut client, there, 700, true), *errno, "{icmp} {there}");
            assert_eq!(told(&mut server, here, 701, true), *errno, "{icmp} {here}");
            // It comes from outside, when the caller has let go of its socket.
            assert_eq!(server.ask(&format!("open_tcp('c', '{here}', 7001)")), *errno, "{icmp} {here}");
        }
        assert_eq!(experiment.end().object["faults"][0]["failed"], 0);
    }
    assert_eq!((client.ask("received()"), server.ask("received()")), (json!(0), json!(0)));
    check_nothing_wrong(&pair.client);
    check_nothing_wrong(&pair.server);
}

#[test]
fn loopback_rejects_too() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut client = talker(|command| scene.struck(command));
    let cgroup = format!("cgroup = \"{}\"", scene.cgroup.path());
    for (selector, direction) in
        [(cgroup.as_str(), "egress"), ("interface = \"lo\"", "egress"), ("interface = \"lo\"", "ingress")]
    {
        client.ask("bind()");
        let fault =
            format!("kind = \"network.reject\"\nicmp = \"admin-prohibited\"\ndirection = \"{direction}\"");
        let text = scenario(1, selector, &[&fault]);
        let experiment = Experiment::apply_with(&text, |command| command.in_netns(&scene.pair.client));
        for (host, errno) in [("127.0.0.1", "EHOSTUNREACH"), ("::1", "EACCES")] {
            assert_eq!(told(&mut client, host, 700, true), errno, "{selector} {direction} {host}");
        }
        let report = experiment.end();
        assert_eq!((report.only().injected, &report.object["faults"][0]["failed"]), (2, &json!(0)));
        assert_eq!(client.ask("received()"), 0);
        client.ask("shut(5001)");
    }
    check_nothing_wrong(&scene.pair.client);
}

#[test]
fn what_must_not_be_answered_is_lost_in_silence() {
    if !root_or_skip() {
        return;
    }
    let pair = Pair::new();
    let mut client = talker(|command| command.in_netns(&pair.client));
    let mut server = talker(|command| command.in_netns(&pair.server));
    server.ask("bind()");
    client.ask("serve(7001)");
    assert!(server.ask(&format!("open_tcp('c', '{CLIENT_V4}', 7001)")).is_null());
    client.ask("take('c', 7001)");
    let fault = "kind = \"network.reject\"\nmatch = { not = { protocol = \"icmp6\" } }";
    let text = scenario(1, &format!("interface = \"{DEVICE}\""), &[fault]);
    let experiment = Experiment::apply_with(&text, |command| command.in_netns(&pair.client));
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
