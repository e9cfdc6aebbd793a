//! How values that hold others are read: lists, and tables whose keys are names of the user.

use schemars::{Schema, SchemaGenerator, json_schema};

use super::{Read, Spanned};
use crate::scenario::diagnostic::Errors;
use crate::scenario::tree::{Key, Node, Value};

/// One value, or a list of at least one.
#[derive(Debug, Clone)]
pub(crate) struct OneOrMany<T>(pub(crate) Vec<Spanned<T>>);

impl<T: Read> Read for OneOrMany<T> {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        let Value::List(items) = &node.value else {
            return T::read(node, errors).map(|value| Self(vec![Spanned { span: node.span, value }]));
        };
        if items.is_empty() {
            errors.at(node.span, "an empty list means nothing").hint("leave the key out to mean everything");
            return None;
        }
        // Every item is read before giving up, so that every wrong one is reported.
        let read: Vec<Option<Spanned<T>>> = items
            .iter()
            .map(|item| T::read(item, errors).map(|value| Spanned { span: item.span, value }))
            .collect();
        read.into_iter().collect::<Option<Vec<_>>>().map(Self)
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let one = T::schema(generator);
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

/// A list of tables, such as `[[fault]]`. What can't be read is left out, and an error.
#[derive(Debug, Clone)]
pub(crate) struct List<T>(pub(crate) Vec<Spanned<T>>);

impl<T: Read> Read for List<T> {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        let Value::List(items) = &node.value else {
            let message = format!("{} where a list of tables belongs", node.value.describe());
            errors.at(node.span, message).hint("write the header in double brackets, such as `[[fault]]`");
            return None;
        };
        let read = items
            .iter()
            .filter_map(|item| T::read(item, errors).map(|value| Spanned { span: item.span, value }))
            .collect();
        Some(Self(read))
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": T::schema(generator) })
    }
}

/// A table of tables that the user names, such as `[target.NAME]`. What can't be read is left out, and an error.
#[derive(Debug, Clone)]
pub(crate) struct Named<T>(pub(crate) Vec<(Key, T)>);

impl<T: Read> Read for Named<T> {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        let Value::Table(table) = &node.value else {
            let message = format!("{} where named tables belong", node.value.describe());
            errors.at(node.span, message).hint("write a header with a name, such as `[target.db]`");
            return None;
        };
        let read = table
            .0
            .iter()
            .filter_map(|(key, item)| T::read(item, errors).map(|value| (key.clone(), value)))
            .collect();
        Some(Self(read))
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": T::schema(generator) })
    }
}
