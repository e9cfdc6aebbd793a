//! What the kinds refuse, and what is said of it.

use crate::scenario::{Overrides, Source, load};

/// What is said of a fault with these keys.
pub(super) fn complaint(keys: &str) -> String {
    let text = format!("duration = \"1s\"\n[target.t]\ncgroup = \"/t\"\n[[fault]]\ntarget = \"t\"\n{keys}\n");
    said(&text)
}

/// What is said of a scenario, as one line.
pub(super) fn said(text: &str) -> String {
    match load(&Source::text("t.toml", text), &Overrides::default()) {
        Ok(_) => String::new(),
        // As one line, whatever the width at which it is wrapped.
        Err(errors) => {
            errors.render(false).replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ")
        }
    }
}

#[test]
fn calls_that_can_not_be_meant_are_refused_with_the_reason() {
    for (keys, reason) in [
        ("kind = \"network.connect\"", "`errno` is missing"),
        ("kind = \"network.connect\"\nerrno = \"ECONREFUSED\"", "did you mean `ECONNREFUSED`?"),
        ("kind = \"network.connect\"\nerrno = \"refused\"", "unknown errno \"refused\""),
        ("kind = \"network.connect\"\nerrno = \"ERESTARTSYS\"", "is the kernel's own errno"),
        ("kind = \"network.connect\"\nerrno = 512", "is the kernel's own errno"),
        ("kind = \"network.connect\"\nerrno = 530", "is the kernel's own errno"),
        ("kind = \"network.connect\"\nerrno = 134", "the errno 134 is out of range"),
        ("kind = \"network.connect\"\nerrno = 0", "the errno 0 is out of range"),
        ("kind = \"network.connect\"\nerrno = -111", "the errno -111 is out of range"),
        ("kind = \"network.connect\"\nerrno = 41", "41 is the number of no errno"),
        (
            "kind = \"network.connect\"\nerrno = 111\noperations = [\"connect\", \"accept\"]",
            "`accept` can't be made to fail",
        ),
        ("kind = \"network.connect\"\nerrno = 111\noperations = \"bnd\"", "did you mean `bind`?"),
        ("kind = \"network.connect\"\nerrno = 111\noperations = []", "an empty list means nothing"),
        ("kind = \"network.connect\"\nerrno = 111\ndirection = \"egress\"", "a call has no direction"),
        (
            "kind = \"network.connect\"\nerrno = 111\nmatch = { length = \">= 9\" }",
            "`length` is asked of packets",
        ),
        (
            "kind = \"network.connect\"\nerrno = 111\nmatch = { not = { interface = \"lo\" } }",
            "`interface` is asked of packets",
        ),
        (
            "kind = \"network.connect\"\nerrno = 111\nmatch = { protocol = \"tcp\", established = false }",
            "`established` is asked of packets",
        ),
        (
            "kind = \"network.connect\"\nerrno = 111\nmatch = { local_port = 80 }",
            "`local_port` with `connect` or `sendmsg`",
        ),
        (
            "kind = \"network.connect\"\nerrno = 98\noperations = \"bind\"\nmatch = { remote = \"10.0.0.1\" }",
            "`remote` with `bind`",
        ),
        (
            "kind = \"network.connect\"\nerrno = 98\noperations = [\"bind\", \"connect\"]\nmatch = { remote_port = 80 }",
            "`remote_port` with `bind`",
        ),
        (
            "kind = \"network.connect\"\nerrno = 1\noperations = [\"connect\", \"sendmsg\"]\nmatch = { protocol = \"tcp\" }",
            "no call of `sendmsg` is of such a protocol",
        ),
        (
            "kind = \"network.connect\"\nerrno = 111\nmatch = { protocol = [\"tcp\", 132] }",
            "asks no program of a cgroup in such calls",
        ),
        (
            "kind = \"network.connect\"\nerrno = 98\noperations = \"bind\"\nmatch = { protocol = \"icmp\" }",
            "asks no program of a cgroup in such calls",
        ),
    ] {
        let said = complaint(keys);
        assert!(said.contains(reason), "{keys}: {said:?}");
    }
}

