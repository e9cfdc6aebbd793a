//! One test's corner of the host: namespaces, cgroups, a directory for journals, and `injector` run in it.

use std::fmt;
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::{
    Background, Cgroup, Located as _, Netns, Pair, SERVER_V4, injector, sh, unique, wait_until,
};

/// How long arming and reverting may take. Emulated machines are slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// A duration that no test waits for, and longer than any takes: several runs of `injector`, each of which takes
/// seconds in an emulated machine, go by within one experiment.
pub(crate) const LONG: &str = "10m";

/// The rungs, as `--tc` names them.
pub(crate) const TCX: &str = "tcx";
pub(crate) const CLSACT: &str = "clsact";

/// Whether this kernel is of an age that has tcx links.
pub(crate) fn kernel_has_tcx() -> bool {
    crate::support::kernel_release() >= (6, 6)
}

/// The rungs that this kernel has.
pub(crate) fn rungs() -> &'static [&'static str] {
    if kernel_has_tcx() { &[TCX, CLSACT] } else { &[CLSACT] }
}

/// A corner of the host. The journals are the test's own, so that nothing here meets another's experiment.
pub(crate) struct Bench {
    directory: TempDir,
    /// A process in `a`, so that the controller finds the namespace.
    _keeper: Background,
    /// Where the struck programs are.
    pub(crate) a: Cgroup,
    /// A second target.
    pub(crate) b: Cgroup,
    /// Where the controller is.
    pub(crate) own: Cgroup,
    /// Holds the three.
    pub(crate) home: Cgroup,
    /// Where everything happens.
    pub(crate) netns: Netns,
    /// The other end of a veth pair, if there is one.
    pub(crate) far: Option<Netns>,
}

impl Bench {
    /// With `lo` as the only device.
    pub(crate) fn lone() -> Self {
        Self::of(Netns::new(), None)
    }

    /// With a veth pair to another namespace.
    pub(crate) fn paired() -> Self {
        let Pair { client, server } = Pair::new();
        Self::of(client, Some(server))
    }

    fn of(netns: Netns, far: Option<Netns>) -> Self {
        let home = Cgroup::new();
        let [a, b, own] = ["a", "b", "own"].map(|name| home.child(name));
        let keeper = sh("exec sleep 1000").in_cgroup(&a).in_netns(&netns).background();
        let directory = TempDir::new().unwrap();
        Self { directory, _keeper: keeper, a, b, own, home, netns, far }
    }

    /// Whether this kernel has fq, as `tc` finds it.
    pub(crate) fn has_fq(&self) -> bool {
        let tc = |what: &str| {
            let line = format!("-n {} qdisc {what} dev lo root fq", self.netns.name());
            Command::new("tc").args(line.split(' ')).output().unwrap()
        };
        let added = tc("add");
        if added.status.success() {
            assert!(tc("del").status.success());
            return true;
        }
        let errors = String::from_utf8_lossy(&added.stderr);
        assert_eq!(errors.trim(), "Error: Specified qdisc kind is unknown.");
        false
    }

