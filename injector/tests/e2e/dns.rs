//! `network.dns`: what the C library's resolver and hand-made questions get, and what the server never sees.

use serde_json::{Value, json};

use crate::agent::Agent;
use crate::resolver::{CLIENT, DAMAGE, SERVER, Stage};
use crate::scene::{Scene, scenario};
use crate::support::{
    DEVICE, Experiment, Fault, Located as _, Netns, SERVER_V4, SERVER_V6, injector, root_or_skip,
};
use crate::tun::{BEYOND, Tun, has_tun};

/// An OPT record for answers of 1232 bytes, with a cookie.
const OPT: &str = r#"b"\0\0\x29\x04\xd0\0\0\x80\0\0\x0c\0\x0a\0\x08cookiexx""#;

/// What a fault meant and struck, and that nothing failed.
fn counted(experiment: Experiment) -> (u64, u64) {
    let report = experiment.end();
    assert_eq!(report.object["faults"][0]["failed"], 0, "{}", report.object);
    let Fault { matched, injected, .. } = report.only();
    (matched, injected)
}

fn addresses() -> Value {
    json!(["192.0.2.1", "2001:db8::1"])
}

#[test]
fn a_name_does_not_exist_for_the_struck_cgroup_and_for_nobody_else() {
    if !root_or_skip() {
        return;
    }
    for server in [SERVER_V4, SERVER_V6] {
        let mut stage = Stage::new();
        stage.configure(server, "timeout:30 attempts:3");
        assert_eq!(stage.struck.ask("lookup('db.internal.')"), addresses(), "without a fault");
        stage.server.ask("questions()");
        let before = stage.damage();
        let experiment = stage.apply("names = [\"*.internal\", \"db.example.org\"]");
        for name in ["db.internal.", "a.b.C.Internal.", "DB.example.org."] {
            assert_eq!(stage.struck.ask(&format!("lookup('{name}')")), "EAI_NONAME", "{server}: {name}");
        }
        assert_eq!(
            stage.server.ask("questions()"),
            json!([]),
            "answered, and the server was asked all the same"
        );
        for name in ["internal.", "example.org.", "www.example.net."] {
            assert_eq!(stage.struck.ask(&format!("lookup('{name}')")), addresses(), "{server}: {name}");
        }
        assert_eq!(stage.spared.ask("lookup('db.internal.')"), addresses(), "{server}: a sibling");
        // A and AAAA of each name.
        let asked = stage.server.ask("questions()");
        assert_eq!(asked.as_array().unwrap().len(), 8, "{asked}");
        assert_eq!(counted(experiment), (6, 6), "{server}");
        assert_eq!(stage.damage(), before, "{server}: {DAMAGE:?}");
        assert_eq!(stage.struck.ask("lookup('db.internal.')"), addresses(), "after the end");
    }
}

#[test]
fn a_server_that_fails_or_refuses_is_tried_again_later() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    stage.configure(SERVER_V4, "timeout:30 attempts:1");
    let before = stage.damage();
    for (answer, rcode) in [("servfail", 2), ("refused", 5), ("nxdomain", 3)] {
        let experiment = stage.apply(&format!("answer = \"{answer}\"\nnames = \"db.internal\""));
        let error = if answer == "nxdomain" { "EAI_NONAME" } else { "EAI_AGAIN" };
        assert_eq!(stage.struck.ask("lookup('db.internal.')"), error, "{answer}");
        for server in [SERVER_V4, SERVER_V6] {
            assert_eq!(stage.struck.ask(&format!("rcode('{server}', 'db.internal')")), rcode, "{answer}");
        }
        assert_eq!(stage.spared.ask("lookup('db.internal.')"), addresses(), "{answer}");
        let (matched, injected) = counted(experiment);
        assert!(matched >= 4 && injected == matched, "{answer}: {matched}, {injected}");
    }
    let asked = stage.server.ask("questions()");
    assert_eq!(asked.as_array().unwrap().len(), 6, "those of the sibling alone: {asked}");
    assert_eq!(stage.damage(), before, "{DAMAGE:?}");
}

#[test]
fn a_silent_server_lets_the_client_wait() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    stage.configure(SERVER_V4, "timeout:1 attempts:1");
    let experiment = stage.apply("answer = \"silence\"\nnames = \"*.internal\"");
    assert_eq!(stage.struck.ask("lookup('db.internal.')"), "EAI_AGAIN");
    assert_eq!(stage.struck.ask(&format!("ask('{SERVER_V6}', 'db.internal', wait=1)")), Value::Null);
    assert_eq!(stage.server.ask("questions()"), json!([]));
    assert_eq!(stage.struck.ask(&format!("rcode('{SERVER_V6}', 'db.example.org')")), 0);
    assert_eq!(stage.spared.ask(&format!("rcode('{SERVER_V4}', 'db.internal')")), 0);
    let (matched, injected) = counted(experiment);
    assert!(matched >= 3 && injected == matched, "{matched}, {injected}");
}

