//! Kernel modules that an experiment needs.
//!
//! The kernel asks for most by itself, by the program that `/proc/sys/kernel/modprobe` names. Where it names none, or where the
//! name of the module is not that of the alias, we ask.

use std::process::{Command, Stdio};

/// Asks modprobe for modules, each with its parameters behind its name. Whether that helped is seen when they are used.
pub fn load(modules: &[&[&str]]) {
    for module in modules {
        let mut modprobe = Command::new("modprobe");
        modprobe.arg("-q").args(*module).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Without modprobe there may be no modules either: what is missing is told by who needs it.
        let _ = modprobe.status();
    }
}
