//! Which modules a guest loads, and in what order: from the kernel's own `modules.dep`. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// What tests may need: queueing disciplines, classifiers, virtual devices, congestion control, socket
/// listings (`ss` asks the `*_diag` modules), file systems.
pub(crate) const WANTED: [&str; 40] = [
    "sch_fq",
    "sch_fq_codel",
    "sch_netem",
    "sch_ingress",
    "sch_htb",
    "sch_tbf",
    "sch_prio",
    "sch_sfq",
    "sch_cake",
    "cls_bpf",
    "cls_matchall",
    "cls_u32",
    "cls_flower",
    "act_mirred",
    "act_gact",
    "ifb",
    "veth",
    "dummy",
    "tun",
    "8021q",
    "bridge",
    "macvlan",
    "ipvlan",
    "vxlan",
    "tcp_bbr",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "raw_diag",
    "unix_diag",
    "netlink_diag",
    "fuse",
    "overlay",
    "loop",
    "ext4",
    "xfs",
    "virtio_pci",
    "virtio_net",
    "virtio_blk",
    "virtio_rng",
];

/// What `modules.dep` does not say that ext4 and xfs need: the checksum that they ask the kernel's cryptography for. It is loaded before
/// them. New kernels have it built in, and no such module.
pub(crate) const WHERE_THERE: [&str; 1] = ["crc32c_generic"];

/// Parameters that keep a module from making devices of its own when it is loaded.
const PARAMETERS: [(&str, &str); 2] = [("dummy", "numdummies=0"), ("ifb", "numifbs=0")];

/// A module to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// Relative to the kernel's module directory, as `modules.dep` says it.
    pub(crate) path: String,
    pub(crate) parameters: &'static str,
}

/// The modules that `wanted` come to, each after what it needs. What is built in is left out; what is neither
/// built in nor a module is returned as the error.
pub(crate) fn load_order(dep: &str, builtin: &str, wanted: &[&str]) -> Result<Vec<Module>, Vec<String>> {
    let needs = dep.lines().filter_map(|line| {
        let (path, needs) = line.split_once(':')?;
        Some((path, needs.split_whitespace().collect::<Vec<_>>()))
    });
    let needs = needs.collect::<BTreeMap<_, _>>();
    let by_name = needs.keys().map(|path| (name_of(path), *path)).collect::<BTreeMap<_, _>>();
    let builtin = builtin.lines().map(name_of).collect::<BTreeSet<_>>();
    let mut order = Vec::new();
    let mut missing = Vec::new();
    for name in wanted {
        match by_name.get(&name_of(name)) {
            Some(path) => visit(path, &needs, &mut order),
            None if builtin.contains(&name_of(name)) => {}
            None => missing.push((*name).to_owned()),
        }
    }
    if missing.is_empty() { Ok(order) } else { Err(missing) }
}

fn visit(path: &str, needs: &BTreeMap<&str, Vec<&str>>, order: &mut Vec<Module>) {
    if order.iter().any(|module| module.path == path) {
        return;
    }
    for need in needs.get(path).into_iter().flatten() {
        visit(need, needs, order);
    }
    let name = name_of(path);
    let parameters = PARAMETERS.iter().find(|(module, _)| *module == name).map_or("", |(_, text)| text);
    order.push(Module { path: path.to_owned(), parameters });
}

/// `kernel/net/sched/sch-fq.ko.xz` is the module `sch_fq`: names know no difference of `-` and `_`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz kernel/net/llc/llc.ko.xz\n\
        kernel/net/802/stp.ko.xz: kernel/net/llc/llc.ko.xz\n\
        kernel/net/llc/llc.ko.xz:\n\
        kernel/drivers/net/dummy.ko:\n";

    fn paths(order: &[Module]) -> Vec<&str> {
        order.iter().map(|module| name_static(&module.path)).collect()
    }

    fn name_static(path: &str) -> &str {
        path.rsplit('/').next().unwrap().split('.').next().unwrap()
    }

    #[test]
    fn what_a_module_needs_comes_first_and_once() {
        let order = load_order(DEP, "", &["bridge", "stp", "dummy"]).unwrap();
        assert_eq!(paths(&order), ["llc", "stp", "bridge", "dummy"]);
        assert_eq!(order[3].parameters, "numdummies=0");
    }

    #[test]
    fn built_in_is_fine_and_missing_is_not() {
        let builtin = "kernel/drivers/virtio/virtio-pci.ko\n";
        assert_eq!(load_order(DEP, builtin, &["virtio_pci"]), Ok(Vec::new()));
        assert_eq!(load_order(DEP, builtin, &["stp", "nope"]), Err(vec!["nope".to_owned()]));
    }
}
