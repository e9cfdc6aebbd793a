//! From armed to reverted: waits for the end, follows the host meanwhile, answers clients.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use super::control::{Request, SOCKET_NAME, answer, read_request};
use super::error::EngineError;
use super::session::Session;
use super::signals::Signals;
use crate::report::Outcome;

/// How soon a new namespace or device of a target is struck, at the latest.
pub const SCAN_INTERVAL: Duration = Duration::from_millis(100);

/// How long a command may take to end after a signal, before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// Looks at the host that may fail in a row: what comes and goes quickly is as a rule gone at the next.
const FAILED_LOOKS: u32 = 20;

/// How an experiment ended, and its command with it.
#[derive(Debug)]
pub struct Ending {
    /// Why it ended.
    pub outcome: Outcome,
    /// The error behind `Outcome::Failed`.
    pub error: Option<EngineError>,
    /// Exit status of the command, if there was one.
    pub exit_status: Option<i32>,
}

/// Something that happened.
enum Event {
    Deadline,
    Tick,
    Signal(i32),
    Asked(Request, UnixStream),
    Exited(std::io::Result<std::process::ExitStatus>),
    OutOfPatience,
}

/// What is waited for.
struct Driver<'a> {
    session: &'a mut Session,
    signals: Signals,
    requests: mpsc::Receiver<(Request, UnixStream)>,
    ticks: Interval,
    deadline: Instant,
    child: Option<Child>,
    /// Set when the experiment is over and only the command is waited for.
    ending: Option<(Outcome, Instant)>,
    faults_over: bool,
    failed_looks: u32,
}

/// Runs a session to its end. `spawn` starts the command of `run`, if there is one, when the faults are armed.
///
/// However it ends, the command has ended too, and no fault is armed any more.
pub async fn drive(
    session: &mut Session,
    signals: Signals,
    spawn: impl FnOnce(&Session) -> Result<Option<Child>, EngineError>,
) -> Ending {
    let mut driver = match Driver::start(session, signals, spawn) {
        Ok(driver) => driver,
        Err(error) => return Ending { outcome: Outcome::Failed, error: Some(error), exit_status: None },
    };
    match driver.run().await {
        Ok((outcome, exit_status)) => Ending { outcome, error: None, exit_status },
        Err(error) => {
            let exit_status = driver.give_up().await;
            Ending { outcome: Outcome::Failed, error: Some(error), exit_status }
        }
    }
}

