//! The `newc` cpio format that the kernel unpacks as its initramfs. Pure: it writes what it was given.

use std::collections::BTreeMap;
use std::io::{self, Write};

const MODE_FILE: u32 = 0o100_000;
const MODE_DIR: u32 = 0o040_000;
const MODE_SYMLINK: u32 = 0o120_000;
const MODE_CHAR_DEVICE: u32 = 0o020_000;

/// One entry of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    /// Seconds since 1970: Python compares it with the one in its compiled files.
    mtime_s: u32,
    owner: u32,
    device: (u32, u32),
    content: Vec<u8>,
}

/// The entries by path without the leading slash. Ordered, so that a directory comes before what it holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// Adds a regular file; its directories come by themselves. The last one of a path wins.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, mtime_s: u32, content: Vec<u8>) {
        let mode = MODE_FILE | (permissions & 0o7777);
        self.insert(path, Entry { mode, mtime_s, owner: 0, device: (0, 0), content });
    }

    /// Adds a directory of an owner (user and group).
    pub(crate) fn directory(&mut self, path: &str, permissions: u32, owner: u32) {
        let mode = MODE_DIR | (permissions & 0o7777);
        self.insert(path, Entry { mode, mtime_s: 0, owner, device: (0, 0), content: Vec::new() });
    }

    /// Adds a symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, to: &str) {
        let mode = MODE_SYMLINK | 0o777;
        let content = to.as_bytes().to_vec();
        self.insert(path, Entry { mode, mtime_s: 0, owner: 0, device: (0, 0), content });
    }

    /// Adds a character device.
    pub(crate) fn char_device(&mut self, path: &str, permissions: u32, major: u32, minor: u32) {
        let mode = MODE_CHAR_DEVICE | permissions;
        self.insert(path, Entry { mode, mtime_s: 0, owner: 0, device: (major, minor), content: Vec::new() });
    }

    /// Whether the path is there.
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.entries.contains_key(path.trim_start_matches('/'))
    }

    fn insert(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/') {
            let parent = &path[..end];
            if !self.entries.contains_key(parent) {
                let mode = MODE_DIR | 0o755;
                let entry = Entry { mode, mtime_s: 0, owner: 0, device: (0, 0), content: Vec::new() };
                self.entries.insert(parent.to_owned(), entry);
            }
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Writes the whole archive.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for (inode, (path, entry)) in (1_u32..).zip(&self.entries) {
            write_entry(out, inode, path, entry)?;
        }
        let trailer = Entry { mode: 0, mtime_s: 0, owner: 0, device: (0, 0), content: Vec::new() };
        write_entry(out, 0, "TRAILER!!!", &trailer)
    }
}

fn write_entry(out: &mut impl Write, inode: u32, path: &str, entry: &Entry) -> io::Result<()> {
    let size = u32::try_from(entry.content.len())
        .map_err(|_| io::Error::other(format!("{path} is 4 GiB or larger, which newc can't say")))?;
    let name_size = path.len() as u32 + 1;
    let links = if entry.mode & 0o170_000 == MODE_DIR { 2 } else { 1 };
    let fields = [
        inode,
        entry.mode,
        entry.owner,
        entry.owner,
        links,
        entry.mtime_s,
        size,
        0,
        0,
        entry.device.0,
        entry.device.1,
        name_size,
        0,
    ];
    out.write_all(b"070701")?;
    for field in fields {
        write!(out, "{field:08X}")?;
    }
    out.write_all(path.as_bytes())?;
    // Header and name together, then the content, are filled with zeros to a multiple of four bytes.
    out.write_all(&b"\0\0\0\0"[..=padding(110 + name_size as usize)])?;
    out.write_all(&entry.content)?;
    out.write_all(&b"\0\0\0\0"[..padding(entry.content.len())])
}

const fn padding(length: usize) -> usize {
    length.next_multiple_of(4) - length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header_field(bytes: &[u8], index: usize) -> u32 {
        let start = 6 + index * 8;
        u32::from_str_radix(std::str::from_utf8(&bytes[start..start + 8]).unwrap(), 16).unwrap()
    }

    /// Reads an archive back: (path, mode, content) in order.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let (size, name) = (header_field(bytes, 6) as usize, header_field(bytes, 11) as usize);
            let path = std::str::from_utf8(&bytes[110..110 + name - 1]).unwrap().to_owned();
            let data = (110 + name).next_multiple_of(4);
            if path == "TRAILER!!!" {
                return entries;
            }
            entries.push((path, header_field(bytes, 1), bytes[data..data + size].to_vec()));
            bytes = &bytes[data + size.next_multiple_of(4)..];
        }
    }

    #[test]
    fn what_was_written_is_read_back_parents_first() {
        let mut archive = Archive::default();
        archive.file("/usr/bin/a", 0o755, 7, b"12345".to_vec());
        archive.symlink("/bin", "usr/bin");
        archive.char_device("/dev/console", 0o600, 5, 1);
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        let entries = read(&bytes);
        let paths = entries.iter().map(|(path, ..)| path.as_str()).collect::<Vec<_>>();
        assert_eq!(paths, ["bin", "dev", "dev/console", "usr", "usr/bin", "usr/bin/a"]);
        assert_eq!(entries[0], ("bin".to_owned(), 0o120_777, b"usr/bin".to_vec()));
        assert_eq!(entries[2].1, 0o020_600);
        assert_eq!(entries[5], ("usr/bin/a".to_owned(), 0o100_755, b"12345".to_vec()));
    }

    #[test]
    fn a_directory_keeps_the_permissions_that_were_asked_for() {
        let mut archive = Archive::default();
        archive.directory("/home/tester", 0o700, 1000);
        archive.file("/home/tester/x", 0o644, 0, Vec::new());
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        assert_eq!(read(&bytes)[1], ("home/tester".to_owned(), 0o040_700, Vec::new()));
        assert!(archive.contains("/home"));
    }
}