#[test]
fn what_can_not_be_meant_is_refused_with_the_reason() {
    for (keys, reason) in [
        ("kind = \"network.delay\"", "`delay` is missing"),
        ("kind = \"network.delay\"\ndelay = \"0s\"", "a delay of nothing"),
        ("kind = \"network.delay\"\ndelay = \"2h\"", "is too long"),
        ("kind = \"network.delay\"\ndelay = \"10ms\"\njitter = \"11ms\"", "some delays would be negative"),
        (
            "kind = \"network.delay\"\ndelay = \"10ms\"\ndistribution = \"normal\"",
            "a distribution without `jitter` is one fixed delay",
        ),
        ("kind = \"network.delay\"\ndelay = \"10ms\"\ndistribution = \"normale\"", "did you mean `normal`?"),
        ("kind = \"network.delay\"\ndelay = 10", "\"10\" needs a unit"),
        ("kind = \"network.delay\"\nprofile = \"none.csv\"", "none.csv cannot be read: ENOENT"),
        (
            "kind = \"network.delay\"\nprofile = \"none.csv\"\ndelay = \"5ms\"",
            "`profile` says all about the delays, so `delay` has no meaning",
        ),
        ("kind = \"network.delay\"\nprofile = \"none.csv\"\njitter = \"5ms\"", "so `jitter` has no meaning"),
        (
            "kind = \"network.delay\"\nprofile = \"none.csv\"\ndistribution = \"normal\"",
            "so `distribution` has no meaning",
        ),
        ("kind = \"network.rate\"", "`rate` is missing"),
        ("kind = \"network.rate\"\nrate = \"1mbit\"\ntrace = \"none.up\"", "has either `rate` or `trace`"),
        ("kind = \"network.rate\"\ntrace = \"none.up\"\nburst = \"9KB\"", "so `burst` has no meaning"),
        ("kind = \"network.rate\"\ntrace = \"none.up\"", "none.up cannot be read: ENOENT"),
        (
            "kind = \"network.rate\"\nrate = \"1mbit\"\nqueue = \"x packets\"",
            "\"x\" is not a number of packets",
        ),
        ("kind = \"network.rate\"\nrate = \"1mbit\"\nqueue = \"-1 packets\"", "is not a number of packets"),
        ("kind = \"network.rate\"\nrate = \"0mbit\"", "is less than 64 bits a second"),
        ("kind = \"network.rate\"\nrate = \"10mbps\"", "\"mbps\" is not a unit of a rate"),
        ("kind = \"network.rate\"\nrate = \"1mbit\"\nqueue = 5", "\"5\" needs a unit"),
        ("kind = \"network.rate\"\nrate = \"1mbit\"\nlimit = 5", "so `limit` has no meaning"),
        (
            "kind = \"network.rate\"\nrate = \"1mbit\"\nprobability = \"5%\"",
            "so `probability` has no meaning",
        ),
        ("kind = \"network.reorder\"\ndelay = \"5ms\"", "if every packet is held back, none is overtaken"),
        (
            "kind = \"network.reorder\"\ndelay = \"5ms\"\nprobability = \"100%\"",
            "if every packet is held back, none is overtaken",
        ),
        ("kind = \"network.reorder\"\ndelay = \"5ms\"\ngap = 3\nnth = 2", "so `nth` has no meaning"),
        ("kind = \"network.duplicate\"\ncopies = 9", "1 to 8"),
        ("kind = \"network.corrupt\"\nbits = 2", "`bits` goes with mode = \"silent\""),
        ("kind = \"network.mark-ecn\"\ncodepoint = \"ect0\"", "unknown code point"),
        ("kind = \"network.window\"", "only TCP has a receive window"),
        ("kind = \"network.window\"\nmatch = { protocol = \"udp\" }", "only TCP has a receive window"),
        ("kind = \"network.dns\"\nanswer = \"nodata\"", "unknown answer"),
        ("kind = \"network.dns\"\nnames = []", "an empty list means nothing"),
        ("kind = \"network.dns\"\nnames = \"*\"", "leave `names` out to mean every name"),
        ("kind = \"network.dns\"\nnames = \".\"", "leave `names` out to mean every name"),
        ("kind = \"network.dns\"\nnames = \"db*.internal\"", "is not the whole first label"),
        ("kind = \"network.dns\"\nnames = \"a.*.internal\"", "is not the whole first label"),
        ("kind = \"network.dns\"\nnames = \"a..internal\"", "has an empty label"),
        ("kind = \"network.dns\"\nnames = \".internal\"", "has an empty label"),
        ("kind = \"network.dns\"\nnames = \"a b\"", "can't be in a name"),
        ("kind = \"network.dns\"\nnames = \"[ab].internal\"", "can't be in a name"),
        ("kind = \"network.dns\"\nnames = \"bücher.example\"", "xn--bcher-kva.example"),
        (
            "kind = \"network.dns\"\nnames = [\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\"]",
            "at most 8",
        ),
        ("kind = \"network.dns\"\ntypes = \"AAA\"", "did you mean `AAAA`?"),
        ("kind = \"network.dns\"\ntypes = 0", "out of range"),
        ("kind = \"network.dns\"\ntypes = [1,2,3,4,5,6,7,8,9]", "at most 8"),
        ("kind = \"network.dns\"\nmatch = { protocol = \"icmp\" }", "go over UDP or TCP"),
        ("kind = \"network.reset\"", "only TCP has connections that are reset"),
        (
            "kind = \"network.reset\"\nmatch = { protocol = [\"tcp\", \"udp\"] }",
            "only TCP has connections that are reset",
        ),
        (
            "kind = \"network.reset\"\nside = \"locale\"\nmatch = { protocol = \"tcp\" }",
            "did you mean `local`?",
        ),
        ("kind = \"network.reset\"\nafter = 65536\nmatch = { protocol = \"tcp\" }", "\"65536\" needs a unit"),
        ("kind = \"network.reject\"\nicmp = \"host-unreachble\"", "did you mean `host-unreachable`?"),
        ("kind = \"network.reject\"\nmtu = 1400", "`mtu` goes with icmp = \"fragmentation-needed\""),
        ("kind = \"network.reject\"\nicmp = \"fragmentation-needed\"\nmtu = 500", "576 to 65535"),
        (
            "kind = \"network.reject\"\nicmp = \"fragmentation-needed\"\nmtu = 1000",
            "an MTU of 1000 is none of IPv6",
        ),
    ] {
        let said = complaint(keys);
        assert!(said.contains(reason), "{keys}: {said:?}");
    }
}

