//! Debian's packages for guests: downloaded with an apt configuration of our own, checked against Debian's keys, unpacked, never
//! installed. The machine's own apt is neither read nor changed.

use crate::process;
use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Makes the directory and holds it for one download at a time: two would share apt's directories.
pub(super) fn lock(dir: &Path) -> Result<Flock<File>> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Flock::lock(File::create(dir.join("lock"))?, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .with_context(|| format!("cannot lock {}", dir.display()))
}

/// An apt that knows some of Debian's suites and nothing of this machine.
pub(super) struct Apt {
    config: PathBuf,
}

impl Apt {
    /// One that keeps its state in a directory, with fresh lists of these sources.
    pub(super) fn configure(dir: &Path, sources: &str) -> Result<Self> {
        if !Path::new(KEYRING).is_file() {
            bail!("{KEYRING} is missing, so nothing could be checked: run `cargo xtask setup`");
        }
        let make = |name: &str| {
            let path = dir.join(name);
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot make {}", path.display()))
                .map(|()| path)
        };
        let (state, cache, etc, empty) = (make("state")?, make("cache")?, make("etc")?, make("empty")?);
        make("state/lists/partial")?;
        make("cache/archives/partial")?;
        fs::write(state.join("status"), "")?;
        let list = etc.join("guests.sources");
        fs::write(&list, sources)?;
        let config = etc.join("apt.conf");
        let (state, cache, empty) = (state.display(), cache.display(), empty.display());
        let text = format!(
            "Dir::State \"{state}\";\nDir::State::Status \"{state}/status\";\nDir::Cache \"{cache}\";\n\
             Dir::Etc::Main \"{empty}/none\";\nDir::Etc::Parts \"{empty}\";\n\
             Dir::Etc::SourceList \"{list}\";\nDir::Etc::SourceParts \"{empty}\";\n\
             Dir::Etc::Preferences \"{empty}/none\";\nDir::Etc::PreferencesParts \"{empty}\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
             APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\nAcquire::Retries \"3\";\n",
            list = list.display(),
        );
        fs::write(&config, text)?;
        let apt = Self { config };
        process::output(apt.command("apt-get").args(["--quiet", "--quiet", "update"]))?;
        Ok(apt)
    }

    /// One of apt's programs.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config).env("LC_ALL", "C");
        command
    }

    /// Downloads packages into one directory and unpacks them into another. Returns the version of one of them.
    pub(super) fn unpack(
        &self,
        names: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>,
        packages: &Path,
        root: &Path,
    ) -> Result<String> {
        fs::create_dir_all(packages)?;
        fs::create_dir_all(root)?;
        let mut get = self.command("apt-get");
        get.args(["--quiet", "--quiet", "download"]).args(names).current_dir(packages);
        process::output(&mut get)?;
        let mut version = None;
        for entry in fs::read_dir(packages)? {
            let path = entry?.path();
            process::output(Command::new("dpkg").arg("-x").arg(&path).arg(root))?;
            // Its file is called name_VERSION_amd64.deb.
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            version = name.split('_').nth(1).map(|text| text.replace("%3a", ":"));
        }
        version.context("apt-get downloaded no package")
    }
}

/// Puts what was unpacked where it is looked for, in place of what was there.
pub(super) fn put_in_place(root: &Path, unpacked: &Path) -> Result<()> {
    if unpacked.exists() {
        fs::remove_dir_all(unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))?;
    }
    fs::rename(root, unpacked).with_context(|| format!("cannot make {}", unpacked.display()))
}

/// A source as apt reads it.
pub(super) fn source(uri: &str, suites: &str) -> String {
    format!(
        "Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nArchitectures: amd64\nSigned-By: {KEYRING}\n"
    )
}
