//! Membership of addresses in the sets of the rules.

use aya_ebpf::maps::lpm_trie::Key;
use injector_common::layout::{AddressKey, SET_BITS};
use injector_common::matching::AddressSets;
use injector_common::needs::Needs;
use injector_common::packet::Address;
use injector_common::shape::MAX_SPARED_ADDRESSES;

use crate::maps::{ADDRESSES, shape, spared};

/// The sets of addresses, for rules that have these needs.
pub(crate) struct Tries(pub(crate) Needs);

impl AddressSets for Tries {
    #[inline(always)]
    fn contains(&self, set: u32, address: &Address) -> bool {
        let key = AddressKey { set, address: *address };
        ADDRESSES.get(Key::new(SET_BITS + 128, key)) == Some(&1)
    }

    #[inline(always)]
    fn spares(&self, set: u32, address: &Address) -> bool {
        let count = shape!(spared_count);
        if count == 0 || set != shape!(spared_set) {
            return self.contains(set, address);
        }
        let mut at = 0;
        while at < MAX_SPARED_ADDRESSES {
            if (at as u32) < count && *address == spared(at) {
                return true;
            }
            at += 1;
        }
        false
    }

    #[inline(always)]
    fn needs(&self) -> Needs {
        self.0
    }
}
