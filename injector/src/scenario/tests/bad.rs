use super::{errors, read, with_fault};

/// One snapshot for each kind of bad input: the text, and all that is said about it.
macro_rules! bad {
    ($($name:ident: $text:expr;)*) => { $(
        #[test]
        fn $name() {
            let text = $text;
            insta::assert_snapshot!(format!("{text}\n-----\n{}", errors(&text)));
        }
    )* };
}

/// A fault on an interface that is struck at XDP.
fn at_xdp(kind: &str, keys: &str) -> String {
    let interface = "interface = \"eth0\"\nhook = \"xdp\"";
    with_fault(keys).replace("cgroup = \"/db\"", interface).replace("network.loss", kind)
}

bad! {
    broken_toml: "duration = \"1m\"\nwhen = 5s\n[target.db\ncgroup = \"/db\"\n";
    key_twice: "duration = \"1m\"\nduration = \"2m\"\n";
    empty_file: "";
    no_fault: "duration = \"1m\"\n[target.db]\ncgroup = \"/db\"\n";
    zero_duration: with_fault("").replace("1m", "0s");
    other_version: with_fault("").replace("version = 1", "version = 2");
    unknown_keys: with_fault("probabilty = \"5%\"\ncolour = 1").replace("duration", "durration");
    key_of_a_match: with_fault("remote_port = 5432\nstart = \"5s\"\nnot = { dscp = 1 }");
    missing_unit: with_fault("when = { start = 50, for = \"5\" }");
    unknown_unit: with_fault("when = { start = \"5sec\" }");
    negative_time: with_fault("when = { start = \"-5s\" }");
    probability_above_one: with_fault("probability = \"150%\"");
    probability_without_unit: with_fault("probability = 0.05");
    probability_and_nth: with_fault("probability = \"5%\"\nnth = 3");
    nth_last: with_fault("nth = \"last\"");
    nth_zero: with_fault("nth = 0");
    budget_without_unit: with_fault("budget = 1000\nlimit = 0");
    unknown_target: with_fault("").replace("target = \"db\"", "target = \"bd\"");
    missing_target_and_kind: with_fault("").replace("target = \"db\"\nkind = \"network.loss\"", "id = \"x\"");
    no_targets: "duration = \"1m\"\n[[fault]]\ntarget = \"db\"\nkind = \"network.loss\"\n";
    duplicate_ids: with_fault("id = \"a\"\n[[fault]]\nid = \"a\"\ntarget = \"db\"\nkind = \"network.loss\"");
    odd_names: with_fault("id = \"a b\"").replace("[target.db]", "[target.\"d/b\"]");
    two_selectors: with_fault("").replace("cgroup = \"/db\"", "cgroup = \"/db\"\npid = 5");
    no_selector: with_fault("").replace("cgroup = \"/db\"", "");
    misspelt_selector: with_fault("").replace("cgroup", "cgruop");
    planned_selector: with_fault("").replace("cgroup = \"/db\"", "unit = \"db.service\"");
    relative_cgroup: with_fault("").replace("\"/db\"", "\"db\"");
    bad_pid: with_fault("").replace("cgroup = \"/db\"", "pid = -1");
    bad_interface: with_fault("").replace("cgroup = \"/db\"", "interface = \"a very long interface\"");
    hook_without_interface: with_fault("").replace("cgroup = \"/db\"", "cgroup = \"/db\"\nhook = \"xdp\"");
    spare_without_interface: with_fault("").replace("cgroup = \"/db\"", "cgroup = \"/db\"\nspare = false");
    hook_alone: with_fault("").replace("cgroup = \"/db\"", "hook = \"xdp\"");
    unknown_hook: with_fault("").replace("cgroup = \"/db\"", "interface = \"eth0\"\nhook = \"xpd\"");
    takeover_alone: with_fault("").replace("cgroup = \"/db\"", "takeover = \"yes\"");
    answered_at_a_cgroup: with_fault("direction = \"both\"").replace("loss", "reject");
    answered_on_the_way_round: with_fault(
        "direction = \"both\"\ndelay = \"1ms\"\n[[fault]]\ntarget = \"db\"\nkind = \"network.reject\"\ndirection = \"ingress\""
    ).replace("loss", "delay").replace("cgroup = \"/db\"", "interface = \"eth0\"");
    copied_on_the_way_round_of_a_group_above: with_fault(
        "direction = \"ingress\"\ndelay = \"1ms\"\n[target.part]\ncgroup = \"/db/part\"\n[[fault]]\ntarget = \"part\"\nkind = \"network.duplicate\"\ndirection = \"ingress\""
    ).replace("loss", "delay");
    not_at_xdp: at_xdp("network.delay", "direction = \"ingress\"\ndelay = \"1ms\"");
    segments_at_xdp: at_xdp("network.loss", "direction = \"both\"\nper = \"segment\"");
    established_at_xdp: at_xdp("network.loss", "direction = \"ingress\"\nmatch = { protocol = \"tcp\", established = true }");
    command_false: with_fault("").replace("cgroup = \"/db\"", "command = false");
    unknown_kind: with_fault("").replace("network.loss", "network.los");
    after_nobody: with_fault("when = { after = \"wan\" }");
    waits_for_itself: with_fault("id = \"a\"\nwhen = { after = \"b\" }\n[[fault]]\nid = \"b\"\ntarget = \"db\"\nkind = \"network.loss\"\nwhen = { after = \"a\" }");
    waits_for_no_end: with_fault("id = \"a\"\n[[fault]]\nid = \"b\"\ntarget = \"db\"\nkind = \"network.loss\"\nwhen = { after_end = \"a\" }");
    waits_past_the_end: with_fault("id = \"a\"\nwhen = { start = \"30s\", for = \"30s\" }\n[[fault]]\nid = \"b\"\ntarget = \"db\"\nkind = \"network.loss\"\nwhen = { after_end = \"a\" }");
    two_beginnings: with_fault("id = \"a\"\n[[fault]]\ntarget = \"db\"\nkind = \"network.loss\"\nwhen = { after = \"a\", on = { kind = \"network\" } }");
    three_beginnings: with_fault("id = \"a\"\nwhen = { for = \"1s\" }\n[[fault]]\ntarget = \"db\"\nkind = \"network.loss\"\nwhen = { after = \"a\", after_end = \"a\", on = { kind = \"network\" } }");
    waits_past_the_end_in_a_row: with_fault("id = \"a\"\nwhen = { start = \"40s\", for = \"18s\" }\n[[fault]]\nid = \"b\"\ntarget = \"db\"\nkind = \"network.loss\"\nwhen = { after_end = \"a\", for = \"1s\", jitter = \"1s\" }\n[[fault]]\ntarget = \"db\"\nkind = \"network.loss\"\nwhen = { after_end = \"b\" }");
    clock_after_a_clock: with_fault("[[fault]]\nid = \"a\"\ntarget = \"db\"\nkind = \"clock.freeze\"\n[[fault]]\ntarget = \"db\"\nkind = \"clock.offset\"\noffset = \"1s\"\nwhen = { after = \"a\" }");
    clocks_wait_for_nobody: with_fault("[[fault]]\ntarget = \"db\"\nkind = \"clock.offset\"\noffset = \"1s\"\nwhen = { on = { kind = \"network\" } }");
    on_nothing: with_fault("when = { on = {} }");
    on_unknown: with_fault("when = { on = { kind = \"packet\", count = 0, cuont = 1 } }");
    on_without_operations: with_fault("when = { on = { kind = \"io\", path = \"/data/**\" } }");
    on_with_the_keys_of_another: with_fault("when = { on = { kind = \"network\", path = \"/data/**\", syscalls = \"read\" } }");
    on_an_operation_without_a_file: with_fault("when = { on = { kind = \"io\", operations = \"socket\", path = \"/data/**\" } }");
    on_an_operation_with_the_keys_of_packets: with_fault("when = { on = { kind = \"io\", operations = \"fsync\", direction = \"egress\", match = { family = 4 } } }");
    on_an_operation_of_an_interface: with_fault("when = { on = { kind = \"io\", operations = \"fsync\" } }").replace("cgroup = \"/db\"", "interface = \"eth0\"");
    on_an_event_of_nobody: with_fault("").replace("target = \"db\"\nkind = \"network.loss\"", "kind = \"network.partition\"\nshape = \"one\"\nnodes = [\"db\", \"dc\"]\nwhen = { on = { kind = \"network\" } }\n[target.dc]\ncgroup = \"/dc\"");
    on_for_an_unknown_target: with_fault("when = { on = { kind = \"network\" } }").replace("target = \"db\"", "target = \"bd\"");
    on_for_a_bad_id: with_fault("id = \"my fault\"\nwhen = { on = { kind = \"network\" } }");
    on_has_an_id_of_its_own: with_fault("id = \"a\"\nwhen = { on = { kind = \"network\" } }\n[[fault]]\nid = \"a.on\"\ntarget = \"db\"\nkind = \"network.loss\"");
    on_an_unknown_target: with_fault("when = { on = { kind = \"network\", target = \"bd\" } }");
    planned_guard: with_fault("[[guard]]\ncommand = \"true\"");
    every_without_for: with_fault("when = { every = \"5s\" }");
    windows_overlap: with_fault("when = { for = \"4s\", jitter = \"2s\", every = \"5s\" }");
    start_after_the_end: with_fault("when = { start = \"1m\" }");
    jitter_past_the_end: with_fault("when = { start = \"50s\", jitter = \"20s\" }");
    ports_reversed: with_fault("match = { remote_port = \"6010-6000\" }");
    ports_out_of_range: with_fault("match = { remote_port = [0, 70000, \"1-70000\", \"http\"] }");
    ports_without_ports: with_fault("match = { protocol = \"icmp\", remote_port = 80 }");
    too_many_ports: with_fault("match = { local_port = [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17] }");
    too_many_flags: with_fault("match = { protocol = \"tcp\", tcp_flags = [\"syn\", \"fin\", \"rst\", \"psh\", \"urg\"] }");
    empty_list: with_fault("match = { remote_port = [] }");
    flags_without_tcp: with_fault("match = { tcp_flags = \"syn\", established = true }");
    unknown_flag: with_fault("match = { protocol = \"tcp\", tcp_flags = [\"sny\", \"ack,!ack\"] }");
    unknown_protocol: with_fault("match = { protocol = [\"tpc\", 300] }");
    unknown_peers: with_fault("match = { remote = \"replica\" }\n[peers.replicas]\naddresses = [\"10.0.0.2\"]");
    bad_addresses: with_fault("match = { remote = [\"10.0.0.300\", \"10.0.1.5/24\", \"fd00::/129\"] }");
    bad_peers: with_fault("[peers.a]\naddresses = [\"10.0.0\", \"a b\", 5]\n[peers.\"10.0\"]\naddresses = \"a\"\n[peers.c]");
    family_and_address: with_fault("match = { family = 4, remote = \"fd00::1\", protocol = \"icmp6\" }");
    bad_family_dscp_length: with_fault("match = { family = 5, dscp = [64, \"eff\"], length = 1000 }");
    established_on_interface: with_fault("match = { protocol = \"tcp\", established = true }").replace("cgroup = \"/db\"", "interface = \"eth0\"");
    not_in_not: with_fault("match = { not = { not = { dscp = 1 } } }");
    empty_not: with_fault("match = { not = {} }");
    local_drop_on_ingress: with_fault("direction = \"ingress\"").replace("network.loss", "network.local-drop");
    unknown_direction: with_fault("direction = \"out\"\nper = \"segments\"");
    frequency_of_a_model: with_fault("model = \"gilbert-elliott\"\np = \"1%\"\nr = \"30%\"\nprobability = \"5%\"");
    key_of_another_model: with_fault("model = \"markov\"\np13 = \"1%\"\np = \"1%\"");
    model_without_its_keys: with_fault("model = \"gilbert-elliott\"\n[[fault]]\ntarget = \"db\"\nkind = \"network.loss\"\nmodel = \"periodic\"");
    unknown_model: with_fault("model = \"gilbert\"\np = \"1%\"");
    markov_sum_of_gap: with_fault("model = \"markov\"\np13 = \"60%\"\np14 = \"50%\"");
    markov_sum_of_burst: with_fault("model = \"markov\"\np13 = \"1%\"\np32 = \"50%\"");
    periodic_mixed: with_fault("model = \"periodic\"\nup = 9\ndown = \"1s\"");
    periodic_zero: with_fault("model = \"periodic\"\nup = 0\ndown = \"0s\"");
    bad_expectations: with_fault("[[expect]]\nfault = \"wan\"\ninjected = \"= 1\"\n[[expect]]\nfault = \"network.loss-1\"\nrealised_rate = \"> 5\"\n[[expect]]\nfault = \"network.loss-1\"");
    wrong_types: with_fault("id = 5\nwhen = \"5s\"\nnth = [3]").replace("[target.db]\ncgroup = \"/db\"", "target = \"db\"");
    fault_without_brackets: "duration = \"1m\"\n[fault]\nkind = \"network.loss\"\n";
}

