//! `network.link`: the device is down for everybody, and afterwards everything is as it was.
//!
//! What of a device's state is put back, and which devices can't be, the tests of `host` show.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{
    Experiment, Located as _, Netns, children, in_vm, injector, kernel_release, root_or_skip, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);
const FORCE: &str = "--force-unsafe-target";
/// The variable of `kill_point`, which names the step after which the controller kills itself.
const KILL_AT: &str = "INJECTOR_KILL_AT";

/// Two hosts with two cables. By the first the near one reaches the world; the second is nobody's target.
struct Ends {
    near: Netns,
    far: Netns,
}

impl Ends {
    fn new() -> Self {
        let (near, far) = (Netns::new(), Netns::new());
        for n in [1, 2] {
            near.ip(&format!("link add eth{n} type veth peer name eth{n} netns {}", far.name()));
            for (netns, host) in [(&near, 1), (&far, 2)] {
                netns.ip(&format!("address add 10.97.{n}.{host}/24 dev eth{n}"));
                netns.ip(&format!("link set eth{n} up"));
                netns.ip(&format!("address add fd97:{n}::{host}/64 dev eth{n} nodad"));
            }
        }
        near.ip("route add 10.96.0.0/16 via 10.97.1.2 dev eth1");
        near.ip("-6 route add fd96::/64 via fd97:1::2 dev eth1");
        let ends = Self { near, far };
        wait_until(PATIENCE, "the addresses are unique", || !ends.listing().contains("tentative"));
        ends
    }

    /// What `ip` shows of all that could have gone.
    fn listing(&self) -> String {
        ["address show dev eth1", "route show table all dev eth1", "-6 route show table all dev eth1"]
            .map(|what| self.near.ip(what))
            .concat()
    }

    fn is_up(&self) -> bool {
        self.near.ip("-o link show dev eth1").contains(",UP")
    }

    /// As the other end sees it.
    fn has_carrier(&self) -> bool {
        !self.far.ip("-o link show dev eth1").contains("NO-CARRIER")
    }

    /// Whether the other host answers, and what is said if not.
    fn ping(&self, address: &str) -> (bool, String) {
        let mut ping = Command::new("ping");
        let output = ping.args(["-q", "-c", "1", "-W", "5", address]).in_netns(&self.near).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    }

    /// The link-local address is the kernel's to make, and unique only after a while.
    #[track_caller]
    fn assert_same_as(&self, before: &str, when: &str) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.listing() != before && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(self.listing(), before, "{when}");
    }
}

fn scenario(keys: &str) -> String {
    format!(
        "seed = 1\n[target.t]\ninterface = \"eth1\"\n[[fault]]\ntarget = \"t\"\nkind = \"network.link\"\n{keys}\n"
    )
}

fn file(duration: &str) -> tempfile::NamedTempFile {
    let text = format!("version = 1\nduration = \"{duration}\"\n{}", scenario(""));
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    file
}

#[test]
fn the_other_end_loses_its_carrier_in_each_window_and_all_is_put_back() {
    if !root_or_skip() {
        return;
    }
    let ends = Ends::new();
    let before = ends.listing();
    let experiment = Experiment::apply_with(&scenario(""), |command| command.in_netns(&ends.near));
    wait_until(PATIENCE, "down", || !ends.is_up());
    assert!(!ends.has_carrier());
    // The program is told, and the other cable is not touched.
    let (answered, said) = ends.ping("10.96.0.9");
    assert!(!answered && said.contains("unreachable"), "{said}");
    assert!(ends.ping("10.97.2.2").0 && ends.ping("fd97:2::2").0);
    let report = experiment.end();
    let fault = report.only();
    assert_eq!((fault.matched, fault.injected), (1, 1));
    assert_eq!(report.object["faults"][0]["mechanism"], "rtnetlink");
    ends.assert_same_as(&before, "after the end");
    assert!(ends.has_carrier() && ends.ping("10.97.1.2").0 && ends.ping("fd97:1::2").0);

    let mut monitor = Command::new("ip").args(["-o", "monitor", "link"]).in_netns(&ends.far).background();
    let windows = scenario("when = { start = \"1s\", for = \"1s\", every = \"3s\" }");
    let experiment = Experiment::apply_with(&windows, |command| command.in_netns(&ends.near));
    for event in ["NO-CARRIER", "LOWER_UP", "NO-CARRIER", "LOWER_UP"] {
        monitor.wait_for_line(event);
    }
    assert!(experiment.end().only().injected >= 2);
    ends.assert_same_as(&before, "after the windows");
}

