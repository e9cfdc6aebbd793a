//! A cgroup and the device by which its packets leave, both struck by one experiment; and a connection that is struck in
//! both directions.

use std::process::Command;

use serde_json::Value;

use crate::agent::Agent;
use crate::scene::{Scene, scenario};
use crate::support::{CLIENT_V4, DEVICE, Experiment, Located as _, SERVER_V4, root_or_skip};
use crate::talk::{connect, talker};
use crate::timed::{Stream, packets_can_wait};

#[test]
fn a_packet_of_a_cgroup_meets_the_rules_of_its_device_too_and_copies_meet_none_again() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let udp = "match = { protocol = \"udp\", remote_port = 5001 }";
    let text = format!(
        "seed = 1\n[target.c]\ncgroup = \"{}\"\n[target.d]\ninterface = \"{DEVICE}\"\n\
         [[fault]]\nid = \"program\"\ntarget = \"c\"\nkind = \"network.duplicate\"\nnth = \"2+2\"\n{udp}\n\
         [[fault]]\nid = \"device\"\ntarget = \"d\"\nkind = \"network.duplicate\"\n{udp}\n",
        scene.cgroup.path()
    );
    let experiment = Experiment::apply_with(&text, |command| command.in_netns(&scene.pair.client));
    let stream = Stream { port: 5001, count: 40, per_second: 1000, bytes: 100 };
    let came = stream.send(&scene, std::time::Duration::from_millis(300));
    let report = experiment.end();
    let (program, device) = (report.fault("program"), report.fault("device"));
    assert_eq!((program.matched, program.injected), (40, 20));
    // To the device a copy that the program's fault has made is a packet like another; its own copies are not.
    assert_eq!((device.matched, device.injected), (60, 60), "to {SERVER_V4}");
    assert_eq!(came.len(), 120);
}

/// Which of the two comes first depends on how they are attached. Either way a copy has no end of copies: those of the cgroup meet the
/// device at most once, and those of the device the cgroup.
#[test]
fn copies_of_what_arrives_at_a_cgroup_and_at_its_device_come_to_an_end() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut client = Agent::start(|command| scene.struck(command));
    let mut server = Agent::start(|command| scene.remote(command));
    client.ask("bind(5001)");
    let fault = |id: &str| {
        let udp = "match = { protocol = \"udp\", local_port = 5001 }";
        format!(
            "[[fault]]\nid = \"{id}\"\ntarget = \"{id}\"\nkind = \"network.duplicate\"\ndirection = \"ingress\"\n{udp}\n"
        )
    };
    let path = scene.cgroup.path();
    let targets = format!("[target.group]\ncgroup = \"{path}\"\n[target.device]\ninterface = \"{DEVICE}\"\n");
    let text = format!("{targets}{}{}", fault("group"), fault("device"));
    // As the kernel has it, and by filters, which all kernels have.
    for rung in [&[][..], &["--tc", "clsact"]] {
        let experiment =
            Experiment::apply_with(&text, |command| command.args(rung).in_netns(&scene.pair.client));
        server.ask(&format!("burst('{CLIENT_V4}', 5001, 40)"));
        // Copies without an end would be made for as long as this.
        std::thread::sleep(std::time::Duration::from_millis(500));
        let report = experiment.end();
        let (group, device) = (report.fault("group"), report.fault("device"));
        let orders = [(40, 80), (80, 120)];
        assert!(orders.contains(&(group.injected, device.injected)), "{rung:?}: {report:?}");
        assert_eq!(client.ask("received()"), 40 + group.injected + device.injected, "{rung:?}: {report:?}");
    }
}

/// One sends so much and then its end, and the other one gets all of it.
#[track_caller]
fn transfer(from: &mut Agent, to: &mut Agent) {
    let send = "(send('c', 200_000), sockets['c'].shutdown(socket.SHUT_WR))";
    from.ask(&format!("threading.Thread(target=lambda: {send}, daemon=True).start()"));
    assert_eq!(to.ask("drain_all('c')"), serde_json::json!([200_000, 0]));
}

#[test]
fn loss_delay_and_rate_strike_a_connection_in_both_directions_at_once() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    let mut client = talker(|command| scene.spared(command));
    let mut server = talker(|command| scene.remote(command));
    server.ask("serve(7001)");
    let kinds = [
        ("loss", "nth = \"6+9\""),
        ("rate", "rate = \"20mbit\"\nqueue = \"1s\""),
        ("delay", "delay = \"20ms\""),
    ];
    let faults = kinds.map(|(kind, keys)| {
        format!(
            "id = \"{kind}\"\nkind = \"network.{kind}\"\ndirection = \"both\"\n{keys}\n\
             match = {{ protocol = \"tcp\", remote_port = 7001 }}"
        )
    });
    let record = tempfile::NamedTempFile::new().unwrap();
    let text = scenario(1, &format!("interface = \"{DEVICE}\""), &faults.each_ref().map(String::as_str));
    let experiment = Experiment::apply_with(&text, |command| {
        command.arg("--record").arg(record.path()).in_netns(&scene.pair.client)
    });
    connect(&mut client, &mut server, "c", SERVER_V4, 7001);
    transfer(&mut client, &mut server);
    let ss = Command::new("ss").args(["-Htin", "dport = :7001"]).in_netns(&scene.pair.client).text();
    transfer(&mut server, &mut client);
    experiment.end();
    let shortest = ss.split_ascii_whitespace().find_map(|word| word.strip_prefix("minrtt:"));
    assert!(shortest.is_some_and(|ms| ms.parse::<f64>().unwrap() >= 40.0), "{ss}");
    let text = std::fs::read_to_string(record.path()).unwrap();
    let decisions: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let struck = |kind: &str, direction: &str| {
        let is = |one: &&Value| one["fault"] == kind && one["direction"] == direction;
        decisions.iter().filter(is).filter(|one| one["outcome"] == "injected").count()
    };
    for direction in ["egress", "ingress"] {
        let [loss, rate, delay] = kinds.map(|(kind, _)| struck(kind, direction));
        assert!(loss >= 1 && rate >= 10 && rate == delay, "{direction}: {loss}, {rate}, {delay}");
    }
}