#[test]
fn a_partition_has_either_peers_or_nodes() {
    const NODES: &str = "nodes = [\"t\", \"u\", \"v\"]";
    for (keys, reason) in [
        ("target = \"t\"", "the partition has no other side"),
        ("", "`target` is missing"),
        ("target = \"t\"\nfrom = \"10.0.0.2\"\ndirection = \"both\"", "say the direction"),
        ("target = \"t\"\nto = \"10.0.0.2\"\nmatch = { remote = \"10.0.0.3\" }", "say the other side"),
        ("target = \"t\"\nto = \"replica\"", "did you mean `replicas`?"),
        ("target = \"t\"\nfrom = \"10.0.0.2/8\"", "bits set behind its prefix"),
        ("target = \"t\"\nfrom = []", "an empty list"),
        ("from = \"10.0.0.2\"", "`target` is missing"),
        ("shape = \"one\"", "needs `nodes`"),
        (NODES, "needs `shape`"),
        ("shape = \"halve\"\nnodes = [\"t\", \"u\"]", "did you mean `halves`?"),
        ("shape = \"one\"\nnodes = [\"t\"]", "of one node there is no \"one\""),
        ("shape = \"bridge\"\nnodes = [\"t\", \"u\"]", "at least 3 names of targets"),
        ("shape = \"majorities-ring\"\nnodes = [\"t\", \"u\"]", "at least 3 names of targets"),
        ("shape = \"one\"\nnodes = [\"t\", \"u\", \"t\"]", "\"t\" is there already"),
        ("shape = \"one\"\nnodes = [\"t\", \"w\"]", "unknown target \"w\""),
        ("shape = \"one\"\nnodes = [\"t\", \"u\"]\ntarget = \"t\"", "no target of its own"),
        ("shape = \"one\"\nnodes = [\"t\", \"u\"]\ndirection = \"both\"", "a shape cuts both ways"),
        ("shape = \"one\"\nnodes = [\"t\", \"u\"]\nto = \"10.0.0.2\"", "a partition of one target"),
        ("shape = \"one\"\nnodes = [\"t\", \"u\"]\nmatch = { remote = \"replicas\" }", "say the other side"),
        (
            "shape = \"one\"\nnodes = [\"t\", \"i\"]\nmatch = { protocol = \"tcp\", established = true }",
            "which an interface does not have",
        ),
    ] {
        let said = partition(keys);
        assert!(said.contains(reason), "{keys}: {said:?}");
    }
    for keys in [
        "target = \"t\"\nfrom = \"replicas\"\nto = [\"10.0.0.2\", \"fd00::/64\", \"replicas\"]",
        "target = \"t\"\nto = \"10.0.0.2\"\nmatch = { protocol = \"udp\", not = { remote = \"10.0.0.2\" } }",
        "shape = \"one\"\nnodes = [\"t\", \"i\"]\nmatch = { protocol = \"tcp\" }\nprobability = \"50%\"",
        "shape = \"majorities-ring\"\nnodes = [\"t\", \"u\", \"v\"]\nwhen = { for = \"100ms\", every = \"300ms\", jitter = \"50ms\" }",
    ] {
        assert_eq!(partition(keys), "", "{keys}");
    }
}

