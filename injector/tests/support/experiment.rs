//! `injector` as its users start it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::NamedTempFile;

use super::{Located as _, wait_until};

/// How long arming and reverting may take. Emulated machines are slow: where all operations fail, they load 40 programs.
const PATIENCE: Duration = Duration::from_secs(600);

/// The built program, or the one that `INJECTOR_BIN` names.
pub(crate) fn injector() -> Command {
    let built = || env!("CARGO_BIN_EXE_injector").into();
    let mut command = Command::new(std::env::var_os("INJECTOR_BIN").unwrap_or_else(built));
    command.arg("--color=never");
    command
}

/// A running `injector apply`. When it is dropped it is interrupted, and killed if that does not end it.
#[derive(Debug)]
pub(crate) struct Experiment {
    child: Child,
    talk: Arc<Mutex<String>>,
    _file: NamedTempFile,
}

impl Experiment {
    /// Applies a scenario and waits until it is armed. `version` and `duration` are added if it has none.
    #[track_caller]
    pub(crate) fn apply(scenario: &str) -> Self {
        Self::apply_with(scenario, |command| command)
    }

    /// The same, after `change` has seen the command: a namespace, more flags.
    #[track_caller]
    pub(crate) fn apply_with(scenario: &str, change: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let mut experiment = Self::spawn(scenario, change);
        let talk = Arc::clone(&experiment.talk);
        wait_until(PATIENCE, "armed", || {
            let said = talk.lock().unwrap();
            let ended = experiment.child.try_wait().unwrap();
            assert!(ended.is_none(), "injector ended with {ended:?} before it was armed:\n{said}");
            said.lines().any(|line| line.starts_with("armed"))
        });
        experiment
    }

    /// Starts it without waiting.
    #[track_caller]
    pub(crate) fn spawn(scenario: &str, change: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let mut file = NamedTempFile::with_suffix(".toml").unwrap();
        file.write_all(completed(scenario).as_bytes()).unwrap();
        let mut command = injector();
        command.args(["--json", "apply"]).arg(file.path());
        change(&mut command).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.process_group(0).spawn().unwrap();
        let talk = Arc::new(Mutex::new(String::new()));
        let (stderr, said) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&talk));
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut said = said.lock().unwrap();
                said.push_str(&line);
                said.push('\n');
            }
        });
        Self { child, talk, _file: file }
    }

    /// Process id of the controller.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Its report so far, as `injector status` shows it.
    #[track_caller]
    pub(crate) fn live(&self) -> Report {
        let listing: Value = serde_json::from_str(&injector().args(["--json", "status"]).text()).unwrap();
        let mut all = listing["experiments"].as_array().unwrap().iter();
        let own = all.find(|one| one["controller"] == self.pid()).unwrap_or_else(|| panic!("{listing}"));
        Report { object: own["report"].clone(), status: None }
    }

    /// What it has said on standard error.
    pub(crate) fn talk(&self) -> String {
        self.talk.lock().unwrap().clone()
    }

    /// Interrupts it, waits until everything is taken back, and returns its report.
    #[track_caller]
    pub(crate) fn end(mut self) -> Report {
        kill(Pid::from_raw(self.pid()), Signal::SIGINT).unwrap();
        self.report()
    }

    /// Waits for its own end, and returns its report.
    #[track_caller]
    pub(crate) fn wait(mut self, timeout: Duration) -> Report {
        wait_until(timeout, "the end of the experiment", || self.child.try_wait().unwrap().is_some());
        self.report()
    }

    #[track_caller]
    fn report(&mut self) -> Report {
        wait_until(PATIENCE, "reverted", || self.child.try_wait().unwrap().is_some());
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let status = self.child.wait().unwrap().code();
        let last = text.lines().last().unwrap_or_default();
        let object = serde_json::from_str(last).unwrap_or_else(|error| {
            panic!("no report ({error}), status {status:?}:\n{text}\n{}", self.talk())
        });
        Report { object, status }
    }
}

impl Drop for Experiment {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
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

/// The scenario with the keys that every scenario has.
fn completed(scenario: &str) -> String {
    let missing = |key: &str| !scenario.lines().any(|line| line.starts_with(key));
    let mut text = String::new();
    for (key, line) in [("version", "version = 1\n"), ("duration", "duration = \"5m\"\n")] {
        if missing(key) {
            text.push_str(line);
        }
    }
    text + scenario
}

/// The object that an experiment ended with.
#[derive(Debug)]
pub(crate) struct Report {
    /// The object.
    pub(crate) object: Value,
    /// Exit status of injector.
    pub(crate) status: Option<i32>,
}

impl Report {
    /// What the only fault did.
    #[track_caller]
    pub(crate) fn only(&self) -> Fault {
        let faults = self.object["faults"].as_array().unwrap();
        assert_eq!(faults.len(), 1, "{}", self.object);
        Fault::read(&faults[0])
    }

    /// What a fault did, by its id.
    #[track_caller]
    pub(crate) fn fault(&self, id: &str) -> Fault {
        let faults = self.object["faults"].as_array().unwrap();
        Fault::read(faults.iter().find(|fault| fault["id"] == id).unwrap())
    }
}

/// What one fault did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Packets that it meant.
    pub(crate) matched: u64,
    /// Packets that it struck.
    pub(crate) injected: u64,
    /// The same, in packets on the wire.
    pub(crate) segments_matched: u64,
    /// The same, in packets on the wire.
    pub(crate) segments_injected: u64,
    /// Spared by `limit`.
    pub(crate) spared_by_limit: u64,
    /// Spared by `budget`.
    pub(crate) spared_by_budget: u64,
    /// Super-packets that a fault per segment met.
    pub(crate) unsplit: u64,
}

impl Fault {
    fn read(value: &Value) -> Self {
        let number = |key: &str| value[key].as_u64().unwrap_or_else(|| panic!("no {key} in {value}"));
        Self {
            matched: number("matched"),
            injected: number("injected"),
            segments_matched: number("segments_matched"),
            segments_injected: number("segments_injected"),
            spared_by_limit: number("spared_by_limit"),
            spared_by_budget: number("spared_by_budget"),
            unsplit: number("unsplit"),
        }
    }
}
