//! The stage of most tests: a cgroup in a client's namespace, and a server beyond a veth pair.

use std::process::Command;

use crate::support::{Background, Cgroup, DEVICE, Located as _, Pair, sh};

/// A client whose cgroup is struck, and a server that is not.
#[derive(Debug)]
pub(crate) struct Scene {
    // It keeps the cgroup in the client's namespace, so that this is struck from the start.
    _keeper: Background,
    pub(crate) cgroup: Cgroup,
    pub(crate) pair: Pair,
}

impl Scene {
    /// A new one.
    pub(crate) fn new() -> Self {
        let (pair, cgroup) = (Pair::new(), Cgroup::new());
        let keeper = sh("exec sleep 600").in_cgroup(&cgroup).in_netns(&pair.client).background();
        Self { _keeper: keeper, cgroup, pair }
    }

    /// Places a command in the struck cgroup, at the client.
    pub(crate) fn struck<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.in_cgroup(&self.cgroup).in_netns(&self.pair.client)
    }

    /// Places a command at the client, outside of the struck cgroup.
    pub(crate) fn spared<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.in_netns(&self.pair.client)
    }

    /// Places a command at the server.
    pub(crate) fn remote<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.in_netns(&self.pair.server)
    }

    /// Shortens TCP's least time-out at the client from 200 ms, so that a short transfer meets many losses.
    pub(crate) fn shorten_timeouts(&self) {
        self.pair.client.ip(&format!("route replace 10.99.0.0/24 dev {DEVICE} rto_min 10ms"));
    }

    /// A scenario that strikes the cgroup with faults, each given by its keys.
    pub(crate) fn scenario(&self, seed: u64, faults: &[&str]) -> String {
        scenario(seed, &format!("cgroup = \"{}\"", self.cgroup.path()), faults)
    }
}

/// A scenario with one target `t` and faults on it, each given by its keys.
pub(crate) fn scenario(seed: u64, selector: &str, faults: &[&str]) -> String {
    let mut text = format!("seed = {seed}\n[target.t]\n{selector}\n");
    for fault in faults {
        text.push_str(&format!("[[fault]]\ntarget = \"t\"\n{fault}\n"));
    }
    text
}
