//! `network.reset`: who finds the connection reset, who does not, and what each stack counts.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::agent::Agent;
use crate::scene::{Scene, scenario};
use crate::support::{
    CLIENT_V4, CLIENT_V6, DEVICE, Experiment, Located as _, Report, SERVER_V4, SERVER_V6, root_or_skip,
    wait_until,
};
use crate::talk::{Ends, Stage, check_nothing_wrong, connect, expect_end, say, talker};

const PATIENCE: Duration = Duration::from_secs(60);
const HOSTS: [&str; 2] = [SERVER_V4, SERVER_V6];

/// A fault on the connections that a `match` for TCP means.
fn reset(id: &str, keys: &str, only: &str) -> String {
    format!("id = \"{id}\"\nkind = \"network.reset\"\n{keys}\nmatch = {{ protocol = \"tcp\", {only} }}")
}

#[track_caller]
fn counters(report: &Report, id: &str) -> (u64, Value) {
    let faults = report.object["faults"].as_array().unwrap();
    let failed = &faults.iter().find(|fault| fault["id"] == id).unwrap()["failed"];
    (report.fault(id).injected, failed.clone())
}

/// Connections that stand when the fault begins: its `side`, the server's port, and what each side finds.
const SIDES: [(&str, u16, &str, &str); 3] = [
    ("both", 7001, "ECONNRESET", "ECONNRESET"),
    ("local", 7002, "ECONNRESET", "timeout"),
    ("remote", 7003, "timeout", "ECONNRESET"),
];
/// Where the struck client itself serves.
const SERVED: u16 = 7010;

#[test]
fn established_connections_and_new_ones_are_reset_at_the_side_that_was_asked_for() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    let Stage { scene, client, sibling, server } = &mut stage;
    client.ask(&format!("serve({SERVED})"));
    for (side, port, ..) in SIDES {
        server.ask(&format!("serve({port})"));
        for host in HOSTS {
            connect(client, server, &format!("{side} {host}"), host, port);
        }
    }
    for host in HOSTS {
        connect(sibling, server, &format!("spared {host}"), host, 7001);
    }
    let mut faults: Vec<String> = SIDES
        .into_iter()
        .map(|(side, port, ..)| reset(side, &format!("side = \"{side}\""), &format!("remote_port = {port}")))
        .collect();
    faults.push(reset("served", "", &format!("local_port = {SERVED}")));
    let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
    let counted = |scene: &Scene| {
        let names = ["TcpEstabResets", "TcpAttemptFails"];
        [scene.pair.client.counters(&names), scene.pair.server.counters(&names)]
    };
    let before = counted(scene);
    let experiment = Experiment::apply(&scene.scenario(1, &faults));
    for (side, _, here, there) in SIDES {
        for host in HOSTS {
            let name = format!("{side} {host}");
            assert!(client.ask(&format!("send('{name}', 100)")).is_null());
            expect_end(server, &name, there, side);
            expect_end(client, &name, here, side);
        }
    }
    for host in HOSTS {
        say(sibling, server, &format!("spared {host}"));
        say(server, sibling, &format!("spared {host}"));
    }
    let after = counted(scene);
    // Each side finds two of `both` and two of its own.
    assert_eq!([after[0][0] - before[0][0], after[1][0] - before[1][0]], [4, 4], "TcpEstabResets");
    check_new_ones(client, server);
    let after = counted(scene);
    // The listener never hears of a SYN that is refused. The client forgets the requests that its answers would accept.
    assert_eq!([after[0][1] - before[0][1], after[1][1] - before[1][1]], [4, 2], "TcpAttemptFails");
    // Only the other side: it must know the connection first, so the SYN goes through.
    assert!(client.ask(&format!("open_tcp('c', '{SERVER_V4}', 7003)")).is_null());
    let report = experiment.end();
    assert_eq!(counters(&report, "both"), (4, json!(0)));
    for side in ["local", "remote", "served"] {
        let (injected, failed) = counters(&report, side);
        assert!(injected >= 2 && failed == 0, "{side}: {report:?}");
    }
    check_healed(scene, client, server);
    stage.check_nothing_wrong();
}

/// New connections under the faults.
#[track_caller]
fn check_new_ones(client: &mut Agent, server: &mut Agent) {
    for host in HOSTS {
        assert_eq!(client.ask(&format!("open_tcp('c', '{host}', 7001)")), "ECONNREFUSED", "{host}");
    }
    // A server whose answers are struck refuses its clients.
    for host in [CLIENT_V4, CLIENT_V6] {
        assert_eq!(server.ask(&format!("open_tcp('s', '{host}', {SERVED})")), "ECONNREFUSED", "{host}");
    }
}

/// What is left of half a connection learns of it by its next segment when the fault is over, as after a crash.
#[track_caller]
fn check_healed(scene: &Scene, client: &mut Agent, server: &mut Agent) {
    let listing = Command::new("ss").args(["-Htn", "sport = :7002"]).in_netns(&scene.pair.server).text();
    assert!(listing.contains("ESTAB"), "{listing}");
    let half = format!("local {SERVER_V4}");
    assert!(server.ask(&format!("send('{half}', 100)")).is_null());
    assert_eq!(server.ask(&format!("receive('{half}')")), "ECONNRESET");
    connect(server, client, "s", CLIENT_V4, SERVED);
}