/// What is said of a partition with these keys.
fn partition(keys: &str) -> String {
    let targets = ["t", "u", "v"].map(|name| format!("[target.{name}]\ncgroup = \"/{name}\"\n")).concat();
    let text = format!(
        "duration = \"1s\"\n{targets}[target.i]\ninterface = \"eth0\"\n[peers.replicas]\naddresses = [\"10.0.0.9\"]\n\
         [[fault]]\nkind = \"network.partition\"\n{keys}\n"
    );
    said(&text)
}

#[test]
fn a_name_has_the_lengths_that_it_can_have_on_the_wire() {
    let said = |name: &str| complaint(&format!("kind = \"network.dns\"\nnames = \"{name}\""));
    let label = "a".repeat(63);
    assert_eq!(said(&format!("{label}.internal")), "");
    assert!(said(&format!("{label}a.internal")).contains("has 64 characters"));
    let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
    assert_eq!((longest.len(), said(&longest)), (253, String::new()));
    assert!(said(&format!("{longest}b")).contains("the name has 254 characters"));
}

#[test]
fn the_smallest_form_of_each_kind_is_enough() {
    for keys in [
        "kind = \"network.delay\"\ndelay = \"40ms\"",
        "kind = \"network.delay\"\ndelay = \"40ms\"\ndistribution = \"exponential\"",
        "kind = \"network.rate\"\nrate = \"10mbit\"",
        "kind = \"network.rate\"\nrate = \"10mbit\"\nqueue = \"1 packet\"",
        "kind = \"network.reorder\"\ndelay = \"5ms\"\ngap = 3",
        "kind = \"network.duplicate\"",
        "kind = \"network.corrupt\"",
        "kind = \"network.mark-ecn\"",
        "kind = \"network.window\"\nmatch = { protocol = \"tcp\" }",
        "kind = \"network.connect\"\nerrno = \"ECONNREFUSED\"",
        "kind = \"network.connect\"\nerrno = 111\nmatch = { protocol = \"tcp\", remote = \"10.0.0.1\", family = 4 }",
        "kind = \"network.connect\"\nerrno = \"ENOTSUP\"\noperations = [\"connect\", \"bind\", \"sendmsg\"]",
        "kind = \"network.connect\"\nerrno = 98\noperations = \"bind\"\nmatch = { local_port = 80, local = \"::1\" }",
        "kind = \"network.dns\"",
        "kind = \"network.dns\"\nnames = \"*.Internal.\"\ntypes = \"aaaa\"\nmatch = { protocol = \"udp\" }",
        "kind = \"network.reset\"\nmatch = { protocol = \"tcp\" }",
        "kind = \"network.reject\"",
        "kind = \"network.reject\"\nicmp = \"fragmentation-needed\"",
        "kind = \"network.reject\"\nicmp = \"fragmentation-needed\"\nmtu = 576\nmatch = { family = 4 }",
    ] {
        assert_eq!(complaint(keys), "", "{keys}");
    }
}

