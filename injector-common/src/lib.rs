//! The border between injector's kernel half and its user half.
//!
//! Two things live here. First the **layouts** of everything that crosses the border through a map
//! (`layout`, `rule`, `matching`, `event`): `repr(C)`, fixed widths, explicit padding, every size and
//! offset asserted at compile time, because the halves are compiled by different compilers. Second the
//! **decisions** (`draw`, `window`, `frequency`, `loss`, `distribution`, `link`, `link_trace`, `treatment`, `call`, `operation`, `glob`, `dns`, `answer`, `decide`):
//! plain functions over plain values, which the kernel runs as they are and which a user-space model runs to predict it.
//!
//! What does not live here: anything that touches a packet, a map, a helper or the host.
#![cfg_attr(not(test), no_std)]
#![allow(
    clippy::inline_always,
    reason = "in the kernel a call costs stack, and the verifier knows less behind it"
)]
#![allow(clippy::pub_underscore_fields, reason = "padding crosses the border, and is written as zero")]
#![allow(clippy::many_single_char_names, reason = "the parts of an array have no better names")]
#![allow(
    clippy::explicit_counter_loop,
    reason = "`enumerate` counts in usize, which the verifier follows less well"
)]
#![allow(clippy::cast_lossless, reason = "`From` is not const, and these functions are")]

pub mod answer;
pub mod call;
pub mod decide;
pub mod distribution;
pub mod dns;
pub mod draw;
pub mod event;
pub mod frequency;
pub mod glob;
pub mod layout;
pub mod link;
pub mod link_trace;
pub mod loss;
pub mod matching;
pub mod needs;
pub mod operation;
pub mod packet;
#[cfg(feature = "user")]
mod pod;
pub mod rule;
pub mod shape;
pub mod treatment;
pub mod window;

/// Version of every layout in this crate. The object carries it, and the loader refuses another one.
pub const ABI_VERSION: u32 = 6;

/// Certainty in units of 2^-32: the largest value of a probability.
pub const P32_ONE: u64 = 1 << 32;

/// Asserts at compile time the size, the alignment and every field's offset of a border type.
macro_rules! assert_layout {
    ($type:ty, size $size:expr, align $align:expr, { $($field:ident: $offset:expr),+ $(,)? }) => {
        const _: () = {
            assert!(core::mem::size_of::<$type>() == $size);
            assert!(core::mem::align_of::<$type>() == $align);
            $(assert!(core::mem::offset_of!($type, $field) == $offset);)+
        };
    };
}
pub(crate) use assert_layout;