impl<'a> Driver<'a> {
    fn start(
        session: &'a mut Session,
        signals: Signals,
        spawn: impl FnOnce(&Session) -> Result<Option<Child>, EngineError>,
    ) -> Result<Self, EngineError> {
        let requests = listen(session)?;
        session.arm()?;
        let deadline = Instant::now() + session.duration();
        let child = spawn(session)?;
        let mut ticks = interval(SCAN_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (ending, faults_over, failed_looks) = (None, false, 0);
        Ok(Self { session, signals, requests, ticks, deadline, child, ending, faults_over, failed_looks })
    }

    async fn next(&mut self) -> Event {
        let patience = self.ending.map_or(self.deadline, |(_, since)| since + GRACE);
        tokio::select! {
            number = self.signals.next() => Event::Signal(number),
            Some((request, stream)) = self.requests.recv() => Event::Asked(request, stream),
            status = exited(self.child.as_mut()) => Event::Exited(status),
            () = sleep_until(self.deadline), if !self.faults_over => Event::Deadline,
            () = sleep_until(patience), if self.ending.is_some() => Event::OutOfPatience,
            _ = self.ticks.tick(), if !self.faults_over => Event::Tick,
        }
    }

    async fn run(&mut self) -> Result<(Outcome, Option<i32>), EngineError> {
        loop {
            match self.next().await {
                Event::Tick => self.look()?,
                Event::Exited(status) => {
                    let status = exit_code(status.map_err(EngineError::Runtime)?);
                    self.child = None;
                    return Ok((
                        self.ending.map_or(Outcome::Completed, |(outcome, _)| outcome),
                        Some(status),
                    ));
                }
                Event::Deadline => {
                    self.end_faults()?;
                    // The command outlives its faults: it is waited for, as `timeout` would not.
                    if self.child.is_none() {
                        return Ok((Outcome::Completed, None));
                    }
                }
                Event::Signal(number) if self.ending.is_none() => {
                    if self.interrupt(number)? {
                        return Ok((Outcome::Interrupted, None));
                    }
                }
                // The operator insists, or has waited long enough.
                Event::Signal(_) | Event::OutOfPatience => self.signal_command(Signal::SIGKILL),
                Event::Asked(Request::Status, stream) => self.report_to(stream),
                Event::Asked(Request::Stop, mut stream) => {
                    // Here and not in a task: the runtime may be gone before that runs.
                    answer(&mut stream, &serde_json::json!({ "stopping": true })).await;
                    if self.ending.is_none() && self.interrupt(nix::libc::SIGTERM)? {
                        return Ok((Outcome::Interrupted, None));
                    }
                }
            }
        }
    }

    /// Follows the host. A look may fail because something went away while it was looked at.
    fn look(&mut self) -> Result<(), EngineError> {
        match self.session.follow_host() {
            Ok(()) => self.failed_looks = 0,
            Err(error @ EngineError::DeviceGone { .. }) => return Err(error),
            Err(error) => {
                self.failed_looks += 1;
                tracing::warn!(%error, "the host could not be followed");
                if self.failed_looks >= FAILED_LOOKS {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn end_faults(&mut self) -> Result<(), EngineError> {
        self.faults_over = true;
        self.session.release()
    }

    /// Ends the faults and passes the signal on to the command; true if there is none to wait for.
    fn interrupt(&mut self, number: i32) -> Result<bool, EngineError> {
        // The faults first: what they do to the command must not keep it from ending.
        self.end_faults()?;
        self.ending = Some((Outcome::Interrupted, Instant::now()));
        if let Ok(signal) = Signal::try_from(number) {
            // A terminal sends its own to the whole foreground group, the command included.
            let from_terminal = matches!(signal, Signal::SIGINT | Signal::SIGQUIT) && in_foreground();
            if !from_terminal {
                self.signal_command(signal);
            }
        }
        Ok(self.child.is_none())
    }

    fn signal_command(&self, signal: Signal) {
        if let Some(pid) = self.child.as_ref().and_then(Child::id) {
            // It may have ended meanwhile, which the next event says.
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
    }

    fn report_to(&mut self, stream: UnixStream) {
        match self.session.report(Outcome::Running, None) {
            Ok(report) => reply(stream, report),
            Err(error) => reply(stream, serde_json::json!({ "error": error.to_string() })),
        }
    }

    /// After an error: the faults go at once, and the command is ended, since what it ran under is gone.
    async fn give_up(&mut self) -> Option<i32> {
        // The error at hand is the one to tell; `end` tries again.
        let _ = self.session.release();
        self.signal_command(Signal::SIGTERM);
        let child = self.child.as_mut()?;
        if let Ok(Ok(status)) = tokio::time::timeout(GRACE, child.wait()).await {
            return Some(exit_code(status));
        }
        self.signal_command(Signal::SIGKILL);
        self.child.as_mut()?.wait().await.ok().map(exit_code)
    }
}

/// Opens the control socket. Each client has a task of its own, so that a silent one holds up nobody.
fn listen(session: &Session) -> Result<mpsc::Receiver<(Request, UnixStream)>, EngineError> {
    let listener = UnixListener::bind(session.directory().join(SOCKET_NAME)).map_err(EngineError::Runtime)?;
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                if let Some(request) = read_request(&mut stream).await {
                    // The experiment has ended: the client sees its socket close.
                    let _ = sender.send((request, stream)).await;
                }
            });
        }
    });
    Ok(receiver)
}

fn reply(mut stream: UnixStream, value: impl serde::Serialize + Send + Sync + 'static) {
    tokio::spawn(async move { answer(&mut stream, &value).await });
}

/// The end of the command, or never.
async fn exited(child: Option<&mut Child>) -> std::io::Result<std::process::ExitStatus> {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}

/// Whether the terminal's own signals go to our process group, in which the command is.
fn in_foreground() -> bool {
    let Ok(terminal) = std::fs::File::open("/dev/tty") else { return false };
    nix::unistd::tcgetpgrp(&terminal).is_ok_and(|group| group == nix::unistd::getpgrp())
}

/// The status that a shell would show.
fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
