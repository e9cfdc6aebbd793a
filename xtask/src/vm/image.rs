//! What is in a guest: this machine's own tools with their libraries, the programs under test, the kernel's
//! modules, and xtask itself as `/init`.

use super::archive::Archive;
use super::contents::{DATA, GROUP, OPTIONAL_TOOLS, PASSWD, PYTHON_LEFT_OUT, TOOLS};
use super::init;
use super::kernels::Kernel;
use super::modules::{self, WANTED, WHERE_THERE};
use crate::process;
use anyhow::{Context as _, Result, bail};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where tools are looked for: the system's own first, not a version manager's shims.
const TOOL_DIRS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The guest's file system while it is put together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    archive: Archive,
    /// Programs whose libraries are still to be added.
    linked: Vec<PathBuf>,
}

impl Image {
    /// The system: directories, tools, Python, `/init`.
    pub(crate) fn base() -> Result<Self> {
        let mut image = Self::default();
        image.add_skeleton();
        image.add_program(&std::env::current_exe().context("cannot find this program")?, "/init")?;
        for tool in TOOLS {
            image.add_tool(tool)?;
        }
        for path in OPTIONAL_TOOLS.iter().filter_map(|tool| find_tool(tool)) {
            image.add_host_file(&path)?;
        }
        image.add_python()?;
        for path in DATA.iter().map(Path::new).filter(|path| path.exists()) {
            image.add_tree(path, &[])?;
        }
        Ok(image)
    }

    fn add_skeleton(&mut self) {
        let archive = &mut self.archive;
        for (link, to) in
            [("/bin", "usr/bin"), ("/sbin", "usr/sbin"), ("/lib", "usr/lib"), ("/lib64", "usr/lib64")]
        {
            archive.symlink(link, to);
        }
        for dir in ["/proc", "/sys", "/dev", "/run", "/root", "/mnt", "/var/tmp", "/var/lib", "/usr/lib64"] {
            archive.directory(dir, 0o755, 0);
        }
        archive.directory("/tmp", 0o1777, 0);
        archive.directory("/home/tester", 0o755, 1000);
        archive.symlink("/var/run", "/run");
        // The kernel opens it for init before anything is mounted.
        archive.char_device("/dev/console", 0o600, 5, 1);
        let files = [
            ("/etc/passwd", PASSWD),
            ("/etc/group", GROUP),
            ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n"),
            ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"),
            ("/etc/hostname", "guest\n"),
        ];
        for (path, text) in files {
            archive.file(path, 0o644, 0, text.as_bytes().to_vec());
        }
    }

    /// Adds a program of this machine by its name or path, under the same path.
    pub(crate) fn add_tool(&mut self, tool: &str) -> Result<()> {
        let given = Path::new(tool);
        let path =
            if given.is_absolute() { given.is_file().then(|| given.to_owned()) } else { find_tool(tool) };
        let path = path.with_context(|| format!("{tool} is not on this machine: run `cargo xtask setup`"))?;
        self.add_host_file(&path)
    }

    /// Adds a program that we built, without its debug information: the guest's memory holds it all.
    pub(crate) fn add_program(&mut self, from: &Path, to: &str) -> Result<()> {
        let dir = tempfile::tempdir()?;
        let stripped = dir.path().join("stripped");
        let strip = Command::new("strip").arg("--strip-debug").arg("-o").arg(&stripped).arg(from).output();
        let smaller = strip.is_ok_and(|output| output.status.success());
        let source = if smaller { stripped.as_path() } else { from };
        let bytes = fs::read(source).with_context(|| format!("cannot read {}", from.display()))?;
        self.archive.file(to, 0o755, 0, bytes);
        self.linked.push(from.to_owned());
        Ok(())
    }

