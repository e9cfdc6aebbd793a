//! Names of errno values, for messages.

use std::io;

use nix::errno::Errno;

/// The name and the kernel's words: `ENOENT (No such file or directory)`. Errors that are no errno keep
/// their own text.
#[must_use]
pub fn name_of(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(raw) => {
            let errno = Errno::from_raw(raw);
            format!("{errno:?} ({})", errno.desc())
        }
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_has_its_name() {
        assert_eq!(name_of(&io::Error::from_raw_os_error(2)), "ENOENT (No such file or directory)");
        assert_eq!(name_of(&io::Error::other("odd")), "odd");
    }
}
