//! What arrives at an interface, corrupted and rejected at XDP: the same packets and bits as at traffic control.

use std::process::Command;

use serde_json::{Value, json};

use crate::agent::Agent;
use crate::reject::ERRORS;
use crate::support::{CLIENT_V4, CLIENT_V6, DEVICE, Located as _, Netns, Pair, root_or_skip};
use crate::talk::check_nothing_wrong;
use crate::talk::talker;
use crate::xdp::{apply, mechanism};

/// What the agents learn: datagrams of zeros behind their number, and what has come of them.
const ZEROS: &str = r"
def zeros(host, port, count, size):
    with socket.socket(family(host), socket.SOCK_DGRAM) as s:
        for n in range(count):
            s.sendto(bytes(size), (host, port))

def contents(port):
    all, s = [], sockets[port]
    s.settimeout(0.3)
    try:
        while True:
            all.append(s.recv(65536).hex())
    except TimeoutError:
        return all
";

const DATAGRAMS: u32 = 200;
const HERE: [&str; 2] = [CLIENT_V4, CLIENT_V6];
/// What grows where a broken header is noticed, for IPv4 and IPv6.
const NOTICED: [&str; 2] = ["IpExtInCsumErrors", "Ip6InHdrErrors"];
/// What must not grow.
const WRONG: [&str; 3] = ["UdpInCsumErrors", "Udp6InCsumErrors", "TcpInCsumErrors"];

fn faults() -> Vec<String> {
    let fault = |id: &str, keys: &str| {
        format!("kind = \"network.corrupt\"\ndirection = \"ingress\"\nid = \"{id}\"\n{keys}")
    };
    vec![
        fault(
            "drawn",
            "mode = \"silent\"\nbits = 3\nprobability = \"40%\"\nmatch = { protocol = \"udp\", local_port = 5001 }",
        ),
        fault(
            "at",
            "mode = \"silent\"\nbits = 9\noffset = 5\nnth = \"1+2\"\nmatch = { protocol = \"udp\", local_port = 5002 }",
        ),
        fault("wire", "probability = \"30%\"\nmatch = { protocol = \"udp\", local_port = 5003 }"),
        fault(
            "tcp",
            "mode = \"silent\"\noffset = 0\nmatch = { protocol = \"tcp\", local_port = 7001, length = \">= 100\" }",
        ),
    ]
}

/// What comes of the datagrams and of a segment, and which numbers don't come at all.
fn corrupted(server: &mut Agent, client: &mut Agent, netns: &Netns, hook: &str) -> Vec<Value> {
    let before = netns.counters(&NOTICED);
    let experiment = apply(netns, DEVICE, hook, &faults());
    let mut all = Vec::new();
    let mut missing = Vec::new();
    for to in HERE {
        for port in [5001, 5002] {
            server.ask(&format!("zeros('{to}', {port}, {DATAGRAMS}, 65)"));
            all.push(client.ask(&format!("contents({port})")));
        }
        server.ask(&format!("burst('{to}', 5003, {DATAGRAMS})"));
        all.push(client.ask(&format!("missing({DATAGRAMS}, 5003)")));
        missing.push(all.last().unwrap().as_array().unwrap().len() as u64);
        server.ask(&format!("open_tcp('c', '{to}', 7001)"));
        client.ask("take('c', 7001)");
        server.ask("send('c', 100)");
        all.push(client.ask("sockets['c'].recv(100).hex()"));
        for agent in [&mut *server, &mut *client] {
            agent.ask("shut('c')");
        }
    }
    let report = experiment.end();
    assert_eq!(mechanism(&report).starts_with("xdp (native)"), hook == "xdp", "{report:?}");
    for fault in report.object["faults"].as_array().unwrap() {
        assert_eq!(fault["failed"], 0, "{hook}: {fault}");
    }
    let noticed: Vec<u64> =
        before.iter().zip(netns.counters(&NOTICED)).map(|(before, after)| after - before).collect();
    assert_eq!(noticed, missing, "{hook}: {NOTICED:?}");
    assert_eq!(report.fault("wire").injected, missing.iter().sum::<u64>());
    assert_eq!(report.fault("at").injected, u64::from(DATAGRAMS));
    all
}