#[test]
fn an_unreadable_file_is_an_error() {
    let error =
        super::load(&super::Source::file("/nonexistent/x.toml"), &super::Overrides::default()).unwrap_err();
    let text = error.render(false);
    assert!(text.contains("cannot read /nonexistent/x.toml: No such file"), "{text}");
    assert_eq!(error.to_json()[0]["line"], serde_json::Value::Null);
}

#[test]
fn what_is_not_built_yet_is_told_from_a_slip() {
    let class = |table: &str| {
        let json = read(&with_fault(&format!("[[{table}]]\ncommand = \"true\""))).unwrap_err().to_json();
        json[0]["class"].clone()
    };
    assert_eq!((class("guard"), class("gaurd")), ("not-in-this-version".into(), "invalid".into()));
}

#[test]
fn json_has_the_place() {
    let json = read(&with_fault("limti = 5")).unwrap_err().to_json();
    let expected = serde_json::json!([{
        "file": "scenario.toml", "line": 10, "column": 1, "length": 5, "message": "unknown key `limti`",
        "expected": null, "hint": "did you mean `limit`?", "class": "invalid",
    }]);
    assert_eq!(json, expected);
}

#[test]
fn colour_is_only_added() {
    let errors = read(&with_fault("limti = 5")).unwrap_err();
    assert!(errors.render(true).contains("\u{1b}["));
    assert!(!errors.render(false).contains('\u{1b}'));
    let one: &dyn miette::Diagnostic = &errors;
    assert_eq!(one.related().unwrap().count(), 1);
}
