//! Scratch cgroups, namespaces, processes and BPF programs that go away with their owner.

use std::fs;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use injector::host::cgroup::{Cgroup, Hierarchy};
use injector::host::netlink::{Netlink, Request};
use injector::host::netns::{self, NetnsId};
use injector::host::process::ProcessId;
use injector::host::tc::Direction;
use injector::journal::{Header, VERSION};
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Whether the test must end here, having shown why.
pub(crate) fn skipped_without_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return false;
    }
    assert_eq!(
        unshare(CloneFlags::CLONE_NEWNET),
        Err(Errno::EPERM),
        "only a lack of root is a reason to skip"
    );
    true
}

pub(crate) fn unique(name: &str) -> String {
    format!("injtest-{}-{}-{name}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn own_pid() -> i32 {
    std::process::id().cast_signed()
}

/// Wait for something that another process does.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A cgroup below the root, dissolved at the end.
pub(crate) struct ScratchCgroup {
    pub(crate) hierarchy: Hierarchy,
    pub(crate) cgroup: Cgroup,
}

impl ScratchCgroup {
    pub(crate) fn new(name: &str) -> Self {
        let hierarchy = Hierarchy::find().unwrap();
        let cgroup = hierarchy.create_leaf(&hierarchy.root().unwrap(), &unique(name)).unwrap();
        Self { hierarchy, cgroup }
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.hierarchy.directory(&self.cgroup.path)
    }
}

impl Drop for ScratchCgroup {
    fn drop(&mut self) {
        let dissolved = self.hierarchy.dissolve(&self.cgroup);
        assert!(std::thread::panicking() || dissolved.is_ok(), "{dissolved:?}");
    }
}

/// A process of ours, killed with its whole group at the end.
pub(crate) struct Background(pub(crate) Child);

impl Background {
    pub(crate) fn shell(script: &str) -> Self {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).process_group(0);
        Self(command.spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    pub(crate) fn end(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.pid());
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        self.0.wait().unwrap();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.end();
    }
}

/// A named network namespace.
pub(crate) struct ScratchNetns {
    pub(crate) name: String,
    pub(crate) fd: OwnedFd,
    pub(crate) id: NetnsId,
}

impl ScratchNetns {
    pub(crate) fn new(name: &str) -> Self {
        let name = unique(name);
        run("ip", &["netns", "add", &name]);
        let fd = OwnedFd::from(fs::File::open(format!("/run/netns/{name}")).unwrap());
        let id = NetnsId::of_fd(std::os::fd::AsFd::as_fd(&fd)).unwrap();
        Self { name, fd, id }
    }

    pub(crate) fn ip(&self, arguments: &str) -> String {
        let arguments: Vec<&str> = ["-n", &self.name].into_iter().chain(arguments.split(' ')).collect();
        run("ip", &arguments)
    }

    pub(crate) fn tc(&self, arguments: &str) -> String {
        let arguments: Vec<&str> = ["-n", &self.name].into_iter().chain(arguments.split(' ')).collect();
        run("tc", &arguments)
    }

    pub(crate) fn netlink(&self) -> Netlink {
        Netlink::open_in(std::os::fd::AsFd::as_fd(&self.fd)).unwrap()
    }

    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::enter(std::os::fd::AsFd::as_fd(&self.fd), work).unwrap()
    }
}

impl Drop for ScratchNetns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A loaded classifier that lets everything pass, and its id.
pub(crate) fn load_classifier() -> (OwnedFd, u32) {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const SCHED_CLS: u32 = 3;
    // r0 = TC_ACT_OK; exit
    let code: [u64; 2] = [0xb7, 0x95];
    let licence = c"GPL";
    let mut attributes = [0u8; 128];
    attributes[..4].copy_from_slice(&SCHED_CLS.to_ne_bytes());
    attributes[4..8].copy_from_slice(&2u32.to_ne_bytes());
    attributes[8..16].copy_from_slice(&(code.as_ptr() as u64).to_ne_bytes());
    attributes[16..24].copy_from_slice(&(licence.as_ptr() as u64).to_ne_bytes());
    // SAFETY: the attributes and what they point to live until the call returns.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, attributes.as_ptr(), attributes.len()) };
    let fd = Errno::result(fd).unwrap();
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
    let id = info.lines().find_map(|line| line.strip_prefix("prog_id:")).unwrap().trim().parse().unwrap();
    (fd, id)
}

/// Attach a classifier as aya does before tcx.
pub(crate) fn attach(
    netlink: &mut Netlink,
    ifindex: u32,
    direction: Direction,
    pref: u16,
    handle: u32,
    program: &OwnedFd,
) {
    let parent: u32 = if direction == Direction::Ingress { 0xFFFF_FFF2 } else { 0xFFFF_FFF3 };
    let info = u32::from(pref) << 16 | u32::from(3u16.to_be());
    let fixed: Vec<u8> =
        [0, ifindex, handle, parent, info].iter().flat_map(|field: &u32| field.to_ne_bytes()).collect();
    let fd = program.as_raw_fd().to_ne_bytes();
    let options = Request::nested(&[(6, &fd), (7, b"test\0"), (8, &1u32.to_ne_bytes())]);
    let request = Request::new("attach a filter", libc::RTM_NEWTFILTER, &fixed)
        .flags(libc::NLM_F_CREATE | libc::NLM_F_EXCL)
        .attribute(1, b"bpf\0")
        .attribute(2, &options);
    netlink.execute(&request).unwrap();
}

pub(crate) fn header(id: &str) -> Header {
    Header {
        version: VERSION,
        id: id.to_owned(),
        name: id.to_owned(),
        controller: ProcessId::of_self().unwrap(),
        boot_id: injector::host::facts::boot_id().unwrap(),
        started: jiff::Timestamp::UNIX_EPOCH,
        deadline: jiff::Timestamp::UNIX_EPOCH,
        targets: Vec::new(),
    }
}