    /// The directory of the journals.
    pub(crate) fn run_directory(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// Any file of the test's.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a scenario; its name is the file's.
    pub(crate) fn scenario(&self, name: &str, text: &str) -> String {
        let path = self.file(&format!("{name}.toml"));
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A scenario that loses everything that leaves `a`.
    pub(crate) fn loss(&self, name: &str, duration: &str) -> String {
        self.scenario(name, &loss_of(&format!("cgroup = \"{}\"", self.a.path()), duration))
    }

    /// A process in a cgroup of this corner.
    pub(crate) fn sleeper(&self, cgroup: &Cgroup) -> Background {
        sh("exec sleep 1000").in_cgroup(cgroup).in_netns(&self.netns).background()
    }

    /// `injector` in this corner.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = injector();
        command.args(arguments).env("INJECTOR_RUN_DIR", self.run_directory());
        command.env_remove("INJECTOR_MAX_DURATION").env_remove("SUDO_UID").env_remove("SUDO_GID");
        command.in_netns(&self.netns).in_cgroup(&self.own).stdin(Stdio::null());
        command
    }

    /// Runs `injector` to its end.
    #[track_caller]
    pub(crate) fn injector(&self, arguments: &[&str]) -> Ended {
        self.start(&mut self.command(arguments)).end()
    }

    /// Starts it.
    pub(crate) fn start(&self, command: &mut Command) -> Controller {
        let [out, err] = [unique("out"), unique("err")].map(|name| self.file(&name));
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        Controller { child: command.spawn().unwrap(), ended: false, out, err }
    }

    /// Starts it and waits until its faults are armed.
    #[track_caller]
    pub(crate) fn armed(&self, arguments: &[&str]) -> Controller {
        let mut controller = self.start(&mut self.command(arguments));
        controller.wait_until_armed();
        controller
    }

    /// How many of three pings from `a` to the other end are answered.
    #[track_caller]
    pub(crate) fn replies(&self) -> usize {
        self.replies_from(&self.a)
    }

    /// The same from any cgroup.
    #[track_caller]
    pub(crate) fn replies_from(&self, cgroup: &Cgroup) -> usize {
        let to = if self.far.is_some() { SERVER_V4 } else { "127.0.0.1" };
        let mut ping = sh(&format!("ping -n -c 3 -i 0.05 -W 1 {to} || true"));
        ping.in_cgroup(cgroup).in_netns(&self.netns).text().matches("bytes from").count()
    }
}

/// A scenario that loses everything that leaves a target.
pub(crate) fn loss_of(selector: &str, duration: &str) -> String {
    format!(
        "duration = \"{duration}\"\n[target.t]\n{selector}\n[[fault]]\ntarget = \"t\"\nkind = \"network.loss\"\n"
    )
}

/// A started `injector`. When it is dropped it is interrupted, and killed if that does not end it.
pub(crate) struct Controller {
    child: Child,
    ended: bool,
    out: PathBuf,
    err: PathBuf,
}

impl Controller {
    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// What it has said on standard error.
    pub(crate) fn talk(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap()
    }

    /// What it has printed.
    pub(crate) fn data(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap()
    }

    #[track_caller]
    pub(crate) fn wait_until_armed(&mut self) {
        wait_until(PATIENCE, "armed", || {
            // The state first, the talk after it: a short experiment may be armed and over between the two.
            let ended = self.child.try_wait().unwrap();
            let armed = self.talk().lines().any(|line| line.starts_with("armed"));
            assert!(armed || ended.is_none(), "it ended with {ended:?} before:\n{}", self.talk());
            armed
        });
    }

    /// The id in its word of being armed: `armed NAME (ID), ...`.
    #[track_caller]
    pub(crate) fn id(&self) -> String {
        let talk = self.talk();
        let line = talk.lines().find(|line| line.starts_with("armed")).expect("it is not armed");
        line.split(['(', ')']).nth(1).unwrap().to_owned()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(&mut self) -> Ended {
        wait_until(PATIENCE, "the end of injector", || self.child.try_wait().unwrap().is_some());
        self.ended = true;
        Ended { status: self.child.wait().unwrap(), stdout: self.data(), stderr: self.talk() }
    }

    /// Sends it a signal and waits for its end.
    #[track_caller]
    pub(crate) fn end_by(&mut self, signal: Signal) -> Ended {
        self.signal(signal);
        self.end()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let _ = kill(Pid::from_raw(self.pid()), Signal::SIGINT);
        for _ in 0..1000 {
            if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a run of `injector` ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Fails with everything that was said unless this was the exit status.
    #[track_caller]
    pub(crate) fn expect(self, status: i32) -> Self {
        assert_eq!(self.status.code(), Some(status), "{self}");
        self
    }

    /// Fails unless standard error has this text.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "not said: {text}\n{self}");
        self
    }

    /// Fails unless standard output has this text.
    #[track_caller]
    pub(crate) fn prints(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "not printed: {text}\n{self}");
        self
    }

    /// The object on the last line of standard output.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}\n{self}"))
    }

    /// The signal that ended it.
    pub(crate) fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}\n---- stdout\n{}---- stderr\n{}", self.status, self.stdout, self.stderr)
    }
}
