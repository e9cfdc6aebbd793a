//! From a tree of values to typed tables, with the place of every value kept.
//!
//! The `table!` macro declares a table once: its keys with their documentation and types. From that come the
//! reader, the list of valid keys for "did you mean", and the JSON Schema. What does not live here: rules between
//! keys, which are `validate`'s.

mod lists;
mod scalars;

use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value as Json};

use super::diagnostic::{Class, Errors};
use super::nearest;
use super::quantity::clip;
use super::source::Span;
use super::tree::{Node, Table as Tree, Value};

pub(crate) use lists::{List, Named, OneOrMany};

pub(crate) use scalars::{Whole, read_quantity, read_text, read_whole};

/// A value of a known type, and where it was written.
#[derive(Debug, Clone)]
pub(crate) struct Spanned<T> {
    pub(crate) span: Span,
    /// The value.
    pub(crate) value: T,
}

/// A key of a table, and what it means.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The key as it is written.
    pub name: &'static str,
    /// What it means, as Markdown.
    pub doc: &'static str,
    /// Whether it can't be left out.
    pub is_required: bool,
}

/// A type that a value of the tree can be read as.
pub(crate) trait Read: Sized {
    /// Reads a value; `None` if it is not of this type, which `errors` then has.
    fn read(node: &Node, errors: &mut Errors) -> Option<Self>;

    /// What a value of this type may be.
    fn schema(generator: &mut SchemaGenerator) -> Schema;
}

/// Reads the keys of one table, and remembers which it was asked for.
#[derive(Debug)]
pub struct Reader<'n> {
    table: &'n Tree,
    span: Span,
    known: Vec<&'static str>,
    unread: Vec<&'static str>,
    excused: Option<&'static str>,
    references: References,
}

/// Names in a table that must be defined elsewhere in the document.
#[derive(Debug, Clone, Default)]
pub(crate) struct References {
    /// Names of `[target.NAME]`.
    pub(crate) targets: Vec<Spanned<String>>,
    /// Names of `[peers.NAME]`.
    pub(crate) peers: Vec<Spanned<String>>,
}

impl<'n> Reader<'n> {
    /// `None` if the value is not a table, which `errors` then has.
    pub(crate) fn new(node: &'n Node, errors: &mut Errors) -> Option<Self> {
        if let Value::Table(table) = &node.value {
            Some(Self {
                table,
                span: node.span,
                known: Vec::new(),
                unread: Vec::new(),
                excused: None,
                references: References::default(),
            })
        } else {
            errors
                .at(node.span, format!("{} where a table belongs", node.value.describe()))
                .expected("a table");
            None
        }
    }

    pub(crate) const fn span(&self) -> Span {
        self.span
    }

    pub(crate) const fn table(&self) -> &'n Tree {
        self.table
    }

    /// Lets a required key be absent, since another one stands in for it.
    pub(crate) fn excuse(&mut self, key: &'static str) {
        self.excused = Some(key);
    }

    /// The names that were found so far, to be filled by who reads them and looked up when all are known.
    pub(crate) const fn references(&mut self) -> &mut References {
        &mut self.references
    }

    /// Reads the value of a key. `None` if the key is not given, or not of its type.
    pub(crate) fn take<T: Read>(&mut self, key: &Key, errors: &mut Errors) -> Option<Spanned<T>> {
        self.known.push(key.name);
        let Some(node) = self.table.get(key.name) else {
            if key.is_required && self.excused != Some(key.name) {
                // The first sentence says what the key is; the rest is for those who read the reference.
                let doc = key.doc.trim().split(". ").next().unwrap_or_default().trim_end_matches('.');
                errors
                    .at(self.span, format!("`{}` is missing", key.name))
                    .hint(format!("add `{}`: {doc}", key.name));
            }
            return None;
        };
        let value = T::read(node, errors);
        if value.is_none() {
            self.unread.push(key.name);
        }
        value.map(|value| Spanned { span: node.span, value })
    }

    /// Keys that are given, but could not be read.
    pub(crate) fn unread(&self) -> Vec<&'static str> {
        self.unread.clone()
    }

    /// Notes every key that nobody asked for. `elsewhere` may know where such a key belongs.
    pub(crate) fn finish(self, elsewhere: impl Fn(&str) -> Option<Elsewhere>, errors: &mut Errors) {
        let unknown = self.table.0.iter().filter(|(key, _)| !self.known.contains(&key.text.as_str()));
        for (key, _) in unknown {
            let name = clip(&key.text);
            match elsewhere(&key.text) {
                Some(Elsewhere::NotInThisVersion(hint)) => {
                    let message = format!("`{name}` is not in this version");
                    errors.at(key.span, message).maybe_hint(hint).class(Class::NotInThisVersion);
                }
                Some(Elsewhere::Hint(hint)) => {
                    errors.at(key.span, format!("unknown key `{name}`")).hint(hint);
                }
                None => {
                    let hint = nearest::hint(&key.text, self.known.iter().copied());
                    errors.at(key.span, format!("unknown key `{name}`")).maybe_hint(hint);
                }
            }
        }
    }
}

