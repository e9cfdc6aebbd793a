//! What somebody has configured at the root of a device: read, tried elsewhere, and put back as `tc` showed it.

use std::process::Command;

use injector::host::netlink::Netlink;
use injector::host::qdisc_tree::{Piece, Tree, capture, lost, put_back, rehearse};
use injector::host::{Undone, link, qdisc};
use nix::errno::Errno;

use crate::support::{ScratchNetns, skipped_without_root};

/// Handle of an fq that takes the place.
const OURS: u32 = 0x4abc_0000;

/// A namespace with the device `v0`, which has something to be put back.
struct Scene {
    netns: ScratchNetns,
    netlink: Netlink,
    index: u32,
}

impl Scene {
    /// `None` if this kernel has not all of the kinds.
    fn new(lines: &[&str]) -> Option<Self> {
        let netns = ScratchNetns::new("qdisc");
        netns.ip("link add v0 type veth peer name v1");
        for line in lines {
            let mut tc = Command::new("tc");
            let output = tc.args(["-n", &netns.name]).args(line.split(' ')).output().unwrap();
            if !output.status.success() {
                let errors = String::from_utf8_lossy(&output.stderr);
                let unknown = errors.contains("Specified qdisc kind is unknown")
                    || errors.contains("TC classifier not found");
                assert!(unknown, "{line}: {errors}");
                return None;
            }
        }
        let mut netlink = netns.netlink();
        let index = link::list(&mut netlink).unwrap().into_iter().find(|one| one.name == "v0").unwrap().index;
        Some(Self { netns, netlink, index })
    }

    /// As `tc` shows it.
    fn shown(&self) -> String {
        ["qdisc", "class"]
            .map(|what| {
                let mut tc = Command::new("tc");
                let output =
                    tc.args(["-n", &self.netns.name, "-j", what, "show", "dev", "v0"]).output().unwrap();
                String::from_utf8(output.stdout).unwrap()
            })
            .join("\n")
    }

    fn tree(&mut self) -> Tree {
        capture(&mut self.netlink, self.index).unwrap().unwrap()
    }

    /// How it would come back, tried on a device that is like its own.
    fn rehearsed(&mut self) -> Vec<Piece> {
        let tree = self.tree();
        let stage = ScratchNetns::new("stage");
        stage.ip("link add v0 type veth peer name v1");
        let mut netlink = stage.netlink();
        let index = link::list(&mut netlink).unwrap().into_iter().find(|one| one.name == "v0").unwrap().index;
        let pieces = rehearse(&mut netlink, index, &tree).unwrap();
        assert_eq!(capture(&mut netlink, index).unwrap(), None, "the stage is empty again");
        pieces
    }

    /// Puts an fq in its place; false where the kernel has none.
    fn take_its_place(&mut self) -> bool {
        match qdisc::replace_by_fq(&mut self.netlink, self.index, OURS, 1_000_000) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.errno(), Some(Errno::ENOENT), "{error}");
                false
            }
        }
    }
}

#[test]
fn what_is_configured_comes_back_as_it_was() {
    if skipped_without_root() {
        return;
    }
    let configurations: [&[&str]; 16] = [
        &["qdisc add dev v0 root handle 17: pfifo limit 77"],
        &["qdisc add dev v0 root bfifo limit 3000"],
        &["qdisc add dev v0 root noqueue"],
        &["qdisc add dev v0 root handle 17: tbf rate 3mbit burst 1600 limit 9000"],
        &["qdisc add dev v0 root handle 17: tbf rate 7777kbit burst 1514 limit 9000 peakrate 9mbit mtu 2000"],
        &["qdisc add dev v0 root handle 17: tbf rate 20gbit burst 123456 latency 10ms"],
        &[
            "qdisc add dev v0 root handle 17: fq_codel limit 500 target 7ms interval 133ms quantum 300 ce_threshold 3ms",
        ],
        &["qdisc add dev v0 root handle 17: fq limit 777 flow_limit 33 quantum 3000 maxrate 9mbit nopacing"],
        &["qdisc add dev v0 root handle 17: sfq perturb 10 quantum 3000 limit 100"],
        &["qdisc add dev v0 root handle 17: netem delay 10ms loss 1% 25% duplicate 2% limit 333"],
        &["qdisc add dev v0 root handle 17: netem loss gemodel 1% 10% 70% 0.1% rate 9mbit 14"],
        &["qdisc add dev v0 root handle 17: cake bandwidth 9mbit rtt 77ms besteffort nat overhead 18"],
        &["qdisc add dev v0 root handle 17: mq"],
        &[
            "qdisc add dev v0 root handle 17: prio bands 4 priomap 3 2 2 2 1 2 0 0 1 1 1 1 1 1 1 1",
            "qdisc add dev v0 parent 17:2 handle 18: netem delay 5ms",
            "qdisc add dev v0 parent 18:1 handle 19: pfifo limit 9",
        ],
        &[
            "qdisc add dev v0 root handle 17: htb default 12 r2q 5",
            "class add dev v0 parent 17: classid 17:1 htb rate 20mbit ceil 30mbit burst 9k",
            "class add dev v0 parent 17:1 classid 17:12 htb rate 3mbit prio 3",
            "class add dev v0 parent 17:1 classid 17:11 htb rate 7mbit ceil 9mbit quantum 2000",
            "qdisc add dev v0 parent 17:11 handle 18: pfifo limit 5",
        ],
        &[
            "qdisc add dev v0 root handle 17: htb",
            "class add dev v0 parent 17: classid 17:1 htb rate 20mbit",
            "qdisc add dev v0 parent 17:1 handle 18: fq_codel limit 99",
        ],
    ];
    let mut tried = 0;
    // A device has a queue for each processor, and mq is for several.
    let has_queues = std::thread::available_parallelism().unwrap().get() > 1;
    for lines in configurations.into_iter().filter(|lines| has_queues || !lines[0].ends_with(": mq")) {
        let Some(mut scene) = Scene::new(lines) else { continue };
        let before = scene.shown();
        assert_eq!(scene.tree().hidden, [""; 0], "{lines:?}");
        let pieces = scene.rehearsed();
        assert_eq!(lost(&pieces), [""; 0], "{lines:?}: {pieces:?}");
        tried += 1;
        // It is there still.
        let untouched = put_back(&mut scene.netlink, scene.index, OURS, &pieces).unwrap();
        assert_eq!((untouched, scene.shown()), (Undone::AlreadyGone, before.clone()));
        if scene.take_its_place() {
            assert_ne!(scene.shown(), before);
            let back = put_back(&mut scene.netlink, scene.index, OURS, &pieces).unwrap();
            assert_eq!((back, scene.shown()), (Undone::Removed, before), "{lines:?}");
        }
    }
    assert!(tried >= 8, "{tried} configurations");
}

