//! Patterns of paths, matched byte by byte: `*`, `?`, and `**` for any directories.
//!
//! The kernel half takes one step a round of `bpf_loop`, so that the verifier walks a step once and not each of a path's bytes.
//! Wildcards are compiled to bytes that no pattern holds otherwise, see [`compile`].

/// Any bytes of one name.
pub const ANY_BYTES: u8 = 1;
/// One byte of a name.
pub const ONE_BYTE: u8 = 2;
/// All that follows, at least a byte of it.
pub const REST: u8 = 3;
/// Any number of whole directories, none included.
pub const DIRECTORIES: u8 = 4;

/// Bytes that a compiled pattern has at most.
pub const MAX_PATTERN: usize = 256;
/// Bytes that a path has at most to be compared. The kernel's own bound, `PATH_MAX`, is 4096.
pub const MAX_PATH: usize = 1023;
/// Steps after which a path is taken for another one: what is not malicious takes a fraction.
pub const MAX_STEPS: u32 = 8192;

/// A compiled pattern and a path, wherever they are.
pub trait Bytes {
    /// The byte of the pattern at a place that is inside.
    fn pattern(&self, at: u32) -> u8;
    /// The byte of the path at a place that is inside.
    fn path(&self, at: u32) -> u8;
    /// Length of the pattern.
    fn pattern_length(&self) -> u32;
    /// Length of the path.
    fn path_length(&self) -> u32;
}

/// What a step has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    GoesOn,
    /// The path is meant.
    Matches,
    /// It is another one.
    Differs,
}

/// No place to go back to.
const NOWHERE: u32 = u32::MAX;

/// Where the comparison is, and where it can go back to: behind the last `*`, whose end a name bounds, and behind the last
/// directories. Earlier wildcards need no second look: what they took ends at the same `/`, or could only be longer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    pattern: u32,
    path: u32,
    bytes_pattern: u32,
    bytes_path: u32,
    directories_pattern: u32,
    directories_path: u32,
    is_back: u32,
}

impl Default for Comparison {
    #[inline(always)]
    fn default() -> Self {
        Self {
            pattern: 0,
            path: 0,
            bytes_pattern: NOWHERE,
            bytes_path: 0,
            directories_pattern: NOWHERE,
            directories_path: 0,
            is_back: 0,
        }
    }
}

impl Comparison {
    /// Takes the next step.
    #[inline(always)]
    pub fn step<B: Bytes>(&mut self, bytes: &B) -> Step {
        if self.is_back != 0 { self.step_back(bytes) } else { self.step_on(bytes) }
    }

    #[inline(always)]
    fn step_on<B: Bytes>(&mut self, bytes: &B) -> Step {
        let is_end = self.path >= bytes.path_length();
        if self.pattern >= bytes.pattern_length() {
            if is_end {
                return Step::Matches;
            }
            self.is_back = 1;
            return Step::GoesOn;
        }
        let token = bytes.pattern(self.pattern);
        match token {
            ANY_BYTES => {
                self.pattern += 1;
                (self.bytes_pattern, self.bytes_path) = (self.pattern, self.path);
            }
            DIRECTORIES => {
                self.pattern += 1;
                (self.directories_pattern, self.directories_path) = (self.pattern, self.path);
                self.bytes_pattern = NOWHERE;
            }
            _ if is_end => self.is_back = 1,
            REST => return Step::Matches,
            _ => {
                let byte = bytes.path(self.path);
                if byte == token || (token == ONE_BYTE && byte != b'/') {
                    self.pattern += 1;
                    self.path += 1;
                } else {
                    self.is_back = 1;
                }
            }
        }
        Step::GoesOn
    }

    /// One wildcard takes a byte more.
    #[inline(always)]
    fn step_back<B: Bytes>(&mut self, bytes: &B) -> Step {
        if self.bytes_pattern != NOWHERE {
            if self.bytes_path < bytes.path_length() && bytes.path(self.bytes_path) != b'/' {
                self.bytes_path += 1;
                (self.pattern, self.path, self.is_back) = (self.bytes_pattern, self.bytes_path, 0);
            } else {
                self.bytes_pattern = NOWHERE;
            }
            return Step::GoesOn;
        }
        if self.directories_pattern == NOWHERE || self.directories_path >= bytes.path_length() {
            return Step::Differs;
        }
        let byte = bytes.path(self.directories_path);
        self.directories_path += 1;
        if byte == b'/' {
            (self.pattern, self.path, self.is_back) = (self.directories_pattern, self.directories_path, 0);
        }
        Step::GoesOn
    }
}

#[cfg(any(test, feature = "user"))]
mod compiled {
    use super::{
        ANY_BYTES, Bytes, Comparison, DIRECTORIES, MAX_PATH, MAX_PATTERN, MAX_STEPS, ONE_BYTE, REST, Step,
    };

    extern crate alloc;
    use alloc::vec::Vec;

