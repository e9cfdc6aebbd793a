//! `network.mark-ecn`: packets say that they met congestion.

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::Kind;
use crate::scenario::read::{Table as _, table};
use crate::scenario::words::CodePoint;
use crate::scenario::{Effect, Errors, FaultTable, Key, Reader};

/// See the module.
pub(super) struct NetworkMarkEcn;

table! {
    /// The own keys of `network.mark-ecn`.
    pub(crate) struct MarkEcnTable {
        /// `"ce"` (default): congestion experienced.
        "codepoint" codepoint: CodePoint,
    }
}

impl Kind for NetworkMarkEcn {
    fn name(&self) -> &'static str {
        "network.mark-ecn"
    }

    fn summary(&self) -> &'static str {
        "Marks packets as a congested router with ECN does, instead of dropping them."
    }

    fn keys(&self) -> &'static [Key] {
        MarkEcnTable::KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = MarkEcnTable::read_from(own, errors);
        // There is one code point that a router sets, so the default is all that can be said.
        let _: CodePoint =
            table.codepoint.as_ref().map_or(CodePoint::CongestionExperienced, |given| given.value);
        table.unread.is_empty().then_some(Effect::MarkEcn)
    }

    fn check(&self, _: &Effect, _: &FaultTable, _: &mut Errors) {}

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        MarkEcnTable::properties(generator)
    }
}