/// What is known of a key that its table does not have.
pub(crate) enum Elsewhere {
    /// What to write instead.
    Hint(String),
    /// The language has it, this version does not do it; and perhaps what it has.
    NotInThisVersion(Option<String>),
}

/// A table that is declared by `table!`.
pub(crate) trait Table: Sized {
    /// What the table is.
    const ABOUT: &'static str;
    /// Its keys, in the order in which they are documented.
    const KEYS: &'static [Key];

    fn read_from(reader: &mut Reader<'_>, errors: &mut Errors) -> Self;

    /// Where a key that is not of this table belongs, if that is known.
    fn elsewhere(_key: &str) -> Option<Elsewhere> {
        None
    }

    /// The schema of each key.
    fn properties(generator: &mut SchemaGenerator) -> Map<String, Json>;
}

/// One property of a schema, described by its key.
pub(crate) fn property(key: &Key, mut schema: Schema) -> (String, Json) {
    schema.insert("description".to_owned(), Json::from(key.doc.trim()));
    (key.name.to_owned(), schema.to_value())
}

/// The schema of a table with these properties and no others.
pub(crate) fn object_schema(about: &str, properties: Map<String, Json>, keys: &[Key]) -> Schema {
    let mut schema = Schema::default();
    schema.insert("description".to_owned(), Json::from(about.trim()));
    schema.insert("type".to_owned(), Json::from("object"));
    schema.insert("properties".to_owned(), Json::Object(properties));
    let required: Vec<&str> = keys.iter().filter(|key| key.is_required).map(|key| key.name).collect();
    if !required.is_empty() {
        schema.insert("required".to_owned(), Json::from(required));
    }
    schema.insert("additionalProperties".to_owned(), Json::from(false));
    schema
}

/// Declares a table of the language.
///
/// `"key" field: Type` is an optional key, `required "key" field: Type` one that must be there. The fields hold
/// `Option<Spanned<Type>>`: a value that could not be read is already an error, and absent from then on.
macro_rules! table {
    (
        $(#[doc = $about:literal])+
        $vis:vis struct $name:ident {
            $( $(#[doc = $doc:literal])+ $($required:ident)? $key:literal $field:ident: $type:ty, )*
        }
        $( elsewhere: $elsewhere:path )?
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone)]
        $vis struct $name {
            /// Keys that are given but could not be read: errors already, and not missing.
            #[allow(dead_code, reason = "not every table has rules about missing keys")]
            pub(crate) unread: Vec<&'static str>,
            $( $(#[doc = $doc])+ pub(crate) $field: Option<$crate::scenario::read::Spanned<$type>>, )*
        }

        impl $crate::scenario::read::Table for $name {
            const ABOUT: &'static str = concat!($($about),+);
            const KEYS: &'static [$crate::scenario::read::Key] = &[ $(
                $crate::scenario::read::Key {
                    name: $key,
                    doc: concat!($($doc),+),
                    is_required: $crate::scenario::read::is_required!($($required)?),
                },
            )* ];

            fn read_from(
                reader: &mut $crate::scenario::read::Reader<'_>,
                errors: &mut $crate::scenario::diagnostic::Errors,
            ) -> Self {
                let mut keys = Self::KEYS.iter();
                let mut table = Self {
                    unread: Vec::new(),
                    // The fields are in the order of KEYS, so the next key is always theirs.
                    $( $field: keys.next().and_then(|key| reader.take(key, errors)), )*
                };
                table.unread = reader.unread();
                table
            }

            $( fn elsewhere(key: &str) -> Option<$crate::scenario::read::Elsewhere> {
                $elsewhere(key)
            } )?

            fn properties(
                generator: &mut schemars::SchemaGenerator,
            ) -> serde_json::Map<String, serde_json::Value> {
                let schemas: Vec<schemars::Schema> =
                    vec![ $( <$type as $crate::scenario::read::Read>::schema(generator), )* ];
                Self::KEYS.iter().zip(schemas).map(|(key, schema)| $crate::scenario::read::property(key, schema)).collect()
            }
        }

        impl $crate::scenario::read::Read for $name {
            fn read(
                node: &$crate::scenario::tree::Node,
                errors: &mut $crate::scenario::diagnostic::Errors,
            ) -> Option<Self> {
                let mut reader = $crate::scenario::read::Reader::new(node, errors)?;
                let table = <Self as $crate::scenario::read::Table>::read_from(&mut reader, errors);
                reader.finish(<Self as $crate::scenario::read::Table>::elsewhere, errors);
                Some(table)
            }

            fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                generator.subschema_for::<Self>()
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                use $crate::scenario::read::Table as _;
                let properties = Self::properties(generator);
                $crate::scenario::read::object_schema(Self::ABOUT, properties, Self::KEYS)
            }
        }
    };
}
pub(crate) use table;

macro_rules! is_required {
    () => {
        false
    };
    (required) => {
        true
    };
}
pub(crate) use is_required;
