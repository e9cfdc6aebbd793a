//! `network.partition`: who reaches whom, as TCP, UDP and ping of the nodes themselves find it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Stdio;

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::agent::Agent;
use crate::scene::Scene;
use crate::support::{
    Background, CLIENT_V4, CLIENT_V6, Cgroup, Experiment, Located as _, Netns, SERVER_V4, SERVER_V6, in_vm,
    injector, root_or_skip, sh,
};

const NODES: usize = 5;

/// What a node is besides an agent: it answers, and it tries others, all at once. A try is repeated until its patience
/// is over, so that a machine that stalls loses nobody.
const PEER: &str = r#"
import os
def answer(s):
    while True:
        data, peer = s.recvfrom(100)
        s.sendto(data, peer)
def serve():
    listen(7100)
    bind(5100)
    threading.Thread(target=answer, args=(sockets[5100],), daemon=True).start()
def by_tcp(host, end):
    while (left := end - time.monotonic()) > 0:
        try:
            socket.create_connection((host, 7100), timeout=left).close()
            return True
        except OSError:
            time.sleep(0.1)
    return False
def ask(s, message, is_answer, end):
    s.settimeout(0.2)
    while time.monotonic() < end:
        try:
            s.send(message)
            while not is_answer(s.recv(1000)):
                pass
            return True
        except OSError:
            time.sleep(0.1)
    return False
def by_udp(host, end):
    with socket.socket(family(host), socket.SOCK_DGRAM) as s:
        s.connect((host, 5100))
        return ask(s, b"who", lambda data: data == b"who", end)
def by_ping(host, end):
    number = int.from_bytes(os.urandom(2), "big")
    total = 0x0800 + number
    check = ~((total & 0xffff) + (total >> 16)) & 0xffff
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as s:
        s.connect((host, 0))
        request = struct.pack("!BBHHH", 8, 0, check, number, 0)
        is_reply = lambda data: data[20] == 0 and data[24:26] == number.to_bytes(2, "big")
        return ask(s, request, is_reply, end)
def reached(others, patience):
    end, found = time.monotonic() + patience, {}
    def attempt(way, name, host):
        found[way, name] = globals()[way](host, end)
    threads = [threading.Thread(target=attempt, args=(way, name, hosts[way == "by_udp"]))
        for name, hosts in others.items() for way in ("by_tcp", "by_udp", "by_ping")]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return sorted([name, way] for (way, name), ok in found.items() if ok)
"#;

/// Somebody on the bridge with a name and addresses.
struct Peer {
    name: String,
    v4: String,
    v6: String,
    agent: Agent,
}

impl Peer {
    fn start(number: usize, netns: &Netns, device: &str, cgroup: Option<&Cgroup>) -> Self {
        let (name, v4, v6) = (format!("n{number}"), format!("10.98.0.{number}"), format!("fd98::{number}"));
        netns.ip(&format!("address add {v4}/24 dev {device}"));
        netns.ip(&format!("address add {v6}/64 dev {device} nodad"));
        let mut agent = Agent::start(|command| match cgroup {
            Some(cgroup) => command.in_netns(netns).in_cgroup(cgroup),
            None => command.in_netns(netns),
        });
        agent.ask(&format!("exec({PEER:?}, globals())"));
        agent.ask("serve()");
        Self { name, v4, v6, agent }
    }
}

/// Five nodes on one bridge, each a cgroup in a namespace of its own, and somebody at the bridge who is none.
struct Cluster {
    peers: Vec<Peer>,
    cgroups: Vec<Cgroup>,
    _namespaces: Vec<Netns>,
}

/// Who reaches whom, and how.
type Reach = BTreeSet<(String, String, String)>;

impl Cluster {
    fn new() -> Self {
        let switch = Netns::new();
        switch.ip("link add br0 type bridge");
        switch.ip("link set br0 addrgenmode none");
        switch.ip("link set br0 up");
        let (mut peers, mut cgroups, mut namespaces) = (Vec::new(), Vec::new(), Vec::new());
        for number in 1..=NODES {
            let (netns, cgroup) = (Netns::new(), Cgroup::new());
            netns.ip(&format!("link add eth0 type veth peer name port{number} netns {}", switch.name()));
            netns.ip("link set eth0 addrgenmode none");
            netns.ip("link set eth0 up");
            switch.ip(&format!("link set port{number} addrgenmode none"));
            switch.ip(&format!("link set port{number} master br0 up"));
            peers.push(Peer::start(number, &netns, "eth0", Some(&cgroup)));
            namespaces.push(netns);
            cgroups.push(cgroup);
        }
        peers.push(Peer::start(NODES + 1, &switch, "br0", None));
        namespaces.push(switch);
        Self { peers, cgroups, _namespaces: namespaces }
    }

