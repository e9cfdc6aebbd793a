//! When faults strike, and how often at most.
//!
//! Nobody here relies on a busy machine's punctuality: each datagram has the times before and after it was
//! sent, and what the kernel did must be right for some time in between.

use std::ops::RangeInclusive;
use std::time::Duration;

use injector_common::draw::{PURPOSE_WINDOW, fault_number, stream};
use injector_common::window::Window;
use nix::time::{ClockId, clock_gettime};

use crate::agent::Agent;
use crate::scene::Scene;
use crate::support::{Experiment, Report, SERVER_V4, root_or_skip};

const MS: u64 = 1_000_000;
const SEED: u64 = 21;
/// Between the two instants a busy machine may have run somebody else.
const SLACK_MS: u64 = 300;
/// How far the clocks of two CPUs may be apart on an emulated machine.
const SKEW_NS: u64 = MS;
/// Distance of the starts that are tried: finer than what the datagrams leave open, which is `SKEW_NS` at least.
const STEP_NS: u64 = SKEW_NS / 4;

/// One datagram: `CLOCK_MONOTONIC` before and after it was sent, and whether it was lost.
#[derive(Clone, Copy, Debug)]
struct Sent {
    before_ns: u64,
    after_ns: u64,
    lost: bool,
}

/// Flows of numbered datagrams, one to each port, that are about to be sent. Their receiver is there before the
/// experiment starts: on a busy machine that takes longer than a window.
struct Flows {
    receiver: Agent,
    ports: Vec<u16>,
    count: u32,
}

impl Flows {
    fn new(scene: &Scene, ports: &[u16], count: u32) -> Self {
        let mut receiver = Agent::start(|command| scene.remote(command));
        for port in ports {
            receiver.ask(&format!("bind({port})"));
        }
        Self { receiver, ports: ports.to_vec(), count }
    }

    /// Sends them, `rate` per second and port, from where the agent is.
    fn send(mut self, agent: &mut Agent, rate: u32) -> Vec<Vec<Sent>> {
        let (ports, count) = (&self.ports, self.count);
        let times = agent.ask(&format!("steady('{SERVER_V4}', {ports:?}, {count}, {rate})"));
        let times: Vec<Vec<[u64; 2]>> = serde_json::from_value(times).unwrap();
        let flow = |(port, times): (&u16, Vec<[u64; 2]>)| {
            let lost = self.receiver.ask(&format!("missing({count}, {port})"));
            let lost: Vec<u32> = serde_json::from_value(lost).unwrap();
            let sent = |(n, [before_ns, after_ns]): (u32, [u64; 2])| Sent {
                before_ns,
                after_ns,
                lost: lost.contains(&n),
            };
            (0..).zip(times).map(sent).collect()
        };
        ports.iter().zip(times).map(flow).collect()
    }
}

fn clock_ns(clock: ClockId) -> i128 {
    Duration::from(clock_gettime(clock).unwrap()).as_nanos().cast_signed()
}

/// When the experiment was armed, by `CLOCK_MONOTONIC`: the report says it by the wall clock, some instructions
/// later.
fn origin(report: &Report) -> RangeInclusive<u64> {
    let started: jiff::Timestamp = report.object["started"].as_str().unwrap().parse().unwrap();
    let ago_ns = clock_ns(ClockId::CLOCK_REALTIME) - started.as_nanosecond();
    let started_ns = (clock_ns(ClockId::CLOCK_MONOTONIC) - ago_ns) as u64;
    started_ns - SLACK_MS * MS..=started_ns + MS
}

/// The starts to be tried, the latest first: mostly nobody else has run.
fn starts(origin: &RangeInclusive<u64>) -> impl Iterator<Item = u64> + use<> {
    let (earliest, latest) = (*origin.start(), *origin.end());
    (0..=(latest - earliest) / STEP_NS).map(move |n| latest - n * STEP_NS)
}

/// Whether the window explains what became of every datagram, for some start of the experiment.
fn explains(window: &Window, sent: &[Sent], origin: &RangeInclusive<u64>) -> bool {
    let fits = |origin: u64, one: &Sent| {
        let (from, to) =
            (one.before_ns.saturating_sub(origin + SKEW_NS), one.after_ns.saturating_sub(origin));
        // An edge of the window may lie between the two; windows are longer.
        window.is_open(from) == one.lost || window.is_open(to) == one.lost
    };
    starts(origin).any(|origin| sent.iter().all(|one| fits(origin, one)))
}

