//! Stock Debian kernels, by [`apt`], in the cache.

use super::apt::{self, Apt};
use crate::say::say;
use crate::{process, workspace};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kernel of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Series {
    /// Debian 12.
    V6_1,
    /// Debian 12's backports, as in Debian 13.
    V6_12,
    /// Debian 13's backports: the newest.
    V7_3,
}

impl Series {
    /// All of them, oldest first.
    pub(crate) const ALL: [Self; 3] = [Self::V6_1, Self::V6_12, Self::V7_3];

    /// The name on the command line and in tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V7_3 => "7.3",
        }
    }

    /// `all`, or names parted by commas.
    pub(crate) fn parse_list(text: &str) -> Result<Vec<Self>> {
        if text == "all" {
            return Ok(Self::ALL.to_vec());
        }
        let one = |name: &str| {
            Self::ALL
                .into_iter()
                .find(|series| series.name() == name)
                .with_context(|| format!("unknown kernel {name:?}: expected 6.1, 6.12, 7.3 or all"))
        };
        text.split(',').map(one).collect()
    }

    /// The packages of one kernel: prefixes, each followed by the same release.
    const fn packages(self) -> &'static [&'static str] {
        match self {
            Self::V6_1 | Self::V6_12 => &["linux-image-"],
            Self::V7_3 => &["linux-base-", "linux-binary-", "linux-modules-"],
        }
    }

    /// How the release begins and ends. What lies between must be digits, dots and dashes: no cloud or rt flavour.
    const fn release_pattern(self) -> (&'static str, &'static str) {
        match self {
            Self::V6_1 => ("6.1.", "-amd64"),
            Self::V6_12 => ("6.12", "+deb12-amd64"),
            Self::V7_3 => ("7.3", "+deb13-amd64"),
        }
    }
}

/// A kernel on disk.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) series: Series,
    /// What `uname -r` says.
    pub(crate) release: String,
    /// The package's version: the exact one.
    pub(crate) version: String,
    pub(crate) vmlinuz: PathBuf,
    pub(crate) config: PathBuf,
    /// The directory with `modules.dep`.
    pub(crate) modules: PathBuf,
}

/// The cached kernel of a series, downloaded first if there is none (or, with `refresh`, if there is a newer one).
pub(crate) fn get(series: Series, refresh: bool) -> Result<Kernel> {
    let dir = workspace::cache()?.join("kernels");
    let _lock = apt::lock(&dir)?;
    let unpacked = dir.join(series.name());
    if !refresh && let Some(kernel) = read(series, &unpacked) {
        return Ok(kernel);
    }
    let context = || format!("the stock Debian kernel {} can't be downloaded", series.name());
    download(series, &dir, &unpacked).with_context(context)?;
    read(series, &unpacked).with_context(|| format!("{}: the packages hold no kernel", series.name()))
}

/// What an earlier download left: the file `version` is written last.
fn read(series: Series, unpacked: &Path) -> Option<Kernel> {
    let text = fs::read_to_string(unpacked.join("version")).ok()?;
    let (release, version) = text.trim().split_once(' ')?;
    let modules = unpacked.join("lib/modules").join(release);
    // Newer packages keep everything in the module directory, older ones in /boot.
    let find = |name: &str| {
        let places = [modules.join(name), unpacked.join(format!("boot/{name}-{release}"))];
        places.into_iter().find(|path| path.is_file())
    };
    let (vmlinuz, config) = (find("vmlinuz")?, find("config")?);
    modules.join("modules.dep").is_file().then_some(())?;
    Some(Kernel {
        series,
        release: release.to_owned(),
        version: version.to_owned(),
        vmlinuz,
        config,
        modules,
    })
}

