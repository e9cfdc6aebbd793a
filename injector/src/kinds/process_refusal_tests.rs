//! What the kinds of whole processes refuse, and what is said of it.

use super::refusal_tests::{complaint, said};

#[test]
fn what_can_not_happen_to_processes_is_refused_with_the_reason() {
    for (keys, reason) in [
        ("kind = \"process.pause\"\nfor = \"0s\"", "no timer is as exact as that"),
        ("kind = \"process.kill\"\nevery = \"1ns\"", "nothing is done as often as that"),
        ("kind = \"process.pause\"\nfor = 5", "5"),
        ("kind = \"process.pause\"\nevery = \"5s\"", "it says how often, but not how long"),
        ("kind = \"process.pause\"\njitter = \"5s\"", "it says how often, but not how long"),
        (
            "kind = \"process.pause\"\nfor = \"2s\"\nevery = \"3s\"\njitter = \"2s\"",
            "one may take until 4s after its time, and the next comes after 3s",
        ),
        (
            "kind = \"process.pause\"\nfor = \"1ms\"\nwhen = { start = \"1ms\", for = \"2ms\" }",
            "the fault's own keys say how long and how often, so `for` of `when` has no meaning",
        ),
        ("kind = \"process.pause\"\nprobability = \"5%\"", "so `probability` has no meaning"),
        ("kind = \"process.stop\"\nnth = 3", "so `nth` has no meaning"),
        ("kind = \"process.stop\"\nlimit = 3", "so `limit` has no meaning"),
        ("kind = \"process.stop\"\ndirection = \"both\"", "a process has no direction"),
        ("kind = \"process.stop\"\nmatch = { family = 4 }", "a process is none"),
        ("kind = \"process.kill\"\nsignal = \"SIGSTOP\"", "SIGSTOP would stop a process"),
        ("kind = \"process.kill\"\nsignal = \"SIGKIL\"", "did you mean `SIGKILL`?"),
        ("kind = \"process.kill\"\ndowntime = \"1s\"", "nothing is started again after it"),
        (
            "kind = \"process.kill\"\nrestart = \"true\"\ndowntime = \"2s\"\nevery = \"1s\"",
            "one may take until 2s after its time",
        ),
        (
            "kind = \"process.kill\"\nwhen = { for = \"1ms\", every = \"2ms\" }",
            "so `every` of `when` has no meaning",
        ),
        ("kind = \"process.throttle\"", "`cpu` is missing"),
        ("kind = \"process.throttle\"\ncpu = 20", "needs a unit"),
        ("kind = \"process.throttle\"\ncpu = \"0.5%\"", "is less than 1%"),
        ("kind = \"process.memory\"", "`high` is missing"),
        ("kind = \"process.memory\"\nhigh = \"0B\"", "without any memory nothing runs"),
    ] {
        let said = complaint(keys);
        assert!(said.contains(reason), "{keys}: {said}");
    }
    for fine in [
        "kind = \"process.pause\"",
        "kind = \"process.pause\"\nfor = \"1ms\"\nevery = \"2ms\"\nwhen = { start = \"1ms\" }",
        "kind = \"process.stop\"\nwhen = { for = \"1ms\", every = \"2ms\", jitter = \"1ms\" }",
        "kind = \"process.kill\"\nevery = \"1ms\"\njitter = \"999us\"",
        "kind = \"process.throttle\"\ncpu = \"150%\"\nfor = \"1ms\"",
    ] {
        assert_eq!(complaint(fine), "", "{fine}");
    }
    let on_interface = "duration = \"1s\"\n[target.t]\ninterface = \"lo\"\n[[fault]]\ntarget = \"t\"\nkind = \"process.pause\"\n";
    assert!(said(on_interface).contains("and an interface is none"), "{}", said(on_interface));
}

#[test]
fn who_waits_for_another_fault_waits_for_something_that_happens() {
    let two = |first: &str, second: &str| {
        said(&format!(
            "duration = \"1s\"\n[target.t]\ncgroup = \"/t\"\n[[fault]]\nid = \"one\"\ntarget = \"t\"\n{first}\n\
             [[fault]]\nid = \"two\"\ntarget = \"t\"\n{second}\nwhen = {{ after = \"one\" }}\n"
        ))
    };
    let (loss, pause) = ("kind = \"network.loss\"", "kind = \"process.pause\"\nfor = \"1ms\"");
    assert_eq!(two(loss, pause), "");
    assert_eq!(two(loss, loss), "");
    assert!(two(loss, "kind = \"clock.freeze\"").contains("a device and a clock can't wait"));
    assert!(
        two("kind = \"clock.freeze\"", pause)
            .contains("`one` strikes at times, and not at something that happens")
    );
    let said = complaint("kind = \"process.pause\"\nwhen = { after = \"onw\" }\nid = \"own\"");
    assert!(
        said.contains("unknown fault \"onw\"") && said.contains("there is `own`")
            || said.contains("did you mean `own`"),
        "{said}"
    );
}