#[test]
fn what_the_kernel_does_not_show_is_known_to_be_lost() {
    if skipped_without_root() {
        return;
    }
    let configurations: [(&[&str], &str); 5] = [
        (
            &[
                "qdisc add dev v0 root handle 17: htb default 12",
                "class add dev v0 parent 17: classid 17:12 htb rate 3mbit",
                "filter add dev v0 parent 17: protocol ip u32 match u32 0 0 flowid 17:12",
            ],
            "the filters of htb 17:",
        ),
        (
            &["qdisc add dev v0 root handle 17: netem delay 10ms 2ms distribution normal"],
            "the distribution of the jitter, which the kernel does not show, of netem 17:",
        ),
        (
            &["qdisc add dev v0 root handle 17: stab overhead 18 tsize 256 mtu 2048 pfifo limit 7"],
            "the size table (stab) of pfifo 17:",
        ),
        (
            &["qdisc add dev v0 root handle 17: estimator 1s 8s pfifo limit 7"],
            "the rate estimator of pfifo 17:",
        ),
        (
            &["qdisc add dev v0 root handle 17: tbf rate 3mbit burst 1600 limit 9000 linklayer atm"],
            "the largest packet, which the kernel does not show, of tbf 17:",
        ),
    ];
    let mut tried = 0;
    for (lines, hidden) in configurations {
        let Some(mut scene) = Scene::new(lines) else { continue };
        assert_eq!(scene.tree().hidden, [hidden], "{lines:?}");
        tried += 1;
    }
    assert!(tried >= 3, "{tried} configurations");
}

#[test]
fn half_of_it_is_completed_and_anothers_is_left() {
    if skipped_without_root() {
        return;
    }
    let lines = [
        "qdisc add dev v0 root handle 17: htb default 12",
        "class add dev v0 parent 17: classid 17:12 htb rate 3mbit",
        "qdisc add dev v0 parent 17:12 handle 18: pfifo limit 5",
    ];
    let mut scene = Scene::new(&lines).unwrap();
    let (before, pieces) = (scene.shown(), scene.rehearsed());
    for kept in 1..=2 {
        scene.netns.tc("qdisc del dev v0 root");
        // As if who put it back had been killed.
        for line in &lines[..kept] {
            scene.netns.tc(line);
        }
        assert_ne!(scene.shown(), before);
        let back = put_back(&mut scene.netlink, scene.index, OURS, &pieces).unwrap();
        assert_eq!((back, scene.shown()), (Undone::Removed, before.clone()), "{kept}");
    }
    for foreign in [
        "qdisc replace dev v0 root handle 17: pfifo limit 1",
        "qdisc replace dev v0 root handle 99: htb default 12",
        "qdisc replace dev v0 root handle 17: htb default 13",
    ] {
        scene.netns.tc("qdisc del dev v0 root");
        scene.netns.tc(foreign);
        let there = scene.shown();
        let left = put_back(&mut scene.netlink, scene.index, OURS, &pieces).unwrap();
        assert!(matches!(&left, Undone::NotOurs { why } if why.contains("by now")), "{foreign}: {left:?}");
        assert_eq!(scene.shown(), there, "{foreign}");
    }
    scene.netns.tc("qdisc del dev v0 root");
    let left = put_back(&mut scene.netlink, scene.index, OURS, &pieces).unwrap();
    assert!(matches!(&left, Undone::NotOurs { why } if why.contains("taken away since")), "{left:?}");
    scene.netns.ip("link del v0");
    let gone = put_back(&mut scene.netlink, scene.index, OURS, &pieces).unwrap();
    assert_eq!(gone, Undone::AlreadyGone);
}
