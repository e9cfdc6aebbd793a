//! Errno values as they are written: `"ECONNREFUSED"`, or 111.

use nix::errno::Errno as Named;
use schemars::{Schema, SchemaGenerator, json_schema};

use super::diagnostic::Errors;
use super::nearest;
use super::quantity::clip;
use super::read::{Read, read_text, read_whole};
use super::tree::{Node, Value};

/// An errno that a program can be given: 1 to 133, as on all architectures of Linux with the generic table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

/// The largest errno that a program can be given.
const MAX: i32 = injector_common::call::MAX_ERRNO.cast_signed();

/// Second names of some numbers.
const ALIASES: [(&str, Named); 3] =
    [("EWOULDBLOCK", Named::EAGAIN), ("EDEADLOCK", Named::EDEADLK), ("ENOTSUP", Named::EOPNOTSUPP)];

/// Names that the kernel has among its own (`include/linux/errno.h`, 512 to 530) and programs have not.
const INTERNAL: [&str; 9] = [
    "ERESTARTSYS",
    "ERESTARTNOINTR",
    "ERESTARTNOHAND",
    "ERESTART_RESTARTBLOCK",
    "ENOIOCTLCMD",
    "EPROBE_DEFER",
    "EOPENSTALE",
    "EIOCBQUEUED",
    "ERECALLCONFLICT",
];
/// What they are numbered.
const INTERNAL_NUMBERS: std::ops::RangeInclusive<i128> = 512..=530;

/// Every name and its number.
fn names() -> impl Iterator<Item = (String, i32)> {
    let own = (1..=MAX).map(Named::from_raw).filter(|errno| *errno != Named::UnknownErrno);
    let own = own.map(|errno| (format!("{errno:?}"), errno as i32));
    own.chain(ALIASES.iter().map(|(name, errno)| ((*name).to_owned(), *errno as i32)))
}

/// The name of a number, such as `ECONNREFUSED`.
pub(crate) fn name(errno: i32) -> String {
    format!("{:?}", Named::from_raw(errno))
}

const EXPECTED: &str = "the name of an errno, such as \"ECONNREFUSED\", or its number, 1 to 133";

impl Read for Errno {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        let is_digits = |text: &String| !text.is_empty() && text.trim().chars().all(|c| c.is_ascii_digit());
        if node.is_number() || matches!(&node.value, Value::Bare(text) if is_digits(text)) {
            return read_number(node, errors);
        }
        let text = read_text(node, EXPECTED, errors)?;
        if let Some((_, number)) = names().find(|(name, _)| name == text) {
            return Some(Self(number));
        }
        if INTERNAL.contains(&text) {
            refuse_internal(node, text, errors);
            return None;
        }
        let all: Vec<String> = names().map(|(name, _)| name).collect();
        let hint = nearest::nearest(text, all.iter().map(String::as_str));
        errors
            .at(node.span, format!("unknown errno \"{}\"", clip(text)))
            .expected(EXPECTED)
            .maybe_hint(hint.map(|name| format!("did you mean `{name}`?")));
        None
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<String> = names().map(|(name, _)| name).collect();
        json_schema!({ "anyOf": [{ "enum": names }, { "type": "integer", "minimum": 1, "maximum": MAX }] })
    }
}

fn read_number(node: &Node, errors: &mut Errors) -> Option<Errno> {
    if let Value::Integer(number) = node.value
        && INTERNAL_NUMBERS.contains(&number)
    {
        refuse_internal(node, &number.to_string(), errors);
        return None;
    }
    let errno = read_whole(node, 1, MAX as u64, "the errno", errors)? as i32;
    if Named::from_raw(errno) == Named::UnknownErrno {
        errors.at(node.span, format!("{errno} is the number of no errno")).expected(EXPECTED);
        return None;
    }
    Some(Errno(errno))
}

fn refuse_internal(node: &Node, what: &str, errors: &mut Errors) {
    errors
        .at(node.span, format!("{what} is the kernel's own errno, which no program may be given"))
        .expected(EXPECTED);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_those_of_linux() {
        let number = |wanted: &str| names().find(|(name, _)| name == wanted).map(|(_, number)| number);
        for (wanted, expected) in [
            ("EPERM", 1),
            ("EAGAIN", 11),
            ("EWOULDBLOCK", 11),
            ("EOPNOTSUPP", 95),
            ("ENOTSUP", 95),
            ("EADDRINUSE", 98),
            ("ENETUNREACH", 101),
            ("ETIMEDOUT", 110),
            ("ECONNREFUSED", 111),
            ("EHWPOISON", 133),
        ] {
            assert_eq!(number(wanted), Some(expected), "{wanted}");
        }
        // 41 and 58 are not given away.
        assert_eq!(names().count(), 131 + ALIASES.len());
        assert_eq!((number("ERESTARTSYS"), number("UnknownErrno")), (None, None));
        assert_eq!(name(111), "ECONNREFUSED");
    }
}
