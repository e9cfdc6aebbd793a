//! `network.reset`: who finds the connection reset, who does not, and what each stack counts.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::agent::Agent;
use crate::scene::{Scene, scenario};
use crate::support::{
    CLIENT_V4, CLIENT_V6, DEVICE, Experiment, Located as _, Pair, SERVER_V4, SERVER_V6, root_or_skip,
    wait_until,
};
use crate::talk::talker;

const PATIENCE: Duration = Duration::from_secs(60);
const TCP: &str = "kind = \"network.reset\"\nmatch = { protocol = \"tcp\" }";
const HOSTS: [&str; 2] = [SERVER_V4, SERVER_V6];
/// What must not grow when the packets that we make are right.
const WRONG: [&str; 3] = ["TcpInErrs", "TcpInCsumErrors", "IpInHdrErrors"];

/// Connects two agents, under a name that both know it by.
fn connect(client: &mut Agent, server: &mut Agent, name: &str, host: &str) {
    assert!(client.ask(&format!("open_tcp('{name}', '{host}', 7001)")).is_null());
    server.ask(&format!("take('{name}', 7001)"));
    say(client, server, name);
    say(server, client, name);
}

#[track_caller]
fn say(from: &mut Agent, to: &mut Agent, name: &str) {
    assert!(from.ask(&format!("send('{name}', 100)")).is_null());
    assert_eq!(to.ask(&format!("receive('{name}')")), 100);
}

/// A struck client, a sibling that is not, and their server.
struct Stage {
    scene: Scene,
    client: Agent,
    sibling: Agent,
    server: Agent,
}

impl Stage {
    fn new() -> Self {
        let scene = Scene::new();
        let client = talker(|command| scene.struck(command));
        let sibling = talker(|command| scene.spared(command));
        let mut server = talker(|command| scene.remote(command));
        server.ask("serve(7001)");
        Self { scene, client, sibling, server }
    }

    fn counters(&self) -> [[u64; 2]; 2] {
        let names = ["TcpEstabResets", "TcpAttemptFails"];
        [self.scene.pair.client.counters(&names), self.scene.pair.server.counters(&names)]
    }

    fn check_nothing_wrong(&self) {
        for netns in [&self.scene.pair.client, &self.scene.pair.server] {
            assert_eq!(netns.counters(&WRONG), [0; 3], "{WRONG:?}");
        }
    }
}

#[test]
fn both_sides_find_an_established_connection_reset_and_a_sibling_does_not() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    let Stage { client, sibling, server, .. } = &mut stage;
    for host in HOSTS {
        connect(client, server, host, host);
        connect(sibling, server, &format!("spared {host}"), host);
    }
    let before = stage.counters();
    let experiment = Experiment::apply(&stage.scene.scenario(1, &[TCP]));
    let Stage { client, sibling, server, .. } = &mut stage;
    for host in HOSTS {
        assert!(client.ask(&format!("send('{host}', 100)")).is_null());
        assert_eq!(client.ask(&format!("receive('{host}')")), "ECONNRESET", "{host}");
        assert_eq!(server.ask(&format!("receive('{host}')")), "ECONNRESET", "{host}");
        say(sibling, server, &format!("spared {host}"));
        say(server, sibling, &format!("spared {host}"));
    }
    let report = experiment.end();
    assert_eq!((report.only().injected, &report.object["faults"][0]["failed"]), (2, &json!(0)));
    let after = stage.counters();
    assert_eq!([after[0][0] - before[0][0], after[1][0] - before[1][0]], [2, 2], "TcpEstabResets");
    stage.check_nothing_wrong();
}

#[test]
fn one_side_is_reset_and_the_other_one_hears_nothing() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    for (side, here, there) in [("local", "ECONNRESET", "timeout"), ("remote", "timeout", "ECONNRESET")] {
        let Stage { scene, client, server, .. } = &mut stage;
        for host in HOSTS {
            connect(client, server, host, host);
        }
        let fault = format!("{TCP}\nside = \"{side}\"");
        let experiment = Experiment::apply(&scene.scenario(1, &[&fault]));
        for host in HOSTS {
            assert!(client.ask(&format!("send('{host}', 100)")).is_null());
            expect_end(server, host, there, side);
            expect_end(client, host, here, side);
        }
        assert!(experiment.end().only().injected >= 2);
        for host in HOSTS {
            client.ask(&format!("shut('{host}')"));
            server.ask(&format!("shut('{host}')"));
        }
    }
    stage.check_nothing_wrong();
}

