//! The guest's PID 1: mounts what a system has, loads the modules, runs one command, says how it ended, and
//! powers off. This is xtask itself, started by the kernel as `/init`.

use super::console::{EXIT_MARKER, UP_MARKER};
use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::termios::tcdrain;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

/// One module per line in load order: its path, a tab, its parameters.
pub(crate) const MODULES_FILE: &str = "/injector-vm/modules";
/// The command's words, parted by zero bytes.
pub(crate) const COMMAND_FILE: &str = "/injector-vm/command";
/// The port for the command's output. The kernel's console is the other one.
const OUTPUT: &str = "/dev/ttyS1";

/// What is mounted: type, place, options.
const MOUNTS: [(&str, &str, &str); 10] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("devpts", "/dev/pts", "ptmxmode=0666"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("tmpfs", "/run", "mode=755"),
    ("cgroup2", "/sys/fs/cgroup", ""),
    ("bpf", "/sys/fs/bpf", ""),
    ("securityfs", "/sys/kernel/security", ""),
];

/// The controllers that systemd turns on.
const CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// Whether the kernel started this process as a guest's init.
pub(crate) fn is_init() -> bool {
    std::process::id() == 1 && std::env::args_os().next().is_some_and(|name| name == "/init")
}

/// The life of a guest. It never returns: PID 1 must not end before the power is off.
pub(crate) fn main() -> ! {
    let status = run().unwrap_or_else(|error| {
        announce(&format!("injector-vm: {error:#}"));
        127
    });
    announce(&format!("{EXIT_MARKER}{status}"));
    nix::unistd::sync();
    let Err(errno) = reboot(RebootMode::RB_POWER_OFF) as nix::Result<Infallible>;
    announce(&format!("injector-vm: cannot power off: {errno}"));
    loop {
        std::thread::park();
    }
}

/// Writes a line to the output port (to the console before that exists) and waits until it is out.
fn announce(text: &str) {
    let file = File::options()
        .write(true)
        .open(OUTPUT)
        .or_else(|_| File::options().write(true).open("/dev/console"));
    if let Ok(mut file) = file {
        let _ = writeln!(file, "{text}");
        let _ = tcdrain(&file);
    }
}

fn run() -> Result<i32> {
    for (kind, place, options) in MOUNTS {
        let _ = fs::create_dir_all(place);
        mount(Some(kind), place, Some(kind), MsFlags::empty(), Some(options))
            .with_context(|| format!("cannot mount {kind} on {place}"))?;
    }
    announce(UP_MARKER);
    for (link, to) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "fd/0"),
        ("/dev/stdout", "fd/1"),
        ("/dev/stderr", "fd/2"),
    ] {
        let _ = symlink(to, link);
    }
    nix::unistd::sethostname("guest").context("cannot set the host name")?;
    hand_controllers_down()?;
    load_modules()?;
    let up = Command::new("/usr/bin/ip").args(["link", "set", "lo", "up"]).status();
    anyhow::ensure!(up.context("cannot start ip")?.success(), "cannot bring lo up");
    run_command()
}

/// Turns the controllers on for the groups below the root, as every init system does.
fn hand_controllers_down() -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let controllers =
        fs::read_to_string(root.join("cgroup.controllers")).context("cannot read the controllers")?;
    for controller in controllers.split_whitespace().filter(|name| CONTROLLERS.contains(name)) {
        fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"))
            .with_context(|| format!("cannot turn the controller {controller} on"))?;
    }
    Ok(())
}

fn load_modules() -> Result<()> {
    let list = fs::read_to_string(MODULES_FILE).with_context(|| format!("cannot read {MODULES_FILE}"))?;
    for line in list.lines() {
        let (path, parameters) = line.split_once('\t').unwrap_or((line, ""));
        let file = File::open(path).with_context(|| format!("cannot open {path}"))?;
        match finit_module(&file, &CString::new(parameters)?, ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno).with_context(|| format!("cannot load {path}")),
        }
    }
    Ok(())
}

fn run_command() -> Result<i32> {
    let words = fs::read_to_string(COMMAND_FILE).with_context(|| format!("cannot read {COMMAND_FILE}"))?;
    let mut words = words.split('\0');
    let program = words.next().context("there is no command")?;
    let output = File::options().write(true).open(OUTPUT).with_context(|| format!("cannot open {OUTPUT}"))?;
    let mut command = Command::new(program);
    command.args(words).env_clear().current_dir("/root");
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
    command.env("INJECTOR_BIN", super::GUEST_INJECTOR).env("INJECTOR_VM", "1");
    command.env("LANG", "C.UTF-8").env("TERM", "dumb").env("RUST_BACKTRACE", "1").env("USER", "root");
    if let Some(clock) = std::env::var_os("INJECTOR_CLOCK") {
        command.env("INJECTOR_CLOCK", clock);
    }
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    let child = Pid::from_raw(child.id().cast_signed());
    // Orphans become ours: reap everything, until the command itself has ended.
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => return Ok(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => return Ok(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for the command"),
        }
    }
}