#[test]
fn a_device_comes_up_at_the_deadline_or_when_its_controller_dies_and_else_by_clean() {
    if !root_or_skip() {
        return;
    }
    let ends = Ends::new();
    let before = ends.listing();
    let down = |keys: &str| {
        let experiment = Experiment::apply_with(keys, |command| command.in_netns(&ends.near));
        wait_until(PATIENCE, "down", || !ends.is_up());
        experiment
    };
    let signal = |pid: i32, signal: Signal| kill(Pid::from_raw(pid), signal).unwrap();
    // Stopped past its deadline, and killed then.
    let experiment = down(&format!("duration = \"3s\"\n{}", scenario("")));
    signal(experiment.pid(), Signal::SIGSTOP);
    ends.assert_same_as(&before, "after the deadline of a stopped controller");
    signal(experiment.pid(), Signal::SIGKILL);
    drop(experiment);
    // The process that stood by took it back, and has noted that by now or is about to.
    let mut cleaned = String::new();
    let is_cleaned = || {
        cleaned = injector().arg("clean").text();
        cleaned.contains(": clean")
    };
    wait_until(PATIENCE, "cleaned", is_cleaned);
    assert!(!cleaned.contains("took back"), "{cleaned}");
    // Killed together with the process that stands by.
    let experiment = down(&scenario(""));
    let family = children(experiment.pid());
    assert_eq!(family.len(), 1, "{family:?}");
    for pid in [family[0], experiment.pid()] {
        signal(pid, Signal::SIGKILL);
    }
    drop(experiment);
    assert!(!ends.is_up());
    assert!(injector().arg("clean").text().contains("took back eth1 set down"));
    ends.assert_same_as(&before, "after `clean`");
}

#[test]
fn a_controller_killed_at_any_step_leaves_nothing_down() {
    if !root_or_skip() {
        return;
    }
    let ends = Ends::new();
    let before = ends.listing();
    // Every step here, some on each kernel where one takes ten seconds.
    let (major, minor) = kernel_release();
    let (first, stride) = if in_vm() { (1 + (major + minor) % 12, 12) } else { (1, 1) };
    let scenario = file("200ms");
    let mut completed = false;
    for step in (first..100).step_by(stride) {
        let mut command = injector();
        command.arg("apply").arg(scenario.path()).env(KILL_AT, step.to_string()).in_netns(&ends.near);
        completed = command.output().unwrap().status.success();
        let when = format!("after a kill at step {step}");
        ends.assert_same_as(&before, &when);
        if completed {
            break;
        }
        injector().arg("clean").text();
        ends.assert_same_as(&before, &format!("{when}, cleaned"));
    }
    assert!(completed, "it never ends");
}

#[test]
fn what_the_operator_comes_by_goes_down_only_if_it_is_forced() {
    if !root_or_skip() {
        return;
    }
    let ends = Ends::new();
    let scenario = file("1s");
    let plan = |session: &str, flags: &[&str]| {
        let mut command = injector();
        command.arg("plan").args(flags).arg(scenario.path()).env("SSH_CONNECTION", session);
        let output = command.in_netns(&ends.near).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), said.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let ssh = "an SSH session comes by it";
    // By its address; by an address of the other device, with the way back through this one.
    for session in ["10.97.1.2 50000 10.97.1.1 22", "10.96.0.9 50000 10.97.2.1 22"] {
        let (status, said) = plan(session, &[]);
        assert!(status == Some(2) && said.contains(ssh) && said.contains(FORCE), "{session}: {said}");
    }
    let (status, said) = plan("10.97.2.2 50000 10.97.2.1 22", &[]);
    assert!(status == Some(0) && !said.contains(ssh), "{said}");
    ends.near.ip("route add default via 10.97.1.2 dev eth1");
    let before = ends.listing();
    let (status, said) = plan("", &[]);
    assert!(status == Some(2) && said.contains("a default route leads through it"), "{said}");
    let mut command = injector();
    let forced = command.args(["apply", FORCE]).arg(scenario.path()).in_netns(&ends.near).output().unwrap();
    let said = String::from_utf8(forced.stderr).unwrap();
    assert!(forced.status.success() && said.contains("forced although a default route"), "{said}");
    ends.assert_same_as(&before, "with the default route");
}
