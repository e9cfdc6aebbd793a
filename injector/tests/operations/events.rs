//! Faults that begin at an operation or a system call, and what only looks for one.

use crate::delays::folder;
use crate::harms::{scenario, within};
use crate::support::{Cgroup, Experiment, Located as _, Netns, sh};
use crate::{changes_syscalls, is_able};

/// Writes, syncs, and sends itself a datagram, as it is told by letters; prints what came of each.
const SCRIPT: &str = r#"
import errno
file, other = (os.open(path, os.O_RDWR) for path in sys.argv[2:4])
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 0))
receiver.settimeout(1)
def datagram():
    sender.sendto(b"x", receiver.getsockname())
    receiver.recv(1)
def attempt(call):
    try:
        call()
        return "."
    except TimeoutError:
        return "lost"
    except OSError as e:
        return errno.errorcode[e.errno]
calls = {
    "w": lambda: os.pwrite(file, b"x", 0), "W": lambda: os.pwrite(other, b"x", 0),
    "s": lambda: os.fsync(file), "S": lambda: os.fsync(other), "d": datagram, "g": lambda: os.getpgid(os.getpid()),
}
enter()
# A socket belongs to the cgroup in which it was made.
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print(*[attempt(calls[letter]) for letter in sys.argv[4]])
"#;

/// What became of what the letters ask for.
fn outcome(cgroup: &Cgroup, netns: &Netns, letters: &str) -> Vec<String> {
    let folder = folder(&["file", "other"]);
    let mut command = within(cgroup, SCRIPT);
    command.args([folder.at("file"), folder.at("other"), letters.to_owned()]);
    let said = command.in_netns(netns).text();
    said.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn operations_and_packets_are_struck_from_the_very_operation_on_that_is_waited_for() {
    if !is_able() {
        return;
    }
    let cgroup = Cgroup::new();
    let on = "when = { on = { kind = \"io\", operations = [\"fsync\", \"fdatasync\"], count = 2 } }";
    let faults = format!(
        "id = \"disk\"\nkind = \"io.error\"\noperations = \"write\"\npath = \"/**/file\"\n{on}\n\
         [[fault]]\nid = \"net\"\ntarget = \"t\"\nkind = \"network.loss\"\nwhen = {{ after = \"disk.on\" }}"
    );
    let netns = Netns::new();
    netns.ip("link set lo up");
    // It keeps the cgroup in the namespace, so that this is struck from the start.
    let _keeper = sh("exec sleep 600").in_cgroup(&cgroup).in_netns(&netns).background();
    let experiment = Experiment::apply(&scenario(&cgroup, &faults));
    let letters = "wdswdswWd";
    assert_eq!(
        outcome(&cgroup, &netns, letters),
        [".", ".", ".", ".", ".", ".", "EIO", ".", "lost"],
        "{letters}"
    );
    let report = experiment.end();
    let counts = |id: &str| (report.fault(id).matched, report.fault(id).injected);
    assert_eq!((counts("disk.on"), counts("disk"), counts("net")), ((2, 1), (1, 1), (1, 1)));
}

/// Where both are decided at the same place, the event itself is struck.
#[test]
fn the_event_itself_is_struck() {
    if !is_able() {
        return;
    }
    let (cgroup, netns) = (Cgroup::new(), Netns::new());
    let on = "when = { on = { kind = \"io\", operations = \"write\", path = \"/**/file\", count = 2 } }";
    let fault = format!("kind = \"io.error\"\noperations = \"write\"\npath = \"/**/file\"\n{on}");
    let experiment = Experiment::apply(&scenario(&cgroup, &fault));
    assert_eq!(outcome(&cgroup, &netns, "wWwWw"), [".", ".", "EIO", ".", "EIO"]);
    assert_eq!(experiment.end().fault("io.error-1").matched, 2);
    if !changes_syscalls() {
        return;
    }
    let on = "when = { on = { kind = \"syscall\", syscalls = \"fsync\", count = 2 } }";
    let fault = format!("kind = \"syscall.error\"\nsyscalls = \"fsync\"\nerrno = \"ENOSPC\"\n{on}");
    let experiment = Experiment::apply(&scenario(&cgroup, &fault));
    assert_eq!(outcome(&cgroup, &netns, "sSs"), [".", "ENOSPC", "ENOSPC"]);
    assert_eq!(experiment.end().fault("syscall.error-1.on").matched, 3);
}

#[test]
fn what_observes_operations_and_system_calls_counts_and_does_nothing() {
    if !is_able() {
        return;
    }
    let cgroup = Cgroup::new();
    let faults = "id = \"writes\"\nkind = \"io.observe\"\noperations = [\"write\", \"fsync\"]\npath = \"/**/file\"\n\
                  [[fault]]\nid = \"asks\"\ntarget = \"t\"\nkind = \"syscall.observe\"\nsyscalls = [\"getpgid\", \"fsync\"]\nnth = \"2\"";
    let experiment = Experiment::apply(&scenario(&cgroup, faults));
    let (netns, letters) = (Netns::new(), "wWwsSgg");
    assert_eq!(outcome(&cgroup, &netns, letters), ["."; 7], "{letters}");
    let report = experiment.end();
    let counts = |id: &str| (report.fault(id).matched, report.fault(id).injected);
    assert_eq!((counts("writes"), counts("asks")), ((3, 3), (4, 1)));
}
