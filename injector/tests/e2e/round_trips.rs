//! What `ping` and a TCP client that asks and waits for answers see of delays, each distribution beside the others in one
//! experiment: a remote address for each.
//!
//! The seed says the delay of every packet, and the distributions are written down here once more, so both are known in
//! advance: all delays as a sample, and that of each single packet.

use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use statrs::distribution::{ContinuousCDF as _, Normal};
use tempfile::NamedTempFile;

use crate::agent::Agent;
use crate::model::{self, ICMP, TCP};
use crate::scene::Scene;
use crate::statistics::{critical_distance, distance, quantile};
use crate::support::{Background, DEVICE, Experiment, Located as _, SERVER_V4, clock_is_even, root_or_skip};
use crate::timed::packets_can_wait;

const SEED: u64 = 31;
const PORT: u16 = 7002;
/// Round trips of each kind under each fault.
const COUNT: usize = 200;
/// Mean and deviation of those that have a mean and a deviation, ms.
const MEAN: f64 = 50.0;
const JITTER: f64 = 20.0;

/// Connections that are asked and answered. A request is one segment, and longer than anything else on the connection.
const EXCHANGE: &str = r#"
def answer(s):
    n = 0
    while data := s.recv(65536):
        n += len(data)
        for _ in range(n // 600):
            s.sendall(bytes(50))
        n %= 600
def serve():
    s = socket.create_server(("0.0.0.0", 7002))
    while True:
        threading.Thread(target=answer, args=(s.accept()[0],), daemon=True).start()
def connect(hosts):
    for host in hosts:
        s = sockets[host] = socket.create_connection((host, 7002))
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
# The round trips of so many requests on each connection, ms; some pause before each.
def exchange(count, pauses):
    times = {host: [] for host in pauses}
    def talk(s, pause, own):
        for _ in range(count):
            time.sleep(pause)
            start = time.perf_counter()
            s.sendall(bytes(600))
            s.recv(50)
            own.append((time.perf_counter() - start) * 1000)
    threads = [threading.Thread(target=talk, args=(sockets[h], pause, times[h])) for h, pause in pauses.items()]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return times
"#;

/// A quantile function, of a share of 1, in ms.
type Quantile = Box<dyn Fn(f64) -> f64>;

/// A fault with its id, its keys, and the delays that it means.
struct Case {
    id: &'static str,
    keys: String,
    host: String,
    quantile: Quantile,
}

/// Quantiles of the sum of a quarter of a normal variable and three quarters of a Pareto one, both of mean 0 and deviation
/// 1, divided by the sum's deviation: those of a grid of equally likely pairs.
fn pareto_normal() -> Quantile {
    const STEPS: u32 = 300;
    let normal = Normal::standard();
    let shares = || (0..STEPS).map(|n| (f64::from(n) + 0.5) / f64::from(STEPS));
    let gauss: Vec<f64> = shares().map(|q| 0.25 * normal.inverse_cdf(q)).collect();
    let mut sums: Vec<f64> =
        shares().flat_map(|q| gauss.iter().map(move |g| (g + 0.75 * pareto(q)) / 0.625_f64.sqrt())).collect();
    sums.sort_by(f64::total_cmp);
    Box::new(move |q| sums[(q * sums.len() as f64) as usize])
}

/// Pareto's with the shape 3, of mean 0 and deviation 1.
fn pareto(q: f64) -> f64 {
    ((1.0 - q).powf(-1.0 / 3.0) - 1.5) / 0.75_f64.sqrt()
}

/// Points of a distribution function: two humps with nothing between them, and a tail.
const POINTS: [(f64, f64); 5] = [(20.0, 0.0), (25.0, 0.45), (60.0, 0.45), (80.0, 0.95), (200.0, 1.0)];

fn of_points(q: f64) -> f64 {
    let upper = POINTS.iter().position(|point| point.1 >= q && point.1 > 0.0).unwrap();
    let ((x0, q0), (x1, q1)) = (POINTS[upper - 1], POINTS[upper]);
    x0 + (q - q0) / (q1 - q0) * (x1 - x0)
}

fn file(lines: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(lines.as_bytes()).unwrap();
    file
}

/// The cases, and the files that some of them name.
fn cases() -> (Vec<Case>, [NamedTempFile; 2]) {
    let lines = POINTS.map(|(ms, share)| format!("{ms},{share}\n")).concat();
    let points = file(&format!("delay_ms,cumulative_probability\n{lines}"));
    let sample = |n: usize| 20.0 + 80.0 * (n as f64 / 1000.0).powi(2);
    let lines: Vec<String> = (0..1000).map(|n| format!("{}ms\n", sample(n))).collect();
    let samples = file(&lines.concat());
    let profile = |file: &NamedTempFile| format!("profile = \"{}\"", file.path().display());
    let spread = |name| format!("delay = \"{MEAN}ms\"\njitter = \"{JITTER}ms\"\ndistribution = \"{name}\"");
    let standard = |of: Quantile| -> Quantile { Box::new(move |q| (MEAN + JITTER * of(q)).max(0.0)) };
    let normal = Normal::standard();
    let all: Vec<(&str, String, Quantile)> = vec![
        ("uniform", spread("uniform"), standard(Box::new(|q| 2.0 * q - 1.0))),
        ("normal", spread("normal"), standard(Box::new(move |q| normal.inverse_cdf(q)))),
        ("pareto", spread("pareto"), standard(Box::new(pareto))),
        ("pareto-normal", spread("pareto-normal"), standard(pareto_normal())),
        ("exponential", spread("exponential"), standard(Box::new(|q| -(1.0 - q).ln() - 1.0))),
        ("points", profile(&points), Box::new(of_points)),
        ("samples", profile(&samples), Box::new(move |q| sample((q * 1000.0) as usize))),
    ];
    let case = |(n, (id, keys, quantile)): (usize, (&'static str, String, Quantile))| Case {
        id,
        keys,
        host: format!("10.99.0.{}", 11 + n),
        quantile,
    };
    (all.into_iter().enumerate().map(case).collect(), [points, samples])
}

/// Pings that run, each as long as a request.
fn ping(scene: &Scene, host: &str) -> Background {
    let mut ping = Command::new("ping");
    ping.args(["-n", "-i", "0.04", "-s", "572", "-W", "10", "-c", &COUNT.to_string(), host]);
    scene.struck(&mut ping).background()
}

/// The round trips that it saw, ms, in the order of sending.
fn round_trips(mut ping: Background) -> Vec<f64> {
    let text = ping.finish(Duration::from_secs(180));
    let number = |line: &str, key: &str| -> Option<f64> {
        line.split(key).nth(1)?.split(' ').next().map(|number| number.parse().unwrap())
    };
    let mut times: Vec<(u32, f64)> = text
        .lines()
        .filter_map(|line| Some((number(line, "icmp_seq=")? as u32, number(line, "time=")?)))
        .collect();
    times.sort_by_key(|(number, _)| *number);
    assert_eq!(times.len(), COUNT, "{text}");
    times.into_iter().map(|(_, ms)| ms).collect()
}

/// Holds round trips against what was drawn for them; `plain` are round trips without a fault of the same time.
#[track_caller]
fn assert_as_drawn(what: &str, seen: &[f64], drawn: &[f64], plain: &[f64]) {
    // As two samples: a machine that is late at times is so without a fault too.
    let expected: Vec<f64> = drawn.iter().zip(plain).map(|(drawn, plain)| drawn + plain).collect();
    let d = distance(seen, &expected);
    // And each by itself, which takes no other distribution for the right one. What the kernel's table of 1,024 shares makes
    // of a step or an open end may be off, and ping says whole milliseconds from 100 ms on.
    let late = |share| quantile(seen.iter().zip(drawn).map(|(seen, drawn)| seen - drawn), share);
    assert!(d < critical_distance(seen.len(), expected.len()), "{what}: distance {d}");
    assert!(late(0.01) > -0.6, "{what}: {} ms before its time", -late(0.01));
    assert!(late(0.1) < if clock_is_even() { 1.0 } else { 10.0 }, "{what}: a tenth {} ms late", late(0.1));
}

#[test]
fn round_trips_have_the_distribution_that_was_asked_for_and_the_seed_says_each() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    if !packets_can_wait(&scene) {
        return;
    }
    let (cases, _files) = cases();
    for netns in [&scene.pair.client, &scene.pair.server] {
        // Nothing is sent again because it takes long: each request has one draw.
        netns.ip(&format!("route replace 10.99.0.0/24 dev {DEVICE} rto_min 10s"));
    }
    for case in &cases {
        scene.pair.server.ip(&format!("address add {}/32 dev {DEVICE}", case.host));
    }
    let mut server = Agent::start_with(EXCHANGE, |command| scene.remote(command));
    let mut client = Agent::start_with(EXCHANGE, |command| scene.struck(command));
    server.ask("threading.Thread(target=serve, daemon=True).start()");
    // From here on every neighbour is known.
    let mut hosts: Vec<&str> = cases.iter().map(|case| case.host.as_str()).collect();
    hosts.push(SERVER_V4);
    client.ask(&format!("connect({hosts:?})"));
    let faults: Vec<String> = cases
        .iter()
        .map(|Case { id, keys, host, .. }| {
            let only = format!("match = {{ remote = \"{host}\", length = \">= 500\" }}");
            format!("id = \"{id}\"\nkind = \"network.delay\"\n{keys}\n{only}")
        })
        .collect();
    let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
    let experiment = Experiment::apply(&scene.scenario(SEED, &faults));
    let pings: Vec<Background> = hosts.iter().map(|host| ping(&scene, host)).collect();
    // Who meets no fault is asked as often as the others, not as fast as it can.
    let pauses: Vec<String> = hosts
        .iter()
        .map(|host| format!("'{host}': {}", if *host == SERVER_V4 { MEAN / 1000.0 } else { 0.0 }))
        .collect();
    let exchanged = client.ask(&format!("exchange({COUNT}, {{{}}})", pauses.join(", ")));
    let mut pinged: Vec<Vec<f64>> = pings.into_iter().map(round_trips).collect();
    let report = experiment.end();
    let exchanged = |host: &str| -> Vec<f64> { serde_json::from_value(exchanged[host].clone()).unwrap() };
    let plain = [pinged.pop().unwrap(), exchanged(SERVER_V4)];
    for (Case { id, host, quantile, .. }, pinged) in cases.iter().zip(pinged) {
        let fault = report.fault(id);
        assert_eq!((fault.matched, fault.injected), (2 * COUNT as u64, 2 * COUNT as u64), "{id}");
        for (way, protocol, port, seen, plain) in
            [("ping", ICMP, 0, pinged, &plain[0]), ("TCP", TCP, PORT, exchanged(host), &plain[1])]
        {
            let drawn: Vec<f64> = (0..COUNT as u64)
                .map(|n| quantile(model::share(SEED, id, protocol, (host, port), n)))
                .collect();
            assert_as_drawn(&format!("{id}, {way}"), &seen, &drawn, plain);
        }
    }
}
