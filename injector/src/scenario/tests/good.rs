use std::collections::BTreeMap;

use super::super::{
    AddressRef, Comparison, Direction, Effect, Expectation, Expected, Family, Frequency, InterfaceHook,
    LengthRange, Loss, LossModel, Match, Metric, Nth, P32, PeerAddress, Per, PortRange, Selector, TcpFlags,
    When,
};
use super::{read, with_fault};
use crate::scenario::Budget;

const EVERYTHING: &str = r#"
version = 1
name = "the network between the replicas"
seed = 42
duration = "2m"

[target.db]
cgroup = "/sys/fs/cgroup/app.slice/db/"
[target.link]
interface = "eth0"
[target.one]
pid = 4711
[target.child]
command = true

[peers.replicas]
addresses = ["10.0.0.2", "10.0.1.0/24", "fd00::/64", "replica-3.internal"]

[[fault]]
id = "wan"
target = "db"
kind = "network.loss"
direction = "both"
probability = "2.5%"
per = "segment"
limit = 5
budget = "1000/s"
when = { start = "5s", for = "30s", every = "60s", jitter = "1s" }

[fault.match]
protocol = ["tcp"]
local_port = "1024-65535"
remote_port = [5432, "6000-6010"]
remote = ["replicas", "192.0.2.1"]
tcp_flags = ["syn", "ack,!syn", "pure-ack"]
length = ">= 1000"
dscp = ["ef", 8]
family = 4
interface = "eth0"
device_exclude = ["lo"]
established = true
not = { remote_port = 22 }

[[fault]]
target = "one"
kind = "network.local-drop"
nth = "3..10+2"

[[fault]]
target = "link"
kind = "network.loss"
direction = "ingress"
model = "gilbert-elliott"
p = "1%"
r = "30%"

[[expect]]
fault = "wan"
injected = "> 0"
realised_rate = "<= 5%"
[[expect]]
fault = "network.local-drop-1"
matched = 12
"#;

#[test]
fn everything_that_can_be_said() {
    let scenario = read(EVERYTHING).unwrap();
    assert_eq!(scenario.name, "the network between the replicas");
    assert_eq!((scenario.seed, scenario.duration_ns), (Some(42), 120_000_000_000));
    let selectors: BTreeMap<_, _> =
        scenario.targets.iter().map(|(name, t)| (name.as_str(), &t.selector)).collect();
    assert_eq!(selectors["db"], &Selector::Cgroup("/app.slice/db".to_owned()));
    assert_eq!(selectors["link"], &Selector::Interface("eth0".to_owned()));
    assert_eq!(selectors["one"], &Selector::Pid(4711));
    assert_eq!(selectors["child"], &Selector::Command);
    assert_eq!(scenario.peers["replicas"][0], PeerAddress::Net("10.0.0.2/32".parse().unwrap()));
    assert_eq!(scenario.peers["replicas"][3], PeerAddress::Name("replica-3.internal".to_owned()));

    let [wan, drop, bursts] = scenario.faults.as_slice() else { panic!("three faults") };
    assert_eq!(
        (wan.id.as_str(), &wan.targets[..], wan.direction),
        ("wan", &["db".to_owned()][..], Direction::Both)
    );
    assert_eq!(wan.effect, Effect::Loss(Loss { model: LossModel::Bernoulli, per: Per::Segment }));
    assert_eq!(wan.frequency, Frequency::Probability(P32(107_374_182)));
    assert_eq!((wan.limit, wan.budget), (Some(5), Some(Budget { count: 1000, per_ns: 1_000_000_000 })));
    assert_eq!(drop.effect, Effect::LocalDrop);
    assert_eq!((drop.id.as_str(), drop.direction), ("network.local-drop-1", Direction::Egress));
    assert_eq!(drop.frequency, Frequency::Nth(Nth { first: 3, last: 10, step: 2 }));
    assert_eq!((&drop.matcher, &drop.exclude, drop.when), (&Match::default(), &None, When::default()));
    // The second loss is the first without an id.
    assert_eq!((bursts.id.as_str(), bursts.frequency), ("network.loss-1", Frequency::default()));
}

#[test]
fn the_whole_match() {
    let scenario = read(EVERYTHING).unwrap();
    let wan = &scenario.faults[0];
    let port = |low, high| PortRange { low, high };
    let expected = Match {
        protocols: vec![6],
        local_ports: vec![port(1024, 65_535)],
        remote_ports: vec![port(5432, 5432), port(6000, 6010)],
        local: vec![],
        remote: vec![
            AddressRef::Peers("replicas".to_owned()),
            AddressRef::Net("192.0.2.1/32".parse().unwrap()),
        ],
        tcp_flags: vec![
            TcpFlags { mask: 0x02, value: 0x02, pure_ack: false },
            TcpFlags { mask: 0x12, value: 0x10, pure_ack: false },
            TcpFlags { mask: 0x17, value: 0x10, pure_ack: true },
        ],
        length: Some(LengthRange { min: 1000, max: None }),
        dscp: vec![46, 8],
        family: Some(Family::V4),
        interfaces: vec!["eth0".to_owned()],
        device_exclude: vec!["lo".to_owned()],
        established: Some(true),
    };
    assert_eq!(wan.matcher, expected);
    assert_eq!(wan.exclude, Some(Match { remote_ports: vec![port(22, 22)], ..Match::default() }));
    let second = 1_000_000_000;
    let window = When {
        start_ns: 5 * second,
        for_ns: Some(30 * second),
        every_ns: Some(60 * second),
        jitter_ns: second,
    };
    assert_eq!(wan.when, window);
}

