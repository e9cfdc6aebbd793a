//! What of an image the programs may take for a constant.

use injector_common::layout::Target;
use injector_common::needs::Needs;
use injector_common::packet::Address;
use injector_common::rule::RULE_SPARES_GATEWAYS;
use injector_common::shape::{MAX_SPARED_ADDRESSES, Shape, Wants};

use super::Image;

/// Bits of a whole address.
const WHOLE: u32 = 128;

/// The shape of an image whose rules have these needs. One without rules is a trial, of which nothing is known.
pub(super) fn shape_of(image: &Image, needs: Needs) -> Shape {
    let mut shape = Shape::UNKNOWN;
    if image.rules.is_empty() {
        return shape;
    }
    if let Some((&id, &target)) = image.targets.first_key_value()
        && image.targets.len() == 1
    {
        (shape.cgroup, shape.of_cgroup) = (id, target);
    }
    if let Some((&index, &target)) = image.interfaces.first_key_value()
        && image.interfaces.len() == 1
    {
        (shape.device, shape.of_device) = (index, target);
    }
    shape.wants = Wants::of(needs);
    let is_single = |target: &Target| target.egress.count <= 1 && target.ingress.count <= 1;
    shape.single_rules = u32::from(image.targets.values().chain(image.interfaces.values()).all(is_single));
    if let Some((set, addresses)) = spared(image) {
        (shape.spared_set, shape.spared_count) = (set, addresses.len() as u32);
        for (slot, address) in shape.spared.iter_mut().zip(addresses) {
            *slot = address;
        }
    }
    shape
}

/// The spared addresses, if all rules that have some have the same, and few.
fn spared(image: &Image) -> Option<(u32, Vec<Address>)> {
    let mut sets = image.rules.iter().filter(|rule| rule.flags & RULE_SPARES_GATEWAYS != 0);
    let set = sets.next()?.spared_set;
    let members: Vec<_> = image.addresses.iter().filter(|(key, ..)| key.set == set).collect();
    let is_whole = members.iter().all(|(_, bits, member)| *bits == WHOLE && *member == 1);
    let is_same = sets.all(|rule| rule.spared_set == set);
    (is_same && is_whole && members.len() <= MAX_SPARED_ADDRESSES)
        .then(|| (set, members.iter().map(|(key, ..)| key.address).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use injector_common::layout::{AddressKey, Span};
    use injector_common::rule::Rule;

    fn target(first: u32, egress: u32, ingress: u32) -> Target {
        let egress = Span { first, count: egress };
        Target { egress, ingress: Span { first, count: ingress }, ..Target::default() }
    }

    #[test]
    fn one_target_and_one_rule_are_known() {
        let mut image = Image { rules: vec![Rule::default(); 2], ..Image::default() };
        image.targets.insert(7, target(0, 1, 1));
        image.interfaces.insert(3, target(1, 0, 1));
        let shape = shape_of(&image, Needs::ALL);
        assert_eq!((shape.cgroup, shape.device, shape.single_rules), (7, 3, 1));
        assert_eq!((shape.of_cgroup, shape.of_device), (target(0, 1, 1), target(1, 0, 1)));

        image.targets.insert(8, target(0, 2, 0));
        image.interfaces.insert(4, target(1, 0, 1));
        let shape = shape_of(&image, Needs::ALL);
        assert_eq!((shape.cgroup, shape.device, shape.single_rules), (0, 0, 0));
        assert_eq!(shape_of(&Image { rules: Vec::new(), ..image }, Needs::ALL), Shape::UNKNOWN);
    }

    #[test]
    fn few_spared_addresses_of_one_set_are_known() {
        let gateway = |set, last| AddressKey { set, address: Address::from_v4([10, 0, 0, last]) };
        let sparing = |spared_set| Rule { flags: RULE_SPARES_GATEWAYS, spared_set, ..Rule::default() };
        let of = |rules: Vec<Rule>, addresses| {
            shape_of(&Image { rules, addresses, ..Image::default() }, Needs::ALL)
        };
        let two = vec![(gateway(2, 1), WHOLE, 1), (gateway(1, 9), WHOLE, 1), (gateway(2, 2), WHOLE, 1)];
        let shape = of(vec![sparing(2), Rule::default(), sparing(2)], two.clone());
        assert_eq!((shape.spared_set, shape.spared_count), (2, 2));
        assert_eq!(&shape.spared[..2], [gateway(2, 1).address, gateway(2, 2).address]);
        assert_eq!(of(vec![sparing(2), sparing(1)], two).spared_count, 0, "two sets");
        let network = vec![(gateway(1, 0), 120, 1)];
        assert_eq!(of(vec![sparing(1)], network).spared_count, 0, "not one address");
        let many = (0..5).map(|last| (gateway(1, last), WHOLE, 1)).collect();
        assert_eq!(of(vec![sparing(1)], many).spared_count, 0, "too many");
    }
}
