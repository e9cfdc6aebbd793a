//! What a file system of one file speaks with the kernel (`include/uapi/linux/fuse.h`).
//!
//! Its root is that file. Numbers are in the machine's own order.

/// What a request asks for, as far as it is told apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// To begin: the version of the protocol.
    Init {
        /// The minor number; the major is 7.
        minor: u32,
    },
    /// The file's attributes.
    Attributes,
    /// To open it.
    Open,
    /// To read from it.
    Read {
        /// Where, in bytes.
        offset: u64,
    },
    /// To break off a request.
    Interrupt {
        /// Which.
        unique: u64,
    },
    /// To forget the file, which asks for no answer.
    Forget,
    /// To close it.
    Close,
    /// Anything else.
    Other,
}

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Its number.
    pub(super) unique: u64,
    /// The thread that makes it.
    pub(super) pid: u32,
    /// What it asks for.
    pub(super) request: Request,
}

/// Bytes of the head of a request.
const HEAD: usize = 40;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Takes a request apart; `None` if it is too short.
pub(super) fn parse(bytes: &[u8]) -> Option<Asked> {
    let request = match word(bytes, 4)? {
        26 => Request::Init { minor: word(bytes, HEAD + 4)? },
        3 => Request::Attributes,
        14 => Request::Open,
        15 => Request::Read { offset: long(bytes, HEAD + 8)? },
        36 => Request::Interrupt { unique: long(bytes, HEAD)? },
        2 | 42 => Request::Forget,
        18 | 25 | 38 => Request::Close,
        _ => Request::Other,
    };
    Some(Asked { unique: long(bytes, 8)?, pid: word(bytes, 32)?, request })
}

/// An answer without anything but an error, or 0.
pub(super) fn answer(unique: u64, errno: i32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&16_u32.to_ne_bytes());
    bytes[4..8].copy_from_slice(&(-errno).to_ne_bytes());
    bytes[8..].copy_from_slice(&unique.to_ne_bytes());
    bytes
}

fn answer_with(unique: u64, body: &[u8]) -> Vec<u8> {
    let length = 16 + body.len() as u32;
    [&length.to_ne_bytes()[..], &[0; 4], &unique.to_ne_bytes(), body].concat()
}

/// The version of the protocol that is spoken at most.
const MINOR: u32 = 31;
/// The most that can be written at once. Nobody writes.
pub(super) const MAX_WRITE: u32 = 4096;

/// The answer to [`Request::Init`].
pub(super) fn begun(unique: u64, minor: u32) -> Vec<u8> {
    let mut body = [0_u8; 64];
    let words = [(0, 7), (4, minor.min(MINOR)), (20, MAX_WRITE), (24, 1)];
    for (at, value) in words {
        body[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    answer_with(unique, &body)
}

/// The answer to [`Request::Attributes`]: a regular file of that size, which only root reads. They never change.
pub(super) fn attributes(unique: u64, size: u64) -> Vec<u8> {
    const MODE: u32 = 0o100_400;
    let mut body = [0_u8; 104];
    let longs = [(0, 1 << 30), (16, 1), (24, size)];
    for (at, value) in longs {
        body[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }
    let words = [(76, MODE), (80, 1), (96, 4096)];
    for (at, value) in words {
        body[at..at + 4].copy_from_slice(&u32::to_ne_bytes(value));
    }
    answer_with(unique, &body)
}

/// The answer to [`Request::Open`].
pub(super) fn opened(unique: u64) -> Vec<u8> {
    answer_with(unique, &[0; 16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEAD];
        bytes[4..8].copy_from_slice(&opcode.to_ne_bytes());
        bytes[8..16].copy_from_slice(&99_u64.to_ne_bytes());
        bytes[32..36].copy_from_slice(&7_u32.to_ne_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn requests_are_told_apart() {
        let read = [&[0; 8][..], &8192_u64.to_ne_bytes(), &4096_u32.to_ne_bytes(), &[0; 20]].concat();
        let asked = parse(&request(15, &read)).unwrap();
        assert_eq!(asked, Asked { unique: 99, pid: 7, request: Request::Read { offset: 8192 } });
        let interrupt = parse(&request(36, &5_u64.to_ne_bytes())).unwrap();
        assert_eq!(interrupt.request, Request::Interrupt { unique: 5 });
        assert_eq!(parse(&request(1, b"name\0")).unwrap().request, Request::Other);
        assert_eq!(parse(&request(15, &[0; 8])), None);
        assert_eq!(parse(&[0; 10]), None);
    }

    #[test]
    fn answers_say_their_length_and_whose_they_are() {
        for bytes in [begun(99, 40), attributes(99, 1 << 26), opened(99), answer(99, 5).to_vec()] {
            assert_eq!((word(&bytes, 0), long(&bytes, 8)), (Some(bytes.len() as u32), Some(99)));
        }
        assert_eq!(word(&answer(1, 5), 4).map(u32::cast_signed), Some(-5));
        assert_eq!(long(&attributes(1, 1 << 26), 16 + 24), Some(1 << 26));
        assert_eq!(word(&begun(1, 12), 16 + 4), Some(12));
    }
}
