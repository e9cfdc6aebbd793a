//! Runs the program in a directory of its own, and shows what it said as one text.

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A directory with files, in which `injector` is run. Relative names keep its texts the same everywhere.
pub(crate) struct Desk {
    directory: TempDir,
    program: PathBuf,
}

/// What one run said. Its `Display` is what snapshots hold.
pub(crate) struct Said {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self { directory: TempDir::new().unwrap(), program: env!("CARGO_BIN_EXE_injector").into() }
    }

    pub(crate) fn with(name: &str, text: &str) -> Self {
        let desk = Self::new();
        desk.write(name, text);
        desk
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    /// The program without what the environment of the tests would change in it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        for variable in ["COLUMNS", "NO_COLOR", "CLICOLOR_FORCE", "INJECTOR_MAX_DURATION", "SUDO_UID"] {
            command.env_remove(variable);
        }
        command.env("INJECTOR_RUN_DIR", self.path().join("run"));
        command
    }

    pub(crate) fn injector(&self, arguments: &[&str]) -> Said {
        self.command(arguments).output().unwrap().into()
    }

    pub(crate) fn injector_reads(&self, arguments: &[&str], stdin: &str) -> Said {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        child.wait_with_output().unwrap().into()
    }

    /// The same without root: as nobody if the tests run as root, for whom the program is copied to where
    /// nobody can reach it.
    pub(crate) fn injector_as_nobody(&self, arguments: &[&str]) -> Said {
        use std::os::unix::fs::PermissionsExt as _;
        use std::os::unix::process::CommandExt as _;
        if !nix::unistd::geteuid().is_root() {
            return self.injector(arguments);
        }
        let copy = self.path().join("injector");
        // By another process: while this one held the copy open for writing, a test beside it might fork and hold it
        // on, and the kernel starts no program that somebody can write to.
        let copied = Command::new("cp").arg(&self.program).arg(&copy).status().unwrap();
        assert!(copied.success());
        for path in [self.path(), &copy] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let nobody = Self { directory: TempDir::new_in(self.path()).unwrap(), program: copy };
        let mut command = nobody.command(arguments);
        command.current_dir(self.path()).uid(65534).gid(65534).output().unwrap().into()
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Said {
    /// The only object on stdout.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}\n{self}"))
    }
}

impl fmt::Display for Said {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status.map_or_else(|| "a signal".to_owned(), |status| status.to_string());
        write!(formatter, "status: {status}\n---- stdout\n{}---- stderr\n{}", self.stdout, self.stderr)
    }
}

/// The names of an object's keys, in order.
pub(crate) fn keys(object: &serde_json::Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}
