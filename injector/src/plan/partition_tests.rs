use crate::scenario::Direction;
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::scenario::{Overrides, Source, load};

const SHAPES: [Shape; 4] = [Shape::Halves, Shape::One, Shape::Bridge, Shape::MajoritiesRing];

/// Every number of nodes that is looked at, in any order of the nodes.
fn any_order() -> impl Strategy<Value = Vec<usize>> {
    (2..=9_usize).prop_flat_map(|nodes| Just((0..nodes).collect::<Vec<_>>()).prop_shuffle())
}

/// For each node those that it reaches, itself included.
fn views(shape: Shape, order: &[usize]) -> Vec<BTreeSet<usize>> {
    let cuts = cut(shape, order);
    let reaches = |a: usize, b: usize| !cuts.contains(&(a.min(b), a.max(b)));
    (0..order.len()).map(|a| (0..order.len()).filter(|&b| reaches(a, b)).collect()).collect()
}

proptest! {
    #[test]
    fn a_cut_is_of_two_different_nodes_and_depends_on_the_order_alone_by_name(order in any_order()) {
        for shape in SHAPES.into_iter().filter(|shape| order.len() >= shape.least()) {
            let cuts = cut(shape, &order);
            prop_assert!(!cuts.is_empty());
            prop_assert!(cuts.iter().all(|&(a, b)| a < b && b < order.len()));
            // The same shape of nodes that stand in their own places, renamed.
            let in_place: Vec<usize> = (0..order.len()).collect();
            let renamed = cut(shape, &in_place).into_iter().map(|(a, b)| {
                let (a, b) = (order[a], order[b]);
                (a.min(b), a.max(b))
            });
            prop_assert_eq!(cuts, renamed.collect::<BTreeSet<_>>());
        }
    }

    #[test]
    fn halves_are_whole_and_see_nothing_of_each_other(order in any_order()) {
        let views = views(Shape::Halves, &order);
        let sides: BTreeSet<_> = views.iter().cloned().collect();
        prop_assert_eq!(sides.iter().map(BTreeSet::len).sum::<usize>(), order.len());
        let mut sizes: Vec<usize> = sides.iter().map(BTreeSet::len).collect();
        sizes.sort_unstable();
        prop_assert_eq!(sizes, [order.len() / 2, order.len().div_ceil(2)]);
    }

    #[test]
    fn one_is_alone_and_the_others_see_each_other(order in any_order()) {
        let mut sizes: Vec<usize> = views(Shape::One, &order).iter().map(BTreeSet::len).collect();
        sizes.sort_unstable();
        prop_assert_eq!(sizes[0], 1);
        prop_assert!(sizes[1..].iter().all(|size| *size == order.len() - 1));
    }

    #[test]
    fn a_bridge_sees_all_and_parts_two_halves(order in any_order()) {
        prop_assume!(order.len() >= Shape::Bridge.least());
        let views = views(Shape::Bridge, &order);
        let nodes = order.len();
        let bridges: Vec<usize> = (0..nodes).filter(|&node| views[node].len() == nodes).collect();
        prop_assert_eq!(bridges.len(), 1);
        let sides: BTreeSet<BTreeSet<usize>> = (0..nodes)
            .filter(|node| *node != bridges[0])
            .map(|node| &views[node] - &BTreeSet::from([bridges[0]]))
            .collect();
        prop_assert_eq!(sides.len(), 2);
        prop_assert_eq!(sides.iter().map(BTreeSet::len).sum::<usize>(), nodes - 1);
        prop_assert!(sides.iter().all(|side| side.len() == nodes / 2 || side.len() == nodes.div_ceil(2) - 1));
    }

    #[test]
    fn in_a_ring_each_sees_a_majority_that_no_other_sees(order in any_order()) {
        prop_assume!(order.len() >= Shape::MajoritiesRing.least());
        let views = views(Shape::MajoritiesRing, &order);
        let majority = order.len() / 2 + 1;
        prop_assert!(views.iter().all(|view| view.len() >= majority));
        // No more than needed: of an odd number with an odd number of links one node has one more.
        let spare: usize = views.iter().map(|view| view.len() - majority).sum();
        prop_assert_eq!(spare, usize::from(order.len() % 2 == 1 && (order.len() / 2) % 2 == 1));
        prop_assert_eq!(views.iter().collect::<BTreeSet<_>>().len(), order.len());
    }

    #[test]
    fn an_order_is_a_permutation_that_its_seed_and_id_decide(seed: u64, nodes in 2..=9_usize) {
        let drawn = order(seed, "split", nodes);
        prop_assert_eq!(&drawn, &order(seed, "split", nodes));
        let mut sorted = drawn;
        sorted.sort_unstable();
        prop_assert_eq!(sorted, (0..nodes).collect::<Vec<_>>());
    }
}

#[test]
fn the_ring_of_five_is_jepsens() {
    let cuts = cut(Shape::MajoritiesRing, &[0, 1, 2, 3, 4]);
    assert_eq!(cuts, BTreeSet::from([(0, 2), (0, 3), (1, 3), (1, 4), (2, 4)]));
}

