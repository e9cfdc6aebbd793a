//! Numbered sets of networks, as the kernel's trie has them.

use std::net::{IpAddr, Ipv6Addr};

use injector_common::layout::AddressKey;
use injector_common::packet::Address;
use ipnet::{IpNet, Ipv6Net};

/// What the trie says of a network: it belongs to the set, or it is cut out of a larger one.
pub(super) const MEMBER: u32 = 1;
const CUT_OUT: u32 = 0;

/// Prefix length of `::ffff:0:0/96`, under which IPv4 addresses are mapped.
const MAPPED_BITS: u32 = 96;

/// The sets of a plan. Equal lists share a number; 0 is no set.
#[derive(Debug, Default)]
pub(super) struct AddressSets {
    sets: Vec<Vec<IpNet>>,
}

impl AddressSets {
    /// The number of the set of these networks.
    pub(super) fn number(&mut self, mut networks: Vec<IpNet>) -> u32 {
        networks.sort();
        networks.dedup();
        let at = self.sets.iter().position(|set| *set == networks).unwrap_or_else(|| {
            self.sets.push(networks);
            self.sets.len() - 1
        });
        at as u32 + 1
    }

    /// The entries of the trie: key, bits of the prefix, value.
    pub(super) fn entries(&self) -> Vec<(AddressKey, u32, u32)> {
        self.sets.iter().zip(1..).flat_map(|(networks, set)| entries_of(set, networks)).collect()
    }
}

fn entries_of(set: u32, networks: &[IpNet]) -> Vec<(AddressKey, u32, u32)> {
    let entry = |address, bits, value| (AddressKey { set, address }, bits, value);
    let mut entries: Vec<_> = networks
        .iter()
        .map(|network| match network {
            IpNet::V4(v4) => entry(
                Address::from_v4(v4.network().octets()),
                MAPPED_BITS + u32::from(v4.prefix_len()),
                MEMBER,
            ),
            IpNet::V6(v6) => {
                entry(Address::from_octets(v6.network().octets()), u32::from(v6.prefix_len()), MEMBER)
            }
        })
        .collect();
    // `::/0` means every IPv6 address, and must not mean the mapped IPv4 addresses, which lie in it.
    let mapped = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);
    let covers_mapped = |n: &Ipv6Net| n.prefix_len() < 96 && n.contains(&mapped);
    let has_all_v4 = networks.iter().any(|n| matches!(n, IpNet::V4(v4) if v4.prefix_len() == 0));
    if !has_all_v4 && networks.iter().any(|n| matches!(n, IpNet::V6(v6) if covers_mapped(v6))) {
        entries.push(entry(Address::from_octets(mapped.octets()), MAPPED_BITS, CUT_OUT));
    }
    entries
}

/// One address as a network.
pub(super) fn single(address: &IpAddr) -> IpNet {
    IpNet::from(*address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|n| n.parse().unwrap()).collect()
    }

    /// What the kernel's trie does: the longest prefix that covers the address decides.
    fn contains(entries: &[(AddressKey, u32, u32)], set: u32, address: &str) -> bool {
        let octets = match address.parse::<IpAddr>().unwrap() {
            IpAddr::V4(v4) => Address::from_v4(v4.octets()).octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let wanted = u128::from_be_bytes(octets);
        let covers = |key: &AddressKey, bits: u32| {
            let shift = 128 - bits;
            bits == 0 || u128::from_be_bytes(key.address.octets()) >> shift == wanted >> shift
        };
        entries
            .iter()
            .filter(|(key, bits, _)| key.set == set && covers(key, *bits))
            .max_by_key(|(_, bits, _)| *bits)
            .is_some_and(|(_, _, value)| *value == MEMBER)
    }

    #[test]
    fn equal_lists_share_a_set() {
        let mut sets = AddressSets::default();
        assert_eq!(sets.number(nets(&["10.0.0.0/8", "::1/128"])), 1);
        assert_eq!(sets.number(nets(&["10.0.0.0/8"])), 2);
        assert_eq!(sets.number(nets(&["::1/128", "10.0.0.0/8", "10.0.0.0/8"])), 1);
    }

    #[test]
    fn the_longest_prefix_decides_in_each_family() {
        let mut sets = AddressSets::default();
        sets.number(nets(&["10.0.0.0/24", "fd00::/64"]));
        sets.number(nets(&["::/0"]));
        sets.number(nets(&["::/0", "0.0.0.0/0"]));
        sets.number(nets(&["::/0", "10.0.0.0/8"]));
        let entries = sets.entries();
        let of = |set| ["10.0.0.7", "10.0.1.7", "fd00::1", "fd01::1"].map(|a| contains(&entries, set, a));
        assert_eq!(of(1), [true, false, true, false]);
        assert_eq!(of(2), [false, false, true, true]);
        assert_eq!(of(3), [true, true, true, true]);
        assert_eq!(of(4), [true, true, true, true]);
        assert!(!contains(&entries, 4, "11.0.0.1"));
    }
}
