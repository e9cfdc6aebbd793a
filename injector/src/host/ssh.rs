//! The operator's SSH: the ports that a fault on an interface should spare, the servers that no fault should strike.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;

use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, Process};

use super::process::{ProcessError, ProcessTable};

const VARIABLE: &str = "SSH_CONNECTION";

/// SSH servers; OpenSSH 9.8 and later run a session in `sshd-session`.
const PROGRAMS: [&str; 3] = ["sshd", "sshd-session", "dropbear"];

/// One TCP connection between this host's SSH server and a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SshSession {
    /// This host's end.
    pub local: SocketAddr,
    /// The operator's end.
    pub remote: SocketAddr,
}

/// What an SSH server is to the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SshRole {
    /// Injector descends from it.
    OwnSession,
    /// It has a connection, and nothing tells that it is not the operator's.
    Session,
    /// It waits for connections. Those that it accepts belong to its cgroup, whoever serves them.
    Listener,
}

/// An SSH server without which the operator may lose the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SshServer {
    /// Its pid.
    pub pid: i32,
    /// Its program.
    pub name: &'static str,
    /// What it is to the operator.
    pub role: SshRole,
}

impl fmt::Display for SshServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            SshRole::OwnSession => "carries your SSH session",
            SshRole::Session => "carries an SSH session",
            SshRole::Listener => "accepts SSH connections to this host",
        };
        write!(f, "{} (process {}), which {role}", self.name, self.pid)
    }
}

/// The SSH servers that the operator needs: those that injector descends from, or without one all that have a
/// connection, and those that listen. Servers in network namespaces of their own, as in containers, don't count.
pub fn needed_servers() -> Result<Vec<SshServer>, ProcessError> {
    let table = ProcessTable::read()?;
    let own = std::process::id().cast_signed();
    let namespaces = [namespace_of(own), namespace_of(1)];
    let on_host = |pid: &i32| namespace_of(*pid).is_some_and(|of_pid| namespaces.contains(&Some(of_pid)));
    let server = |role| {
        let table = &table;
        move |pid| Some(SshServer { pid, name: server_name(table, pid)?, role })
    };
    let mut needed: Vec<SshServer> =
        table.ancestors(own).into_iter().filter_map(server(SshRole::OwnSession)).collect();
    let connected = |pid: &i32| on_host(pid) && !connections(*pid).is_empty();
    if needed.is_empty() {
        needed.extend(servers(&table, table.pids()).filter(connected).filter_map(server(SshRole::Session)));
    }
    let listens = |pid: &i32| on_host(pid) && !listening_ports(*pid).is_empty();
    needed.extend(servers(&table, table.pids()).filter(listens).filter_map(server(SshRole::Listener)));
    Ok(needed)
}

/// The TCP ports of this host's SSH that a fault on a whole interface should spare, the most important first: those
/// that the operator's own session comes through, those on which a server listens, those of other sessions.
pub fn ports() -> Result<Vec<u16>, ProcessError> {
    let table = ProcessTable::read()?;
    let own = std::process::id().cast_signed();
    let family: Vec<i32> = std::iter::once(own).chain(table.ancestors(own)).collect();
    let named: Vec<SshSession> = family.iter().filter_map(|pid| session_in_environment(*pid)).collect();
    let by_descent = sessions_of(servers(&table, family.iter().copied()));
    let here = namespace_of(own);
    let listening: BTreeSet<u16> = servers(&table, table.pids())
        .filter(|pid| namespace_of(*pid) == here)
        .flat_map(listening_ports)
        .collect();
    // Without a server among the parents, as inside tmux, the variable may be out of date and the server is not
    // to be told by descent: then all connections of all servers count.
    let others =
        if by_descent.is_empty() { sessions_of(servers(&table, table.pids())) } else { BTreeSet::new() };
    let port = |session: &SshSession| session.local.port();
    let own = named.iter().chain(&by_descent).map(port);
    Ok(in_order(own.chain(listening).chain(others.iter().map(port))))
}

/// The SSH sessions that the operator needs: his own, or without one all to servers in this network namespace.
pub fn needed_sessions() -> Result<BTreeSet<SshSession>, ProcessError> {
    let table = ProcessTable::read()?;
    let own = std::process::id().cast_signed();
    let family: Vec<i32> = std::iter::once(own).chain(table.ancestors(own)).collect();
    let mut sessions = sessions_of(servers(&table, family.iter().copied()));
    // Without a server among the parents the variable may be out of date, as inside of tmux: then all count.
    if sessions.is_empty() {
        let here = namespace_of(own);
        sessions = sessions_of(servers(&table, table.pids()).filter(|pid| namespace_of(*pid) == here));
    }
    sessions.extend(family.iter().filter_map(|pid| session_in_environment(*pid)));
    Ok(sessions)
}

/// Each port once, where it comes first.
fn in_order(ports: impl Iterator<Item = u16>) -> Vec<u16> {
    let mut known = BTreeSet::new();
    ports.filter(|port| known.insert(*port)).collect()
}

fn sessions_of(pids: impl Iterator<Item = i32>) -> BTreeSet<SshSession> {
    pids.flat_map(connections).collect()
}

