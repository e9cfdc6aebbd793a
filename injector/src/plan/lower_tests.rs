//! A scenario's text on a made-up host, and what the maps then hold.

use injector_common::draw::{PURPOSE_STRIKE, PURPOSE_WINDOW, fault_number, stream};
use injector_common::frequency::{Budget, Nth};
use injector_common::layout::MAX_RULES_PER_TARGET;
use injector_common::matching::{AddressSets as Sets, KEY_DEVICE, KEY_REMOTE, matches};
use injector_common::packet::{Address, PACKET_HAS_PORTS, Packet};

use super::*;
use crate::plan::unspared_ports;
use crate::scenario::{Overrides, Source, load};

const SEED: u64 = 42;
const APP: u64 = 100;
const DB: u64 = 200;
const ETH0: u32 = 7;

/// Faults on three targets: `app`, `db` below it, and the device `wan`.
fn scenario(faults: &str) -> Scenario {
    let head = "duration = \"1m\"\n[target.app]\ncgroup = \"/app\"\n[target.db]\ncgroup = \"/app/db\"\n\
                [target.wan]\ninterface = \"eth0\"\n[peers.near]\naddresses = [\"10.0.0.0/8\", \"db.internal\"]\n";
    load(&Source::text("lower.toml", format!("{head}{faults}")), &Overrides::default()).unwrap()
}

/// One fault on a target, with more keys.
fn fault(target: &str, keys: &str) -> String {
    format!("[[fault]]\ntarget = \"{target}\"\nkind = \"network.loss\"\n{keys}\n")
}

fn world() -> World {
    let cgroup = |path: &str, id, level| Place::Cgroup { path: path.to_owned(), id, level };
    let eth0 = Place::Interface { name: "eth0".to_owned(), index: ETH0, is_ethernet: true };
    let places = [("app", cgroup("/app", APP, 1)), ("db", cgroup("/app/db", DB, 2)), ("wan", eth0)];
    let near = ["10.0.0.0/8", "192.0.2.7/32"].map(|network| network.parse().unwrap());
    World {
        places: places.into_iter().map(|(name, place)| (name.to_owned(), place)).collect(),
        peers: [("near".to_owned(), near.to_vec())].into(),
        spared_ports: vec![2222, 22],
        spared_addresses: vec!["10.0.0.1".parse().unwrap()],
        ..World::default()
    }
}

fn lowered(faults: &str) -> Lowered {
    lower(&scenario(faults), SEED, &world()).unwrap()
}

/// The rule of the only fault, which goes one way.
fn only(target: &str, keys: &str) -> Rule {
    let lowered = lowered(&fault(target, keys));
    // Targets without faults of their own have rules too, if one above them has.
    assert!(lowered.image.rules.windows(2).all(|pair| pair[0] == pair[1]));
    lowered.image.rules[0]
}

/// The faults of a span, by their positions in the file.
fn of(lowered: &Lowered, span: Span) -> Vec<usize> {
    let range = span.first as usize..(span.first + span.count) as usize;
    let rules = &lowered.image.rules[range.clone()];
    let faults = lowered.fault_of_rule[range].to_vec();
    assert!(rules.iter().zip(&faults).all(|(rule, fault)| rule.fault as usize == *fault));
    faults
}

#[test]
fn rules_are_in_the_order_of_the_file_and_an_inner_target_meets_the_faults_above_it() {
    let faults = fault("db", "") + &fault("app", "") + &fault("wan", "") + &fault("db", "");
    let lowered = lowered(&faults);
    let [app, db] = [APP, DB].map(|id| lowered.image.targets[&id]);
    let wan = lowered.image.interfaces[&ETH0];
    assert_eq!([app, db, wan].map(|target| of(&lowered, target.egress)), [vec![1], vec![0, 1, 3], vec![2]]);
    assert!([app, db, wan].iter().all(|target| target.ingress.count == 0));
    assert_eq!((lowered.image.faults, &lowered.image.levels[..]), (4, &[2, 1][..]));
}

