//! `cargo xtask demo`: a real client and server in network namespaces of their own, first without and then with
//! 5 % loss on the client alone, side by side. [`namespaces`] makes and removes the place, [`report`] reads
//! iperf3's numbers and lays out the table. The machine is left as it was, also after Ctrl-C; [`trial`] is the test of
//! that, with what [`traces`] finds on the machine.

mod interrupt;
mod namespaces;
mod report;
mod traces;
mod trial;

use crate::say::{data, say};
use crate::setup::setup;
use crate::{build_ebpf, process, workspace};
use anyhow::{Context as _, Result, bail};
use interrupt::Interrupt;
use namespaces::{Namespaces, SERVER_ADDRESS};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use report::Measured;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
pub(crate) use trial::trial;

const FAULT: &str = "network.loss=5%";
/// Small enough that the veth pair's own queue (1000 packets) never overflows, so that the only loss is ours, and that
/// every kernel grants it: iperf3 gives up where `net.core.wmem_max`, 212992 on stock Debian, does not.
const WINDOW: &str = "256K";

#[derive(clap::Args)]
pub(crate) struct DemoArgs {
    /// Length of each of the two transfers, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// An injector that is built already: nothing is set up or built (used behind sudo)
    #[arg(long, hide = true)]
    injector: Option<PathBuf>,
}

/// Sets up, builds, and runs the demonstration as root.
pub(crate) fn command(args: &DemoArgs) -> Result<()> {
    if let Some(injector) = &args.injector {
        return demonstrate(injector, args.seconds);
    }
    setup()?;
    build_ebpf::build_ebpf(false)?;
    let injector = build_injector()?;
    if nix::unistd::geteuid().is_root() {
        return demonstrate(&injector, args.seconds);
    }
    if !process::can_be_root() {
        bail!(
            "the demonstration makes network namespaces and loads programs: run it as root or install sudo"
        );
    }
    say!("the rest needs root: sudo may ask for your password");
    let mut again = process::as_root(std::env::current_exe()?);
    process::run(again.args(["demo", "--seconds", &args.seconds.to_string(), "--injector"]).arg(injector))
}

/// Builds `injector` and says where it is. The packets are the kernel half's, which is always optimised.
pub(crate) fn build_injector() -> Result<PathBuf> {
    process::run(workspace::cargo().args(["build", "--quiet", "--package", "injector"]))?;
    Ok(workspace::target().join("debug/injector"))
}

fn demonstrate(injector: &Path, seconds: u32) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    stay_on_one_cpu()?;
    let namespaces = Namespaces::make()?;
    say!("a client and a server, each in a network namespace of its own, joined by a veth pair");
    let server = Server::start(&namespaces)?;
    let seconds = seconds.to_string();
    let iperf = ["iperf3", "--client", SERVER_ADDRESS, "--time", &seconds, "--window", WINDOW, "--json"];

    say!("$ {}", iperf.join(" "));
    let mut client = namespaces.in_client(iperf[0]);
    let without = measure(client.args(&iperf[1..]), &interrupt)?;

    say!("$ injector run --fault {FAULT} -- {}", iperf.join(" "));
    let mut client = namespaces.in_client(injector);
    client.args(["run", "--fault", FAULT, "--for", "1m", "--"]).args(iperf);
    let with = measure(&mut client, &interrupt)?;

    drop(server);
    namespaces.remove()?;
    data(format_args!("\n{}", report::table(&without, &with, FAULT)));
    say!("both namespaces are removed: the machine is as it was");
    Ok(())
}

/// Whatever this process starts runs on one CPU from now on: a veth pair that is fed by several of them reorders
/// packets, and TCP then sends segments again that nobody lost.
fn stay_on_one_cpu() -> Result<()> {
    let myself = Pid::from_raw(0);
    let allowed = sched_getaffinity(myself).context("cannot read the CPU affinity")?;
    let mut one = CpuSet::new();
    if let Some(first) = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap_or(false)) {
        one.set(first).context("cannot choose a CPU")?;
        sched_setaffinity(myself, &one).context("cannot set the CPU affinity")?;
    }
    Ok(())
}

/// Runs an iperf3 client (injector's report goes straight to our stderr) and reads its result.
fn measure(command: &mut Command, interrupt: &Interrupt) -> Result<Measured> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let child = command.spawn().with_context(|| format!("cannot start `{}`", process::shown(command)))?;
    let output = interrupt.wait_with_output(child)?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("`{}` failed: {}\n{}", process::shown(command), output.status, process::tail(&text, 5));
    }
    report::parse(&text)
}

/// iperf3's server; it ends with this value.
struct Server(Child);

impl Server {
    fn start(namespaces: &Namespaces) -> Result<Self> {
        let mut command = namespaces.in_server("iperf3");
        command.args(["--server", "--bind", SERVER_ADDRESS]).stdin(Stdio::null()).stdout(Stdio::null());
        let mut server = Self(command.spawn().context("cannot start iperf3")?);
        let deadline = Instant::now() + Duration::from_secs(5);
        while !namespaces.server_listens()? {
            if let Some(status) = server.0.try_wait()? {
                bail!("iperf3 --server ended at once: {status}");
            }
            if Instant::now() > deadline {
                bail!("iperf3 --server does not listen after 5 s");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
