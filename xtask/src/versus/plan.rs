//! What is measured: each fault as a scenario of ours and as netem's options. Pure.

use crate::vm::console::DATA_MARKER;
use serde::{Deserialize, Serialize};

/// Bytes of payload of each datagram of the flood. Small enough for one packet, large enough that the rate is reached.
pub(super) const DATAGRAM_BYTES: u32 = 1400;

/// The server's port, by which netem's filter knows the traffic.
const PORT: u16 = 5001;

/// How long a TCP connection runs before it is measured: from [`TCP_SEGMENTS`] it fills 100 ms in three round trips.
const TCP_WARM_UP_S: f64 = 0.8;

/// Segments that a connection begins with, instead of 10.
const TCP_SEGMENTS: u32 = 600;

/// Packets that netem's queue holds, instead of 1,000: none may be lost for want of room.
const NETEM_LIMIT: u32 = 100_000;

/// netem's queue holds what waits for the rate for as long as its limit allows; ours is bounded by time, here its default.
/// A rate that either reaches with half of a processor: it binds, and not the machine.
const RATE: &str = "kind = \"network.rate\"\nrate = \"20mbit\"\noverhead = 14";

/// Who makes the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Tool {
    /// Nobody.
    Bare,
    /// Ours, on the cgroup that sends.
    Cgroup,
    /// netem in one band of a prio, to which a filter on the port leads.
    NetemFiltered,
    /// Ours, on the device.
    Interface,
    /// netem at the device's root.
    NetemRoot,
}

/// One fault by one tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Setup {
    pub(super) case: &'static str,
    pub(super) tool: Tool,
    /// For injector.
    pub(super) scenario: Option<String>,
    /// Arguments of `tc`, a line each.
    pub(super) tc: Vec<String>,
}

/// What the guest's script is told. It takes the setups of one case in turns.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Plan {
    marker: &'static str,
    port: u16,
    datagram_bytes: u32,
    tcp_warm_up_s: f64,
    tcp_segments: u32,
    /// Of each measurement.
    seconds: f64,
    rounds: u32,
    setups: Vec<Setup>,
}

/// The case without any fault.
pub(super) const BARE: &str = "nothing";

/// A case with a fault on all that is sent: name, keys of our faults, options of netem.
type Case = (&'static str, &'static [&'static str], &'static str);

const LOSS: &str = "kind = \"network.loss\"\nprobability = \"1%\"";
const DELAY: &str = "kind = \"network.delay\"\ndelay = \"20ms\"";
const LONG_DELAY: &str = "kind = \"network.delay\"\ndelay = \"100ms\"";

/// Faults that others are hit by: what the sender pays as a bystander.
const BYSTANDER: [Case; 2] =
    [("loss of 1 % for another", &[LOSS], "loss 1%"), ("delay of 20 ms for another", &[DELAY], "delay 20ms")];

/// Faults that the sender is hit by. Theirs and ours make the same path: loss, then the link, then the cable.
const STRUCK: [Case; 5] = [
    ("loss of 1 %", &[LOSS], "loss 1%"),
    ("delay of 20 ms", &[DELAY], "delay 20ms"),
    ("delay of 100 ms", &[LONG_DELAY], "delay 100ms"),
    ("rate of 20 Mbit/s", &[RATE], "rate 20mbit"),
    ("all: 1 %, 20 ms, 20 Mbit/s", &[LOSS, RATE, DELAY], "loss 1% delay 20ms rate 20mbit"),
];

/// The names of the cases in the order of the table, without [`BARE`].
pub(super) fn cases() -> impl Iterator<Item = &'static str> {
    BYSTANDER.into_iter().chain(STRUCK).map(|(name, ..)| name)
}

impl Plan {
    pub(super) fn new(seconds: f64, rounds: u32) -> Self {
        let bare = Setup { case: BARE, tool: Tool::Bare, scenario: None, tc: Vec::new() };
        let bystander = BYSTANDER.iter().flat_map(|(case, faults, netem)| {
            [
                ours(case, Tool::Cgroup, "cgroup = \"/other\"", faults),
                theirs(case, Tool::NetemFiltered, filtered(netem, PORT + 1)),
            ]
        });
        let struck = STRUCK.iter().flat_map(|(case, faults, netem)| {
            [
                ours(case, Tool::Cgroup, "cgroup = \"/struck\"", faults),
                theirs(case, Tool::NetemFiltered, filtered(netem, PORT)),
                ours(case, Tool::Interface, "interface = \"eth0\"", faults),
                theirs(case, Tool::NetemRoot, vec![format!("qdisc add dev eth0 root {}", options(netem))]),
            ]
        });
        Self {
            marker: DATA_MARKER,
            port: PORT,
            datagram_bytes: DATAGRAM_BYTES,
            tcp_warm_up_s: TCP_WARM_UP_S,
            tcp_segments: TCP_SEGMENTS,
            seconds,
            rounds,
            setups: std::iter::once(bare).chain(bystander).chain(struck).collect(),
        }
    }
}

fn ours(case: &'static str, tool: Tool, target: &str, faults: &[&str]) -> Setup {
    let mut text = format!("version = 1\nseed = 1\nduration = \"10m\"\n[target.t]\n{target}\n");
    for fault in faults {
        text.push_str(&format!("[[fault]]\ntarget = \"t\"\n{fault}\n"));
    }
    Setup { case, tool, scenario: Some(text), tc: Vec::new() }
}

fn theirs(case: &'static str, tool: Tool, tc: Vec<String>) -> Setup {
    Setup { case, tool, scenario: None, tc }
}

fn options(netem: &str) -> String {
    format!("netem limit {NETEM_LIMIT} {netem}")
}

/// What a user of netem does to hit one service alone: a prio whose last band is netem, and a filter on the port.
fn filtered(netem: &str, port: u16) -> Vec<String> {
    vec![
        "qdisc add dev eth0 root handle 1: prio bands 4".to_owned(),
        format!("qdisc add dev eth0 parent 1:4 handle 4: {}", options(netem)),
        format!(
            "filter add dev eth0 parent 1: protocol ip prio 1 u32 match ip dport {port} 0xffff flowid 1:4"
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_made_by_both_on_the_same_traffic() {
        let plan = Plan::new(2.0, 3);
        for case in cases() {
            let of_case = plan.setups.iter().filter(|setup| setup.case == case);
            let tools = of_case.map(|setup| setup.tool).collect::<Vec<_>>();
            assert!(tools.starts_with(&[Tool::Cgroup, Tool::NetemFiltered]), "{case}: {tools:?}");
            assert!(matches!(&tools[2..], [] | [Tool::Interface, Tool::NetemRoot]), "{case}: {tools:?}");
        }
        assert_eq!(plan.setups.len(), 1 + 2 * 2 + 5 * 4);
        assert!(plan.setups.iter().all(|setup| setup.scenario.is_none() || setup.tc.is_empty()));
    }

    #[test]
    fn a_bystander_has_a_neighbour_who_is_hit() {
        let plan = Plan::new(2.0, 3);
        let (ours, theirs) = (&plan.setups[1], &plan.setups[2]);
        assert!(ours.scenario.as_ref().unwrap().contains("/other"));
        assert!(theirs.tc[2].contains("dport 5002") && theirs.tc[1].contains("loss 1%"));
    }
}