/// Key `when` and the window that it means.
fn cases() -> Vec<(u16, &'static str, Window)> {
    let window = |start_ms, for_ms, every_ms, jitter_ms, port: u16| Window {
        start_ns: start_ms * MS,
        for_ns: for_ms * MS,
        every_ns: every_ms * MS,
        jitter_ns: jitter_ms * MS,
        stream: stream(SEED, fault_number(format!("f{port}").as_bytes()), PURPOSE_WINDOW),
    };
    vec![
        (5001, "{ start = \"2s\" }", window(2000, 0, 0, 0, 5001)),
        (5002, "{ for = \"2500ms\" }", window(0, 2500, 0, 0, 5002)),
        // Longer than a busy machine may keep the sender from sending.
        (5003, "{ start = \"300ms\", for = \"600ms\", every = \"1200ms\" }", window(300, 600, 1200, 0, 5003)),
        (
            5004,
            "{ for = \"600ms\", every = \"1100ms\", jitter = \"400ms\" }",
            window(0, 600, 1100, 400, 5004),
        ),
    ]
}

#[test]
fn windows_open_and_close_in_the_kernel_when_they_should_and_jitter_follows_the_seed() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut agent = Agent::start(|command| scene.struck(command));
    agent.ask("udp('10.99.0.2', port=9)");
    let faults: Vec<String> = cases()
        .iter()
        .map(|(port, when, _)| {
            format!(
                "id = \"f{port}\"\nkind = \"network.loss\"\nwhen = {when}\n\
                 match = {{ protocol = \"udp\", remote_port = {port} }}"
            )
        })
        .collect();
    let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
    let ports: Vec<u16> = cases().iter().map(|(port, ..)| *port).collect();
    let flows = Flows::new(&scene, &ports, 1000);
    let experiment = Experiment::apply(&scene.scenario(SEED, &faults));
    let flows = flows.send(&mut agent, 200);
    let report = experiment.end();
    let origin = origin(&report);
    for ((port, when, window), sent) in cases().into_iter().zip(flows) {
        let lost = sent.iter().filter(|one| one.lost).count();
        assert!((100..=900).contains(&lost), "{when}: {lost} of {} lost", sent.len());
        assert!(explains(&window, &sent, &origin), "{when}: {sent:?}");
        // A window that is not repeated shows one of its edges alone, which an unknown start could explain. The
        // length between two edges is seen whatever the start.
        let by_ns = if window.every_ns == 0 { 2 * SLACK_MS * MS } else { 200 * MS };
        let shifted = match window.for_ns {
            0 => Window { start_ns: window.start_ns + by_ns, ..window },
            for_ns => Window { for_ns: for_ns - by_ns, ..window },
        };
        assert!(!explains(&shifted, &sent, &origin), "{when}: another window would do as well");
        let fault = report.fault(&format!("f{port}"));
        assert_eq!((fault.matched, fault.injected), (lost as u64, lost as u64), "outside it is not matched");
    }
}

/// In how many periods of a second something was spared, because the budget was spent; `None` if with this start
/// a period spent more than it has, or spared one before. A period in which too few were sent spares none.
fn exhausted_periods(sent: &[Sent], origin: u64, budget: usize) -> Option<usize> {
    let period = |ns: u64| ns.saturating_sub(origin) / (1000 * MS);
    let span = |one: &Sent| period(one.before_ns.saturating_sub(SKEW_NS))..=period(one.after_ns);
    let mut exhausted = 0;
    for number in 0..=period(sent.last()?.after_ns) {
        // Those that were sent while one period followed another may have met either.
        let (within, astride): (Vec<&Sent>, Vec<&Sent>) = sent
            .iter()
            .filter(|one| span(one).contains(&number))
            .partition(|one| span(one).start() == span(one).end());
        let lost = within.iter().take_while(|one| one.lost).count();
        let most = lost + astride.iter().filter(|one| one.lost).count();
        let spares = lost < within.len();
        if lost > budget || (spares && most < budget) || within[lost..].iter().any(|one| one.lost) {
            return None;
        }
        exhausted += usize::from(spares);
    }
    Some(exhausted)
}