/// What the next `recv` says: an errno, or nothing for a second.
#[track_caller]
fn expect_end(agent: &mut Agent, name: &str, errno: &str, what: &str) {
    let wait = if errno == "timeout" { 1 } else { 30 };
    assert_eq!(agent.ask(&format!("receive('{name}', {wait})")), errno, "{what}: {name}");
}

#[test]
fn a_syn_is_refused_and_the_listener_never_hears_of_it() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    let before = stage.counters();
    let experiment = Experiment::apply(&stage.scene.scenario(1, &[TCP]));
    for host in HOSTS {
        assert_eq!(stage.client.ask(&format!("open_tcp('c', '{host}', 7001)")), "ECONNREFUSED", "{host}");
    }
    assert_eq!(experiment.end().only().injected, 2);
    let after = stage.counters();
    assert_eq!([after[0][1] - before[0][1], after[1][1] - before[1][1]], [2, 0], "TcpAttemptFails");
    stage.check_nothing_wrong();
    // Only the other side: it must know the connection first, so the SYN goes through.
    let fault = format!("{TCP}\nside = \"remote\"");
    let experiment = Experiment::apply(&stage.scene.scenario(1, &[&fault]));
    assert!(stage.client.ask(&format!("open_tcp('c', '{SERVER_V4}', 7001)")).is_null());
    assert!(experiment.end().only().injected >= 1);
    stage.check_nothing_wrong();
}

#[test]
fn the_bytes_before_arrive_and_none_after_on_each_connection() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    let fault = format!("{TCP}\nafter = \"64KiB\"");
    let experiment = Experiment::apply(&stage.scene.scenario(1, &[&fault]));
    for (round, host) in [SERVER_V4, SERVER_V6, SERVER_V4].into_iter().enumerate() {
        let Stage { client, server, .. } = &mut stage;
        connect(client, server, "c", host);
        // In steps, so that segments are no larger: what goes beyond does not arrive at all.
        let sent = client
            .ask("next((e for e in (send('c', 1000) or time.sleep(0.002) for _ in range(1000)) if e), None)");
        let drained = server.ask("drain_all('c')");
        assert!(["ECONNRESET", "EPIPE"].contains(&sent.as_str().unwrap()), "{sent}");
        assert_eq!(drained[1], "ECONNRESET");
        let arrived = drained[0].as_u64().unwrap() + 100;
        assert!((40_000..=65_536).contains(&arrived), "round {round}: {arrived} bytes");
    }
    let report = experiment.end();
    assert_eq!(report.object["faults"][0]["failed"], 0);
    assert!(report.only().injected >= 3);
    stage.check_nothing_wrong();
}

#[test]
fn a_bulk_transfer_is_reset_in_the_middle_of_super_packets() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    let fault = format!("{TCP}\nafter = \"1MB\"");
    let Stage { scene, client, server, .. } = &mut stage;
    let experiment = Experiment::apply(&scene.scenario(1, &[&fault]));
    for host in HOSTS {
        connect(client, server, "c", host);
        server
            .ask("threading.Thread(target=lambda: sockets.update(end=drain_all('c')), daemon=True).start()");
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
    assert_eq!(experiment.end().object["faults"][0]["failed"], 0);
    stage.check_nothing_wrong();
}