#[test]
fn an_answer_is_the_question_turned_round_and_keeps_its_opt_record() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    let before = stage.damage();
    let experiment = stage.apply("names = \"*.internal\"");
    for server in [SERVER_V4, SERVER_V6] {
        let plain = stage.struck.ask(&format!("ask('{server}', 'Db.INTERNAL')"));
        assert_eq!(plain, json!([server, 53, [0x1234, 0x8183, 1, 0, 0, 0], true]));
        // Authentic data is not claimed, checking disabled is kept.
        let flags = "flags=0x0130, counts=(1, 0, 0, 1)";
        let edns = stage.struck.ask(&format!("ask('{server}', 'db.internal', 28, {flags}, more={OPT})"));
        assert_eq!(edns, json!([server, 53, [0x1234, 0x8193, 1, 0, 0, 1], true]));
        // The longest name there is, a root's, and odd lengths.
        let longest = "'.'.join(['a' * 63] * 3 + ['b' * 52, 'internal'])";
        let got = stage.struck.ask(&format!("rcode('{server}', {longest})"));
        assert_eq!(got, 3, "{server}: a name of 253 characters");
        assert_eq!(stage.struck.ask(&format!("rcode('{server}', 'x.internal')")), 3);
    }
    assert_eq!(stage.server.ask("questions()"), json!([]));
    assert_eq!(counted(experiment), (8, 8));
    assert_eq!(stage.damage(), before, "{DAMAGE:?}");
}

#[test]
fn only_questions_of_the_names_and_types_are_meant_and_counted() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    let experiment = stage.apply("names = \"*.internal\"\ntypes = [\"AAAA\", 257]\nnth = \"2\"");
    let mut rcode = |keys: &str| stage.struck.ask(&format!("rcode('{SERVER_V4}', {keys})"));
    // Another type, another name, and what only looks like a question: an answer, a notification, two questions.
    for keys in ["'a.internal', 1", "'a.example', 28", "'internal', 28"] {
        assert_eq!(rcode(keys), 0, "{keys}");
    }
    for other in ["flags=0x8100", "flags=0x2000", "counts=(2, 0, 0, 0)", "counts=(1, 0, 1, 0)"] {
        assert_eq!(rcode(&format!("'a.internal', 28, {other}")), 0, "{other}");
    }
    assert_eq!(rcode("'a.internal', 28"), 0, "the first");
    assert_eq!(rcode("'a.internal', 1"), 0);
    assert_eq!(rcode("'b.internal', 257"), 3, "the second");
    assert_eq!(rcode("'a.internal', 28"), 0, "the third");
    assert_eq!(counted(experiment), (3, 1));
    assert_eq!(stage.server.ask("len(questions())"), 10);
}

#[test]
fn the_first_fault_that_means_a_question_answers_it() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    let faults = [
        "id = \"one\"\nkind = \"network.dns\"\nnames = \"db.internal\"\nanswer = \"servfail\"\nlimit = 2",
        "id = \"all\"\nkind = \"network.dns\"\nnames = [\"a.b\", \"*.internal\"]\nanswer = \"refused\"",
    ];
    let experiment = Experiment::apply(&stage.scene.scenario(1, &faults));
    for (name, rcode) in [
        ("db.internal", 2),
        ("web.internal", 5),
        ("db.internal", 2),
        ("db.internal", 5),
        ("a.b", 5),
        ("b", 0),
    ] {
        assert_eq!(stage.struck.ask(&format!("rcode('{SERVER_V4}', '{name}')")), rcode, "{name}");
    }
    let report = experiment.end();
    let counts = ["one", "all"].map(|id| (report.fault(id).matched, report.fault(id).injected));
    assert_eq!(counts, [(3, 2), (3, 3)]);
}

#[test]
fn a_resolver_on_loopback_is_answered_for_too() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    let mut local = Agent::start_with(SERVER, |command| stage.scene.spared(command));
    local.ask("serve('127.0.0.53', '::1')");
    let before = stage.damage();
    stage.configure("127.0.0.53", "timeout:30 attempts:3");
    let experiment = stage.apply("names = \"*.internal\"");
    assert_eq!(stage.struck.ask("lookup('db.internal.')"), "EAI_NONAME");
    assert_eq!(stage.struck.ask("rcode('::1', 'db.internal')"), 3);
    assert_eq!(local.ask("questions()"), json!([]));
    assert_eq!(stage.struck.ask("lookup('db.example.')"), addresses());
    assert_eq!(stage.struck.ask("rcode('::1', 'db.example')"), 0);
    assert_eq!(stage.spared.ask("lookup('db.internal.')"), addresses());
    assert_eq!(counted(experiment), (3, 3));
    assert_eq!(stage.damage(), before, "{DAMAGE:?}");
}