#[test]
fn an_interface_makes_no_calls() {
    let text = "duration = \"1s\"\n[target.t]\ninterface = \"lo\"\n[[fault]]\ntarget = \"t\"\nkind = \"network.connect\"\n\
                errno = 111\n";
    let errors = load(&Source::text("t.toml", text), &Overrides::default()).unwrap_err();
    let said = errors.render(false);
    assert!(said.contains("and an interface is none") && said.contains("[t.toml:5:10]"), "{said}");
}

#[test]
fn links_that_can_not_be_meant_are_refused_with_the_reason() {
    let of = |selector: &str, keys: &str| {
        format!(
            "duration = \"1m\"\n[target.t]\n{selector}\n[[fault]]\ntarget = \"t\"\nkind = \"network.link\"\n{keys}\n"
        )
    };
    let interface = "interface = \"eth1\"";
    for keys in ["", "when = { for = \"1s\", every = \"4s\", jitter = \"2s\" }"] {
        assert_eq!(said(&of(interface, keys)), "");
    }
    for (keys, reason) in [
        ("state = \"up\"", "unknown state of a link"),
        ("match = { protocol = \"tcp\" }", "so `match` has no meaning"),
        ("direction = \"both\"", "so `direction` has no meaning"),
        ("probability = \"5%\"", "so `probability` has no meaning"),
        ("nth = \"2\"", "so `nth` has no meaning"),
        ("limit = 3", "so `limit` has no meaning"),
        ("budget = \"1/s\"", "so `budget` has no meaning"),
        ("when = { for = \"100ms\" }", "at least \"1s\""),
        ("when = { for = \"2s\", every = \"2500ms\" }", "at least \"3s\""),
        ("when = { for = \"2s\", every = \"4s\", jitter = \"1500ms\" }", "at least \"4s500ms\""),
    ] {
        let said = said(&of(interface, keys));
        assert!(said.contains(reason), "{keys}: {said}");
    }
    let said = said(&of("cgroup = \"/t\"", ""));
    assert!(said.contains("the target is no `interface`") && said.contains("network.loss"), "{said}");
}

#[test]
fn operations_that_can_not_be_meant_are_refused_with_the_reason() {
    let io = |keys: &str| complaint(&format!("kind = \"io.error\"\n{keys}"));
    let syscall = |keys: &str| complaint(&format!("kind = \"syscall.error\"\n{keys}"));
    for keys in [
        "operations = \"read\"",
        "operations = [\"write\", \"fsync\"]\nerrno = 28\npath = \"/var/lib/**/x?.*\"\nfile_type = [\"regular\", \"fifo\"]",
        "operations = \"fork\"\nerrno = \"EAGAIN\"\nnth = \"3+2\"\nlimit = 2\nbudget = \"1/s\"\nwhen = { for = \"1s\" }",
    ] {
        assert_eq!(io(keys), "", "{keys}");
    }
    assert_eq!(syscall("syscalls = [\"openat\", \"clone3\"]\nerrno = \"ENOENT\""), "");
    for (keys, reason) in [
        ("", "`operations` is missing"),
        ("operations = \"raed\"", "did you mean `read`?"),
        ("operations = []", "an empty list means nothing"),
        ("operations = \"read\"\nerrno = \"ERESTARTSYS\"", "is the kernel's own errno"),
        ("operations = \"read\"\nerrno = 513", "is the kernel's own errno"),
        ("operations = \"read\"\npath = \"data/x\"", "is no absolute path"),
        ("operations = \"read\"\npath = \"/data/x**\"", "`**` is a part of a name"),
        ("operations = \"read\"\npath = \"/data/../x\"", "has an empty name, `.` or `..`"),
        ("operations = \"read\"\npath = \"/data/\"", "has an empty name, `.` or `..`"),
        ("operations = [\"read\", \"send\"]\npath = \"/data/**\"", "`send` with `path`"),
        ("operations = \"fork\"\nfile_type = \"regular\"", "`fork` with `file_type`"),
        ("operations = \"read\"\nfile_type = \"file\"", "unknown type of file"),
        ("operations = \"read\"\ndirection = \"egress\"", "an operation has no direction"),
        ("operations = \"read\"\nmatch = { protocol = \"tcp\" }", "`match` is asked of packets"),
    ] {
        let said = io(keys);
        assert!(said.contains(reason), "{keys}: {said}");
    }
    for (keys, reason) in [
        ("syscalls = \"openat\"", "`errno` is missing"),
        ("syscalls = \"opnat\"\nerrno = 2", "did you mean `openat`?"),
        ("syscalls = \"exit_group\"\nerrno = 2", "`exit_group` can't fail"),
        ("syscalls = \"openat\"\nerrno = 2\ndirection = \"both\"", "a system call has no direction"),
    ] {
        let said = syscall(keys);
        assert!(said.contains(reason), "{keys}: {said}");
    }
    let on_interface = "duration = \"1s\"\n[target.t]\ninterface = \"lo\"\n[[fault]]\ntarget = \"t\"\nkind = \"io.error\"\n\
                        operations = \"read\"\n";
    assert!(said(on_interface).contains("and an interface is none"), "{}", said(on_interface));
}

