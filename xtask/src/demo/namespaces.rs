//! Two network namespaces joined by a veth pair. Everything lies inside of them: removing them removes it all.

use crate::process;
use crate::say::say;
use anyhow::{Context as _, Result};
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// Addresses that are for documentation alone: they clash with nobody's network.
pub(super) const SERVER_ADDRESS: &str = "192.0.2.2";
const CLIENT_ADDRESS: &str = "192.0.2.1";

const PREFIX: &str = "injector-demo-";

/// The pair; dropping it removes what is left.
pub(super) struct Namespaces {
    client: String,
    server: String,
}

impl Namespaces {
    /// Makes the pair, after removing those of a demonstration that was killed.
    pub(super) fn make() -> Result<Self> {
        remove_stale()?;
        let pid = std::process::id();
        // The value comes first: if a step fails, dropping it removes the steps before.
        let made = Self { client: format!("{PREFIX}{pid}-client"), server: format!("{PREFIX}{pid}-server") };
        let (client, server) = (made.client.as_str(), made.server.as_str());
        ip(&["netns", "add", client])?;
        ip(&["netns", "add", server])?;
        ip(&[
            "link", "add", "eth0", "netns", client, "type", "veth", "peer", "name", "eth0", "netns", server,
        ])?;
        for (namespace, address) in [(client, CLIENT_ADDRESS), (server, SERVER_ADDRESS)] {
            ip(&["-netns", namespace, "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
            ip(&["-netns", namespace, "link", "set", "lo", "up"])?;
            ip(&["-netns", namespace, "link", "set", "eth0", "up"])?;
        }
        Ok(made)
    }

    /// A command in the client's network. (`ip netns exec` would mount another /sys and hide the cgroups.)
    pub(super) fn in_client(&self, program: impl AsRef<OsStr>) -> Command {
        enter(&self.client, program)
    }

    /// A command in the server's network.
    pub(super) fn in_server(&self, program: impl AsRef<OsStr>) -> Command {
        enter(&self.server, program)
    }

    /// Whether somebody listens in the server's network.
    pub(super) fn server_listens(&self) -> Result<bool> {
        let text =
            process::output(self.in_server("ss").args(["--no-header", "--listening", "--tcp", "--numeric"]))?;
        Ok(text.contains(SERVER_ADDRESS))
    }

    /// Removes both; says so if that fails.
    pub(super) fn remove(self) -> Result<()> {
        let removed = self.names().map(|name| ip(&["netns", "delete", name]));
        std::mem::forget(self);
        removed.into_iter().collect()
    }

    fn names(&self) -> [&str; 2] {
        [&self.client, &self.server]
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in self.names() {
            if let Err(error) = ip(&["netns", "delete", name]) {
                say!("warning: {error:#}");
            }
        }
    }
}

fn enter(namespace: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg("--").arg(program);
    command
}

fn ip(args: &[&str]) -> Result<()> {
    process::output(Command::new("ip").args(args)).map(drop)
}

/// Removes the namespaces of demonstrations whose process is gone.
fn remove_stale() -> Result<()> {
    let list = process::output(Command::new("ip").args(["netns", "list"]))
        .context("cannot list network namespaces")?;
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        if pid_in(name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            say!("removing {name}, left by a demonstration that was killed");
            ip(&["netns", "delete", name])?;
        }
    }
    Ok(())
}

fn pid_in(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_stale() {
        assert_eq!(pid_in("injector-demo-4711-client"), Some(4711));
        assert_eq!(pid_in("injector-demo-x-client"), None);
        assert_eq!(pid_in("blue"), None);
    }
}