#[test]
fn a_dns_fault_has_its_questions_in_an_entry_and_spares_no_gateway() {
    let dns = |target: &str, keys: &str| {
        format!("[[fault]]\ntarget = \"{target}\"\nkind = \"network.dns\"\n{keys}\n")
    };
    let lowered = lowered(&(dns("wan", "answer = \"silence\"") + &dns("wan", "names = \"db.internal\"")));
    let treatments: Vec<_> = lowered.image.rules.iter().map(|r| (r.action, r.treatment)).collect();
    let [(action, silence), (_, nxdomain)] = treatments[..] else { panic!("{treatments:?}") };
    assert_eq!(action, border::ACTION_DNS);
    assert_eq!((silence.table, silence.count, nxdomain.table, nxdomain.count), (0, 16, 1, 3));
    assert_eq!(lowered.image.questions.iter().map(|q| q.name_count).collect::<Vec<_>>(), [0, 1]);
    assert!(lowered.image.rules.iter().all(|rule| rule.flags == 0), "{:?}", lowered.image.rules);
}

#[test]
fn both_directions_are_two_rules_of_one_fault() {
    let lowered = lowered(&(fault("wan", "direction = \"both\"") + &fault("wan", "direction = \"ingress\"")));
    let wan = lowered.image.interfaces[&ETH0];
    assert_eq!((of(&lowered, wan.egress), of(&lowered, wan.ingress)), (vec![0], vec![0, 1]));
    let directions: Vec<u32> = lowered.image.rules.iter().map(|rule| rule.direction).collect();
    assert_eq!(directions, [border::EGRESS, border::INGRESS, border::INGRESS]);
    // One state and one stream: what the limit counts and what is drawn is the fault's.
    let [out, back] = [lowered.image.rules[0], lowered.image.rules[1]];
    assert_eq!((out.fault, out.stream), (back.fault, back.stream));
}

#[test]
fn a_draw_depends_on_the_seed_and_the_id_and_not_on_the_place_in_the_file() {
    let named = |id: &str| fault("wan", &format!("id = \"{id}\""));
    let streams = |faults: &str, seed| -> Vec<u64> {
        let lowered = lower(&scenario(faults), seed, &world()).unwrap();
        lowered.image.rules.iter().map(|rule| rule.stream).collect()
    };
    let [a, b] = ["a", "b"].map(|id| stream(SEED, fault_number(id.as_bytes()), PURPOSE_STRIKE));
    assert_eq!(streams(&(named("a") + &named("b")), SEED), [a, b]);
    assert_eq!(streams(&(named("b") + &named("a")), SEED), [b, a]);
    assert_ne!(streams(&named("a"), SEED + 1), [a]);
}

#[test]
fn windows() {
    let rule =
        only("wan", "id = \"w\"\nwhen = { start = \"5s\", for = \"30s\", every = \"60s\", jitter = \"1s\" }");
    let seconds = |n: u64| n * 1_000_000_000;
    let expected = Window {
        start_ns: seconds(5),
        for_ns: seconds(30),
        every_ns: seconds(60),
        jitter_ns: seconds(1),
        stream: stream(SEED, fault_number(b"w"), PURPOSE_WINDOW),
    };
    assert_eq!(rule.window, expected);
    assert!(only("wan", "").window.is_always_open());
}

#[test]
fn the_fine_clock_is_read_only_where_a_rule_looks_at_the_time() {
    let flags = |keys: &str| lowered(&fault("app", keys)).image.flags;
    assert_eq!(flags("probability = \"5%\"\nlimit = 3"), 0);
    for keys in
        ["when = { start = \"1s\" }", "budget = \"5/s\"", "model = \"periodic\"\nup = \"1s\"\ndown = \"1s\""]
    {
        assert_eq!(flags(keys), CONTROL_FINE_CLOCK, "{keys}");
    }
    let traced = World { trace: true, ..world() };
    let lowered = lower(&scenario(&fault("app", "")), SEED, &traced).unwrap();
    assert_eq!(lowered.image.flags, CONTROL_TRACE | CONTROL_FINE_CLOCK);
}

