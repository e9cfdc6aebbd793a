//! The user half's promise to aya that the border types are plain bytes.

use crate::dns::Questions;
use crate::layout::{AddressKey, Control, Counters, FaultState, Target};
use crate::operation::{Bed, Offsets, Subject};
use crate::rule::Rule;
use crate::shape::Shape;

macro_rules! pod {
    ($($type:ty),+ $(,)?) => {
        $(
            // SAFETY: repr(C), no implicit padding (asserted beside the type), every bit pattern is a value.
            unsafe impl aya::Pod for $type {}
        )+
    };
}

pod!(AddressKey, Bed, Control, Counters, FaultState, Offsets, Questions, Rule, Shape, Subject, Target);
