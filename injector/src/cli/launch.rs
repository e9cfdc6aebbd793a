//! The command of `run`: in its cgroup, as its user, with the terminal of injector.

use std::ffi::{CString, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;

use nix::unistd::{Gid, Uid, User, getgrouplist, setgid, setgroups, setuid, write};
use tokio::process::{Child, Command};

use super::exit::{Exit, Failure};
use crate::engine::{EngineError, Passage, Session};
use crate::host::cgroup::{Cgroup, Hierarchy};
use crate::host::facts::operator;

/// Left by sudo for injector; the command was not started by sudo.
const SUDO_VARIABLES: [&str; 4] = ["SUDO_COMMAND", "SUDO_UID", "SUDO_GID", "SUDO_USER"];

/// A command that is ready to be started.
#[derive(Debug)]
pub(super) struct Launch {
    command: Vec<OsString>,
    identity: Option<Identity>,
}

/// Whom the command runs as.
#[derive(Debug)]
struct Identity {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    user: Option<User>,
}

impl Launch {
    /// `user` overrides the user behind sudo; without either the command runs as injector does.
    pub(super) fn new(command: &[OsString], user: Option<&str>) -> Result<Self, Failure> {
        let identity = match user {
            Some(user) => Some(named(user)?),
            None => operator(|name| std::env::var(name).ok()).map(|operator| {
                let (uid, gid) = (Uid::from_raw(operator.uid), Gid::from_raw(operator.gid));
                Identity::of(uid, gid, User::from_uid(uid).ok().flatten())
            }),
        };
        Ok(Self { command: command.to_vec(), identity })
    }

    /// Starts the command in the cgroup of the session, under its filter if it has one.
    pub(super) fn spawn(self, session: &Session) -> Result<Child, EngineError> {
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(EngineError::Runtime(io::ErrorKind::InvalidInput.into()));
        };
        let entrance = session.run_leaf().map(open_entrance).transpose()?;
        let (gate, passage) = session.open_gate()?.unzip();
        let mut command = Command::new(program);
        command.args(arguments);
        if let Some(identity) = &self.identity {
            identity.describe_to(&mut command);
        }
        let identity = self.identity;
        // SAFETY: the closure runs between fork and exec, and makes system calls alone: it allocates nothing
        // and takes no lock.
        unsafe {
            command.pre_exec(move || {
                if let Some(entrance) = &entrance {
                    write(entrance.as_fd(), b"0")?;
                }
                // While it is root: others would have to give up what set-user-ID programs gain.
                if let Some(gate) = &gate {
                    gate.pass()?;
                }
                identity.as_ref().map_or(Ok(()), Identity::assume)
            });
        }
        let spawned = command.spawn();
        // What kept it from its filter is the cause, and that it could not be started follows.
        passage.map(Passage::end).transpose()?;
        spawned
            .map_err(|source| EngineError::Spawn { command: program.to_string_lossy().into_owned(), source })
    }
}

/// The file by which a process enters a cgroup, opened while we are root.
fn open_entrance(leaf: &Cgroup) -> Result<File, EngineError> {
    let path = Hierarchy::find()?.directory(&leaf.path).join("cgroup.procs");
    OpenOptions::new().write(true).open(path).map_err(EngineError::Runtime)
}

impl Identity {
    fn of(uid: Uid, gid: Gid, user: Option<User>) -> Self {
        let name = user.as_ref().and_then(|user| CString::new(user.name.clone()).ok());
        // Without an entry in the user database there are no other groups.
        let groups = name.and_then(|name| getgrouplist(&name, gid).ok()).unwrap_or_else(|| vec![gid]);
        Self { uid, gid, groups, user }
    }

    /// Becomes this user for good; the order matters, since the last step gives up the right to the others.
    fn assume(&self) -> io::Result<()> {
        setgroups(&self.groups)?;
        setgid(self.gid)?;
        setuid(self.uid)?;
        Ok(())
    }

    /// What a login would say of the user.
    fn describe_to(&self, command: &mut Command) {
        for variable in SUDO_VARIABLES {
            command.env_remove(variable);
        }
        if let Some(user) = &self.user {
            command.env("HOME", &user.dir).env("USER", &user.name).env("LOGNAME", &user.name);
            command.env("SHELL", &user.shell);
        }
    }
}

fn named(user: &str) -> Result<Identity, Failure> {
    let found = match user.parse() {
        Ok(number) => {
            let uid = Uid::from_raw(number);
            let found = User::from_uid(uid).ok().flatten();
            let gid = found.as_ref().map_or(Gid::from_raw(number), |user| user.gid);
            return Ok(Identity::of(uid, gid, found));
        }
        Err(_) => User::from_name(user).ok().flatten(),
    };
    match found {
        Some(user) => Ok(Identity::of(user.uid, user.gid, Some(user))),
        None => Err(Failure::new(
            Exit::Usage,
            format!("there is no user `{user}`"),
            Some("give a name of /etc/passwd or a number".to_owned()),
        )),
    }
}
