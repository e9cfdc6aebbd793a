//! `cargo xtask bench`: what the pure decision costs by itself, then the programs' cost on this machine's kernel.

use crate::setup::setup;
use crate::{build_ebpf, demo, process, workspace};
use anyhow::Result;

/// Prints criterion's results for `injector-common/benches` and, as root, what `injector bench` measured by `BPF_PROG_TEST_RUN`.
pub(crate) fn command() -> Result<()> {
    setup()?;
    build_ebpf::build_ebpf(false)?;
    process::run(workspace::cargo().args(["bench", "--package", "injector-common", "--bench", "decide"]))?;
    let injector = demo::build_injector()?;
    process::run(process::as_root(injector).args(["bench", "--json"]))
}