#[test]
fn the_bytes_before_arrive_and_none_after_on_each_connection() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    let lost = "remote_port = 7003";
    let faults = [
        reset("steps", "after = \"64KiB\"", "remote_port = 7001"),
        reset("bulk", "after = \"1MB\"", "remote_port = 7002"),
        format!(
            "id = \"loss\"\nkind = \"network.loss\"\nprobability = \"30%\"\n\
             match = {{ protocol = \"tcp\", {lost}, length = \">= 500\" }}"
        ),
        reset("missed", "side = \"remote\"\nafter = \"100KB\"", lost),
    ];
    let Stage { scene, client, server, .. } = &mut stage;
    for port in 7001..=7003 {
        server.ask(&format!("serve({port})"));
    }
    let experiment = Experiment::apply(&scene.scenario(1, &faults.each_ref().map(String::as_str)));
    for (round, host) in [SERVER_V4, SERVER_V6, SERVER_V4].into_iter().enumerate() {
        connect(client, server, "c", host, 7001);
        // In steps, so that segments are no larger: what goes beyond does not arrive at all.
        let sent = client
            .ask("next((e for e in (send('c', 1000) or time.sleep(0.002) for _ in range(1000)) if e), None)");
        let drained = server.ask("drain_all('c')");
        assert!(["ECONNRESET", "EPIPE"].contains(&sent.as_str().unwrap()), "{sent}");
        assert_eq!(drained[1], "ECONNRESET");
        let arrived = drained[0].as_u64().unwrap() + 100;
        assert!((40_000..=65_536).contains(&arrived), "round {round}: {arrived} bytes");
    }
    for host in HOSTS {
        check_bulk(client, server, host);
    }
    // A reset behind a lost segment has not the number that is expected. The lost one, sent again, has.
    for _ in 0..3 {
        connect(client, server, "c", SERVER_V4, 7003);
        client.ask("threading.Thread(target=lambda: send('c', 5_000_000), daemon=True).start()");
        let drained = server.ask("drain_all('c')");
        assert_eq!(drained[1], "ECONNRESET", "{drained}");
        server.ask("shut('c')");
    }
    let report = experiment.end();
    for (id, at_least) in [("steps", 3), ("bulk", 2), ("missed", 3)] {
        let (injected, failed) = counters(&report, id);
        assert!(injected >= at_least && failed == 0, "{id}: {report:?}");
    }
    stage.check_nothing_wrong();
}

/// A bulk transfer is reset in the middle of super-packets.
#[track_caller]
fn check_bulk(client: &mut Agent, server: &mut Agent, host: &str) {
    connect(client, server, "c", host, 7002);
    server.ask("threading.Thread(target=lambda: sockets.update(end=drain_all('c')), daemon=True).start()");
    let sent = client.ask("send('c', 10_000_000)");
    assert!(["ECONNRESET", "EPIPE"].contains(&sent.as_str().unwrap()), "{sent}");
    let mut end = json!(null);
    wait_until(PATIENCE, "the server's end", || {
        end = server.ask("sockets.get('end')");
        !end.is_null()
    });
    server.ask("sockets.pop('end')");
    assert_eq!(end[1], "ECONNRESET", "{host}: {end}");
    assert!(end[0].as_u64().unwrap() <= 1_000_000, "{end}");
}

#[test]
fn a_device_resets_what_leaves_and_what_arrives() {
    if !root_or_skip() {
        return;
    }
    let ways = [
        ("egress", "both", "ECONNRESET", "ECONNRESET"),
        ("ingress", "local", "ECONNRESET", "timeout"),
        ("ingress", "remote", "timeout", "ECONNRESET"),
        ("both", "both", "ECONNRESET", "ECONNRESET"),
    ];
    let mut ends = Ends::new();
    let mut faults = Vec::new();
    let hosts = [CLIENT_V4, CLIENT_V6];
    for (port, (direction, side, ..)) in (7001..).zip(ways) {
        ends.client.ask(&format!("serve({port})"));
        for host in hosts {
            connect(&mut ends.server, &mut ends.client, &format!("{port} {host}"), host, port);
        }
        let keys = format!("direction = \"{direction}\"\nside = \"{side}\"");
        faults.push(reset(&format!("to-{port}"), &keys, &format!("local_port = {port}")));
    }
    let experiment = ends.apply(&faults);
    for (port, (direction, side, here, there)) in (7001..).zip(ways) {
        let what = format!("{direction} {side}");
        for host in hosts {
            let name = format!("{port} {host}");
            let sender = if direction == "egress" { &mut ends.client } else { &mut ends.server };
            assert!(sender.ask(&format!("send('{name}', 100)")).is_null());
            expect_end(&mut ends.client, &name, here, &what);
            expect_end(&mut ends.server, &name, there, &what);
        }
    }
    let report = experiment.end();
    for port in 7001..=7004 {
        assert_eq!(counters(&report, &format!("to-{port}")).1, 0, "{report:?}");
    }
    ends.check_nothing_wrong();
}