#[test]
fn a_device_resets_what_leaves_and_what_arrives() {
    if !root_or_skip() {
        return;
    }
    let pair = Pair::new();
    let mut client = talker(|command| command.in_netns(&pair.client));
    let mut server = talker(|command| command.in_netns(&pair.server));
    client.ask("serve(7001)");
    for (direction, side, here, there) in [
        ("egress", "both", "ECONNRESET", "ECONNRESET"),
        ("ingress", "local", "ECONNRESET", "timeout"),
        ("ingress", "remote", "timeout", "ECONNRESET"),
        ("both", "both", "ECONNRESET", "ECONNRESET"),
    ] {
        for host in [CLIENT_V4, CLIENT_V6] {
            connect(&mut server, &mut client, host, host);
        }
        let fault = format!("{TCP}\ndirection = \"{direction}\"\nside = \"{side}\"");
        let text = scenario(1, &format!("interface = \"{DEVICE}\""), &[&fault]);
        let experiment = Experiment::apply_with(&text, |command| command.in_netns(&pair.client));
        let what = format!("{direction} {side}");
        for host in [CLIENT_V4, CLIENT_V6] {
            let sender = if direction == "egress" { &mut client } else { &mut server };
            assert!(sender.ask(&format!("send('{host}', 100)")).is_null());
            expect_end(&mut client, host, here, &what);
            expect_end(&mut server, host, there, &what);
        }
        assert_eq!(experiment.end().object["faults"][0]["failed"], 0, "{what}");
        for host in [CLIENT_V4, CLIENT_V6] {
            client.ask(&format!("shut('{host}')"));
            server.ask(&format!("shut('{host}')"));
        }
    }
    for netns in [&pair.client, &pair.server] {
        assert_eq!(netns.counters(&WRONG), [0; 3], "{WRONG:?}");
    }
}

#[test]
fn connections_over_loopback_are_reset_too() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut client = talker(|command| scene.struck(command));
    let mut server = talker(|command| scene.spared(command));
    server.ask("serve(7001)");
    for host in ["127.0.0.1", "::1"] {
        for interface in [false, true] {
            connect(&mut client, &mut server, "c", host);
            let fault = format!("{TCP}\nlimit = 2");
            let selector = format!("cgroup = \"{}\"", scene.cgroup.path());
            let text = scenario(1, if interface { "interface = \"lo\"" } else { &selector }, &[&fault]);
            let experiment = Experiment::apply_with(&text, |command| command.in_netns(&scene.pair.client));
            assert!(client.ask("send('c', 100)").is_null());
            assert_eq!(client.ask("receive('c')"), "ECONNRESET", "{host} {interface}");
            assert_eq!(server.ask("receive('c')"), "ECONNRESET", "{host} {interface}");
            assert_eq!(client.ask(&format!("open_tcp('c', '{host}', 7001)")), "ECONNREFUSED", "{host}");
            let report = experiment.end();
            assert_eq!((report.only().injected, &report.object["faults"][0]["failed"]), (2, &json!(0)));
        }
    }
    assert_eq!(scene.pair.client.counters(&WRONG), [0; 3], "{WRONG:?}");
    assert_eq!(scene.pair.client.counter("IpExtInNoRoutes"), 0);
}

#[test]
fn what_arrives_at_a_cgroup_is_refused_with_the_remedy() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    for fault in [
        format!("{TCP}\ndirection = \"both\""),
        "kind = \"network.reject\"\ndirection = \"ingress\"".to_owned(),
    ] {
        let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
        let text = format!("version = 1\nduration = \"1m\"\n{}", scene.scenario(1, &[&fault]));
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        let output = crate::support::injector().arg("plan").arg(file.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("direction = \"egress\"") && said.contains("hint"), "{said}");
    }
}

/// The half that is left learns of it by its next segment, as after a crash.
#[test]
fn the_half_that_is_left_is_reset_by_the_stack_when_the_fault_is_over() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    let Stage { scene, client, server, .. } = &mut stage;
    connect(client, server, "c", SERVER_V4);
    let fault = format!("{TCP}\nside = \"local\"");
    let experiment = Experiment::apply(&scene.scenario(1, &[&fault]));
    assert!(client.ask("send('c', 100)").is_null());
    assert_eq!(client.ask("receive('c')"), "ECONNRESET");
    let listing = || Command::new("ss").args(["-Htn", "sport = :7001"]).in_netns(&scene.pair.server).text();
    assert!(listing().contains("ESTAB"), "{}", listing());
    drop(experiment);
    assert!(server.ask("send('c', 100)").is_null());
    assert_eq!(server.ask("receive('c')"), "ECONNRESET");
}

