//! Host names in `[peers]`: looked up when an experiment is planned, and refused where they have no address.

use nix::sys::signal::Signal;

use crate::bench::{Bench, loss_of};
use crate::listing::{assert_no_bpf_objects_since, bpf_objects};
use crate::support::{Located as _, root_or_skip, sh};

/// A scenario that loses what goes from `a` to the host of this name.
fn loss_to(bench: &Bench, host: &str) -> String {
    let text = loss_of(&format!("cgroup = \"{}\"", bench.a.path()), "60s");
    let peers = format!("match = {{ remote = \"there\" }}\n[peers.there]\naddresses = [\"{host}\"]\n");
    bench.scenario("named", &(text + &peers))
}

#[test]
fn a_host_name_means_its_addresses_and_no_others() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    // From /etc/hosts: there is no name server in this namespace.
    let scenario = loss_to(&bench, "localhost");
    let (before, objects) = (bench.listing(), bpf_objects());
    bench.injector(&["plan", &scenario]).expect(0);
    let mut controller = bench.armed(&["apply", &scenario, "--json"]);
    assert_eq!(bench.replies(), 0, "127.0.0.1 is localhost");
    let mut ping = sh("ping -n -c 3 -i 0.05 -W 1 127.0.0.2");
    let replies = ping.in_cgroup(&bench.a).in_netns(&bench.netns).text();
    assert_eq!(replies.matches("bytes from").count(), 3, "127.0.0.2 is not\n{replies}");
    let report = controller.end_by(Signal::SIGINT).expect(130).json();
    assert_eq!(report["faults"][0]["matched"], 3, "{report}");
    bench.listing().assert_same_as(&before, "after it");
    assert_no_bpf_objects_since(&objects, "after it");
}

#[test]
fn a_host_name_without_an_address_is_named_with_the_remedy() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    // Names in `invalid` are nobody's (RFC 2606).
    let scenario = loss_to(&bench, "nowhere.invalid");
    let (before, objects) = (bench.listing(), bpf_objects());
    let error = "the peer `nowhere.invalid` has no address: ";
    for arguments in [&["plan", &scenario][..], &["apply", &scenario], &["apply", &scenario, "--detach"]] {
        bench
            .injector(arguments)
            .expect(1)
            .says(&format!("error: {error}"))
            .says("hint: write the address itself, or add the name to /etc/hosts");
    }
    let told = bench.injector(&["plan", &scenario, "--json"]).expect(1).json();
    assert!(told["error"]["message"].as_str().unwrap().starts_with(error), "{told}");
    bench.listing().assert_same_as(&before, "after refusals");
    assert_no_bpf_objects_since(&objects, "after refusals");
}