#[test]
fn what_can_not_become_of_operations_is_refused_with_the_reason() {
    for (keys, reason) in [
        ("kind = \"io.delay\"\noperations = \"read\"", "`delay` is missing"),
        ("kind = \"io.delay\"\ndelay = \"1ms\"", "`operations` is missing"),
        ("kind = \"io.delay\"\noperations = \"read\"\ndelay = \"0s\"", "a delay of nothing"),
        ("kind = \"io.delay\"\noperations = \"read\"\ndelay = \"2h\"", "is too long"),
        (
            "kind = \"io.delay\"\noperations = [\"read\", \"rename\"]\ndelay = \"1ms\"",
            "`rename` can't be delayed: no kernel lets a program sleep at its hook",
        ),
        (
            "kind = \"io.delay\"\noperations = \"send\"\ndelay = \"1ms\"\ndevice = \"8:1\"",
            "`send` with `device`: where it is decided, no file is known",
        ),
        (
            "kind = \"io.delay\"\noperations = \"read\"\ndelay = \"1ms\"\nmatch = { family = 4 }",
            "an operation is none",
        ),
        ("kind = \"io.lost\"\ndevice = \"sda1\"", "\"sda1\" is no device"),
        ("kind = \"io.lost\"\ndevice = \"8:1048576\"", "is no device"),
        ("kind = \"io.lost\"\nfilesystem = \"ext5\"", "did you mean `ext4`?"),
        ("kind = \"io.lost\"\noperations = \"write\"", "operations"),
        ("kind = \"io.corrupt\"\nbits = 65", "65"),
        (
            "kind = \"io.error\"\noperations = [\"write\", \"unlink\"]\nfrees = true",
            "`unlink` frees room, so with `frees` it never fails",
        ),
        ("kind = \"syscall.delay\"\nsyscalls = \"reed\"\ndelay = \"1ms\"", "did you mean `read`?"),
        ("kind = \"syscall.delay\"\nsyscalls = \"read\"", "`delay` is missing"),
        ("kind = \"syscall.signal\"\nsyscalls = \"read\"", "`signal` is missing"),
        ("kind = \"syscall.signal\"\nsyscalls = \"read\"\nsignal = \"SIGTREM\"", "did you mean `SIGTERM`?"),
        (
            "kind = \"syscall.signal\"\nsyscalls = \"read\"\nsignal = \"STOP\"",
            "SIGSTOP would stop a process for longer than the fault lasts",
        ),
        ("kind = \"clock.uncertainty\"", "nothing that is told is named"),
        ("kind = \"clock.uncertainty\"\nmaxerror = \"2h\"", "nobody would believe a clock"),
        ("kind = \"clock.uncertainty\"\nmaxerror = 10", "needs a unit"),
        ("kind = \"clock.uncertainty\"\nmaxerror = \"1s\"\nmatch = { family = 4 }", "a system call is none"),
    ] {
        let said = complaint(keys);
        assert!(said.contains(reason), "{keys}: {said}");
    }
    let fine = "kind = \"io.error\"\noperations = \"write\"\nfrees = true\nfile_type = \"regular\"\nfilesystem = \"tmpfs\"";
    assert_eq!(complaint(fine), "");
    assert_eq!(complaint("kind = \"syscall.signal\"\nsyscalls = \"read\"\nsignal = \"KILL\""), "");
}
