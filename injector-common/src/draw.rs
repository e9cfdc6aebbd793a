//! The counter-based random draw: a hash of (seed, fault, class, sequence).
//!
//! There is no generator state. The n-th draw of a class is the same number on every CPU, in every
//! interleaving and in user space, so a run can be predicted and repeated. The mixing function is the
//! finaliser of `SplitMix64` (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators",
//! OOPSLA 2014), in the constants of Stafford's variant 13.

use crate::P32_ONE;

/// 2^64 divided by the golden ratio, made odd: the Weyl increment of `SplitMix64`.
pub(crate) const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Distance of two classes on the sequence of `SplitMix64`: so far apart that they never meet (tested).
const CLASS_GAMMA: u64 = 0xd134_2543_de82_ef95;

/// Stream of the draws that decide over packets.
pub const PURPOSE_STRIKE: u32 = 0;
/// Stream of the draws that shift windows (`when.jitter`).
pub const PURPOSE_WINDOW: u32 = 1;

/// Stream of the draws that a struck packet needs beside: a delay, the bits that are flipped.
pub const PURPOSE_VALUE: u32 = 2;
/// Stream of the draws that say which node of a partition stands where.
pub const PURPOSE_PARTITION: u32 = 3;

/// Mixes 64 bits so that every input bit reaches every output bit.
#[inline(always)]
#[must_use]
pub const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The number of a fault, made of its id, so that adding another fault to a file changes no draw.
///
/// FNV-1a, 32 bits.
#[must_use]
pub const fn fault_number(id: &[u8]) -> u32 {
    let mut hash: u32 = 0x811c_9dc5;
    let mut at = 0;
    while at < id.len() {
        hash = (hash ^ id[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    hash
}

/// The stream of one fault for one purpose; computed once in user space and kept in the rule.
#[must_use]
pub const fn stream(seed: u64, fault: u32, purpose: u32) -> u64 {
    mix(mix(seed.wrapping_add(GOLDEN_GAMMA)) ^ ((purpose as u64) << 32 | fault as u64))
}

/// The `sequence`-th draw of `class` in a stream: 64 uniform bits.
#[inline(always)]
#[must_use]
pub const fn draw(stream: u64, class: u32, sequence: u64) -> u64 {
    let start = stream.wrapping_add((class as u64).wrapping_mul(CLASS_GAMMA));
    mix(start.wrapping_add(sequence.wrapping_add(1).wrapping_mul(GOLDEN_GAMMA)))
}

/// True with probability `p32` / 2^32. 0 is never, `P32_ONE` is always.
#[inline(always)]
#[must_use]
pub const fn chance(bits: u64, p32: u64) -> bool {
    (bits >> 32) < p32
}

/// A uniform number in `0..bound`, by the high bits of a product (Lemire 2019); 0 when `bound` is 0.
///
/// Without 128-bit arithmetic the draw has 32 bits: for bounds above 2^32 the result is a multiple of
/// `bound` / 2^32, which for a jitter of one minute is 14 ns.
#[inline(always)]
#[must_use]
pub const fn below(bits: u64, bound: u64) -> u64 {
    let uniform = bits >> 32;
    let (high, low) = (bound >> 32, bound & (P32_ONE - 1));
    uniform * high + ((uniform * low) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_mixer_is_splitmix64() {
        // The reference sequence of SplitMix64 for seed 1234567 (Vigna's splitmix64.c).
        let mut state: u64 = 1_234_567;
        let expected = [6_457_827_717_110_365_317_u64, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        for want in expected {
            state = state.wrapping_add(GOLDEN_GAMMA);
            assert_eq!(mix(state), want);
        }
    }

    #[test]
    fn rates_are_right_down_to_one_in_ten_thousand() {
        // 4 million draws; 5 standard deviations of the binomial.
        for p in [0.5, 0.1, 0.01, 0.001, 0.0001] {
            let n = 4_000_000_u32;
            let p32 = (p * P32_ONE as f64) as u64;
            let key = stream(42, fault_number(b"wan"), PURPOSE_STRIKE);
            let hits = (0..u64::from(n)).filter(|&s| chance(draw(key, 7, s), p32)).count() as f64;
            let mean = f64::from(n) * p;
            let deviation = (mean * (1.0 - p)).sqrt();
            assert!((hits - mean).abs() < 5.0 * deviation, "p={p}: {hits} hits, {mean} expected");
        }
    }

    #[test]
    fn classes_never_meet() {
        // Newton's iteration for the inverse of an odd number modulo 2^64.
        let inverse = (0..6)
            .fold(GOLDEN_GAMMA, |x, _| x.wrapping_mul(2_u64.wrapping_sub(GOLDEN_GAMMA.wrapping_mul(x))));
        assert_eq!(GOLDEN_GAMMA.wrapping_mul(inverse), 1);
        for apart in 1..u64::from(crate::packet::CLASSES) {
            let steps = apart.wrapping_mul(CLASS_GAMMA).wrapping_mul(inverse);
            let distance = steps.min(steps.wrapping_neg());
            assert!(distance > 1 << 48, "classes {apart} apart meet after {distance} packets");
        }
    }

    #[test]
    fn neighbouring_streams_are_unrelated() {
        // Agreement of two fair coins over 100,000 tosses is binomial: 5 deviations are 790.
        for (a, b) in [((1, 0, 0), (2, 0, 0)), ((1, 0, 0), (1, 1, 0)), ((1, 0, 0), (1, 0, 1))] {
            let key = |(seed, fault, _): (u64, u32, u32)| stream(seed, fault, PURPOSE_STRIKE);
            let same = (0..100_000_u64)
                .filter(|&s| (draw(key(a), a.2, s) >> 63) == (draw(key(b), b.2, s) >> 63))
                .count();
            assert!((49_210..=50_790).contains(&same), "{a:?} and {b:?} agree {same} times");
        }
    }

    proptest! {
        #[test]
        fn below_stays_below(bits: u64, bound in 1..=u64::MAX) {
            prop_assert!(below(bits, bound) < bound);
        }

        #[test]
        fn never_and_always(bits: u64) {
            prop_assert!(!chance(bits, 0));
            prop_assert!(chance(bits, P32_ONE));
        }
    }
}
