//! From a packet's cgroup or device to the rules of its target.
//!
//! Where the loader knows of one target only, a comparison with read-only data is enough, and the verifier cuts the lookup
//! out; else it cuts out the comparison.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_ancestor_cgroup_id;
use injector_common::layout::{Control, Span, Target, filter_place};
use injector_common::rule::{CALL, EGRESS, INGRESS};

use crate::maps::{FILTER, INTERFACES, TARGETS, shape};

/// The rules of the innermost target whose cgroup holds the packet's socket, and its cgroup id.
///
/// A bystander pays one comparison for each depth of the tree at which targets live, as a rule one. Packets
/// without a full socket belong to the root cgroup or to none, and are nobody's.
#[inline(always)]
pub(crate) fn rules_of_socket(control: &Control, skb: *mut __sk_buff, direction: u32) -> Option<(u64, Span)> {
    let mut at = 0;
    for &level in &control.levels {
        if at >= control.level_count {
            return None;
        }
        at += 1;
        // SAFETY: the helper only reads the packet's socket; it returns 0 for "none".
        let id = unsafe { bpf_skb_ancestor_cgroup_id(skb, level as i32) };
        if let Some(rules) = rules_of_cgroup(id, direction) {
            return Some((id, rules));
        }
    }
    None
}

/// The rules of a cgroup that is itself a target.
#[inline(always)]
pub(crate) fn rules_of_cgroup(id: u64, direction: u32) -> Option<Span> {
    let only = shape!(cgroup);
    if only != 0 {
        return (id == only).then(|| match direction {
            EGRESS => shape!(of_cgroup.egress),
            INGRESS => shape!(of_cgroup.ingress),
            _ => shape!(of_cgroup.calls),
        });
    }
    if id == 0 || !may_be_target(id) {
        return None;
    }
    // SAFETY: the entry is copied out; the controller replaces entries whole and before it arms.
    unsafe { TARGETS.get(id) }.map(|target| span(target, direction))
}

/// The rules of a device that is a target.
#[inline(always)]
pub(crate) fn rules_of_device(ifindex: u32, direction: u32) -> Option<Span> {
    let only = shape!(device);
    if only != 0 {
        return (ifindex == only)
            .then(|| if direction == EGRESS { shape!(of_device.egress) } else { shape!(of_device.ingress) });
    }
    // SAFETY: the entry is copied out; the controller replaces entries whole and before it arms.
    unsafe { INTERFACES.get(ifindex) }.map(|target| span(target, direction))
}

/// Whether the filter has the bit of a cgroup: false for most strangers.
#[inline(always)]
fn may_be_target(id: u64) -> bool {
    let (word, bit) = filter_place(id);
    FILTER.get(word).is_some_and(|bits| bits & bit != 0)
}

/// The rules of one direction.
#[inline(always)]
const fn span(target: &Target, direction: u32) -> Span {
    match direction {
        EGRESS => target.egress,
        CALL => target.calls,
        _ => target.ingress,
    }
}
