//! Bulk transfers over TCP by iperf3.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::scene::Scene;
use crate::support::{Background, Located as _, Netns, SERVER_V4};

/// What iperf3 and the sender's stack say of one transfer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    /// Bytes that the receiver got.
    pub(crate) bytes: f64,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Segments that the data connection sent again (`tcpi_total_retrans`).
    pub(crate) retransmitted: f64,
}

impl Transfer {
    /// Bytes per second.
    pub(crate) fn throughput(self) -> f64 {
        self.bytes / self.seconds
    }

    /// Segments sent again per byte delivered.
    pub(crate) fn retransmitted_per_byte(self) -> f64 {
        self.retransmitted / self.bytes
    }
}

/// A server for one transfer, and a client that sends to it.
#[derive(Debug)]
pub(crate) struct Iperf {
    client: Background,
    _server: Background,
}

impl Iperf {
    /// Starts both; `place` says where the client runs.
    pub(crate) fn start(
        scene: &Scene,
        port: u16,
        streams_and_seconds: (u32, u32),
        place: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Self {
        Self::start_with(scene, port, streams_and_seconds, &[], place)
    }

    /// The same with more options of the client's.
    pub(crate) fn start_with(
        scene: &Scene,
        port: u16,
        streams_and_seconds: (u32, u32),
        options: &[&str],
        place: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Self {
        let port = port.to_string();
        let (streams, seconds) = (streams_and_seconds.0.to_string(), streams_and_seconds.1.to_string());
        let mut server = Command::new("iperf3");
        let server = scene.remote(server.args(["-s", "-1", "--forceflush", "-p", &port])).background();
        listens(&scene.pair.server, &port);
        let mut client = Command::new("iperf3");
        client.args(["-J", "-C", "cubic", "-c", SERVER_V4, "-p", &port, "-P", &streams, "-t", &seconds]);
        client.args(options);
        Self { client: place(&mut client).background(), _server: server }
    }

    /// Waits for its end. No error came up in the sender.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Transfer {
        let text = self.client.finish(Duration::from_secs(180));
        let result: Value = serde_json::from_str(&text).unwrap();
        assert!(result["error"].is_null(), "iperf3: {}", result["error"]);
        let end = &result["end"];
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("iperf3 said {text}"));
        Transfer {
            bytes: number(&end["sum_received"]["bytes"]),
            seconds: number(&end["sum_sent"]["seconds"]),
            retransmitted: number(&end["sum_sent"]["retransmits"]),
        }
    }
}

/// Waits until somebody listens on the port.
fn listens(netns: &Netns, port: &str) {
    crate::support::wait_until(Duration::from_secs(60), "iperf3 listens", || {
        let filter = format!("sport = :{port}");
        !Command::new("ss").args(["-Htln", &filter]).in_netns(netns).text().is_empty()
    });
}