fn download(series: Series, dir: &Path, unpacked: &Path) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the test kernels are for x86_64, this machine is {}", std::env::consts::ARCH);
    }
    say!("downloading the stock Debian kernel {} (once)", series.name());
    let apt = Apt::configure(&dir.join("apt"), &sources_list())?;
    let names = process::output(apt.command("apt-cache").args(["pkgnames", "linux-"]))?;
    let release = newest_release(series, &names)
        .with_context(|| format!("no package of Debian matches {:?}", series.release_pattern()))?;
    let fresh = tempfile::Builder::new().prefix("unpacking").tempdir_in(dir)?;
    let root = fresh.path().join("root");
    let packages = series.packages().iter().map(|prefix| format!("{prefix}{release}"));
    let version = apt.unpack(packages, &fresh.path().join("packages"), &root)?;
    index_modules(&root, &release)?;
    fs::write(root.join("version"), format!("{release} {version}\n"))?;
    apt::put_in_place(&root, unpacked)
}

/// `modules.dep` is otherwise made when the package is installed.
fn index_modules(root: &Path, release: &str) -> Result<()> {
    if !root.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
    }
    let depmod = process::find("depmod").context("depmod is missing: run `cargo xtask setup`")?;
    process::output(Command::new(depmod).arg("-b").arg(root).arg(release)).map(drop)
}

/// The newest release of which every package is in the list of names.
fn newest_release(series: Series, names: &str) -> Option<String> {
    let (begin, end) = series.release_pattern();
    let (first, others) = series.packages().split_first()?;
    let has = |name: String| names.lines().any(|line| line == name);
    let releases = names.lines().filter_map(|name| {
        let release = name.strip_prefix(first)?;
        let between = release.strip_prefix(begin)?.strip_suffix(end)?;
        between.chars().all(|c| c.is_ascii_digit() || c == '.' || c == '-').then_some(release)
    });
    let complete = releases.filter(|release| others.iter().all(|prefix| has(format!("{prefix}{release}"))));
    complete.max_by_key(|release| numbers(release)).map(str::to_owned)
}

/// The numbers in a text, in order: 6.1.0-48 is newer than 6.1.0-9.
fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

fn sources_list() -> String {
    let backports = apt::source("http://deb.debian.org/debian", "bookworm-backports trixie-backports");
    let security = apt::source("http://deb.debian.org/debian-security", "bookworm-security");
    format!("{backports}\n{security}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stock_flavour_wins() {
        let names = "linux-image-6.1.0-9-amd64\nlinux-image-6.1.0-48-amd64\nlinux-image-6.1.0-50-rt-amd64\n\
                     linux-image-6.1.0-50-amd64-unsigned\nlinux-image-6.12.9+deb12-amd64\n\
                     linux-image-6.12.12+deb12-amd64\nlinux-image-6.12.99+deb12-cloud-amd64\n";
        assert_eq!(newest_release(Series::V6_1, names).as_deref(), Some("6.1.0-48-amd64"));
        assert_eq!(newest_release(Series::V6_12, names).as_deref(), Some("6.12.12+deb12-amd64"));
        assert_eq!(newest_release(Series::V7_3, names), None);
    }

    #[test]
    fn a_kernel_in_three_packages_needs_all_three() {
        let names = "linux-base-7.3.4+deb13-amd64\nlinux-binary-7.3.4+deb13-amd64\nlinux-modules-7.3.4+deb13-amd64\n\
                     linux-base-7.3.5+deb13-amd64\nlinux-binary-7.3.5+deb13-amd64\n";
        assert_eq!(newest_release(Series::V7_3, names).as_deref(), Some("7.3.4+deb13-amd64"));
    }

    #[test]
    fn series_are_named() {
        assert_eq!(Series::parse_list("all").unwrap(), Series::ALL);
        assert_eq!(Series::parse_list("6.12,6.1").unwrap(), [Series::V6_12, Series::V6_1]);
        assert!(Series::parse_list("6.2").unwrap_err().to_string().contains("expected 6.1, 6.12, 7.3"));
    }
}