    /// Adds a file that is not this machine's own, under another path.
    pub(super) fn add_file(&mut self, from: &Path, to: &str) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.archive.file(to, from.metadata()?.permissions().mode(), 0, bytes);
        Ok(())
    }

    /// Adds the libraries of programs that bring some with them: these from their directories to a place of their own, the others
    /// as this machine has them.
    pub(super) fn add_libraries_of(
        &mut self,
        programs: &[PathBuf],
        from: &[PathBuf],
        to: &str,
    ) -> Result<()> {
        for library in libraries(programs, from)? {
            if from.iter().any(|dir| library.starts_with(dir)) {
                let name = library.file_name().unwrap_or_default().to_string_lossy();
                self.add_file(&library, &format!("{to}/{name}"))?;
            } else {
                self.add_host_file(&library)?;
            }
        }
        Ok(())
    }

    /// Adds a file under its own path; if that is a symbolic link, its target too.
    fn add_host_file(&mut self, path: &Path) -> Result<()> {
        let real = path.canonicalize().with_context(|| format!("cannot follow {}", path.display()))?;
        let (place, real_place) = (guest_path(path), guest_path(&real));
        if place != real_place {
            self.archive.symlink(&place, &real_place);
        }
        if self.archive.contains(&real_place) {
            return Ok(());
        }
        let bytes = fs::read(&real).with_context(|| format!("cannot read {}", real.display()))?;
        let meta = real.metadata()?;
        if bytes.starts_with(b"\x7fELF") {
            self.linked.push(real);
        }
        let mtime_s = u32::try_from(meta.mtime()).unwrap_or(0);
        self.archive.file(&real_place, meta.permissions().mode(), mtime_s, bytes);
        Ok(())
    }

    /// Adds a file or a directory with all that is in it, but for the names left out.
    fn add_tree(&mut self, path: &Path, left_out: &[&str]) -> Result<()> {
        let walk = walkdir::WalkDir::new(path).follow_root_links(true).into_iter();
        let named = |name: &str| {
            left_out.iter().any(|one| {
                name == *one || name.strip_prefix(one).is_some_and(|rest| rest.starts_with(['.', '-']))
            })
        };
        for entry in
            walk.filter_entry(|entry| entry.depth() == 0 || !named(&entry.file_name().to_string_lossy()))
        {
            let entry = entry.with_context(|| format!("cannot read {}", path.display()))?;
            // A dangling link, as some packages leave, is no loss.
            if entry.path().is_file() {
                self.add_host_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn add_python(&mut self) -> Result<()> {
        let python =
            find_tool("python3").context("python3 is not on this machine: run `cargo xtask setup`")?;
        let print = "import sysconfig; print(sysconfig.get_path('stdlib'))";
        let stdlib = process::output(Command::new(python).args(["-c", print]))?;
        self.add_tree(Path::new(stdlib.trim()), PYTHON_LEFT_OUT)
    }

    /// Adds the kernel's modules, unpacked (not every kernel can read compressed ones), and the order to load them.
    pub(crate) fn add_modules(&mut self, kernel: &Kernel) -> Result<()> {
        let read = |name: &str| {
            let path = kernel.modules.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let (dep, builtin) = (read("modules.dep")?, read("modules.builtin")?);
        let mut wanted = WHERE_THERE.to_vec();
        wanted.retain(|name| modules::load_order(&dep, &builtin, &[*name]).is_ok());
        wanted.extend(WANTED);
        let order = match modules::load_order(&dep, &builtin, &wanted) {
            Ok(order) => order,
            Err(missing) => bail!("{} lacks the modules {}", kernel.release, missing.join(", ")),
        };
        let mut list = String::new();
        for module in order {
            let plain = module.path.split(".ko").next().unwrap_or(&module.path);
            let place = format!("/lib/modules/{}/{plain}.ko", kernel.release);
            let bytes = decompressed(&kernel.modules.join(&module.path))?;
            // The archive knows /lib as a link to usr/lib: nothing may lie below the link itself.
            self.archive.file(&guest_path(Path::new(&place)), 0o644, 0, bytes);
            let _ = writeln!(list, "{place}\t{}", module.parameters);
        }
        self.archive.file(init::MODULES_FILE, 0o644, 0, list.into_bytes());
        // Where tools look for what the kernel was built with.
        let config =
            fs::read(&kernel.config).with_context(|| format!("cannot read {}", kernel.config.display()))?;
        self.archive.file(&format!("/boot/config-{}", kernel.release), 0o644, 0, config);
        Ok(())
    }

    /// Says what init runs.
    pub(crate) fn add_command(&mut self, command: &[String]) {
        self.archive.file(init::COMMAND_FILE, 0o644, 0, command.join("\0").into_bytes());
    }

    /// Adds the libraries of every program so far.
    pub(crate) fn add_libraries(&mut self) -> Result<()> {
        for library in libraries(&std::mem::take(&mut self.linked), &[])? {
            self.add_host_file(&library)?;
        }
        Ok(())
    }

    /// Writes the archive.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let file = fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut out = std::io::BufWriter::new(file);
        self.archive.write(&mut out).and_then(|()| std::io::Write::flush(&mut out))?;
        Ok(())
    }
}

/// The path in the guest, where `/bin`, `/sbin`, `/lib` and `/lib64` are links into `/usr` as on every current Debian.
fn guest_path(path: &Path) -> String {
    let text = path.to_string_lossy().into_owned();
    let split = ["/bin/", "/sbin/", "/lib/", "/lib64/"].iter().any(|prefix| text.starts_with(prefix));
    if split { format!("/usr{text}") } else { text }
}

fn find_tool(tool: &str) -> Option<PathBuf> {
    let system = TOOL_DIRS.iter().map(|dir| Path::new(dir).join(tool)).find(|path| path.is_file());
    system.or_else(|| process::find(tool))
}

fn decompressed(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|ext| ext.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    let output = process::capture(Command::new(program).args(["-d", "-c"]).arg(path))?;
    if !output.status.success() {
        bail!(
            "{program} can't unpack {}: {}",
            path.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output.stdout)
}

/// Every library that the programs need, the dynamic linker included, as `ldd` finds them: first in these directories.
fn libraries(programs: &[PathBuf], first: &[PathBuf]) -> Result<Vec<PathBuf>> {
    // ldd fails if one of them is static, and says so: that is no error here.
    let mut ldd = Command::new("ldd");
    if !first.is_empty() {
        ldd.env("LD_LIBRARY_PATH", std::env::join_paths(first)?);
    }
    let output = process::capture(ldd.args(programs))?;
    parse_ldd(&String::from_utf8_lossy(&output.stdout))
}

fn parse_ldd(text: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.contains("not found") {
            bail!("a tool lacks a library on this machine: {line}");
        }
        let path = line.split_once(" => ").map_or(line, |(_, path)| path);
        let Some((path, _)) = path.split_once(" (0x") else { continue };
        if path.starts_with('/') {
            paths.push(PathBuf::from(path));
        }
    }
    paths.sort();
    paths.dedup();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_output_gives_paths_once() {
        let text = "/usr/bin/a:\n\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n/usr/bin/b:\n\tstatically linked\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n";
        let paths = parse_ldd(text).unwrap();
        assert_eq!(
            paths,
            [Path::new("/lib/x86_64-linux-gnu/libc.so.6"), Path::new("/lib64/ld-linux-x86-64.so.2")]
        );
        assert!(parse_ldd("\tlibx.so.1 => not found\n").is_err());
    }

    #[test]
    fn paths_go_below_usr() {
        assert_eq!(guest_path(Path::new("/lib64/ld.so")), "/usr/lib64/ld.so");
        assert_eq!(guest_path(Path::new("/usr/bin/ip")), "/usr/bin/ip");
        assert_eq!(guest_path(Path::new("/etc/hosts")), "/etc/hosts");
    }
}