/// The SSH servers among some processes.
fn servers(table: &ProcessTable, pids: impl Iterator<Item = i32>) -> impl Iterator<Item = i32> {
    pids.filter(|pid| server_name(table, *pid).is_some())
}

/// The name of the SSH server that a process is, if it is one.
fn server_name(table: &ProcessTable, pid: i32) -> Option<&'static str> {
    let info = table.get(pid)?;
    PROGRAMS.into_iter().find(|name| info.name == *name)
}

fn session_in_environment(pid: i32) -> Option<SshSession> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    parse_environment(&environment)
}

fn parse_environment(environment: &[u8]) -> Option<SshSession> {
    let prefix = format!("{VARIABLE}=");
    let value =
        environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(prefix.as_bytes()))?;
    parse_connection(std::str::from_utf8(value).ok()?)
}

/// `client-address client-port server-address server-port`
fn parse_connection(value: &str) -> Option<SshSession> {
    let mut words = value.split(' ');
    let mut end = || {
        // A link-local address carries its device's name.
        let address: IpAddr = words.next()?.split('%').next()?.parse().ok()?;
        Some(SocketAddr::new(address.to_canonical(), words.next()?.parse().ok()?))
    };
    let (remote, local) = (end()?, end()?);
    Some(SshSession { local, remote })
}

/// Device and inode of a process's network namespace; `None` if it has ended.
fn namespace_of(pid: i32) -> Option<(u64, u64)> {
    fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|found| (found.dev(), found.ino()))
}

/// The established TCP connections of a process. One that ends meanwhile has none.
fn connections(pid: i32) -> Vec<SshSession> {
    let session = |entry: &TcpNetEntry| SshSession {
        local: canonical(entry.local_address),
        remote: canonical(entry.remote_address),
    };
    sockets(pid, &TcpState::Established).iter().map(session).collect()
}

/// The ports on which a process accepts connections.
fn listening_ports(pid: i32) -> Vec<u16> {
    sockets(pid, &TcpState::Listen).iter().map(|entry| entry.local_address.port()).collect()
}

/// The TCP sockets of a process in one state, as the table of its network namespace has them.
fn sockets(pid: i32, state: &TcpState) -> Vec<TcpNetEntry> {
    let Ok(process) = Process::new(pid) else { return Vec::new() };
    let own: BTreeSet<u64> = process
        .fd()
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|fd| match fd.target {
            FDTarget::Socket(inode) => Some(inode),
            _ => None,
        })
        .collect();
    let table = process.tcp().unwrap_or_default().into_iter().chain(process.tcp6().unwrap_or_default());
    table.filter(|entry| entry.state == *state && own.contains(&entry.inode)).collect()
}

/// A server that listens on IPv6 sees IPv4 clients as mapped addresses; on the wire they are IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(local: &str, remote: &str) -> SshSession {
        SshSession { local: local.parse().unwrap(), remote: remote.parse().unwrap() }
    }

    #[test]
    fn the_variable() {
        let expected = session("10.0.0.2:22", "192.0.2.7:51000");
        assert_eq!(parse_connection("192.0.2.7 51000 10.0.0.2 22"), Some(expected));
        assert_eq!(parse_connection("::ffff:192.0.2.7 51000 ::ffff:10.0.0.2 22"), Some(expected));
        let local = session("[fe80::2]:22", "[fe80::1]:51000");
        assert_eq!(parse_connection("fe80::1%eth0 51000 fe80::2%eth0 22"), Some(local));
        for bad in ["", "192.0.2.7", "192.0.2.7 51000 10.0.0.2", "a b c d", "192.0.2.7 99999 10.0.0.2 22"] {
            assert_eq!(parse_connection(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_environment_of_a_process() {
        let environment = b"HOME=/root\0XSSH_CONNECTION=1\0SSH_CONNECTION=192.0.2.7 51000 10.0.0.2 22\0A=b\0";
        assert_eq!(parse_environment(environment), Some(session("10.0.0.2:22", "192.0.2.7:51000")));
        assert_eq!(parse_environment(b"HOME=/root\0"), None);
        assert_eq!(parse_environment(b""), None);
    }

    #[test]
    fn ports_keep_their_order() {
        assert_eq!(in_order([2222, 22, 2222, 80, 22].into_iter()), [2222, 22, 80]);
    }

    #[test]
    fn the_connections_of_a_process_are_its_own() {
        let listener = std::net::TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (_server, _) = listener.accept().unwrap();
        let found = connections(std::process::id().cast_signed());
        let client = client.local_addr().unwrap();
        // Both ends are ours; the server's end is mapped, and is told as the IPv4 that it is.
        assert!(found.contains(&session(&format!("127.0.0.1:{port}"), &client.to_string())), "{found:?}");
        assert!(found.contains(&session(&client.to_string(), &format!("127.0.0.1:{port}"))), "{found:?}");
        assert!(connections(i32::MAX).is_empty());
        assert_eq!(
            listening_ports(std::process::id().cast_signed()).iter().filter(|p| **p == port).count(),
            1
        );
    }
}