#[test]
fn how_often_a_match_is_struck() {
    let always = only("wan", "");
    assert_eq!(
        (always.frequency, always.limit, always.budget),
        (border::FREQUENCY_ALWAYS, u64::MAX, Budget::default())
    );
    let half = only("wan", "probability = \"50%\"\nlimit = 7\nbudget = \"3/100ms\"");
    assert_eq!((half.frequency, half.probability_p32), (border::FREQUENCY_PROBABILITY, 1 << 31));
    assert_eq!((half.limit, half.budget), (7, Budget { count: 3, period_ns: 100_000_000 }));
    let nth = |text: &str| only("wan", &format!("nth = \"{text}\"")).nth;
    assert_eq!(nth("3+2"), Nth { first: 3, last: u64::MAX, step: 2 });
    assert_eq!(nth("3..10"), Nth { first: 3, last: 10, step: 1 });
    assert_eq!(only("wan", "nth = 3").nth, Nth { first: 3, last: 3, step: 1 });
    assert_eq!(only("wan", "nth = 3").frequency, border::FREQUENCY_NTH);
}

#[test]
fn effects() {
    let lossy = only("app", "model = \"gilbert-elliott\"\np = \"25%\"\nr = \"50%\"\nper = \"segment\"");
    assert_eq!((lossy.action, lossy.frequency), (border::ACTION_LOSS, border::FREQUENCY_MODEL));
    assert_eq!(lossy.flags, border::RULE_PER_SEGMENT);
    assert_eq!(
        (lossy.model.kind, lossy.model.parameters[..2].to_vec()),
        (model::MODEL_GILBERT_ELLIOTT, vec![1 << 30, 1 << 31])
    );
    let local = lowered(&fault("app", "").replace("network.loss", "network.local-drop"));
    assert_eq!(local.image.rules[0].action, border::ACTION_LOCAL_DROP);
}

#[test]
fn sets_of_addresses_are_numbered_once_and_hold_the_resolved_peers() {
    let to = |remote: &str| fault("app", &format!("match = {{ remote = {remote} }}"));
    let lowered = lowered(&(to("\"near\"") + &to("\"fd00::/64\"") + &to("[\"192.0.2.7\", \"10.0.0.0/8\"]")));
    let app = lowered.image.targets[&APP].egress;
    let rules = &lowered.image.rules[app.first as usize..][..3];
    assert!(rules.iter().all(|rule| rule.include.keys == KEY_REMOTE));
    // The third list means what the named one does.
    assert_eq!(rules.iter().map(|rule| rule.include.remote_set).collect::<Vec<_>>(), [1, 2, 1]);
    let of_set = |set| lowered.image.addresses.iter().filter(move |(key, ..)| key.set == set);
    let bits: Vec<u32> = of_set(1).map(|(_, bits, _)| *bits).collect();
    assert_eq!(bits, [96 + 8, 96 + 32]);
    assert_eq!(of_set(1).nth(1).unwrap().0.address, Address::from_v4([192, 0, 2, 7]));
    assert_eq!(of_set(2).count(), 1);
}

