//! Targets that may cost the operator the host are refused, and taken when that is asked for.

use nix::sys::signal::Signal;

use crate::bench::{Bench, LONG, loss_of};
use crate::listing::{assert_no_bpf_objects_since, bpf_objects};
use crate::support::{Background, Located as _, python, root_or_skip, run};

const FLAG: &str = "--force-unsafe-target";

#[test]
fn dangerous_targets_are_refused_with_the_reason_and_the_flag() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let (before, objects) = (bench.listing(), bpf_objects());
    // The parent of the tests' process stands for a shell from which injector is started.
    let (own, above) = (std::process::id(), bench.home.path());
    for (selector, reason) in [
        ("cgroup = \"/\"", "the root cgroup holds every process of this host"),
        ("pid = 1", "every program of this host descends from it"),
        (&format!("pid = {own}"), "injector descends from it"),
        (&format!("cgroup = \"{}\"", bench.own.path()), "it holds injector itself"),
        (&format!("cgroup = \"{above}\""), "it holds injector itself"),
    ] {
        let scenario = bench.scenario("dangerous", &loss_of(selector, "60s"));
        for command in ["plan", "apply"] {
            let refused = bench.injector(&[command, &scenario]).expect(2).says(" is refused: ").says(reason);
            refused.says(&format!("strike it all the same with `{FLAG}`"));
        }
    }
    bench.listing().assert_same_as(&before, "after refusals");
    assert_no_bpf_objects_since(&objects, "after refusals");
}

#[test]
fn its_own_process_is_refused() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    // The shell becomes injector, so that its pid is known before.
    let text = loss_of("pid = PID", "60s").replace('\n', "\\n").replace('"', "\\\"");
    let file = bench.file("self.toml");
    let script = format!(
        "printf \"{text}\" | sed \"s/PID/$$/\" > {file}; exec $injector apply {file}",
        file = file.display()
    );
    crate::leftovers::in_own_mounts(&bench, &script).expect(2).says(" is refused: it is injector itself");
}

#[test]
fn a_kernel_thread_is_refused_whatever_is_asked_for() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let before = bench.listing();
    let threads = run("ps -o pid= --ppid 2");
    let thread = threads.split_whitespace().next().expect("no kernel thread is to be seen");
    let scenario = bench.scenario("thread", &loss_of(&format!("pid = {thread}"), "60s"));
    for flags in [&[][..], &[FLAG]] {
        let refused = bench.injector(&[&["apply", &scenario], flags].concat()).expect(2);
        refused.says("it is a kernel thread").says("hint: name a process of user space");
    }
    bench.listing().assert_same_as(&before, "after refusals");
}

/// A process that goes by the name of an SSH server and listens on these ports.
#[track_caller]
fn ssh_server(bench: &Bench, ports: &[u16]) -> Background {
    let script = format!(
        "import socket, time\nopen('/proc/self/comm', 'w').write('sshd')\n\
         held = [socket.create_server(('127.0.0.1', port)) for port in {ports:?}]\n\
         print('ready', flush=True)\ntime.sleep(1000)"
    );
    let mut server = python(&script).in_cgroup(&bench.b).in_netns(&bench.netns).background();
    server.wait_for_line("ready");
    server
}

#[test]
fn more_ssh_ports_than_an_interface_spares_are_named_with_the_remedy() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let _server = ssh_server(&bench, &[7001, 7002, 7003, 7004, 7005, 7006]);
    let text = loss_of("interface = \"lo\"", "60s");
    let plan = bench.injector(&["plan", &bench.scenario("many", &text)]).expect(0);
    plan.says("the fault `network.loss-1` spares 4 SSH ports by itself, and strikes SSH on these: ")
        .says("7006")
        .says("To spare them too: `match.not = { protocol = \"tcp\", local_port = [");
    let remedy = text + "match = { not = { protocol = \"tcp\", local_port = [22, \"7003-7006\"] } }\n";
    let plan = bench.injector(&["plan", &bench.scenario("told", &remedy)]).expect(0);
    assert!(!plan.stderr.contains("strikes SSH"), "{plan}");
}

#[test]
fn a_cgroup_that_holds_the_hosts_ssh_server_is_refused_and_a_containers_is_not() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let server = ssh_server(&bench, &[7001]);
    let reason = format!(
        "sshd (process {}), which accepts SSH connections to this host, would be struck",
        server.pid()
    );
    let cgroup = bench.scenario("group", &loss_of(&format!("cgroup = \"{}\"", bench.b.path()), "60s"));
    let process = bench.scenario("process", &loss_of(&format!("pid = {}", server.pid()), "60s"));
    for scenario in [&cgroup, &process] {
        for command in ["plan", "apply"] {
            let refused = bench.injector(&[command, scenario]).expect(2).says(" is refused: ").says(&reason);
            refused.says(&format!("strike it all the same with `{FLAG}`"));
        }
        bench.injector(&["plan", scenario, FLAG]).expect(0).says(&format!("forced although {reason}"));
    }
    // Seen from the host, which is in another namespace, it is a container's.
    let mut command = crate::support::injector();
    command.args(["plan", &cgroup]).env("INJECTOR_RUN_DIR", bench.run_directory()).in_cgroup(&bench.own);
    command.text();
}

#[test]
fn a_forced_one_is_struck_and_taken_back() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::paired();
    let scenario = bench.scenario("forced", &loss_of(&format!("cgroup = \"{}\"", bench.own.path()), LONG));
    let (before, objects) = (bench.listing(), bpf_objects());
    let mut controller = bench.armed(&["apply", &scenario, FLAG]);
    assert!(
        controller.talk().contains("warning: forced although it holds injector itself"),
        "{}",
        controller.talk()
    );
    assert_eq!((bench.replies_from(&bench.own), bench.replies()), (0, 3));
    controller.end_by(Signal::SIGINT).expect(130);
    assert_eq!(bench.replies_from(&bench.own), 3);
    bench.listing().assert_same_as(&before, "after it");
    assert_no_bpf_objects_since(&objects, "after it");
}

#[test]
fn the_duration_is_mandatory_and_capped() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let (before, objects) = (bench.listing(), bpf_objects());
    let text = loss_of(&format!("cgroup = \"{}\"", bench.a.path()), "60s");
    let endless = bench.scenario("endless", &text.replace("duration = \"60s\"\n", ""));
    bench.injector(&["apply", &endless]).expect(2).says("`duration` is missing");
    let long = bench.scenario("long", &text);
    let refusal = "the scenario lasts 1m, and 59s is the longest that --max-duration allows";
    bench.injector(&["apply", &long, "--max-duration", "59s"]).expect(2).says(refusal);
    let mut command = bench.command(&["apply", &long]);
    bench.start(command.env("INJECTOR_MAX_DURATION", "59s")).end().expect(2).says("59s is the longest");
    let mut command = bench.command(&["run", "--fault", "network.loss=1%", "--for", "1m", "--", "true"]);
    bench.start(command.env("INJECTOR_MAX_DURATION", "59s")).end().expect(2).says("59s is the longest");
    bench.listing().assert_same_as(&before, "after refusals");
    assert_no_bpf_objects_since(&objects, "after refusals");
}
