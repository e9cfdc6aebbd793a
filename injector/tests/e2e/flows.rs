//! Flows of numbered datagrams, each to a port of its own: which of them come.

use std::collections::BTreeMap;

use crate::agent::Agent;
use crate::scene::Scene;
use crate::support::{Experiment, SERVER_V4, SERVER_V6};

/// The port of the first flow; the others follow.
pub(crate) const FIRST_PORT: u16 = 5001;

/// A scene with a process that sends the datagrams of all flows, and one that takes them.
pub(crate) struct Flows {
    pub(crate) scene: Scene,
    sender: Agent,
    receiver: Agent,
}

/// Sends numbered datagrams as fast as it can, from a port of its own; returns how often `sendto` failed, by the error's name.
const TOLD: &str = r#"
import errno
def told(host, port, count, recverr):
    errors = {}
    with socket.socket(family(host), socket.SOCK_DGRAM) as s:
        if recverr:
            # IPV6_RECVERR, IP_RECVERR
            s.setsockopt(*((socket.IPPROTO_IPV6, 25, 1) if ":" in host else (socket.IPPROTO_IP, 11, 1)))
        for n in range(count):
            try:
                s.sendto(n.to_bytes(4, "big"), (host, port))
            except OSError as e:
                name = errno.errorcode[e.errno]
                errors[name] = errors.get(name, 0) + 1
    return errors
"#;

impl Flows {
    /// So many flows.
    pub(crate) fn new(count: u16) -> Self {
        let scene = Scene::new();
        let mut sender = Agent::start_with(TOLD, |command| scene.struck(command));
        // From here on the way is open, and the other side's address known: a burst would not wait for them.
        for address in [SERVER_V4, SERVER_V6] {
            assert_eq!(sender.ask(&format!("ping('{address}')")), 0);
        }
        let mut receiver = Agent::start(|command| scene.remote(command));
        for port in FIRST_PORT..FIRST_PORT + count {
            receiver.ask(&format!("bind({port})"));
        }
        Self { scene, sender, receiver }
    }

    /// The numbers that one run loses of each flow of so many datagrams. Flow n goes to port `FIRST_PORT + n` and meets the
    /// fault `wan-n` alone, which has these keys.
    pub(crate) fn lost(&mut self, seed: u64, frequencies: &[(&str, u32)]) -> Vec<Vec<u32>> {
        let flows: Vec<(u16, (&str, u32))> = (FIRST_PORT..).zip(frequencies.iter().copied()).collect();
        let faults: Vec<String> = flows.iter().map(|(port, (keys, _))| fault(*port, keys)).collect();
        let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
        let experiment = Experiment::apply(&self.scene.scenario(seed, &faults));
        let lost: Vec<Vec<u32>> = flows.iter().map(|(port, (_, count))| self.burst(*port, *count)).collect();
        let report = experiment.end();
        for ((port, (keys, count)), lost) in flows.iter().zip(&lost) {
            let fault = report.fault(&id(*port));
            let counted = (fault.matched, fault.injected, fault.segments_injected);
            assert_eq!(counted, (u64::from(*count), lost.len() as u64, lost.len() as u64), "{keys}");
        }
        lost
    }

    /// Sends so many datagrams to a port; returns the numbers of those that do not come. The receiver itself lost none.
    #[track_caller]
    pub(crate) fn burst(&mut self, port: u16, count: u32) -> Vec<u32> {
        let (lost, errors) = self.told(SERVER_V4, port, count, true);
        assert!(errors.is_empty(), "sendto failed: {errors:?}");
        lost
    }

    /// The same to an address of either family by a sender who asks for errors or does not, and what `sendto` told it.
    #[track_caller]
    pub(crate) fn told(
        &mut self,
        host: &str,
        port: u16,
        count: u32,
        recverr: bool,
    ) -> (Vec<u32>, BTreeMap<String, u32>) {
        let names = ["UdpRcvbufErrors", "UdpInErrors", "Udp6RcvbufErrors", "Udp6InErrors"];
        let server = &self.scene.pair.server;
        let before = server.counters(&names);
        let asks = if recverr { "True" } else { "False" };
        let errors = self.sender.ask(&format!("told('{host}', {port}, {count}, {asks})"));
        let lost = self.receiver.ask(&format!("missing({count}, {port})"));
        assert_eq!(server.counters(&names), before, "the receiver dropped some itself");
        (serde_json::from_value(lost).unwrap(), serde_json::from_value(errors).unwrap())
    }
}

fn fault(port: u16, keys: &str) -> String {
    let only = format!("match = {{ protocol = \"udp\", remote_port = {port} }}");
    format!("id = \"{}\"\nkind = \"network.loss\"\n{keys}\n{only}", id(port))
}

/// The id of a flow's fault.
pub(crate) fn id(port: u16) -> String {
    format!("wan-{port}")
}
