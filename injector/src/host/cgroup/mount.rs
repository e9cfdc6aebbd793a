//! Finding the v2 hierarchy in a mount table: pure, over the text of `/proc/self/mountinfo`.

use std::path::PathBuf;

use super::CgroupError;

/// Which cgroup versions a host has mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Version 2 alone.
    Unified,
    /// Version 2 beside version 1 controllers.
    Hybrid,
}

/// Where the v2 hierarchy is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// The directory.
    pub mount: PathBuf,
    /// Which group of the hierarchy the directory shows; `/` for all of it.
    pub root: String,
    /// Which versions are mounted.
    pub mode: Mode,
}

/// Choose the v2 mount from the text of a mountinfo file: the first that shows the whole hierarchy, else the
/// first of all.
pub fn find_mount(mountinfo: &str) -> Result<MountPoint, CgroupError> {
    let mounts: Vec<Mount> = mountinfo.lines().filter_map(Mount::parse).collect();
    let v1 = mounts.iter().any(|mount| mount.kind == "cgroup");
    let mut v2: Vec<&Mount> = mounts.iter().filter(|mount| mount.kind == "cgroup2").collect();
    // A stable sort: among equals the order of the table decides.
    v2.sort_by_key(|mount| mount.root != "/");
    let chosen = v2.first().ok_or(CgroupError::NotMounted { v1 })?;
    Ok(MountPoint {
        mount: PathBuf::from(&chosen.point),
        root: chosen.root.clone(),
        mode: if v1 { Mode::Hybrid } else { Mode::Unified },
    })
}

struct Mount {
    root: String,
    point: String,
    kind: String,
}

impl Mount {
    /// `id parent major:minor root point options [optional...] - kind source super-options`
    fn parse(line: &str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
        let kind = file_system.split(' ').next()?.to_owned();
        Some(Self { root, point, kind })
    }
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let byte = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match byte {
            Some(byte) if byte.is_ascii() => {
                text.push(char::from(byte));
                rest = &after[3..];
            }
            _ => {
                text.push('\\');
                rest = after;
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
";
    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:3 master:1 - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const V1_ONLY: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
";
    const SEVERAL: &str = "\
50 23 0:38 /machine.slice /srv/part rw - cgroup2 none rw
51 23 0:38 / /mnt/my\\040cgroups rw - cgroup2 none rw
52 23 0:38 / /sys/fs/cgroup rw - cgroup2 none rw
";

    #[test]
    fn unified_host() {
        let found = find_mount(UNIFIED).unwrap();
        assert_eq!(
            found,
            MountPoint { mount: "/sys/fs/cgroup".into(), root: "/".into(), mode: Mode::Unified }
        );
    }

    #[test]
    fn hybrid_host() {
        let found = find_mount(HYBRID).unwrap();
        let mount = "/sys/fs/cgroup/unified".into();
        assert_eq!(found, MountPoint { mount, root: "/".into(), mode: Mode::Hybrid });
    }

    #[test]
    fn v1_alone_is_refused_with_a_remedy() {
        let error = find_mount(V1_ONLY).unwrap_err();
        assert!(matches!(error, CgroupError::NotMounted { v1: true }), "{error:?}");
        assert!(error.hint().unwrap().contains("systemd.unified_cgroup_hierarchy=1"));
    }

    #[test]
    fn nothing_mounted_is_another_remedy() {
        let error = find_mount("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n").unwrap_err();
        assert!(matches!(error, CgroupError::NotMounted { v1: false }), "{error:?}");
        assert!(error.hint().unwrap().starts_with("mount it"));
    }

    #[test]
    fn a_mount_of_the_whole_goes_before_a_mount_of_a_part() {
        let found = find_mount(SEVERAL).unwrap();
        assert_eq!(found.mount, PathBuf::from("/mnt/my cgroups"));
        assert_eq!(found.root, "/");
    }

    #[test]
    fn a_mount_of_a_part_is_better_than_none() {
        let found = find_mount(SEVERAL.lines().next().unwrap()).unwrap();
        assert_eq!((found.mount, found.root.as_str()), ("/srv/part".into(), "/machine.slice"));
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape("a\\040b\\134c"), "a b\\c");
        assert_eq!(unescape("tail\\"), "tail\\");
        assert_eq!(unescape("\\é12"), "\\é12");
    }
}
