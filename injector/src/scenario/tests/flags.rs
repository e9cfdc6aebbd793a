use super::super::{
    AddressRef, Diagnostics, Effect, Frequency, Loss, LossModel, Nth, Overrides, P32, Per, Scenario,
    Selector, Source, load,
};
use super::with_fault;

fn inline(faults: &[&str]) -> Result<Scenario, Diagnostics> {
    let inline = faults.iter().map(|fault| (*fault).to_owned()).collect();
    load(&Source::inline(), &Overrides { inline, ..Overrides::default() })
}

fn set(text: &str, assignments: &[&str]) -> Result<Scenario, Diagnostics> {
    let set = assignments.iter().map(|assignment| (*assignment).to_owned()).collect();
    load(&Source::text("scenario.toml", text), &Overrides { set, ..Overrides::default() })
}

#[test]
fn an_inline_fault_hits_the_command() {
    let scenario = inline(&["network.loss=5%", "network.local-drop:nth=3+2"]).unwrap();
    assert_eq!((scenario.name.as_str(), scenario.duration_ns), ("inline", 3_600_000_000_000));
    assert_eq!(scenario.targets["command"].selector, Selector::Command);
    assert_eq!(scenario.faults[0].targets, ["command"]);
    assert_eq!(scenario.faults[0].frequency, Frequency::Probability("5%".parse().unwrap()));
    assert_eq!(scenario.faults[1].effect, Effect::LocalDrop);
    assert_eq!(scenario.faults[1].frequency, Frequency::Nth(Nth { first: 3, last: u64::MAX, step: 2 }));
}

#[test]
fn an_inline_value_is_the_first_own_key() {
    let scenario = inline(&["network.loss=gilbert-elliott:p=1%:r=30%:per=segment"]).unwrap();
    let (p, r) = ("1%".parse().unwrap(), "30%".parse().unwrap());
    let model = LossModel::GilbertElliott { p, r, h: P32::ZERO, k: P32::ONE };
    assert_eq!(scenario.faults[0].effect, Effect::Loss(Loss { model, per: Per::Segment }));
    let scenario = inline(&["network.loss=periodic:up=9:down=1"]).unwrap();
    let model = LossModel::PeriodicPackets { up: 9, down: 1 };
    assert_eq!(scenario.faults[0].effect, Effect::Loss(Loss { model, per: Per::Packet }));
}

#[test]
fn inline_keys_have_dots_lists_and_colons() {
    let text = "network.loss=5%:match.remote_port=[5432,6000-6010]:match.remote=fd00::1/128:when.start=5s:match.protocol=tcp";
    let scenario = inline(&[text]).unwrap();
    let fault = &scenario.faults[0];
    assert_eq!(fault.matcher.remote_ports.len(), 2);
    assert_eq!(fault.matcher.remote, [AddressRef::Net("fd00::1/128".parse().unwrap())]);
    assert_eq!((fault.matcher.protocols.as_slice(), fault.when.start_ns), (&[6u8][..], 5_000_000_000));
    let scenario = inline(&["network.loss=5%:when={ start = \"5s\", for = \"1s\" }:limit=3"]).unwrap();
    assert_eq!((scenario.faults[0].when.for_ns, scenario.faults[0].limit), (Some(1_000_000_000), Some(3)));
}

#[test]
fn inline_faults_join_those_of_a_file() {
    let overrides = Overrides { inline: vec!["network.loss=5%".to_owned()], ..Overrides::default() };
    let text = with_fault("").replace("cgroup = \"/db\"", "command = true");
    let scenario = load(&Source::text("scenario.toml", text), &overrides).unwrap();
    assert_eq!(scenario.faults[1].targets, ["db"]);
    assert_eq!(scenario.targets.len(), 1);
}

#[test]
fn set_for_and_seed_override_the_file() {
    let text = with_fault(
        "id = \"wan\"\nnth = 3\nmatch = { remote_port = 1 }\n[peers.a]\naddresses = [\"10.0.0.1\"]",
    );
    let overrides = Overrides {
        set: ["fault.wan.probability=5%", "fault.wan.match.remote_port=[80, 443]", "fault.wan.when.start=1s"]
            .into_iter()
            .chain(["target.db.pid=42", "name=new name", "peers.a.addresses=[10.0.0.2,b.internal]"])
            .map(str::to_owned)
            .collect(),
        seed: Some(u64::MAX),
        for_: Some("90s".to_owned()),
        ..Overrides::default()
    };
    let scenario = load(&Source::text("scenario.toml", text), &overrides).unwrap();
    assert_eq!((scenario.seed, scenario.duration_ns), (Some(u64::MAX), 90_000_000_000));
    assert_eq!(scenario.name, "new name");
    assert_eq!(scenario.targets["db"].selector, Selector::Pid(42));
    assert_eq!(scenario.peers["a"].len(), 2);
    let fault = &scenario.faults[0];
    assert_eq!(fault.frequency, Frequency::Probability("5%".parse().unwrap()));
    assert_eq!((fault.matcher.remote_ports.len(), fault.when.start_ns), (2, 1_000_000_000));
}

