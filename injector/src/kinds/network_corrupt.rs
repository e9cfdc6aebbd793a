//! `network.corrupt`: bits of packets are flipped, noticed by a checksum or by nobody.

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::Kind;
use crate::scenario::read::{Table as _, Whole, table};
use crate::scenario::{Corrupt, CorruptMode, Effect, Errors, FaultTable, Key, Reader};

/// See the module.
pub(super) struct NetworkCorrupt;

table! {
    /// The own keys of `network.corrupt`.
    pub(crate) struct CorruptTable {
        /// `"wire"` (default): a checksum fails, and the receiver drops the packet; `"silent"`: the checksums are right, and the
        /// application gets wrong bytes.
        "mode" mode: CorruptMode,
        /// silent: how many bits are flipped, 1 to 64. Default: 1.
        "bits" bits: Whole<1, 64>,
        /// silent: the byte of the payload at which the flips begin, one bit after the other. Default: each is drawn.
        "offset" offset: Whole<0, 65535>,
    }
}

impl Kind for NetworkCorrupt {
    fn name(&self) -> &'static str {
        "network.corrupt"
    }

    fn summary(&self) -> &'static str {
        "Corrupts packets: bits are flipped, so that a checksum fails or so that none does."
    }

    fn keys(&self) -> &'static [Key] {
        CorruptTable::KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = CorruptTable::read_from(own, errors);
        if !table.unread.is_empty() {
            return None;
        }
        let mode = table.mode.as_ref().map_or(CorruptMode::Wire, |given| given.value);
        let bits = table.bits.as_ref().map(|given| ("bits", given.span));
        let offset = table.offset.as_ref().map(|given| ("offset", given.span));
        for (key, span) in bits.into_iter().chain(offset).filter(|_| mode == CorruptMode::Wire) {
            errors
                .at(span, format!("`{key}` goes with mode = \"silent\""))
                .hint("a packet whose checksum fails is dropped, whichever bits are wrong");
        }
        Some(Effect::Corrupt(Corrupt {
            mode,
            bits: table.bits.as_ref().map_or(1, |given| given.value.0 as u32),
            offset: table.offset.as_ref().map(|given| given.value.0 as u32),
        }))
    }

    fn check(&self, _: &Effect, _: &FaultTable, _: &mut Errors) {}

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        CorruptTable::properties(generator)
    }
}