#[test]
fn what_is_corrupted_is_what_traffic_control_corrupts() {
    if !root_or_skip() {
        return;
    }
    let pair = Pair::new();
    let mut server = talker(|command| command.in_netns(&pair.server));
    let mut client = talker(|command| command.in_netns(&pair.client));
    for agent in [&mut server, &mut client] {
        agent.ask(&format!("exec({}, globals())", serde_json::to_string(ZEROS).unwrap()));
    }
    for port in [5001, 5002, 5003] {
        client.ask(&format!("bind({port})"));
    }
    client.ask("serve(7001)");
    let at_tc = corrupted(&mut server, &mut client, &pair.client, "tc");
    // With and without checksums that are complete when they arrive: those the receiver looks at.
    for checksums in ["on", "off"] {
        let arguments = ["-K", DEVICE, "tx", checksums];
        Command::new("ethtool").args(arguments).in_netns(&pair.server).text();
        let at_xdp = corrupted(&mut server, &mut client, &pair.client, "xdp");
        assert_eq!(at_xdp, at_tc, "tx {checksums}");
        assert_eq!(pair.client.counters(&WRONG), [0; 3], "tx {checksums}: {WRONG:?}");
    }
    for (n, came) in at_tc.iter().enumerate() {
        match n % 4 {
            // Three bits each, of which two may be one.
            0 => {
                let changed = came.as_array().unwrap().iter().filter(|hex| **hex != json!("00".repeat(65)));
                let changed = changed.count();
                assert!(changed > 50 && changed < 110, "{changed}");
            }
            1 => {
                let wrong = json!("00".repeat(5) + "ff01" + &"00".repeat(58));
                let changed = came.as_array().unwrap().iter().filter(|hex| **hex == wrong).count();
                assert_eq!(changed as u32, DATAGRAMS / 2);
            }
            2 => assert!(came.as_array().unwrap().len() > 30),
            _ => assert!(came.as_str().unwrap().starts_with("010102"), "{came}"),
        }
    }
}

/// The numbers of the datagrams that are rejected, of a burst to each address. Each is an error at the sender.
fn rejected(server: &mut Agent, client: &mut Agent, pair: &Pair, hook: &str) -> Vec<Value> {
    let fault = "kind = \"network.reject\"\ndirection = \"ingress\"\nprobability = \"30%\"\nmatch = { protocol = \"udp\", local_port = 5001 }";
    let experiment = apply(&pair.client, DEVICE, hook, &[fault.to_owned()]);
    let errors = ["IcmpInDestUnreachs", "Icmp6InDestUnreachs"];
    let before = pair.server.counters(&errors);
    let all = HERE.map(|to| {
        server.ask(&format!("burst('{to}', 5001, {DATAGRAMS})"));
        client.ask(&format!("missing({DATAGRAMS}, 5001)"))
    });
    let counts = all.each_ref().map(|missing| missing.as_array().unwrap().len() as u64);
    let report = experiment.end();
    assert_eq!(report.only().injected, counts.iter().sum::<u64>(), "{hook}");
    assert_eq!(mechanism(&report) == "xdp (generic)", hook == "xdp", "{report:?}");
    let after = pair.server.counters(&errors);
    assert_eq!([after[0] - before[0], after[1] - before[1]], counts, "{hook}: {errors:?}");
    Vec::from(all)
}

#[test]
fn what_is_rejected_goes_back_as_an_error() {
    if !root_or_skip() {
        return;
    }
    let pair = Pair::new();
    let mut server = talker(|command| command.in_netns(&pair.server));
    let mut client = talker(|command| command.in_netns(&pair.client));
    client.ask("bind()");
    client.ask("bind(5002)");
    client.ask("serve(7001)");
    for ((icmp, by_family), checksums) in ERRORS.into_iter().zip(["on", "off", "on", "off", "off"]) {
        let arguments = ["-K", DEVICE, "tx", checksums];
        Command::new("ethtool").args(arguments).in_netns(&pair.server).text();
        let fault = format!(
            "kind = \"network.reject\"\nicmp = \"{icmp}\"\ndirection = \"ingress\"\nmatch = {{ local_port = [5001, 7001] }}"
        );
        let experiment = apply(&pair.client, DEVICE, "xdp", &[fault]);
        for (here, (errno, kind, code)) in HERE.into_iter().zip(by_family) {
            let size = 1401;
            server.ask(&format!("open_udp('c', '{here}', 5001)"));
            server.ask(&format!("send('c', {size})"));
            assert_eq!(server.ask("receive('c')"), errno, "{icmp} {here}");
            let is_v4 = here == CLIENT_V4;
            let (headers, origin) = if is_v4 { (28, 2) } else { (48, 3) };
            let mtu = if icmp == "fragmentation-needed" { 1280 } else { 0 };
            assert_eq!(
                server.ask(&format!("error_queue('c', {size})")),
                json!([errno, origin, kind, code, mtu, 512 - headers]),
                "{icmp} {here}"
            );
            server.ask("shut('c')");
            if icmp != "fragmentation-needed" {
                assert_eq!(server.ask(&format!("open_tcp('c', '{here}', 7001)")), errno, "{icmp} {here}");
            }
            // Not meant.
            server.ask(&format!("udp('{here}', port=5002)"));
        }
        let report = experiment.end();
        assert_eq!(mechanism(&report), "xdp (generic)");
        assert_eq!(report.object["faults"][0]["failed"], 0, "{icmp}");
    }
    assert_eq!((client.ask("received()"), client.ask("received(5002)")), (json!(0), json!(10)));
    check_nothing_wrong(&pair.server);
    let at_tc = rejected(&mut server, &mut client, &pair, "tc");
    assert_eq!(rejected(&mut server, &mut client, &pair, "xdp"), at_tc);
    assert!(at_tc.iter().all(|numbers| (30..100).contains(&numbers.as_array().unwrap().len())), "{at_tc:?}");
}
