//! Hosts that lack something: cgroup v2, BTF, tcx, a kernel without lockdown.

use crate::bench::{Bench, TCX, kernel_has_tcx};
use crate::leftovers::in_own_mounts;
use crate::listing::{assert_no_bpf_objects_since, bpf_objects};
use crate::support::root_or_skip;

/// Unmounts every cgroup2 hierarchy of this mount namespace.
const WITHOUT_V2: &str = "for at in $(findmnt -rn -t cgroup2 -o TARGET); do umount -l $at; done";

/// Mounts a version 1 hierarchy without controllers, as systemd does on a hybrid host.
const WITH_V1: &str = "mkdir $home/v1; mount -t cgroup -o none,name=injtest cgroup $home/v1";

#[test]
fn without_cgroup_v2_it_refuses_with_the_remedy() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let scenario = bench.loss("no-v2", "60s");
    let (before, objects) = (bench.listing(), bpf_objects());
    for arguments in [
        format!("plan {scenario}"),
        format!("apply {scenario}"),
        "run --fault network.loss=1% -- true".to_owned(),
        "doctor".to_owned(),
    ] {
        let script = format!("{WITH_V1}; {WITHOUT_V2}; $injector {arguments}");
        let ended = in_own_mounts(&bench, &script).expect(3);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(
            said.contains("no cgroup v2 hierarchy is mounted: this host uses cgroup v1 alone"),
            "{ended}"
        );
        assert!(said.contains("mount -t cgroup2 none /sys/fs/cgroup/unified"), "{ended}");
        std::fs::remove_dir(bench.file("v1")).unwrap();
    }
    let without_any = "for at in $(findmnt -rn -t cgroup -o TARGET); do umount -l $at; done";
    let script = format!("{without_any}; {WITHOUT_V2}; $injector apply {scenario}");
    in_own_mounts(&bench, &script)
        .expect(3)
        .says("error: no cgroup v2 hierarchy is mounted\n")
        .says("hint: mount it: `mount -t cgroup2 none /sys/fs/cgroup`");
    bench.listing().assert_same_as(&before, "after refusals");
    assert_no_bpf_objects_since(&objects, "after refusals");
}

#[test]
fn a_hybrid_host_is_as_good_as_another() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let scenario = bench.loss("hybrid", "50ms");
    let script = format!("{WITH_V1}; $injector apply {scenario} --strict >&2 || echo $?; $injector doctor");
    let ended = in_own_mounts(&bench, &script).expect(0);
    // 6: nothing was sent, so nothing was lost; anything worse would be another status.
    ended.prints("6\n").prints("(hybrid, version 1 beside it)").says("hybrid: completed after");
}

#[test]
fn without_btf_it_works_and_the_doctor_says_so() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let scenario = bench.loss("no-btf", "50ms");
    let script = format!("mount -t tmpfs none /sys/kernel/btf; $injector apply {scenario}; $injector doctor");
    let ended = in_own_mounts(&bench, &script).expect(0).says("no-btf: completed after");
    let row = ended.stdout.lines().find(|line| line.contains(" BTF ")).unwrap();
    assert!(row.trim_start().starts_with("no "), "{ended}");
    ended.prints("CONFIG_DEBUG_INFO_BTF=y gives it").prints("can be injected here");
}

#[test]
fn the_doctor_knows_the_lockdown() {
    if !root_or_skip() {
        return;
    }
    let bench = Bench::lone();
    let script = "mountpoint -q /sys/kernel/security || mount -t securityfs none /sys/kernel/security
                  cat /sys/kernel/security/lockdown >&2 || echo '[none]' >&2; $injector doctor";
    let ended = in_own_mounts(&bench, script).expect(0);
    // `none [integrity] confidentiality`
    let mode = ended.stderr.rsplit_once('[').unwrap().1.split(']').next().unwrap();
    let row = ended.stdout.lines().find(|line| line.contains("no lockdown")).unwrap().trim_start();
    if mode == "none" {
        assert!(row.starts_with("yes "), "{ended}");
    } else {
        assert!(row.starts_with("no ") && row.contains(mode), "{ended}");
        ended.prints("network faults work all the same");
    }
    let hidden = in_own_mounts(&bench, "umount -l /sys/kernel/security || true; $injector doctor").expect(0);
    let row = hidden.stdout.lines().find(|line| line.contains("no lockdown")).unwrap().trim_start();
    assert!(row.starts_with("? "), "{hidden}");
}

#[test]
fn tcx_is_refused_where_the_kernel_has_none() {
    if !root_or_skip() || kernel_has_tcx() {
        return;
    }
    let bench = Bench::lone();
    let scenario = bench.loss("no-tcx", "60s");
    let (before, objects) = (bench.listing(), bpf_objects());
    bench.injector(&["apply", &scenario, "--tc", TCX]).expect(3).says("tcx").says("`injector doctor` says");
    bench.listing().assert_same_as(&before, "after a refusal");
    assert_no_bpf_objects_since(&objects, "after a refusal");
}
