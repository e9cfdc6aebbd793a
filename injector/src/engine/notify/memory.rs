//! The memory and the descriptors of a process whose call waits.

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::libc;

use super::gate::descriptor_of;

/// The longest path that the kernel takes, and its end.
const PATH_MAX: usize = 4096;
const PAGE: u64 = 4096;

/// The most pieces of memory that one call reads or writes (`UIO_MAXIOV`).
const MAX_PIECES: u64 = 1024;

fn local(bytes: *const u8, length: usize) -> libc::iovec {
    libc::iovec { iov_base: bytes.cast_mut().cast(), iov_len: length }
}

/// Reads from an address; how much is there.
pub(super) fn read(pid: i32, address: u64, into: &mut [u8]) -> io::Result<usize> {
    let (here, there) = (local(into.as_ptr(), into.len()), local(address as *const u8, into.len()));
    // SAFETY: the local piece is the slice, which is ours alone; the other address is checked by the kernel.
    let read = unsafe { libc::process_vm_readv(pid, &raw const here, 1, &raw const there, 1, 0) };
    Ok(Errno::result(read).map(|read| read as usize)?)
}

/// A number of 64 bits.
pub(super) fn read_number(pid: i32, address: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    match read(pid, address, &mut bytes)? {
        8 => Ok(u64::from_ne_bytes(bytes)),
        _ => Err(Errno::EFAULT.into()),
    }
}

/// A text that ends with a zero, a page at a time: the next one may not be there.
pub(super) fn read_text(pid: i32, address: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    while text.len() < PATH_MAX {
        let from = address.wrapping_add(text.len() as u64);
        let mut bytes = vec![0; (PAGE - from % PAGE) as usize];
        let read = read(pid, from, &mut bytes)?;
        let piece = bytes.get(..read).unwrap_or_default();
        if let Some(end) = piece.iter().position(|byte| *byte == 0) {
            text.extend(piece.iter().take(end));
            break;
        }
        if read == 0 {
            return Err(Errno::EFAULT.into());
        }
        text.extend(piece);
    }
    if text.len() < PATH_MAX { Ok(text) } else { Err(Errno::ENAMETOOLONG.into()) }
}

/// Pieces of memory, each by its address and its length.
pub(super) type Pieces = Vec<(u64, u64)>;

/// The pieces of a `struct iovec` array.
pub(super) fn read_pieces(pid: i32, address: u64, count: u64) -> io::Result<Pieces> {
    if count > MAX_PIECES {
        return Err(Errno::EINVAL.into());
    }
    let at = |n: u64| address.wrapping_add(n * 16);
    (0..count).map(|n| Ok((read_number(pid, at(n))?, read_number(pid, at(n) + 8)?))).collect()
}

/// The first bytes of pieces, as the kernel takes them.
fn first(pieces: &[(u64, u64)], length: usize) -> Vec<libc::iovec> {
    let mut left = length as u64;
    let mut first = Vec::new();
    for (address, size) in pieces {
        let taken = left.min(*size);
        if taken > 0 {
            first.push(local(*address as *const u8, taken as usize));
        }
        left -= taken;
    }
    first
}

/// Copies the first bytes of pieces to here; how many.
pub(super) fn gather(pid: i32, pieces: &[(u64, u64)], into: &mut [u8]) -> io::Result<usize> {
    let (here, there) = (local(into.as_ptr(), into.len()), first(pieces, into.len()));
    let count = there.len() as libc::c_ulong;
    // SAFETY: the local piece is the slice, which is ours alone; the other addresses are checked by the kernel.
    let read = unsafe { libc::process_vm_readv(pid, &raw const here, 1, there.as_ptr(), count, 0) };
    Ok(Errno::result(read).map(|read| read as usize)?)
}

/// Copies bytes to the front of pieces; how many.
pub(super) fn scatter(pid: i32, pieces: &[(u64, u64)], bytes: &[u8]) -> io::Result<usize> {
    let (here, there) = (local(bytes.as_ptr(), bytes.len()), first(pieces, bytes.len()));
    let count = there.len() as libc::c_ulong;
    // SAFETY: the local piece is only read; the other addresses are checked by the kernel.
    let written = unsafe { libc::process_vm_writev(pid, &raw const here, 1, there.as_ptr(), count, 0) };
    Ok(Errno::result(written).map(|written| written as usize)?)
}

/// A word of `/proc/PID/status`.
pub(super) fn status(pid: i32, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next().map(str::to_owned)
}

/// A descriptor of the process of a thread, which shares its open file.
pub(super) fn descriptor(thread: i32, number: i32) -> Option<OwnedFd> {
    let process = status(thread, "Tgid")?.parse().ok()?;
    descriptor_of(process, number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_and_written_in_pieces() {
        let pid = std::process::id().cast_signed();
        let (mut one, mut two) = (*b"abc", *b"defgh");
        let pieces = vec![(one.as_mut_ptr() as u64, 3), (0, 0), (two.as_mut_ptr() as u64, 5)];
        let mut bytes = [0; 6];
        assert_eq!((gather(pid, &pieces, &mut bytes).unwrap(), &bytes), (6, b"abcdef"));
        assert_eq!(scatter(pid, &pieces, b"1234").unwrap(), 4);
        assert_eq!((std::hint::black_box(one), std::hint::black_box(two)), (*b"123", *b"4efgh"));
        assert!(gather(pid, &[(8, 4)], &mut bytes).is_err());
        let array = [pieces[0].0, 3, pieces[2].0, 5];
        assert_eq!(read_pieces(pid, array.as_ptr() as u64, 2).unwrap(), [pieces[0], pieces[2]]);
    }

    #[test]
    fn a_text_ends_with_its_zero() {
        let pid = std::process::id().cast_signed();
        let text = [vec![b'x'; 3000], vec![0, b'y']].concat();
        assert_eq!(read_text(pid, text.as_ptr() as u64).unwrap(), vec![b'x'; 3000]);
        let long = [vec![b'x'; 5000], vec![0]].concat();
        assert!(read_text(pid, long.as_ptr() as u64).is_err());
        assert!(read_text(pid, 8).is_err());
        assert_eq!(status(pid, "Tgid").unwrap(), pid.to_string());
    }
}
