//! The signals that end an experiment.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::EngineError;

/// Listens for them. Made before the host is changed: from then on none of them ends the process by itself, and
/// one that comes early is seen as soon as somebody asks.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
}

impl Signals {
    /// Starts to listen; needs a runtime.
    pub fn new() -> Result<Self, EngineError> {
        let listen = |kind| signal(kind).map_err(EngineError::Runtime);
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
        })
    }

    /// The next of them, by its number.
    pub(super) async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => nix::libc::SIGINT,
            _ = self.terminate.recv() => nix::libc::SIGTERM,
            _ = self.hangup.recv() => nix::libc::SIGHUP,
            _ = self.quit.recv() => nix::libc::SIGQUIT,
        }
    }
}