#[test]
fn connections_over_loopback_are_reset_too() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut client = talker(|command| scene.struck(command));
    let mut server = talker(|command| scene.spared(command));
    let cgroup = format!("cgroup = \"{}\"", scene.cgroup.path());
    for (port, selector) in [(7001, "interface = \"lo\""), (7002, &cgroup)] {
        server.ask(&format!("serve({port})"));
        let hosts = ["127.0.0.1", "::1"];
        for host in hosts {
            connect(&mut client, &mut server, host, host, port);
        }
        let fault = reset("lo", "limit = 4", &format!("remote_port = {port}"));
        let text = scenario(1, selector, &[&fault]);
        let experiment = Experiment::apply_with(&text, |command| command.in_netns(&scene.pair.client));
        for host in hosts {
            assert!(client.ask(&format!("send('{host}', 100)")).is_null());
            assert_eq!(client.ask(&format!("receive('{host}')")), "ECONNRESET", "{host} {selector}");
            assert_eq!(server.ask(&format!("receive('{host}')")), "ECONNRESET", "{host} {selector}");
            assert_eq!(client.ask(&format!("open_tcp('c', '{host}', {port})")), "ECONNREFUSED", "{host}");
        }
        assert_eq!(counters(&experiment.end(), "lo"), (4, json!(0)));
    }
    check_nothing_wrong(&scene.pair.client);
    assert_eq!(scene.pair.client.counter("IpExtInNoRoutes"), 0);
}

#[test]
fn what_arrives_at_a_cgroup_is_refused_with_the_remedy() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    for fault in [
        "kind = \"network.reset\"\nmatch = { protocol = \"tcp\" }\ndirection = \"both\"",
        "kind = \"network.reject\"\ndirection = \"ingress\"",
    ] {
        let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
        let text = format!("version = 1\nduration = \"1m\"\n{}", scene.scenario(1, &[fault]));
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        let output = crate::support::injector().arg("plan").arg(file.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("can't answer what arrives at a cgroup") && said.contains("direction = \"egress\""),
            "{said}"
        );
    }
}

/// Between veths nobody looks at a checksum that a device has yet to compute. Without that offload the stack computes it,
/// behind us where we send, before us where we receive, and the receiver looks.
#[test]
fn checksums_are_right_whoever_computes_them() {
    if !root_or_skip() {
        return;
    }
    let mut ends = Ends::new();
    let offload = |netns, on: &str| {
        let arguments = ["-K", DEVICE, "tx-checksumming", on];
        Command::new("ethtool").args(arguments).in_netns(netns).text();
    };
    let cases = [
        ("off", "on", "egress"),
        ("off", "on", "ingress"),
        ("on", "off", "ingress"),
        ("off", "off", "ingress"),
    ];
    // What leaves and what arrives have ports of their own.
    let port = |direction: &str| if direction == "egress" { 7001 } else { 7002 };
    let mut faults = Vec::new();
    for (direction, theirs) in [("egress", "remote_port"), ("ingress", "local_port")] {
        ends.client.ask(&format!("serve({})", port(direction)));
        let keys = format!("direction = \"{direction}\"");
        faults.push(reset(direction, &keys, &format!("local_port = {}", port(direction))));
        let only = format!("match = {{ protocol = \"udp\", {theirs} = 5001 }}");
        faults.push(format!("kind = \"network.reject\"\n{keys}\n{only}"));
    }
    let hosts = [CLIENT_V4, CLIENT_V6];
    for (number, (.., direction)) in cases.into_iter().enumerate() {
        for host in hosts {
            connect(&mut ends.server, &mut ends.client, &format!("{number} {host}"), host, port(direction));
        }
    }
    let experiment = ends.apply(&faults);
    for (number, (ours, theirs, direction)) in cases.into_iter().enumerate() {
        offload(&ends.pair.client, ours);
        offload(&ends.pair.server, theirs);
        let what = format!("{direction}, checksums {ours} here, {theirs} there");
        for (host, other) in hosts.into_iter().zip(HOSTS) {
            let name = format!("{number} {host}");
            let (sender, there) =
                if direction == "egress" { (&mut ends.client, other) } else { (&mut ends.server, host) };
            assert!(sender.ask(&format!("send('{name}', 101)")).is_null());
            for size in [1, 101, 1401] {
                sender.ask(&format!("open_udp('d', '{there}', 5001)"));
                assert!(sender.ask(&format!("send('d', {size})")).is_null());
                assert_eq!(sender.ask("receive('d')"), "ECONNREFUSED", "{what}, {size} bytes");
            }
            expect_end(&mut ends.client, &name, "ECONNRESET", &what);
            expect_end(&mut ends.server, &name, "ECONNRESET", &what);
        }
    }
    let report = experiment.end();
    for direction in ["egress", "ingress"] {
        assert_eq!(counters(&report, direction).1, 0, "{report:?}");
    }
    ends.check_nothing_wrong();
}
