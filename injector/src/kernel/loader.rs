//! A loader that does not read the kernel's type information.

use std::thread;

use aya::EbpfLoader;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::chroot;

/// A directory in which there is no `/sys`: of the thread that asks.
const WITHOUT_SYS: &str = "/proc/thread-self/fdinfo";

/// A new loader.
///
/// `EbpfLoader::new` reads and parses all of `/sys/kernel/btf/vmlinux`, which takes more than nine tenths of the time in which
/// our object is loaded, and there is no way to ask it not to. The object has no relocations against the kernel's types,
/// so nothing is read there by a loader that is made on a thread with a root directory of its own, which is empty. Where
/// that is not allowed, the loader reads what it likes.
pub(super) fn new<'a>() -> EbpfLoader<'a> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("loader".to_owned()).spawn_scoped(scope, || {
            if unshare(CloneFlags::CLONE_FS).is_ok() {
                let _ = chroot(WITHOUT_SYS);
            }
            EbpfLoader::new()
        });
        thread.ok().and_then(|thread| thread.join().ok()).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_of_the_kernel_are_not_read() {
        if !nix::unistd::geteuid().is_root() {
            assert_eq!(chroot("/"), Err(nix::errno::Errno::EPERM), "only a lack of root is a reason to skip");
            return;
        }
        let loader = format!("{:?}", new());
        assert!(loader.contains("btf: None"), "{loader:.200}");
        // The rest of the process sees its files still.
        assert!(std::path::Path::new("/proc/self/fdinfo").exists());
    }
}
