//! The tables whose keys depend on each other: a target with its one selector, a fault with its kind's own keys.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value as Json, json};

use super::diagnostic::Errors;
use super::document::{FaultTable, TargetTable};
use super::effect::Effect;
use super::elsewhere;
use super::model::{InterfaceHook, Selector};
use super::nearest;
use super::quantity::clip;
use super::read::{Read, Reader, References, Table as _, object_schema};
use super::source::Span;
use super::tree::{Node, Table as Tree, Value};
use crate::kinds::{self, Kind};

/// A target; without a selector if that is wrong, which is an error already. And where it is struck, if it is an interface.
#[derive(Debug, Clone)]
pub(crate) struct TargetEntry {
    pub(crate) selector: Option<Selector>,
    pub(crate) hook: InterfaceHook,
    pub(crate) takeover: bool,
    pub(crate) spares: bool,
}

/// Names of all selectors, also of those that this version doesn't have.
pub(crate) const SELECTORS: [&str; 10] =
    ["cgroup", "pid", "interface", "command", "unit", "container", "pod", "process", "user", "host"];

impl Read for TargetEntry {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        let mut reader = Reader::new(node, errors)?;
        let given: Vec<Span> =
            SELECTORS.iter().filter_map(|name| reader.table().entry(name)).map(|(key, _)| key.span).collect();
        let others =
            ["hook", "takeover", "spare"].iter().filter(|key| reader.table().get(key).is_some()).count();
        let is_strange = reader.table().0.len() != given.len() + others;
        let table = TargetTable::read_from(&mut reader, errors);
        reader.finish(TargetTable::elsewhere, errors);
        match given.as_slice() {
            [_] => {
                return Some(Self {
                    selector: selector(&table, errors),
                    hook: hook(&table, errors),
                    takeover: table.takeover.as_ref().is_some_and(|takeover| takeover.value),
                    spares: spares(&table, errors),
                });
            }
            [_, .., last] => {
                errors
                    .at(*last, "a target has exactly one selector")
                    .hint("make a second `[target.NAME]`, and a second fault for it");
            }
            // A misspelt selector is an error of its own.
            [] if is_strange => {}
            [] => {
                errors
                    .at(node.span, "the target has no selector")
                    .hint("add one of `cgroup`, `pid`, `interface`, `command`");
            }
        }
        Some(Self { selector: None, hook: InterfaceHook::default(), takeover: false, spares: true })
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema =
            object_schema(TargetTable::ABOUT, TargetTable::properties(generator), TargetTable::KEYS);
        let selectors = TargetTable::KEYS.iter().map(|key| key.name).filter(|name| SELECTORS.contains(name));
        let one_of: Vec<Json> = selectors.map(|name| json!({ "required": [name] })).collect();
        schema.insert("oneOf".to_owned(), Json::from(one_of));
        schema
            .insert("dependentRequired".to_owned(), json!({ "hook": ["interface"], "spare": ["interface"] }));
        schema
    }
}

/// Where a target is struck, which only an interface has a choice of.
fn hook(table: &TargetTable, errors: &mut Errors) -> InterfaceHook {
    let Some(hook) = &table.hook else { return InterfaceHook::default() };
    of_interface(table, hook.span, "`hook` says where an `interface` is struck", "hook", errors);
    hook.value
}

/// Whether the operator is spared, who is in nobody's cgroup.
fn spares(table: &TargetTable, errors: &mut Errors) -> bool {
    let Some(spare) = &table.spare else { return true };
    of_interface(table, spare.span, "`spare` says what of an `interface` is spared", "spare", errors);
    spare.value
}

/// Refuses a key that only an interface has.
fn of_interface(table: &TargetTable, span: Span, says: &str, key: &str, errors: &mut Errors) {
    if table.interface.is_none() && !table.unread.contains(&"interface") {
        errors
            .at(span, format!("{says}, and this target is none"))
            .hint(format!("leave `{key}` out, or target the `interface`"));
    }
}

/// The selector of a table that has exactly one.
fn selector(table: &TargetTable, errors: &mut Errors) -> Option<Selector> {
    if let Some(cgroup) = &table.cgroup {
        return cgroup_path(cgroup.span, &cgroup.value, errors).map(Selector::Cgroup);
    }
    if let Some(pid) = &table.pid {
        return i32::try_from(pid.value.0).ok().map(Selector::Pid);
    }
    if let Some(interface) = &table.interface {
        return is_interface_name(interface.span, &interface.value, errors)
            .then(|| Selector::Interface(interface.value.clone()));
    }
    let command = table.command.as_ref()?;
    if !command.value {
        errors.at(command.span, "`command = false` selects nothing").expected("true");
        return None;
    }
    Some(Selector::Command)
}