#[test]
fn set_finds_a_fault_by_its_default_id() {
    let scenario = set(&with_fault(""), &["fault.network.loss-1.limit=7", "duration=5s"]).unwrap();
    assert_eq!((scenario.faults[0].limit, scenario.duration_ns), (Some(7), 5_000_000_000));
}

/// What is said about wrong flags, each with its own text.
#[test]
fn wrong_inline_faults() {
    let wrong = [
        "",
        "=5%",
        "network.los=5%",
        "clock.uncertainty=1",
        "network.loss=150%",
        "network.loss=5",
        "network.loss=gilbert:p=1%",
        "network.local-drop=segment",
        "network.loss:5%",
        "network.loss=5%:colour=red",
        "network.loss=5%:limit=x:limit=2",
        "network.loss=5%:match.remote_port=[80",
        "network.loss=5%:nth=3",
        "network.loss=5%:direction.x=1",
        "network.loss=5%:direction=out",
        "network.loss=5%:when={ start = 5s }",
    ];
    let all: Vec<String> = wrong
        .iter()
        .map(|fault| format!("{fault}\n{}", inline(&[fault]).unwrap_err().render(false)))
        .collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn wrong_assignments() {
    let text = with_fault("id = \"wan\"");
    let wrong = [
        "duration",
        "=5",
        "duration=50",
        "durration=5s",
        "fault.wna.limit=5",
        "fault.wan.limt=5",
        "fault.wan=5",
        "target.bd.cgroup=/x",
        "target.db.cgroup=x",
        "target=x",
        "expect.wan.injected=1",
        "peers.a.addresses=[]",
        "fault.wan.probability=150%",
        "fault.wan.target.x=1",
        "fault.wan.when.start=2m",
    ];
    let all: Vec<String> = wrong
        .iter()
        .map(|assignment| format!("{assignment}\n{}", set(&text, &[assignment]).unwrap_err().render(false)))
        .collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn a_wrong_length_names_its_flag() {
    let overrides = Overrides { for_: Some("5".to_owned()), ..Overrides::default() };
    let error = load(&Source::text("scenario.toml", with_fault("")), &overrides).unwrap_err();
    insta::assert_snapshot!(error.render(false));
}

#[test]
fn a_foreign_target_of_that_name_is_not_hit() {
    let overrides = Overrides { inline: vec!["network.loss=5%".to_owned()], ..Overrides::default() };
    let text = with_fault("").replace("db", "command");
    let error = load(&Source::text("scenario.toml", text), &overrides).unwrap_err();
    insta::assert_snapshot!(error.render(false));
}

#[test]
fn a_beginning_takes_the_place_of_another() {
    let text = with_fault(
        "id = \"a\"\n[[fault]]\nid = \"b\"\ntarget = \"db\"\nkind = \"network.loss\"\nwhen = { on = { kind = \"network\", count = 2 }, for = \"1s\" }",
    );
    let after = |assignments: &[&str]| {
        let scenario = set(&text, assignments).unwrap();
        let fault = scenario.faults.last().unwrap().clone();
        (scenario.faults.len(), fault.after, fault.when.for_ns)
    };
    let second = Some(1_000_000_000);
    assert_eq!(after(&[]), (3, Some("b.on".to_owned()), second));
    assert_eq!(after(&["fault.b.when.after=a"]), (2, Some("a".to_owned()), second));
    assert_eq!(after(&["fault.b.when.on.count=5"]), (3, Some("b.on".to_owned()), second));
}

#[test]
fn an_inline_fault_begins_at_an_event() {
    let text = "process.pause=1s:when.on.kind=network:when.on.count=3:when.on.match.protocol=tcp";
    let scenario = inline(&[text]).unwrap();
    let [observer, pause] = &scenario.faults[..] else { panic!("{:?}", scenario.faults) };
    assert_eq!((observer.effect.kind(), observer.targets[0].as_str()), ("network.observe", "command"));
    assert_eq!(observer.frequency, Frequency::Nth(Nth { first: 3, last: 3, step: 1 }));
    assert_eq!(
        (observer.matcher.protocols.as_slice(), pause.after.as_deref()),
        (&[6u8][..], Some("process.pause-1.on"))
    );
}
