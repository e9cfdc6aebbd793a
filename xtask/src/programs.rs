//! The programs under test, built for this machine: `injector`, and the test programs that need a kernel to
//! themselves. They run as root here and on every kernel of the matrix; all other tests are unit tests.

use crate::{process, workspace};
use anyhow::{Context as _, Result};
use std::path::PathBuf;
use std::process::Stdio;

/// The integration tests of `injector` that change a machine: `host` the modules, `e2e` the whole,
/// `lifetime` what it leaves behind, `operations` and `processes` what happens to those.
pub(crate) const PRIVILEGED_TESTS: [&str; 5] = ["host", "e2e", "lifetime", "operations", "processes"];

/// Where cargo put them.
pub(crate) struct Programs {
    pub(crate) injector: PathBuf,
    /// The name and path of each test program.
    pub(crate) tests: Vec<(&'static str, PathBuf)>,
}

impl Programs {
    /// Builds `injector` and the privileged tests; cargo says where it put them.
    pub(crate) fn build() -> Result<Self> {
        let mut cargo = workspace::cargo();
        cargo.args(["test", "--package", "injector", "--no-run", "--message-format=json-render-diagnostics"]);
        cargo.args(PRIVILEGED_TESTS.iter().flat_map(|name| ["--test", name]));
        cargo.stderr(Stdio::inherit());
        let messages = process::output(&mut cargo)?;
        let find = |kind: &str, name: &str| {
            executable(&messages, kind, name).with_context(|| format!("cargo built no {kind} named {name}"))
        };
        let tests = PRIVILEGED_TESTS.iter().map(|name| Ok((*name, find("test", name)?)));
        Ok(Self { injector: find("bin", "injector")?, tests: tests.collect::<Result<_>>()? })
    }

    /// The names of the tests of a program.
    pub(crate) fn test_names(&self, program: &str) -> Result<Vec<String>> {
        let (_, path) =
            self.tests.iter().find(|(name, _)| *name == program).context("no such test program")?;
        let list = process::output(std::process::Command::new(path).args(["--list", "--format=terse"]))?;
        Ok(list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }
}

fn executable(messages: &str, kind: &str, name: &str) -> Option<PathBuf> {
    let mut parsed = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    parsed.find_map(|message| {
        let target = &message["target"];
        let right_kind = target["kind"].as_array()?.iter().any(|one| one == kind);
        (right_kind && target["name"] == name).then(|| message["executable"].as_str().map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_messages_tell_where_the_programs_are() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"injector"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"injector"},"executable":"/t/injector"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(executable(messages, "bin", "injector"), Some(PathBuf::from("/t/injector")));
        assert_eq!(executable(messages, "test", "e2e"), None);
    }
}