/// Where cgroup v2 is mounted nearly everywhere; a path copied from there is understood.
const CGROUP_MOUNT: &str = "/sys/fs/cgroup";

fn cgroup_path(span: Span, path: &str, errors: &mut Errors) -> Option<String> {
    const EXPECTED: &str = "a path such as \"/app.slice/db\"";
    let inside = match path.strip_prefix(CGROUP_MOUNT) {
        Some("") => "/",
        Some(inside) if inside.starts_with('/') => inside,
        _ => path,
    };
    if !inside.starts_with('/') {
        errors
            .at(span, format!("the cgroup \"{}\" is not an absolute path", clip(path)))
            .expected(EXPECTED)
            .hint("paths start at the root of the cgroup hierarchy, as in /proc/PID/cgroup");
        return None;
    }
    if inside.split('/').any(|part| part == "." || part == "..") || inside.contains('\0') {
        errors.at(span, format!("the cgroup \"{}\" is not a plain path", clip(path))).expected(EXPECTED);
        return None;
    }
    let trimmed = inside.trim_end_matches('/');
    Some(if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() })
}

/// Whether the kernel would take the name for an interface (`dev_valid_name`).
pub(crate) fn is_interface_name(span: Span, name: &str, errors: &mut Errors) -> bool {
    let is_valid = (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if !is_valid {
        errors
            .at(span, format!("\"{}\" can't be the name of an interface", clip(name)))
            .expected("1 to 15 bytes without space, slash or colon, such as \"eth0\"");
    }
    is_valid
}

/// A fault: the keys that every fault has, and what its kind made of its own.
#[derive(Debug, Clone)]
pub(crate) struct FaultEntry {
    pub(crate) table: FaultTable,
    pub(crate) kind: Option<&'static dyn Kind>,
    pub(crate) effect: Option<Effect>,
    /// What its own keys name.
    pub(crate) references: References,
    /// Whether it observes the event of another fault, by whose `on` it was made.
    pub(crate) is_observer: bool,
}

impl Read for FaultEntry {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        let mut reader = Reader::new(node, errors)?;
        if names_targets(reader.table()) {
            reader.excuse("target");
        }
        let table = FaultTable::read_from(&mut reader, errors);
        let kind = table.kind.as_ref().and_then(|kind| find_kind(kind.span, &kind.value, errors));
        // Without a kind nobody knows its own keys, so none of them is called unknown.
        let mut references = References::default();
        let effect = kind.and_then(|kind| {
            let effect = kind.read(&mut reader, errors);
            references = std::mem::take(reader.references());
            reader.finish(elsewhere::fault, errors);
            effect
        });
        Some(Self { table, kind, effect, references, is_observer: false })
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let one_of: Vec<Json> =
            kinds::KINDS.iter().map(|kind| fault_schema(*kind, generator).to_value()).collect();
        json_schema!({ "oneOf": one_of })
    }
}

fn fault_schema(kind: &dyn Kind, generator: &mut SchemaGenerator) -> Schema {
    let mut properties = FaultTable::properties(generator);
    properties.insert("kind".to_owned(), json!({ "const": kind.name(), "description": kind.summary() }));
    properties.extend(kind.schema(generator));
    let mut schema = object_schema(kind.summary(), properties, FaultTable::KEYS);
    let replacing = kind.in_place_of_target();
    if !replacing.is_empty() {
        schema.insert("required".to_owned(), json!(["kind"]));
        schema.insert("oneOf".to_owned(), json!([{ "required": ["target"] }, { "required": replacing }]));
    }
    schema
}

/// Whether a fault that is not yet read has keys of its kind that stand in for `target`.
pub(crate) fn names_targets(fault: &Tree) -> bool {
    let kind = fault.get("kind").and_then(|node| match &node.value {
        Value::Text(name) | Value::Bare(name) => kinds::find(name),
        _ => None,
    });
    kind.is_some_and(|kind| kind.in_place_of_target().iter().any(|key| fault.get(key).is_some()))
}

/// The kind of a name, or an error that says what there is.
fn find_kind(span: Span, name: &str, errors: &mut Errors) -> Option<&'static dyn Kind> {
    if let Some(kind) = kinds::find(name) {
        return Some(kind);
    }
    let names = || kinds::KINDS.iter().map(|kind| kind.name());
    let all = || names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let near = nearest::nearest(name, names()).map(|near| format!("did you mean `{near}`?"));
    let hint = near.unwrap_or_else(|| format!("there is {}", all()));
    errors.at(span, format!("unknown kind \"{}\"", clip(name))).hint(hint);
    None
}
