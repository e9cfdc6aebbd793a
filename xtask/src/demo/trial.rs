//! The demonstration as a stage of `cargo xtask test`: in short, with a look at the machine before and after.

use super::{report, traces::Traces};
use crate::process;
use crate::stage::Tally;
use anyhow::{Context as _, Result, bail, ensure};
use std::path::Path;
use std::time::{Duration, Instant};

/// Of each transfer: at 5 % loss even a slow machine sends segments again in this time.
const SECONDS_EACH: &str = "2";
/// The kernel removes namespaces in the background.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);

/// Runs the demonstration with an injector that is built already.
pub(crate) fn trial(injector: &Path) -> Result<Tally> {
    if !process::can_be_root() {
        bail!("the demonstration needs root: run `cargo xtask test` as root or install sudo");
    }
    let before = Traces::find()?;
    let mut demo = process::as_root(std::env::current_exe().context("xtask does not find itself")?);
    demo.args(["demo", "--seconds", SECONDS_EACH, "--injector"]).arg(injector);
    let (ok, lines) = process::stream(&mut demo)?;
    ensure!(ok, "`{}` failed", process::shown(&demo));
    let (without, with) = report::sent_again(&lines).context("the demonstration printed no table")?;
    ensure!(with > without, "{with} segments were sent again under loss, and {without} without");
    wait_for(&before)?;
    Ok(Tally::ONE)
}

/// Waits until the machine is as it was.
fn wait_for(before: &Traces) -> Result<()> {
    let start = Instant::now();
    loop {
        let differences = Traces::find()?.differences_from(before);
        if differences.is_empty() {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            bail!("the demonstration did not leave the machine as it was:\n{}", differences.join("\n"));
        }
        std::thread::sleep(POLL);
    }
}
