//! Time servers that lie and are gone, by the scenario that is shipped, as a client sees them that computes its offset as RFC 5905 says.

use std::time::Duration;

use crate::scene::Scene;
use crate::support::{Background, Experiment, Located as _, SERVER_V4, python, root_or_skip};
use crate::timed::packets_can_wait;

const SCENARIO: &str = include_str!("../../../scenarios/clock/ntp-error.toml");
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers questions with the time, in the format of NTP version 4.
const SERVER: &str = r#"
import socket, struct, time
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 123))
print("serves", flush=True)
def now():
    return struct.pack("!II", int(time.time()) + 2208988800, int(time.time() % 1 * 2**32))
while True:
    question, client = server.recvfrom(48)
    received = now()
    head = struct.pack("!BBBb5I", 0x24, 1, 4, -20, *[0] * 5)
    server.sendto(head + question[40:48] + received + now(), client)
"#;

/// Asks so often, and prints each time how far it believes its clock to be behind the server's, in milliseconds, or "gone".
const CLIENT: &str = r#"
import socket, struct, sys, time
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(float(sys.argv[3]))
for _ in range(int(sys.argv[2])):
    asked = time.time()
    stamp = struct.pack("!II", int(asked) + 2208988800, int(asked % 1 * 2**32))
    client.sendto(bytes([0x23]) + bytes(39) + stamp, (sys.argv[1], 123))
    try:
        answer = client.recv(48)
    except TimeoutError:
        print("gone")
        continue
    heard = time.time()
    assert answer[24:32] == stamp
    received, sent = (s - 2208988800 + f / 2**32 for s, f in struct.iter_unpack("!II", answer[32:48]))
    print(((received - asked) + (sent - heard)) / 2 * 1000)
"#;

fn offsets(scene: &Scene, is_struck: bool, count: &str, patience: &str) -> Vec<String> {
    let mut client = python(CLIENT);
    client.args([SERVER_V4, count, patience]);
    let client = if is_struck { scene.struck(&mut client) } else { scene.spared(&mut client) };
    client.text().lines().map(str::to_owned).collect()
}

fn middle_ms(offsets: &[String]) -> f64 {
    let mut offsets: Vec<f64> = offsets.iter().map(|text| text.parse().unwrap()).collect();
    offsets.sort_by(f64::total_cmp);
    offsets[offsets.len() / 2]
}

#[test]
fn a_client_believes_its_clock_ahead_by_half_of_the_delay_and_then_hears_nothing() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    let mut server: Background = scene.remote(&mut python(SERVER)).background();
    server.wait_for_line("serves");
    let scenario = |start: &str| {
        SCENARIO
            .replace("/injector.slice/ntp", scene.cgroup.path())
            .replace("for = \"30s\"", &format!("for = \"{start}\""))
            .replace("start = \"30s\"", &format!("start = \"{start}\""))
    };
    let apply = |text: &str| Experiment::apply_with(text, |command| command.in_netns(&scene.pair.client));
    let experiment = apply(&scenario("80s"));
    let (struck, spared) = (offsets(&scene, true, "7", "30"), offsets(&scene, false, "7", "30"));
    let report = experiment.end();
    let (lie_ms, truth_ms) = (middle_ms(&struck), middle_ms(&spared));
    // What the emulated machine itself takes from one way to the other comes on top of both.
    assert!((-260.0..-195.0).contains(&(lie_ms - truth_ms)), "{lie_ms} ms beside {truth_ms} ms");
    assert_eq!(report.fault("lying").injected, 7);
    // At once gone, by the other fault.
    let experiment = apply(&scenario("1ms"));
    assert_eq!(offsets(&scene, true, "2", "2"), ["gone", "gone"]);
    assert!(!offsets(&scene, false, "2", "30").contains(&"gone".to_owned()));
    let report = experiment.end();
    assert_eq!((report.fault("lying").injected, report.fault("gone").injected), (0, 2));
    server.signal(nix::sys::signal::Signal::SIGTERM);
    let _ = server.outcome(PATIENCE);
}
