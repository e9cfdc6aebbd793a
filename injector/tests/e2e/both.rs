//! A cgroup and the device by which its packets leave, both struck by one experiment.

use crate::scene::Scene;
use crate::support::{DEVICE, Experiment, Located as _, SERVER_V4, root_or_skip};
use crate::timed::Stream;

#[test]
fn a_packet_of_a_cgroup_meets_the_rules_of_its_device_too_and_copies_meet_none_again() {
    if !root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let udp = "match = { protocol = \"udp\", remote_port = 5001 }";
    let text = format!(
        "seed = 1\n[target.c]\ncgroup = \"{}\"\n[target.d]\ninterface = \"{DEVICE}\"\n\
         [[fault]]\nid = \"program\"\ntarget = \"c\"\nkind = \"network.duplicate\"\nnth = \"2+2\"\n{udp}\n\
         [[fault]]\nid = \"device\"\ntarget = \"d\"\nkind = \"network.duplicate\"\n{udp}\n",
        scene.cgroup.path()
    );
    let experiment = Experiment::apply_with(&text, |command| command.in_netns(&scene.pair.client));
    let stream = Stream { port: 5001, count: 40, per_second: 1000, bytes: 100 };
    let came = stream.send(&scene, std::time::Duration::from_millis(300));
    let report = experiment.end();
    let (program, device) = (report.fault("program"), report.fault("device"));
    assert_eq!((program.matched, program.injected), (40, 20));
    // To the device a copy that the program's fault has made is a packet like another; its own copies are not.
    assert_eq!((device.matched, device.injected), (60, 60), "to {SERVER_V4}");
    assert_eq!(came.len(), 120);
}
