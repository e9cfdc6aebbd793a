//! Where the headers of a socket buffer lie, and how they are read there.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{__sk_buff, bpf_hdr_start_off};
use aya_ebpf::helpers::generated::bpf_skb_load_bytes_relative;
use network_types::eth::EthHdr;

use crate::parse::{IPV4_LENGTH, IPV6_LENGTH};

/// A network header, of which two bytes are read at a time: those that somebody wants.
pub(crate) trait Halves: Copy {
    /// The n-th two bytes, as they lie in memory.
    fn half(self, n: usize) -> u16;
}

/// A header in the packet.
#[derive(Clone, Copy)]
pub(crate) struct Lying(usize);

impl Lying {
    /// `None` if it does not lie in front of the end of what may be read.
    #[inline(always)]
    pub(crate) fn new(start: usize, length: u32, end: usize) -> Option<Self> {
        (start + length as usize <= end).then_some(Self(start))
    }
}

impl Halves for Lying {
    #[inline(always)]
    fn half(self, n: usize) -> u16 {
        // SAFETY: the header lies before the end of the readable data, which the verifier checks as well, and at an even
        // address. Volatile, or the compiler reads all of it in advance.
        unsafe { ((self.0 + 2 * n) as *const u16).read_volatile() }
    }
}

impl<const N: usize> Halves for [u16; N] {
    #[inline(always)]
    fn half(self, n: usize) -> u16 {
        self[n]
    }
}

/// Where the network header begins in what a program may read directly.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Behind an Ethernet header: Ethernet devices and loopback.
    Ethernet,
    /// Not known: other devices. Every read is a call of the kernel. So it is in cgroup programs: there the header
    /// is at the start, but Linux 6.1 gives up on the program when it reads that directly (a million
    /// instructions walked instead of 53,000).
    Unknown,
}

/// A packet whose headers can be read, wherever they lie.
pub(crate) trait Headers: Copy {
    /// The network header where it lies, if so many bytes of it may be read directly.
    fn network(self, length: u32) -> Option<Lying>;

    /// Reads the network header by a call. `None`: the packet is shorter.
    fn copy_network<T: Copy>(self) -> Option<T>;

    /// Reads a header at `offset` from the start of the network header. `None`: the packet is shorter.
    fn read<T: Copy>(self, offset: u32) -> Option<T>;
}

/// A socket buffer that is being parsed.
#[derive(Clone, Copy)]
pub(crate) struct View {
    skb: *mut __sk_buff,
    framing: Framing,
    /// What may be read directly. Loaded once: a pointer that is loaded again is a new one to the verifier,
    /// which has not seen it compared with the end.
    start: usize,
    end: usize,
}

impl View {
    #[inline(always)]
    pub(crate) fn new(skb: *mut __sk_buff, framing: Framing) -> Self {
        // SAFETY: the verifier checks each access to a field of the context. Volatile keeps it at one load.
        let (start, end) = unsafe {
            (
                (&raw const (*skb).data).read_volatile() as usize,
                (&raw const (*skb).data_end).read_volatile() as usize,
            )
        };
        Self { skb, framing, start, end }
    }

    #[inline(always)]
    fn read_at<T: Copy, const OFFSET: u32>(self) -> Option<T> {
        let found = match self.framing {
            Framing::Ethernet => self.read_directly(EthHdr::LEN + OFFSET as usize),
            Framing::Unknown => None,
        };
        // A header outside of the linear part of the buffer is there all the same.
        if found.is_some() { found } else { self.read_by_helper(OFFSET) }
    }

    /// Reads from the linear part of the buffer, where headers are as a rule.
    #[inline(always)]
    fn read_directly<T: Copy>(self, offset: usize) -> Option<T> {
        if self.start + offset + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: the header lies before the end of the readable data, which the verifier checks as well, and at
        // an even address, which is all that arrays of u16 ask for.
        Some(unsafe { ((self.start + offset) as *const T).read() })
    }

    /// Reads from wherever the data are.
    #[inline(always)]
    fn read_by_helper<T: Copy>(self, offset: u32) -> Option<T> {
        let mut header = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes exactly `size_of::<T>()` bytes to the buffer or fails.
        let status = unsafe {
            bpf_skb_load_bytes_relative(
                self.skb.cast(),
                offset,
                header.as_mut_ptr().cast(),
                size_of::<T>() as u32,
                bpf_hdr_start_off::BPF_HDR_START_NET,
            )
        };
        // SAFETY: on success every byte is written, and the headers are arrays of numbers.
        (status == 0).then(|| unsafe { header.assume_init() })
    }
}

impl Headers for View {
    #[inline(always)]
    fn network(self, length: u32) -> Option<Lying> {
        if self.framing != Framing::Ethernet {
            return None;
        }
        Lying::new(self.start + EthHdr::LEN, length, self.end)
    }

    #[inline(always)]
    fn copy_network<T: Copy>(self) -> Option<T> {
        self.read_by_helper(0)
    }

    /// Only the places where headers are as a rule are read directly, each by a constant offset, which is what
    /// the verifier can follow; IPv4 options and IPv6 extensions take the slower way.
    #[inline(always)]
    fn read<T: Copy>(self, offset: u32) -> Option<T> {
        match offset {
            IPV4_LENGTH => self.read_at::<T, IPV4_LENGTH>(),
            IPV6_LENGTH => self.read_at::<T, IPV6_LENGTH>(),
            _ => self.read_by_helper(offset),
        }
    }
}