    /// Why a text is no pattern of a path.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum PatternError {
        /// It does not begin with `/`.
        Relative,
        /// `**` is a part of a name.
        PartOfName,
        /// A name is empty, `.` or `..`.
        NoName,
        /// It has a control character.
        Control,
        /// It is longer than [`MAX_PATTERN`].
        TooLong,
    }

    /// The pattern as the kernel half compares it.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn compile(pattern: &str) -> Result<Vec<u8>, PatternError> {
        if pattern.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return Err(PatternError::Control);
        }
        let Some(rest) = pattern.strip_prefix('/') else { return Err(PatternError::Relative) };
        let mut compiled = Vec::from([b'/']);
        let names: Vec<&str> = if rest.is_empty() { Vec::new() } else { rest.split('/').collect() };
        for (n, name) in names.iter().enumerate() {
            let is_last = n + 1 == names.len();
            match *name {
                "" | "." | ".." => return Err(PatternError::NoName),
                "**" => compiled.push(if is_last { REST } else { DIRECTORIES }),
                name if name.contains("**") => return Err(PatternError::PartOfName),
                name => {
                    compiled.extend(name.bytes().map(|byte| match byte {
                        b'*' => ANY_BYTES,
                        b'?' => ONE_BYTE,
                        byte => byte,
                    }));
                    if !is_last {
                        compiled.push(b'/');
                    }
                }
            }
        }
        if compiled.len() > MAX_PATTERN { Err(PatternError::TooLong) } else { Ok(compiled) }
    }

    struct Slices<'a>(&'a [u8], &'a [u8]);

    impl Bytes for Slices<'_> {
        fn pattern(&self, at: u32) -> u8 {
            self.0[at as usize]
        }
        fn path(&self, at: u32) -> u8 {
            self.1[at as usize]
        }
        fn pattern_length(&self) -> u32 {
            self.0.len() as u32
        }
        fn path_length(&self) -> u32 {
            self.1.len() as u32
        }
    }

    /// Whether a compiled pattern means a path: what the kernel half will say.
    #[must_use]
    pub fn is_meant(compiled: &[u8], path: &[u8]) -> bool {
        let mut comparison = Comparison::default();
        let slices = Slices(compiled, path);
        let steps = (0..MAX_STEPS).map(|_| comparison.step(&slices));
        path.len() <= MAX_PATH && steps.into_iter().find(|step| *step != Step::GoesOn) == Some(Step::Matches)
    }
}
#[cfg(any(test, feature = "user"))]
pub use compiled::{PatternError, compile, is_meant};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn meets(pattern: &str, path: &str) -> bool {
        is_meant(&compile(pattern).unwrap(), path.as_bytes())
    }

    #[test]
    fn a_name_ends_a_star_and_nothing_ends_two() {
        for (pattern, path, expected) in [
            ("/a/b", "/a/b", true),
            ("/a/b", "/a/b/c", false),
            ("/a/b", "/a/", false),
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/", true),
            ("/a/*", "/a/b/c", false),
            ("/a/*.log", "/a/x.log", true),
            ("/a/*.log", "/a/x.log.log", true),
            ("/a/*.log", "/a/x.log.old", false),
            ("/a/?b", "/a/xb", true),
            ("/a/?b", "/a//b", false),
            ("/a/**", "/a/b", true),
            ("/a/**", "/a/b/c", true),
            ("/a/**", "/a", false),
            ("/a/**", "/a/", false),
            ("/a/**", "/ab/c", false),
            ("/**", "/a", true),
            ("/a/**/b", "/a/b", true),
            ("/a/**/b", "/a/x/y/b", true),
            ("/a/**/b", "/a/xb", false),
            ("/a/**/b", "/a/b/c", false),
            ("/a/**/b/**/c*d", "/a/1/b/b/2/cxd", true),
            ("/a/**/pg_wal/*", "/a/14/main/pg_wal/000001", true),
            ("/a/**/pg_wal/*", "/a/14/main/pg_wal/archive/000001", false),
            ("/*/x*y/z", "/q/xxyxy/z", true),
            ("/", "/", true),
        ] {
            assert_eq!(meets(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for (pattern, expected) in [
            ("a/b", PatternError::Relative),
            ("", PatternError::Relative),
            ("/a/x**", PatternError::PartOfName),
            ("/a/***/b", PatternError::PartOfName),
            ("/a//b", PatternError::NoName),
            ("/a/../b", PatternError::NoName),
            ("/a/", PatternError::NoName),
            ("/a\u{1}", PatternError::Control),
        ] {
            assert_eq!(compile(pattern), Err(expected), "{pattern:?}");
        }
        let long = format!("/{}", "x".repeat(MAX_PATTERN));
        assert_eq!(compile(&long), Err(PatternError::TooLong));
    }

    /// The same by recursion over names: slower, and plainly right.
    fn plainly(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern, path) {
            ([], []) => true,
            (["**"], path) => path.iter().any(|name| !name.is_empty()) || path.len() > 1,
            (["**", rest @ ..], path) => (0..=path.len()).any(|n| plainly(rest, &path[n..])),
            ([name, rest @ ..], [other, path @ ..]) => {
                of_name(name.as_bytes(), other.as_bytes()) && plainly(rest, path)
            }
            _ => false,
        }
    }

    fn of_name(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            ([b'*', rest @ ..], name) => (0..=name.len()).any(|n| of_name(rest, &name[n..])),
            ([b'?', rest @ ..], [_, name @ ..]) => of_name(rest, name),
            ([a, rest @ ..], [b, name @ ..]) => a == b && of_name(rest, name),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn it_is_what_recursion_says(
            pattern in prop::collection::vec("[ab*?]{1,4}|[*]{2}", 1..5),
            path in prop::collection::vec("[ab]{1,4}", 1..6),
        ) {
            prop_assume!(pattern.iter().all(|name| name == "**" || !name.contains("**")));
            let text: String = pattern.iter().map(|name| String::from("/") + name).collect();
            let real: String = path.iter().map(|name| String::from("/") + name).collect();
            let (pattern, path): (Vec<&str>, Vec<&str>) =
                (pattern.iter().map(String::as_str).collect(), path.iter().map(String::as_str).collect());
            prop_assert_eq!(meets(&text, &real), plainly(&pattern, &path), "{} {}", text, real);
        }
    }
}