#[test]
fn every_node_comes_to_every_place() {
    let mut counts = [[0_u32; 3]; 3];
    for seed in 0..6000 {
        for (place, node) in order(seed, "split", 3).into_iter().enumerate() {
            counts[place][node] += 1;
        }
    }
    // 2000 each are expected; 5 standard deviations of the binomial are 183.
    assert!(counts.iter().flatten().all(|count| (1817..=2183).contains(count)), "{counts:?}");
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn said(shape: Shape, order: &[usize]) -> String {
    let nodes: Vec<String> = (1..=order.len()).map(|n| format!("n{n}")).collect();
    let cuts: Vec<_> =
        cut(shape, order).into_iter().map(|(a, b)| [nodes[a].clone(), nodes[b].clone()]).collect();
    words(&nodes, &cuts)
}

#[test]
fn cuts_in_words() {
    assert_eq!(said(Shape::Halves, &[2, 0, 1, 3, 4]), "n1, n3 are cut off from n2, n4, n5");
    assert_eq!(said(Shape::One, &[1, 0, 2]), "n1, n3 are cut off from n2");
    assert_eq!(said(Shape::One, &[0, 1]), "n1 is cut off from n2");
    assert_eq!(said(Shape::Bridge, &[0, 1, 2, 3, 4]), "n1, n2 are cut off from n4, n5; n3 from nobody");
    assert_eq!(
        said(Shape::MajoritiesRing, &[0, 1, 2, 3, 4]),
        "n1 is cut off from n3, n4; n2 from n4, n5; n3 from n1, n5; n4 from n1, n2; n5 from n2, n3"
    );
}

#[test]
fn nodes_that_share_an_address_are_refused() {
    let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
    let nodes = names(&["a", "b"]);
    let check = |a: &[&str], b: &[&str]| {
        let addresses = BTreeMap::from([("a".to_owned(), nets(a)), ("b".to_owned(), nets(b))]);
        check_nodes("split", &nodes, &addresses).map_err(|error| error.to_string())
    };
    assert_eq!(check(&["10.0.0.1/32", "fd00::1/128"], &["10.0.0.2/32"]), Ok(()));
    for shared in
        [check(&["10.0.0.0/24"], &["10.0.0.2/32"]), check(&["fe80::1/128"], &["10.0.0.2/32", "fe80::1/128"])]
    {
        let error = shared.unwrap_err();
        assert!(error.contains("the nodes `a` and `b` share"), "{error}");
        assert!(error.contains("[peers.a]"), "{error}");
    }
}

const NODES: &str = "duration = \"1s\"\n[target.a]\ncgroup = \"/a\"\n[target.b]\ncgroup = \"/b\"\n[target.c]\ncgroup = \"/c\"\n";

#[test]
fn a_node_that_is_cut_off_from_nobody_has_no_rule() {
    let text = format!(
        "{NODES}[[fault]]\nid = \"split\"\nkind = \"network.partition\"\nshape = \"bridge\"\nnodes = [\"a\", \"b\", \"c\"]\n\
         match = {{ protocol = \"tcp\" }}\n"
    );
    let scenario = load(&Source::text("t.toml", text), &Overrides::default()).unwrap();
    let fault = &scenario.faults[0];
    assert_eq!((&fault.targets, fault.direction), (&names(&["a", "b", "c"]), Direction::Egress));
    let cuts = cuts(fault, 1);
    assert_eq!(cuts.len(), 1);
    let world = World {
        nodes: ["a", "b", "c"]
            .into_iter()
            .zip(1..)
            .map(|(node, n)| (node.to_owned(), vec![IpNet::from(std::net::IpAddr::from([10, 0, 0, n]))]))
            .collect(),
        ..World::default()
    };
    for node in ["a", "b", "c"] {
        let narrowed = narrowed(fault, node, border::EGRESS, 1, &world);
        let others: Vec<AddressRef> =
            cut_off(&cuts, node).into_iter().map(|other| AddressRef::Net(world.nodes[other][0])).collect();
        assert_eq!(
            narrowed.as_ref().map(|fault| fault.matcher.remote.clone()),
            (!others.is_empty()).then_some(others)
        );
        assert!(narrowed.is_none_or(|fault| fault.matcher.protocols == [6]));
    }
}

#[test]
fn each_way_has_its_own_other_side() {
    let text = format!(
        "{NODES}[[fault]]\ntarget = \"a\"\nkind = \"network.partition\"\nfrom = \"10.0.0.1\"\nto = [\"10.0.0.2\", \"10.0.0.3\"]\n"
    );
    let scenario = load(&Source::text("t.toml", text), &Overrides::default()).unwrap();
    let fault = &scenario.faults[0];
    assert_eq!(fault.direction, Direction::Both);
    let remote = |way| narrowed(fault, "a", way, 1, &World::default()).unwrap().matcher.remote.len();
    assert_eq!((remote(border::INGRESS), remote(border::EGRESS)), (1, 2));
}