#[test]
fn a_server_whose_answers_are_struck_refuses_its_clients() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut server = talker(|command| scene.struck(command));
    let mut client = talker(|command| scene.remote(command));
    server.ask("serve(7001)");
    let experiment = Experiment::apply(&scene.scenario(1, &[TCP]));
    for host in [CLIENT_V4, CLIENT_V6] {
        assert_eq!(client.ask(&format!("open_tcp('c', '{host}', 7001)")), "ECONNREFUSED", "{host}");
    }
    drop(experiment);
    assert_eq!(scene.pair.client.counter("TcpAttemptFails"), 2, "the requests are forgotten");
    connect(&mut client, &mut server, "c", CLIENT_V4);
    for netns in [&scene.pair.client, &scene.pair.server] {
        assert_eq!(netns.counters(&WRONG), [0; 3], "{WRONG:?}");
    }
}

/// A reset behind a lost segment has not the number that is expected. The lost one, sent again, has.
#[test]
fn a_receiver_that_misses_something_is_reset_by_what_is_sent_again() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    let Stage { scene, client, server, .. } = &mut stage;
    for round in 0..3 {
        connect(client, server, "c", SERVER_V4);
        let loss = "kind = \"network.loss\"\nprobability = \"30%\"\nmatch = { protocol = \"tcp\", length = \">= 500\" }";
        let reset = format!("id = \"reset\"\n{TCP}\nside = \"remote\"\nafter = \"100KB\"");
        let experiment = Experiment::apply(&scene.scenario(round, &[loss, &reset]));
        client.ask("threading.Thread(target=lambda: send('c', 5_000_000), daemon=True).start()");
        let drained = server.ask("drain_all('c')");
        assert_eq!(drained[1], "ECONNRESET", "{drained}");
        let report = experiment.end();
        assert!(report.fault("reset").injected >= 1);
        server.ask("shut('c')");
    }
    stage.check_nothing_wrong();
}

/// Between veths nobody looks at a checksum that a device has yet to compute. Without that offload the stack computes it,
/// behind us where we send, before us where we receive, and the receiver looks.
#[test]
fn checksums_are_right_whoever_computes_them() {
    if !root_or_skip() {
        return;
    }
    let pair = Pair::new();
    let mut client = talker(|command| command.in_netns(&pair.client));
    let mut server = talker(|command| command.in_netns(&pair.server));
    client.ask("serve(7001)");
    let offload = |netns, on: &str| {
        let arguments = ["-K", DEVICE, "tx-checksumming", on];
        Command::new("ethtool").args(arguments).in_netns(netns).text();
    };
    for (ours, theirs, direction) in [
        ("off", "on", "egress"),
        ("off", "on", "ingress"),
        ("on", "off", "ingress"),
        ("off", "off", "ingress"),
    ] {
        offload(&pair.client, ours);
        offload(&pair.server, theirs);
        for host in [CLIENT_V4, CLIENT_V6] {
            connect(&mut server, &mut client, host, host);
        }
        let what = format!("{direction}, checksums {ours} here, {theirs} there");
        let keys = format!("direction = \"{direction}\"");
        let reject = format!("kind = \"network.reject\"\n{keys}\nmatch = {{ protocol = \"udp\" }}");
        let reset = format!("{TCP}\n{keys}");
        let text = scenario(1, &format!("interface = \"{DEVICE}\""), &[&reset, &reject]);
        let experiment = Experiment::apply_with(&text, |command| command.in_netns(&pair.client));
        for (host, other) in [CLIENT_V4, CLIENT_V6].into_iter().zip(HOSTS) {
            let (sender, there) =
                if direction == "egress" { (&mut client, other) } else { (&mut server, host) };
            assert!(sender.ask(&format!("send('{host}', 101)")).is_null());
            for size in [1, 101, 1401] {
                sender.ask(&format!("open_udp('d', '{there}', 5001)"));
                assert!(sender.ask(&format!("send('d', {size})")).is_null());
                assert_eq!(sender.ask("receive('d')"), "ECONNREFUSED", "{what}, {size} bytes");
            }
            expect_end(&mut client, host, "ECONNRESET", &what);
            expect_end(&mut server, host, "ECONNRESET", &what);
        }
        drop(experiment);
    }
    let wrong = ["TcpInErrs", "TcpInCsumErrors", "IcmpInCsumErrors", "Icmp6InCsumErrors", "IpInHdrErrors"];
    for netns in [&pair.client, &pair.server] {
        assert_eq!(netns.counters(&wrong), [0; 5], "{wrong:?}");
    }
}
