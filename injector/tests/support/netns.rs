//! Network namespaces of the test's own.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::process::Located as _;
use super::{run, unique, wait_until};

/// The device that joins a [`Pair`], under the same name at both ends.
pub(crate) const DEVICE: &str = "veth0";
/// The client's addresses.
pub(crate) const CLIENT_V4: &str = "10.99.0.1";
/// The client's addresses.
pub(crate) const CLIENT_V6: &str = "fd99::1";
/// The server's addresses.
pub(crate) const SERVER_V4: &str = "10.99.0.2";
/// The server's addresses.
pub(crate) const SERVER_V6: &str = "fd99::2";

/// A named network namespace with `lo` up; removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    /// A new one.
    pub(crate) fn new() -> Self {
        let name = unique("injt");
        run(&format!("ip netns add {name}"));
        let netns = Self { name };
        netns.ip("link set lo up");
        netns
    }

    /// Its name for `ip -n` and `tc -n`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub(crate) fn file(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `ip` on it with arguments parted by spaces.
    #[track_caller]
    pub(crate) fn ip(&self, arguments: &str) -> String {
        run(&format!("ip -n {} {arguments}", self.name))
    }

    /// Runs `tc` on it with arguments parted by spaces.
    #[track_caller]
    pub(crate) fn tc(&self, arguments: &str) -> String {
        run(&format!("tc -n {} {arguments}", self.name))
    }

    /// A counter of its stack, as `nstat` shows it since the namespace was made: `TcpRetransSegs`.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.counters(&[name])[0]
    }

    /// Several counters, read at once.
    #[track_caller]
    pub(crate) fn counters<const N: usize>(&self, names: &[&str; N]) -> [u64; N] {
        // -a absolute, -z zeros too, -s without the history file.
        let table = Command::new("nstat").args(["-asz"]).in_netns(self).text();
        names.map(|name| {
            let mut lines = table.lines().map(str::split_ascii_whitespace);
            let value = lines.find_map(|mut words| (words.next()? == name).then(|| words.next())?);
            value.unwrap_or_else(|| panic!("nstat has no {name}")).parse().unwrap()
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Two namespaces joined by a veth pair with addresses of both families, ready at once (no duplicate address
/// detection).
#[derive(Debug)]
pub(crate) struct Pair {
    /// Where the struck program usually is.
    pub(crate) client: Netns,
    /// The other side.
    pub(crate) server: Netns,
}

impl Pair {
    /// A new one.
    pub(crate) fn new() -> Self {
        let (client, server) = (Netns::new(), Netns::new());
        client.ip(&format!("link add {DEVICE} type veth peer name {DEVICE} netns {}", server.name()));
        for (netns, v4, v6) in [(&client, CLIENT_V4, CLIENT_V6), (&server, SERVER_V4, SERVER_V6)] {
            netns.ip(&format!("link set {DEVICE} addrgenmode none"));
            netns.ip(&format!("address add {v4}/24 dev {DEVICE}"));
            netns.ip(&format!("address add {v6}/64 dev {DEVICE} nodad"));
            netns.ip(&format!("link set {DEVICE} up"));
            // Out of the way of the ports that tests name.
            let range = "net.ipv4.ip_local_port_range=50000 60999";
            Command::new("sysctl").args(["-qw", range]).in_netns(netns).text();
        }
        // The kernel looks at the carrier up to a second later, and joins the groups of IPv6 neighbours only then.
        for netns in [&client, &server] {
            let is_up = || netns.ip(&format!("-o link show {DEVICE}")).contains("state UP");
            wait_until(Duration::from_secs(60), "carrier", is_up);
        }
        Self { client, server }
    }
}
