//! The scenario language: from the text of an experiment to what it means, or to all that is wrong with it.
//!
//! Pure but for reading the file: [`load`] parses the text (`tree`, spans kept), grafts in what the command
//! line adds (`flags`), reads typed tables (`document`, `read`, `entries`), and checks them against each other
//! (`validate`). What comes out is a [`Scenario`] of plain numbers, or [`Diagnostics`] with the place of every error.
//! What does not live here: whether a target exists, how a fault is done in the kernel, and anything that changes
//! the host. The kinds of faults are in [`kinds`](crate::kinds).

pub(crate) mod clock;
mod data;
pub(crate) mod diagnostic;
pub(crate) mod dns;
mod document;
mod effect;
mod elsewhere;
mod entries;
pub(crate) mod errno;
pub(crate) mod fields;
mod flags;
mod harm;
mod matching;
mod model;
pub(crate) mod nearest;
mod on;
pub(crate) mod operation;
mod partition;
mod process;
pub mod quantity;
pub(crate) mod read;
mod reject;
mod render;
pub(crate) mod source;
pub(crate) mod tree;
mod validate;
pub(crate) mod words;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;

pub use clock::{Affected, ClockChange, ClockFault};
pub use data::{Point, Profile, Trace};
pub use diagnostic::{Class, Diagnostic, Diagnostics, Errors};
pub use dns::{Dns, DnsAnswer, DnsName};
pub use document::FaultTable;
pub(crate) use document::MatchTable;
pub use effect::{
    Capacity, Corrupt, CorruptMode, Delay, Distribution, Effect, Loss, LossModel, Per, Queue, Rate, Refusal,
    Reorder, Times,
};
pub use flags::Overrides;
pub use harm::{
    Device, Failure, Fallback, FileSystem, Harm, Meant, OperationFault, Operations, Share, Signal,
    Uncertainty,
};
pub use matching::{
    AddressRef, Family, MAX_INTERFACES, MAX_PORT_RANGES, MAX_TCP_FLAGS, Match, PortRange, TcpFlags,
};
pub use model::{
    Comparison, Direction, Expectation, Expected, Fault, Frequency, InterfaceHook, Metric, PeerAddress,
    Scenario, Selector, Target, When,
};
pub use operation::{FileType, PathPattern, SyscallName};
pub use partition::{Partition, Shape};
pub use process::{Deed, Kill, ProcessFault, Repeats};
pub use quantity::{Budget, LengthRange, Nth, P32};
pub use read::{Key, Reader};
pub use reject::{IcmpError, Reject, Reset, ResetSide};
pub use source::{Source, SourceText};
pub(crate) use validate::direction::keeps_back_what_arrives;

use document::Document;
use read::Read as _;
use source::Span;
use tree::{Node, Table, Value};

/// Length of an experiment that has neither a file nor `--for`; its command mostly ends it much earlier.
pub const INLINE_DURATION: &str = "1h";

/// Reads and checks a scenario, with what the command line adds to it. On failure, everything that is wrong.
pub fn load(source: &Source, overrides: &Overrides) -> Result<Scenario, Diagnostics> {
    let mut errors = Errors::default();
    let scenario = read_tree(source, overrides, &mut errors).and_then(|root| {
        // A fault that could not be made of its flag is an error already, and not missing.
        let lacks_fault = errors.is_empty() && !has_fault(&root);
        let document = Document::read(&root, &mut errors)?;
        if lacks_fault {
            errors
                .at(root.span, "the scenario has no fault")
                .hint("add a `[[fault]]` with a `target` and a `kind`");
        }
        Some(validate::scenario(&document, source.default_name(), &mut errors))
    });
    errors.finish(scenario)
}

fn has_fault(root: &Node) -> bool {
    let Value::Table(document) = &root.value else { return false };
    match document.get("fault").map(|node| &node.value) {
        None => false,
        Some(Value::List(faults)) => !faults.is_empty(),
        // Something else is an error of its own.
        Some(_) => true,
    }
}

/// The tree of the file and the flags together; `None` if the file could not be parsed.
fn read_tree(source: &Source, overrides: &Overrides, errors: &mut Errors) -> Option<Node> {
    let file = source.read().map_err(|error| errors.push(error)).ok()?;
    let mut root = match &file {
        Some(file) => {
            let number = errors.add_source_in(source.folder(), &file.name, &file.text);
            tree::parse_document(number, &file.text, errors)?
        }
        None => Node { span: Span::NOWHERE, value: Value::Table(Table::default()) },
    };
    if let Value::Table(document) = &mut root.value {
        flags::apply(overrides, document, errors);
        if file.is_none() && document.get("duration").is_none() {
            let key = tree::Key { span: Span::NOWHERE, text: "duration".to_owned() };
            document.set(key, Node { span: Span::NOWHERE, value: Value::Text(INLINE_DURATION.to_owned()) });
        }
    }
    Some(root)
}

/// The JSON Schema of a scenario file, for editors, made of the types that read it.
#[must_use]
pub fn schema() -> schemars::Schema {
    let mut schema = SchemaGenerator::new(SchemaSettings::draft2020_12()).into_root_schema_for::<Document>();
    schema.insert("title".to_owned(), "injector scenario".into());
    schema
}

#[cfg(test)]
mod tests;