#[test]
fn expectations() {
    let scenario = read(EVERYTHING).unwrap();
    let expect = |fault: &str, metric, comparison, value| Expectation {
        fault: fault.to_owned(),
        metric,
        comparison,
        value,
    };
    let expected = [
        expect("wan", Metric::Injected, Comparison::Gt, Expected::Count(0)),
        expect("wan", Metric::RealisedRate, Comparison::Le, Expected::Rate(P32(214_748_365))),
        expect("network.local-drop-1", Metric::Matched, Comparison::Eq, Expected::Count(12)),
    ];
    assert_eq!(scenario.expectations, expected);
}

#[test]
fn the_models_and_their_defaults() {
    let model = |lines: &str| {
        let effect = read(&with_fault(lines)).unwrap().faults[0].effect.clone();
        let Effect::Loss(loss) = effect else { panic!("{effect:?}") };
        loss.model
    };
    let (one, percent) = (P32::ONE, "1%".parse::<P32>().unwrap());
    assert_eq!(model(""), LossModel::Bernoulli);
    let ge = LossModel::GilbertElliott { p: percent, r: P32(1 << 31), h: P32::ZERO, k: one };
    assert_eq!(model("model = \"gilbert-elliott\"\np = \"1%\"\nr = \"50%\""), ge);
    let p31 = "99%".parse().unwrap();
    let markov = LossModel::Markov { p13: percent, p31, p32: P32::ZERO, p23: one, p14: P32::ZERO };
    assert_eq!(model("model = \"markov\"\np13 = \"1%\""), markov);
    assert_eq!(
        model("model = \"periodic\"\nup = 9\ndown = 1"),
        LossModel::PeriodicPackets { up: 9, down: 1 }
    );
    let time = LossModel::PeriodicTime { up_ns: 2_000_000_000, down_ns: 50_000_000 };
    assert_eq!(model("model = \"periodic\"\nup = \"2s\"\ndown = \"50ms\""), time);
}

#[test]
fn defaults_come_from_the_file_and_never_collide() {
    let text = with_fault("[[fault]]\nid = \"network.loss-1\"\ntarget = \"db\"\nkind = \"network.loss\"");
    let scenario = read(&text).unwrap();
    assert_eq!((scenario.name.as_str(), scenario.seed), ("scenario", None));
    let ids: Vec<&str> = scenario.faults.iter().map(|fault| fault.id.as_str()).collect();
    assert_eq!(ids, ["network.loss-2", "network.loss-1"]);
}

#[test]
fn the_protocol_of_a_match_holds_in_its_not() {
    read(&with_fault("match = { protocol = \"tcp\", not = { tcp_flags = \"syn\" } }")).unwrap();
}

#[test]
fn comparisons_hold() {
    assert!(Comparison::Ge.holds(&2, &2) && Comparison::Le.holds(&2, &2) && Comparison::Eq.holds(&2, &2));
    assert!(Comparison::Gt.holds(&3, &2) && Comparison::Lt.holds(&1, &2) && Comparison::Ne.holds(&1, &2));
    assert!(!Comparison::Gt.holds(&2, &2) && !Comparison::Lt.holds(&2, &2) && !Comparison::Ne.holds(&2, &2));
}

#[test]
fn a_hook_is_the_interfaces_and_leaves_what_it_sends_alone() {
    let text = "duration = \"1s\"\n[target.a]\ninterface = \"a\"\n[target.b]\ninterface = \"b\"\nhook = \"xdp\"\n\
                [[fault]]\ntarget = \"b\"\nkind = \"network.loss\"\ndirection = \"both\"\n\
                [[fault]]\ntarget = \"b\"\nkind = \"network.delay\"\ndelay = \"1ms\"\n\
                [[fault]]\ntarget = \"a\"\nkind = \"network.delay\"\ndirection = \"ingress\"\ndelay = \"1ms\"\n";
    let scenario = read(text).unwrap();
    assert_eq!(scenario.targets["a"].hook, InterfaceHook::Tc);
    assert_eq!(scenario.targets["b"].hook, InterfaceHook::Xdp);
    assert_eq!(scenario.faults.len(), 3);
}

#[test]
fn a_copy_beside_a_delay_of_what_arrives_is_refused_only_where_both_may_meet() {
    let both = |copied: &str, delayed: &str| {
        with_fault(&format!(
            "direction = \"ingress\"\ndelay = \"1ms\"\n[target.other]\n{copied}\n[[fault]]\ntarget = \"other\"\nkind = \"network.duplicate\"\ndirection = \"ingress\""
        ))
        .replace("loss", "delay")
        .replace("cgroup = \"/db\"", delayed)
    };
    let is_refused = |copied: &str, delayed: &str| match read(&both(copied, delayed)) {
        Ok(_) => false,
        Err(error) => {
            assert!(error.render(false).contains("can't send packets of its own"), "{error:?}");
            true
        }
    };
    for sibling in ["cgroup = \"/d\"", "cgroup = \"/dbs\"", "cgroup = \"/other/db\""] {
        assert!(!is_refused(sibling, "cgroup = \"/db\""), "{sibling}");
    }
    for group in ["cgroup = \"/db/\"", "cgroup = \"/db/part\"", "pid = 1234", "interface = \"eth0\""] {
        assert!(is_refused(group, "cgroup = \"/db\""), "{group}");
    }
    assert!(is_refused("cgroup = \"/\"", "cgroup = \"/db\""));
    assert!(!is_refused("pid = 1234", "pid = 1235"));
    // Two devices have their own packets.
    assert!(!is_refused("interface = \"eth1\"", "interface = \"eth0\""));
}