    fn scenario(&self, shape: &str) -> String {
        let mut text = "seed = 7\n".to_owned();
        for (peer, cgroup) in self.peers.iter().zip(&self.cgroups) {
            text += &format!("[target.{}]\ncgroup = \"{}\"\n", peer.name, cgroup.path());
        }
        let nodes: Vec<&String> = self.peers[..NODES].iter().map(|peer| &peer.name).collect();
        text + &format!("[[fault]]\nkind = \"network.partition\"\nshape = \"{shape}\"\nnodes = {nodes:?}\n")
    }

    /// All tries of all peers at once: the time is that of one.
    fn reach(&mut self) -> Reach {
        let others: Vec<String> =
            self.peers.iter().map(|p| format!("'{}': ('{}', '{}')", p.name, p.v4, p.v6)).collect();
        let patience = if in_vm() { 20 } else { 2 };
        std::thread::scope(|scope| {
            let asked: Vec<_> = self
                .peers
                .iter_mut()
                .enumerate()
                .map(|(n, peer)| {
                    let all = others
                        .iter()
                        .enumerate()
                        .filter(|(other, _)| *other != n)
                        .map(|(_, text)| text.as_str());
                    let question = format!("reached({{{}}}, {patience})", all.collect::<Vec<_>>().join(", "));
                    scope.spawn(move || (peer.name.clone(), peer.agent.ask(&question)))
                })
                .collect();
            let answers = asked.into_iter().map(|thread| thread.join().unwrap());
            answers
                .flat_map(|(name, answer)| {
                    let answer: Vec<(String, String)> = serde_json::from_value(answer).unwrap();
                    answer.into_iter().map(move |(other, way)| (name.clone(), other, way)).collect::<Vec<_>>()
                })
                .collect()
        })
    }

    /// Everybody but the pairs that are cut.
    fn all_but(&self, cuts: &BTreeSet<[String; 2]>) -> Reach {
        let names = || self.peers.iter().map(|peer| peer.name.clone());
        let pairs = names().flat_map(|a| names().map(move |b| (a.clone(), b)));
        let reaches = |a: &String, b: &String| {
            a != b && !cuts.contains(&[a.clone(), b.clone()]) && !cuts.contains(&[b.clone(), a.clone()])
        };
        let ways = ["by_ping", "by_tcp", "by_udp"];
        let left = pairs.filter(|(a, b)| reaches(a, b));
        left.flat_map(|(a, b)| ways.map(|way| (a.clone(), b.clone(), way.to_owned()))).collect()
    }
}