#[test]
fn a_device_is_every_index_that_bears_its_name_and_no_device_matches_nothing() {
    let meant = |devices: &[u32]| {
        let world = World { devices: [("veth".to_owned(), devices.to_vec())].into(), ..world() };
        lower(&scenario(&fault("app", "match = { interface = [\"veth\", \"gone\"] }")), SEED, &world)
    };
    let rule = meant(&[3, 9]).unwrap().image.rules[0];
    assert_eq!((rule.include.keys, &rule.include.devices[..3]), (KEY_DEVICE, &[3, 9, 0][..]));
    let rule = meant(&[]).unwrap().image.rules[0];
    assert_eq!((rule.include.keys, rule.include.devices), (KEY_DEVICE, [0; 8]));
    assert!(meant(&[1, 2, 3, 4, 5, 6, 7, 8]).is_ok());
    let error = meant(&[1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap_err();
    let (fault, names) = ("network.loss-1".to_owned(), vec!["veth".to_owned()]);
    assert_eq!(error, PlanError::TooManyDevices { fault, names, devices: 9, max: 8 });
}

#[test]
fn a_device_whose_number_another_bears_elsewhere_is_refused() {
    let scenario = scenario(&fault("app", "match = { device_exclude = \"veth\" }"));
    let namespace =
        |devices: &[(&str, u32)]| devices.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
    let check = |other: &[(&str, u32)]| {
        crate::plan::check_devices(&scenario, &[namespace(&[("lo", 1), ("veth", 2)]), namespace(other)])
    };
    assert_eq!(check(&[("lo", 1), ("veth", 5)]), Ok(()));
    assert!(matches!(check(&[("lo", 1), ("eth0", 2)]), Err(PlanError::AmbiguousDevice { index: 2, .. })));
    let many: Vec<(&str, u32)> = (10..18).map(|index| ("veth", index)).collect();
    assert!(matches!(check(&many), Err(PlanError::TooManyDevices { devices: 9, .. })));
}

#[test]
fn an_interface_spares_what_keeps_the_operator_connected_and_a_cgroup_nothing() {
    let spares = border::RULE_SPARES_NEIGHBOURS | border::RULE_SPARES_PORTS | border::RULE_SPARES_GATEWAYS;
    let rule = only("wan", "");
    assert_eq!((rule.flags, rule.spared_ports, rule.spared_set), (spares, [2222, 22, 0, 0], 1));
    assert_eq!(only("app", "").flags, 0);
    // Unless `match` names it.
    let named = only("wan", "match = { protocol = \"tcp\", local_port = \"20-3000\", remote = \"near\" }");
    assert_eq!(named.flags, border::RULE_SPARES_NEIGHBOURS);
    let pings = only("wan", "match = { protocol = \"icmp6\" }");
    assert_eq!(pings.flags, border::RULE_SPARES_GATEWAYS);
}

#[test]
fn ports_without_room_are_the_last_and_a_not_makes_room() {
    const NONE: [u16; 0] = [];
    let ports = [2222, 22, 7, 8, 9, 10];
    let rest = |keys: &str| unspared_ports(&scenario(&fault("wan", keys)).faults[0], &ports);
    assert_eq!(rest(""), [9, 10]);
    assert_eq!(rest("match = { not = { local_port = [9, 10] } }"), NONE);
    assert_eq!(rest("match = { not = { protocol = \"tcp\", local_port = 22 } }"), [10]);
    // Narrower than all of TCP on that port.
    assert_eq!(rest("match = { not = { local_port = [9, 10], remote = \"10.0.0.0/8\" } }"), [9, 10]);
    assert_eq!(rest("match = { not = { protocol = \"udp\", local_port = [9, 10] } }"), [9, 10]);
    // What can't be struck needs no sparing.
    assert_eq!(rest("match = { protocol = \"udp\" }"), NONE);
    assert_eq!(rest("match = { protocol = \"tcp\", local_port = 80 }"), NONE);
}

#[test]
fn a_not_by_port_does_not_spare_later_fragments() {
    struct NoSets;
    impl Sets for NoSets {
        fn contains(&self, _: u32, _: &Address) -> bool {
            false
        }
    }
    let rule = only("wan", "match = { protocol = \"udp\", not = { remote_port = 53 } }");
    assert_ne!(rule.flags & border::RULE_EXCLUDES, 0);
    let first =
        Packet { family: 4, protocol: 17, remote_port: 53, flags: PACKET_HAS_PORTS, ..Packet::default() };
    let later = Packet { remote_port: 0, flags: 0, ..first };
    for (packet, spared) in [(first, true), (later, false)] {
        assert!(matches(&rule.include, &packet, &NoSets));
        assert_eq!(matches(&rule.exclude, &packet, &NoSets), spared);
    }
}

#[test]
fn what_the_kernel_has_no_room_for_is_refused() {
    let many =
        |count: u32, keys: &str| lower(&scenario(&fault("wan", keys).repeat(count as usize)), SEED, &world());
    assert!(many(MAX_RULES_PER_TARGET, "direction = \"both\"").is_ok());
    let error = many(MAX_RULES_PER_TARGET + 1, "").unwrap_err();
    assert_eq!(error, PlanError::TooManyRules { target: "wan".to_owned(), rules: 65, max: 64 });

    let mut deep = world();
    for level in 3..10 {
        let place = Place::Cgroup { path: format!("/x{level}"), id: u64::from(level), level };
        deep.places.insert(format!("t{level}"), place);
    }
    let error = lower(&scenario(&fault("wan", "")), SEED, &deep).unwrap_err();
    assert_eq!(error, PlanError::TooManyLevels { levels: 9, max: MAX_LEVELS });
    let nowhere =
        World { places: [("app".to_owned(), world().places["app"].clone())].into(), ..World::default() };
    let error = lower(&scenario(&fault("wan", "")), SEED, &nowhere).unwrap_err();
    assert_eq!(error, PlanError::Unresolved("wan".to_owned()));
}

#[test]
fn calls_are_a_span_of_their_own_with_the_errno_and_the_operations() {
    let refuse = |target: &str, keys: &str| {
        format!(
            "[[fault]]\ntarget = \"{target}\"\nkind = \"network.connect\"\nerrno = \"ECONNREFUSED\"\n{keys}\n"
        )
    };
    let all = refuse("db", "operations = [\"connect\", \"bind\", \"sendmsg\"]");
    let faults = refuse("app", "") + &fault("db", "direction = \"both\"") + &all;
    let lowered = lowered(&faults);
    let [app, db] = [APP, DB].map(|id| lowered.image.targets[&id]);
    assert_eq!([app, db].map(|target| of(&lowered, target.egress)), [vec![], vec![1]]);
    assert_eq!([app, db].map(|target| of(&lowered, target.ingress)), [vec![], vec![1]]);
    assert_eq!([app, db].map(|target| of(&lowered, target.calls)), [vec![0], vec![0, 2]]);
    let first = db.calls.first as usize;
    let shown = |rule: &Rule| (rule.action, rule.direction, rule.treatment.count, rule.treatment.bits);
    let shown: Vec<_> = lowered.image.rules[first..first + 2].iter().map(shown).collect();
    assert_eq!(
        shown,
        [
            (border::ACTION_CONNECT, border::CALL, 111, 0b1),
            (border::ACTION_CONNECT, border::CALL, 111, 0b111)
        ]
    );
}

#[test]
fn who_follows_another_fault_knows_its_slot() {
    let first = fault("db", "id = \"first\"");
    let second = fault("db", "id = \"second\"\nwhen = { after = \"first\", start = \"1s\" }");
    let lowered = lowered(&(first + &second + &fault("db", "")));
    let linked = |rule: &Rule| (rule.follows, rule.is_followed, rule.flags & border::RULE_LINKED != 0);
    assert_eq!(
        lowered.image.rules.iter().map(linked).collect::<Vec<_>>(),
        [(0, 1, true), (1, 0, true), (0, 0, false)]
    );
    assert_ne!(lowered.image.flags & CONTROL_FINE_CLOCK, 0);
}

#[test]
fn an_event_is_observed_in_front_of_the_fault_that_waits_for_it() {
    let on = "when = { on = { kind = \"network\", target = \"app\", match = { protocol = \"tcp\", remote_port = 80 }, count = 3 } }";
    let lowered = lowered(&(fault("db", "") + &fault("db", on)));
    // What `app` sends is observed for `db` too, which lives in it; `db` alone is struck.
    let actions = |span: Span| {
        let range = span.first as usize..(span.first + span.count) as usize;
        lowered.image.rules[range].iter().map(|rule| (rule.action, rule.follows)).collect::<Vec<_>>()
    };
    let of = |id| actions(lowered.image.targets[&id].egress);
    assert_eq!(of(APP), [(border::ACTION_OBSERVE, 0)]);
    let all = [(border::ACTION_LOSS, 0), (border::ACTION_OBSERVE, 0), (border::ACTION_LOSS, 2)];
    assert_eq!(of(DB), all);
    let observer = lowered.image.rules.iter().find(|rule| rule.action == border::ACTION_OBSERVE).unwrap();
    assert_eq!((observer.nth, observer.is_followed), (Nth { first: 3, last: 3, step: 1 }, 1));
}

/// Processes are struck by injector itself, which looks at the counters.
#[test]
fn who_is_followed_by_processes_alone_notes_nothing() {
    let pause = "[[fault]]\ntarget = \"db\"\nkind = \"process.pause\"\nfor = \"1s\"\nwhen = { on = { kind = \"network\" } }\n";
    let lowered = lowered(pause);
    assert_eq!((lowered.image.rules.len(), lowered.image.rules[0].is_followed), (1, 0));
}

#[test]
fn nothing_is_spared_where_the_target_says_so() {
    let rule = |spares| {
        let mut scenario = scenario(&fault("wan", ""));
        scenario.targets.get_mut("wan").unwrap().spares = spares;
        lower(&scenario, SEED, &world()).unwrap().image.rules[0]
    };
    assert_ne!(rule(true).flags, 0);
    let all = rule(false);
    assert_eq!((all.flags, all.spared_ports, all.spared_set), (0, [0; 4], 0));
    assert!(injector_common::needs::Needs::of(&[all], false).loses_all());
}