#[test]
fn a_budget_spends_its_count_in_each_period_and_no_more() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut agent = Agent::start(|command| scene.struck(command));
    let fault = "kind = \"network.loss\"\nbudget = \"40/1s\"\nmatch = { protocol = \"udp\" }";
    let flows = Flows::new(&scene, &[5001], 1000);
    let experiment = Experiment::apply(&scene.scenario(SEED, &[fault]));
    let sent = flows.send(&mut agent, 250).remove(0);
    let report = experiment.end();
    let fault = report.only();
    let exhausted = starts(&origin(&report)).find_map(|origin| exhausted_periods(&sent, origin, 40));
    // Of the sending, which takes 4 s at least, the first period and the last may have had no time to be spent.
    assert!(exhausted.is_some_and(|periods| periods >= 2), "{exhausted:?} periods are exhausted by {sent:?}");
    assert_eq!((fault.matched, fault.injected + fault.spared_by_budget), (1000, 1000));
    assert_eq!(fault.injected, sent.iter().filter(|one| one.lost).count() as u64);
}

#[test]
fn nothing_is_lost_after_the_duration_even_if_the_controller_is_stopped() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut agent = Agent::start(|command| scene.struck(command));
    let text = format!(
        "duration = \"2s\"\n{}",
        scene.scenario(SEED, &["kind = \"network.loss\"\nmatch = { protocol = \"udp\" }"])
    );
    let flows = Flows::new(&scene, &[5001], 1000);
    let experiment = Experiment::apply(&text);
    let controller = nix::unistd::Pid::from_raw(experiment.pid());
    nix::sys::signal::kill(controller, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let sent = flows.send(&mut agent, 250).remove(0);
    nix::sys::signal::kill(controller, nix::sys::signal::Signal::SIGCONT).unwrap();
    let lost = sent.iter().filter(|one| one.lost).count() as u64;
    assert!((1..1000).contains(&lost), "{lost} lost");
    let report = experiment.wait(Duration::from_secs(60));
    // The deadline is looked at by the coarse clock, which is behind by up to a tick (10 ms at 100 Hz), and by as
    // much more as the CPU that makes the ticks stands still: an emulated one does while another machine's runs.
    let origin = origin(&report);
    let late = *origin.start()..=origin.end() + 200 * MS;
    // An end that is late is that of a later start: nothing was sent before either.
    assert!(explains(&Window { for_ns: 2000 * MS, ..Window::default() }, &sent, &late), "{sent:?}");
    assert_eq!((report.status, report.only().injected), (Some(0), lost));
    assert_eq!(report.object["outcome"], "completed");
}

#[test]
fn windows_count_from_the_first_strike_of_another_fault_or_from_the_end_of_its_window() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut agent = Agent::start(|command| scene.struck(command));
    agent.ask("udp('10.99.0.2', port=9)");
    let fault = |port: u16, keys: &str| {
        format!(
            "id = \"f{port}\"\nkind = \"network.loss\"\nmatch = {{ protocol = \"udp\", remote_port = {port} }}\n{keys}"
        )
    };
    let faults = [
        fault(5001, "nth = \"100\""),
        fault(5002, "when = { after = \"f5001\", start = \"700ms\", for = \"900ms\" }"),
        fault(5003, "when = { after_end = \"f5002\", start = \"300ms\" }"),
    ];
    let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
    let flows = Flows::new(&scene, &[5001, 5002, 5003], 1000);
    let experiment = Experiment::apply(&scene.scenario(SEED, &faults));
    let flows = flows.send(&mut agent, 200);
    let report = experiment.end();
    let lost: Vec<&Sent> = flows[0].iter().filter(|one| one.lost).collect();
    assert_eq!(lost.len(), 1, "{lost:?}");
    // As far apart as the steps at which starts are tried, at least.
    let origin = lost[0].before_ns - SKEW_NS..=lost[0].after_ns + SKEW_NS;
    let second = Window { start_ns: 700 * MS, for_ns: 900 * MS, ..Window::default() };
    let third = Window { start_ns: 1900 * MS, ..Window::default() };
    for (window, sent, port) in [(second, &flows[1], 5002), (third, &flows[2], 5003)] {
        let lost = sent.iter().filter(|one| one.lost).count();
        assert!((50..=900).contains(&lost), "{port}: {lost} of {} lost", sent.len());
        assert!(explains(&window, sent, &origin), "{port}: {origin:?} {sent:?}");
        let earlier = Window { start_ns: window.start_ns - 200 * MS, ..window };
        assert!(!explains(&earlier, sent, &origin), "{port}: another window would do as well");
        assert_eq!(report.fault(&format!("f{port}")).matched, lost as u64, "outside it is not matched");
    }
}
