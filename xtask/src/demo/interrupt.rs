//! Ctrl-C and SIGTERM as an ordinary error, so that what was made is removed on the way out.

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Child, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the flag is looked at while a command runs.
const POLL: Duration = Duration::from_millis(50);
/// What a command gets to take back its own changes before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// Whether the person wants it to end.
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on Ctrl-C, SIGTERM and SIGHUP only set a flag.
    pub(super) fn watch() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&flag);
        ctrlc::set_handler(move || set.store(true, Ordering::SeqCst)).context("cannot handle Ctrl-C")?;
        Ok(Self(flag))
    }

    /// Waits for a command; when interrupted, hands the interrupt on, waits for its end, and is an error.
    pub(super) fn wait_with_output(&self, mut child: Child) -> Result<Output> {
        let stdout = child.stdout.take().context("the command has no stdout")?;
        let reader = std::thread::spawn(move || std::io::read_to_string(stdout));
        let mut told: Option<Instant> = None;
        let status = loop {
            if let Some(status) = child.try_wait().context("cannot wait for the command")? {
                break status;
            }
            match told {
                None if self.0.load(Ordering::SeqCst) => {
                    // Its own failure to die is seen below.
                    let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
                    told = Some(Instant::now());
                }
                Some(at) if at.elapsed() > GRACE => child.kill().context("cannot kill the command")?,
                _ => {}
            }
            std::thread::sleep(POLL);
        };
        if self.0.load(Ordering::SeqCst) {
            bail!("interrupted: everything is taken back");
        }
        let text = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        let stdout = text.context("cannot read the command's output")?.into_bytes();
        Ok(Output { status, stdout, stderr: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn an_interrupted_command_is_ended_and_is_an_error() {
        let interrupt = Interrupt(Arc::new(AtomicBool::new(true)));
        let child = Command::new("sleep").arg("60").stdout(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        assert!(interrupt.wait_with_output(child).unwrap_err().to_string().starts_with("interrupted"));
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn an_undisturbed_command_gives_its_output() {
        let interrupt = Interrupt(Arc::new(AtomicBool::new(false)));
        let child = Command::new("echo").arg("x").stdout(Stdio::piped()).spawn().unwrap();
        assert_eq!(interrupt.wait_with_output(child).unwrap().stdout, b"x\n");
    }
}
