//! `io.corrupt`: bits of what a process has read are wrong, and right on the disk.

use std::sync::LazyLock;

use injector_common::operation::READ;
use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::meant::{self, FilesTable};
use super::{Kind, Strikes};
use crate::scenario::read::{Spanned, Table as _, Whole, table};
use crate::scenario::{Effect, Errors, FaultTable, Harm, Key, Meant, OperationFault, Reader};

/// See the module.
pub(super) struct IoCorrupt;

table! {
    /// Which bits are wrong.
    pub(crate) struct BitsTable {
        /// How many bits are flipped, 1 to 64. Default: 1.
        "bits" bits: Whole<1, 64>,
        /// The byte of what was read at which the flips begin, one bit after the other. Default: each is drawn.
        "offset" offset: Whole<0, 65535>,
    }
}

impl Kind for IoCorrupt {
    fn name(&self) -> &'static str {
        "io.corrupt"
    }

    fn summary(&self) -> &'static str {
        "Flips bits of what the target reads from files, in its memory; on the disk they are right."
    }

    fn keys(&self) -> &'static [Key] {
        static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| [FilesTable::KEYS, BitsTable::KEYS].concat());
        &KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let files = FilesTable::read_from(own, errors);
        let bits = BitsTable::read_from(own, errors);
        if !bits.unread.is_empty() {
            return None;
        }
        let read = Spanned { value: READ, span: own.span() };
        let operations = meant::on_files(&[read], files, errors)?;
        Some(Effect::Operations(OperationFault {
            meant: Meant::Operations(operations),
            harm: Harm::Corrupt {
                bits: bits.bits.map_or(1, |given| given.value.0 as u32),
                offset: bits.offset.map(|given| given.value.0 as u32),
            },
            fallback: None,
        }))
    }

    fn check(&self, _effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        meant::check_operations(fault, errors);
    }

    fn strikes(&self) -> Strikes {
        Strikes::Ends
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        let mut properties = FilesTable::properties(generator);
        properties.extend(BitsTable::properties(generator));
        properties
    }
}
