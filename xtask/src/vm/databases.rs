//! PostgreSQL for the guests whose tests ask it: Debian's packages, by [`apt`], in the cache. Some 75 MB with its libraries, so other guests
//! go without. SQLite comes with Python.

use super::apt::{self, Apt};
use super::image::Image;
use crate::say::say;
use crate::workspace;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Debian 12's server and clients, and the packages that have their libraries. Their libc is this machine's, as for all programs of a
/// guest: the packages of the oldest Debian that is supported run with any later one.
const PACKAGES: [&str; 37] = [
    "postgresql-15",
    "postgresql-client-15",
    "libaudit1",
    "libcap-ng0",
    "libcap2",
    "libcom-err2",
    "libffi8",
    "libgcrypt20",
    "libgmp10",
    "libgnutls30",
    "libgpg-error0",
    "libgssapi-krb5-2",
    "libhogweed6",
    "libicu72",
    "libidn2-0",
    "libk5crypto3",
    "libkeyutils1",
    "libkrb5-3",
    "libkrb5support0",
    "libldap-2.5-0",
    "liblz4-1",
    "liblzma5",
    "libnettle8",
    "libp11-kit0",
    "libpam0g",
    "libpq5",
    "libreadline8",
    "libsasl2-2",
    "libssl3",
    "libstdc++6",
    "libsystemd0",
    "libtasn1-6",
    "libtinfo6",
    "libunistring2",
    "libxml2",
    "libzstd1",
    "zlib1g",
];

/// Where Debian puts the programs. The tests know these places too.
const PROGRAMS: &str = "usr/lib/postgresql/15/bin";
/// Those that the tests call, and what these call.
const CALLED: [&str; 5] = ["initdb", "postgres", "psql", "pg_amcheck", "pg_checksums"];
/// Where the server's modules are.
const MODULES: &str = "usr/lib/postgresql/15/lib";
/// Those that `initdb` and `pg_amcheck` load. The compiler for queries, with its LLVM, is larger than all else and not missed.
const LOADED: [&str; 3] = ["plpgsql.so", "dict_snowball.so", "amcheck.so"];
/// What `initdb` makes a database from.
const DATA: &str = "usr/share/postgresql/15";
/// Where the guest has the libraries, beside its own ones, which are this machine's.
const LIBRARIES: &str = "/usr/lib/postgresql/libraries";
/// Where the packages have them.
const LIBRARIES_IN_PACKAGES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// Where the cached packages are unpacked, downloaded first if they are not there.
fn get() -> Result<PathBuf> {
    let dir = workspace::cache()?.join("databases");
    let _lock = apt::lock(&dir)?;
    let unpacked = dir.join("postgresql");
    // What an earlier download wrote last: a list that was changed since is another download.
    let list = PACKAGES.join("\n");
    if fs::read_to_string(unpacked.join("packages")).is_ok_and(|text| text == list) {
        return Ok(unpacked);
    }
    say!("downloading Debian's PostgreSQL for the tests with databases (once)");
    let fresh = tempfile::Builder::new().prefix("unpacking").tempdir_in(&dir)?;
    let root = fresh.path().join("root");
    let context = || "Debian's PostgreSQL can't be downloaded".to_owned();
    let apt = Apt::configure(&dir.join("apt"), &sources_list()).with_context(context)?;
    apt.unpack(PACKAGES, &fresh.path().join("packages"), &root).with_context(context)?;
    fs::write(root.join("packages"), list)?;
    apt::put_in_place(&root, &unpacked)?;
    Ok(unpacked)
}

fn sources_list() -> String {
    let release = apt::source("http://deb.debian.org/debian", "bookworm");
    let security = apt::source("http://deb.debian.org/debian-security", "bookworm-security");
    format!("{release}\n{security}")
}

/// Adds the server, its clients and their libraries to an image.
pub(super) fn add(image: &mut Image) -> Result<()> {
    let root = get()?;
    let programs = CALLED.iter().map(|name| format!("{PROGRAMS}/{name}"));
    let modules = LOADED.iter().map(|name| format!("{MODULES}/{name}"));
    let mut linked = Vec::new();
    for name in programs.chain(modules) {
        linked.push(root.join(&name));
        image.add_file(&root.join(&name), &format!("/{name}"))?;
    }
    for entry in walkdir::WalkDir::new(root.join(DATA)) {
        let entry = entry.with_context(|| format!("cannot read {}", root.display()))?;
        if entry.path().is_file() {
            let place = Path::new("/").join(entry.path().strip_prefix(&root)?);
            image.add_file(entry.path(), &place.to_string_lossy())?;
        }
    }
    image.add_libraries_of(&linked, &LIBRARIES_IN_PACKAGES.map(|dir| root.join(dir)), LIBRARIES)
}