#[test]
fn a_question_over_tcp_ends_its_connection() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    let experiment = stage.apply("names = \"*.internal\"");
    for server in [SERVER_V4, SERVER_V6] {
        let reset = stage.struck.ask(&format!("rcode_over_tcp('{server}', 'db.internal')"));
        assert_eq!(reset, "reset", "{server}");
        assert_eq!(stage.struck.ask(&format!("rcode_over_tcp('{server}', 'db.example')")), 0, "{server}");
        assert_eq!(stage.spared.ask(&format!("rcode_over_tcp('{server}', 'db.internal')")), 0, "{server}");
    }
    let asked = stage.server.ask("[name for name, _ in questions()]");
    assert_eq!(asked, json!(["db.example", "db.example", "db.internal", "db.internal"]));
    assert_eq!(counted(experiment), (2, 2));
    // Who is silent sends no reset either: each is sent again, and lost again.
    let experiment = stage.apply("answer = \"silence\"\nnames = \"*.internal\"");
    let lost = stage.struck.ask(&format!("rcode_over_tcp('{SERVER_V4}', 'db.internal', wait=1)"));
    assert_eq!(lost, Value::Null);
    let (matched, injected) = counted(experiment);
    assert!(matched >= 1 && injected == matched, "{matched}, {injected}");
}

#[test]
fn a_device_answers_what_leaves_and_what_arrives() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    let scene = &stage.scene;
    let at: [(&str, &str, &Netns); 2] =
        [("egress", "servfail", &scene.pair.client), ("ingress", "refused", &scene.pair.server)];
    let before = stage.damage();
    for (direction, answer, netns) in at {
        let fault = format!(
            "kind = \"network.dns\"\ndirection = \"{direction}\"\nanswer = \"{answer}\"\nnames = \"*.internal\""
        );
        let text = scenario(1, &format!("interface = \"{DEVICE}\""), &[&fault]);
        let experiment = Experiment::apply_with(&text, |command| command.in_netns(netns));
        let rcode = if answer == "servfail" { 2 } else { 5 };
        for server in [SERVER_V4, SERVER_V6] {
            for client in [&mut stage.struck, &mut stage.spared] {
                assert_eq!(client.ask(&format!("rcode('{server}', 'db.internal')")), rcode, "{direction}");
                assert_eq!(client.ask(&format!("rcode('{server}', 'db.example')")), 0, "{direction}");
            }
        }
        assert_eq!(stage.server.ask("len(questions())"), 4, "{direction}");
        assert_eq!(counted(experiment), (4, 4), "{direction}");
    }
    assert_eq!(stage.damage(), before, "{DAMAGE:?}");
}

#[test]
fn the_loopback_device_answers_in_each_direction() {
    if !root_or_skip() {
        return;
    }
    let mut stage = Stage::new();
    let mut local = Agent::start_with(SERVER, |command| stage.scene.spared(command));
    local.ask("serve('127.0.0.53', '::1')");
    for direction in ["egress", "ingress"] {
        let fault = format!("kind = \"network.dns\"\ndirection = \"{direction}\"\nnames = \"*.internal\"");
        let text = scenario(1, "interface = \"lo\"", &[&fault]);
        let experiment = Experiment::apply_with(&text, |command| stage.scene.spared(command));
        for server in ["127.0.0.53", "::1"] {
            assert_eq!(stage.spared.ask(&format!("rcode('{server}', 'db.internal')")), 3, "{direction}");
            assert_eq!(stage.spared.ask(&format!("rcode('{server}', 'db.example')")), 0, "{direction}");
        }
        assert_eq!(counted(experiment), (2, 2), "{direction}");
        assert_eq!(local.ask("len(questions())"), 2, "{direction}");
    }
}

#[test]
fn a_server_in_a_cgroup_can_be_silent_and_nothing_else() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut struck = Agent::start_with(SERVER, |command| scene.struck(command));
    struck.ask("serve('127.0.0.1', '::1')");
    let mut client = Agent::start_with(CLIENT, |command| scene.spared(command));
    let fault = "kind = \"network.dns\"\ndirection = \"ingress\"\nnames = \"*.internal\"\nanswer = ";
    let experiment = Experiment::apply(&scene.scenario(1, &[&format!("{fault}\"silence\"")]));
    for server in ["127.0.0.1", "::1"] {
        assert_eq!(client.ask(&format!("rcode('{server}', 'db.internal', wait=1)")), Value::Null);
        assert_eq!(client.ask(&format!("rcode('{server}', 'db.example')")), 0);
    }
    assert_eq!(counted(experiment), (2, 2));
    let text =
        format!("version = 1\nduration = \"1m\"\n{}", scene.scenario(1, &[&format!("{fault}\"refused\"")]));
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(file.path(), text).unwrap();
    let refused = injector().arg("plan").arg(file.path()).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("can't answer what arrives at a cgroup"),
        "{refused:?}"
    );
}

#[test]
fn a_device_without_ethernet_answers_too() {
    if !root_or_skip() || !has_tun() {
        return;
    }
    let mut stage = Stage::new();
    let _tun = Tun::new(&stage.scene);
    let before = stage.damage();
    let experiment = stage.apply("names = \"*.internal\"\nmatch = { interface = \"tun0\" }");
    for server in BEYOND {
        assert_eq!(stage.struck.ask(&format!("rcode('{server}', 'db.internal')")), 3, "{server}");
    }
    assert_eq!(counted(experiment), (2, 2));
    assert_eq!(stage.damage(), before, "{DAMAGE:?}");
}