/// Runs `plan` on a scenario: its object, its status, and what it said.
fn plan(scenario: &str) -> (Value, Option<i32>, String) {
    let mut file = NamedTempFile::with_suffix(".toml").unwrap();
    file.write_all(format!("version = 1\nduration = \"1m\"\n{scenario}").as_bytes()).unwrap();
    let mut command = injector();
    let output = command.args(["--json", "plan"]).arg(file.path()).stdin(Stdio::null()).output().unwrap();
    let object = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (object, output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn cuts(fault: &Value) -> BTreeSet<[String; 2]> {
    serde_json::from_value(fault["cuts"].clone()).unwrap_or_else(|error| panic!("{error}: {fault}"))
}

/// For each node those that it reaches, itself included.
fn views(reach: &Reach) -> Vec<BTreeSet<usize>> {
    let name = |number: usize| format!("n{number}");
    let sees = |a, b| a == b || reach.contains(&(name(a), name(b), "by_tcp".to_owned()));
    (1..=NODES).map(|a| (1..=NODES).filter(|&b| sees(a, b)).collect()).collect()
}

/// The definitions, on five nodes.
fn assert_shape(shape: &str, views: &[BTreeSet<usize>]) {
    let mut sizes: Vec<usize> = views.iter().map(BTreeSet::len).collect();
    sizes.sort_unstable();
    let different = views.iter().collect::<BTreeSet<_>>().len();
    match shape {
        "halves" => assert_eq!((&sizes[..], different), (&[2, 2, 3, 3, 3][..], 2), "{views:?}"),
        "one" => assert_eq!((&sizes[..], different), (&[1, 4, 4, 4, 4][..], 2), "{views:?}"),
        "bridge" => {
            assert_eq!((&sizes[..], different), (&[3, 3, 3, 3, 5][..], 3), "{views:?}");
            let common = views.iter().fold((1..=NODES).collect::<BTreeSet<_>>(), |all, view| &all & view);
            assert_eq!(common.len(), 1, "{views:?}");
        }
        "majorities-ring" => assert_eq!((&sizes[..], different), (&[3; NODES][..], NODES), "{views:?}"),
        _ => unreachable!(),
    }
}

#[test]
fn each_shape_cuts_what_the_plan_says_both_ways_and_nobody_else() {
    if !root_or_skip() {
        return;
    }
    let mut cluster = Cluster::new();
    let everybody = cluster.all_but(&BTreeSet::new());
    assert_eq!(cluster.reach(), everybody);
    for shape in ["halves", "one", "bridge", "majorities-ring"] {
        let scenario = cluster.scenario(shape);
        let (planned, status, said) = plan(&scenario);
        assert_eq!(status, Some(0), "{said}");
        let planned = cuts(&planned["faults"][0]);
        let experiment = Experiment::apply(&scenario);
        let seen = cluster.reach();
        let report = experiment.end();
        assert_eq!(seen, cluster.all_but(&planned), "{shape}: {planned:?}");
        assert_shape(shape, &views(&seen));
        assert_eq!(cuts(&report.object["faults"][0]), planned, "{shape}");
        let fault = report.only();
        assert!(fault.injected > 0 && fault.matched == fault.injected, "{shape}: {fault:?}");
        assert_eq!(cluster.reach(), everybody, "after {shape}");
    }
}

#[test]
fn one_way_the_other_way_still_arrives() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut struck = Agent::start(|command| scene.struck(command));
    let mut beside = Agent::start(|command| scene.spared(command));
    let mut remote = Agent::start(|command| scene.remote(command));
    struck.ask("bind()");
    remote.ask("bind()");
    beside.ask("bind(5002)");
    let udp = |agent: &mut Agent, host: &str, port: u16| {
        drop(agent.ask(&format!("[udp('{host}', port={port}) for _ in range(5)]")));
    };
    let peers = format!("[peers.server]\naddresses = [\"{SERVER_V4}\"]\n");
    // Each direction and family by itself: IPv6 is not named by the first two.
    for (keys, lost) in [
        ("to = \"server\"".to_owned(), ["out4"].as_slice()),
        ("from = \"server\"".to_owned(), &["in4"]),
        (format!("to = [\"server\", \"{SERVER_V6}\"]\nfrom = \"{SERVER_V6}\""), &["out4", "out6", "in6"]),
        ("to = \"server\"\nmatch = { protocol = \"tcp\" }".to_owned(), &[]),
        ("to = \"10.99.0.3\"".to_owned(), &[]),
    ] {
        let fault = format!("kind = \"network.partition\"\n{keys}");
        let experiment = Experiment::apply(&(scene.scenario(1, &[&fault]) + &peers));
        let arrives = |way: &str| if lost.contains(&way) { 0 } else { 5 };
        for (way, there, here) in [("4", SERVER_V4, CLIENT_V4), ("6", SERVER_V6, CLIENT_V6)] {
            udp(&mut struck, there, 5001);
            assert_eq!(remote.ask("received()"), arrives(&format!("out{way}")), "{keys}: out{way}");
            udp(&mut remote, here, 5001);
            assert_eq!(struck.ask("received()"), arrives(&format!("in{way}")), "{keys}: in{way}");
            // Beside the target nothing is lost.
            udp(&mut beside, there, 5001);
            assert_eq!(remote.ask("received()"), 5, "{keys}");
            udp(&mut remote, here, 5002);
            assert_eq!(beside.ask("received(5002)"), 5, "{keys}");
        }
        let fault = experiment.end().only();
        assert_eq!((fault.matched, fault.injected), (lost.len() as u64 * 5, lost.len() as u64 * 5), "{keys}");
    }
}

#[test]
fn nodes_that_are_not_apart_are_refused_before_anything_is_changed() {
    if !root_or_skip() {
        return;
    }
    let (scene, other) = (Scene::new(), Cgroup::new());
    let keep = |cgroup: &Cgroup| -> Background {
        sh("exec sleep 600").in_cgroup(cgroup).in_netns(&scene.pair.client).background()
    };
    let below = scene.cgroup.child("below");
    let (_one, empty) = (keep(&other), Cgroup::new());
    let refusal = |second: &str, more: &str| {
        let (_, status, said) = plan(&format!(
            "[target.a]\ncgroup = \"{}\"\n[target.b]\n{second}\n{more}\n\
             [[fault]]\nkind = \"network.partition\"\nshape = \"one\"\nnodes = [\"a\", \"b\"]\n",
            scene.cgroup.path()
        ));
        (status, said)
    };
    let cgroup = |cgroup: &Cgroup| format!("cgroup = \"{}\"", cgroup.path());
    for (second, more, reason) in [
        (cgroup(&other), "", "share a network namespace"),
        (cgroup(&other), "[peers.a]\naddresses = [\"10.99.0.0/24\"]", "share the address"),
        (cgroup(&below), "", "are not apart"),
        (cgroup(&empty), "", "has no process yet"),
        ("interface = \"lo\"".to_owned(), "", "any address pass"),
    ] {
        let (status, said) = refusal(&second, more);
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains(reason), "{said}");
        assert!(said.contains("hint"), "{said}");
    }
    let peers = "[peers.a]\naddresses = [\"10.99.0.1\"]\n[peers.b]\naddresses = [\"10.99.0.9\"]";
    let (status, said) = refusal(&cgroup(&other), peers);
    assert_eq!(status, Some(0), "{said}");
}
