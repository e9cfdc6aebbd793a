//! Loss models: which packet of a channel the network loses.
//!
//! A channel is one direction of one fault. Its whole memory is one word: the number of the next packet
//! in the upper 56 bits, the model's state in the lower 8. One compare-and-swap therefore moves both, and
//! the n-th packet meets the same state on every run.

use crate::{assert_layout, draw};

/// `LossModel::kind`: two states, good and bad. Parameters p, r, h, k.
pub const MODEL_GILBERT_ELLIOTT: u32 = 1;
/// `LossModel::kind`: the four-state chain of netem. Parameters p13, p31, p32, p23, p14.
pub const MODEL_MARKOV: u32 = 2;
/// `LossModel::kind`: `up` packets pass, `down` packets are lost. Parameters up, down.
pub const MODEL_PERIODIC_PACKETS: u32 = 3;
/// `LossModel::kind`: all passes for `up` nanoseconds, all is lost for `down`. Parameters up, down.
pub const MODEL_PERIODIC_TIME: u32 = 4;

/// A loss model and its parameters: probabilities in units of 2^-32, packets, or nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossModel {
    /// One of the `MODEL_` constants; 0 loses nothing.
    pub kind: u32,
    /// Zero.
    pub _pad: u32,
    /// Parameters in the order that the kind's constant names.
    pub parameters: [u64; 5],
}

assert_layout!(LossModel, size 48, align 8, { kind: 0, _pad: 4, parameters: 8 });

const STATE_BITS: u32 = 8;

/// The sequence number in a channel word.
#[inline(always)]
#[must_use]
pub const fn sequence(word: u64) -> u64 {
    word >> STATE_BITS
}

const fn state(word: u64) -> u64 {
    word & ((1 << STATE_BITS) - 1)
}

/// What the next packet of a channel meets: whether it is lost, and the channel's word after it.
#[inline(always)]
#[must_use]
pub fn step(model: &LossModel, stream: u64, channel: u32, word: u64, elapsed_ns: u64) -> (bool, u64) {
    let number = sequence(word);
    let bits = draw::draw(stream, channel, number);
    let (lost, state) = match model.kind {
        MODEL_GILBERT_ELLIOTT => gilbert_elliott(&model.parameters, state(word), bits),
        MODEL_MARKOV => markov(&model.parameters, state(word), bits),
        MODEL_PERIODIC_PACKETS => (is_down(&model.parameters, number), 0),
        MODEL_PERIODIC_TIME => (is_down(&model.parameters, elapsed_ns), 0),
        _ => (false, 0),
    };
    (lost, number.wrapping_add(1) << STATE_BITS | state)
}

const GOOD: u64 = 0;
const BAD: u64 = 1;

/// Gilbert (1960) and Elliott (1963), in netem's terms: p leaves good, r leaves bad, a packet survives
/// with k in good and h in bad. The packet meets the state it finds, the state moves after it
/// (`loss_gilb_ell` in `net/sched/sch_netem.c`).
#[inline(always)]
fn gilbert_elliott(parameters: &[u64; 5], state: u64, bits: u64) -> (bool, u64) {
    let [p, r, h, k, _] = *parameters;
    let survives = bits << 32;
    if state == GOOD {
        (!draw::chance(survives, k), if draw::chance(bits, p) { BAD } else { GOOD })
    } else {
        (!draw::chance(survives, h), if draw::chance(bits, r) { GOOD } else { BAD })
    }
}

/// A packet passes, outside of a burst.
const PASSES_IN_GAP: u64 = 0;
/// A packet passes, inside of a burst.
const PASSES_IN_BURST: u64 = 1;
/// A packet is lost in a burst.
const LOST_IN_BURST: u64 = 2;
/// A packet is lost alone, outside of a burst.
const LOST_IN_GAP: u64 = 3;

/// The four-state chain of Salsano, Ludovici, Ordine and Giannuzzi, "Definition of a general and intuitive
/// loss model for packet networks" (2012), as netem has it (`loss_4state`): the state moves, and the packet
/// meets the new one. netem's states 1, 2, 3, 4 are gap, burst pass, burst loss and isolated loss.
#[inline(always)]
fn markov(parameters: &[u64; 5], state: u64, bits: u64) -> (bool, u64) {
    let [p13, p31, p32, p23, p14] = *parameters;
    let next = match state {
        PASSES_IN_GAP => choose(bits, p14, LOST_IN_GAP, p13, LOST_IN_BURST, PASSES_IN_GAP),
        PASSES_IN_BURST => choose(bits, p23, LOST_IN_BURST, 0, LOST_IN_BURST, PASSES_IN_BURST),
        LOST_IN_BURST => choose(bits, p32, PASSES_IN_BURST, p31, PASSES_IN_GAP, LOST_IN_BURST),
        _ => PASSES_IN_GAP,
    };
    (next == LOST_IN_BURST || next == LOST_IN_GAP, next)
}

/// `a` with the first probability, `b` with the second, else `otherwise`.
#[inline(always)]
fn choose(bits: u64, a_p32: u64, a: u64, b_p32: u64, b: u64, otherwise: u64) -> u64 {
    if draw::chance(bits, a_p32) {
        a
    } else if draw::chance(bits, a_p32.wrapping_add(b_p32)) {
        b
    } else {
        otherwise
    }
}

#[inline(always)]
fn is_down(parameters: &[u64; 5], at: u64) -> bool {
    let [up, down, ..] = *parameters;
    let period = up.wrapping_add(down);
    period != 0 && at % period >= up
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::P32_ONE;
    use proptest::prelude::*;

    fn p32(p: f64) -> u64 {
        (p * P32_ONE as f64) as u64
    }

    fn run(model: &LossModel, seed: u64, packets: usize) -> Vec<bool> {
        let mut word = 0;
        (0..packets)
            .map(|_| {
                let (lost, next) = step(model, seed, 0, word, 0);
                word = next;
                lost
            })
            .collect()
    }

    /// Lengths of the runs of equal values: (of lost packets, of delivered ones).
    fn runs(lost: &[bool]) -> (Vec<usize>, Vec<usize>) {
        let (mut bursts, mut gaps) = (Vec::new(), Vec::new());
        for run in lost.chunk_by(|a, b| a == b) {
            if run[0] { bursts.push(run.len()) } else { gaps.push(run.len()) }
        }
        (bursts, gaps)
    }

    fn mean(lengths: &[usize]) -> f64 {
        lengths.iter().sum::<usize>() as f64 / lengths.len() as f64
    }

    #[test]
    fn gilbert_bursts_and_gaps_are_geometric() {
        let model = LossModel {
            kind: MODEL_GILBERT_ELLIOTT,
            parameters: [p32(0.01), p32(0.25), 0, P32_ONE, 0],
            ..LossModel::default()
        };
        let lost = run(&model, 9, 2_000_000);
        let (bursts, gaps) = runs(&lost);
        // About 19,000 bursts: 5 standard errors are 0.13 of a burst and 3.6 of a gap.
        assert!((mean(&bursts) - 4.0).abs() < 0.13, "mean burst {}", mean(&bursts));
        assert!((mean(&gaps) - 100.0).abs() < 3.6, "mean gap {}", mean(&gaps));
    }

    #[test]
    fn elliott_loses_in_both_states() {
        let (p, r, h, k) = (0.02, 0.2, 0.5, 0.999);
        let model = LossModel {
            kind: MODEL_GILBERT_ELLIOTT,
            parameters: [p32(p), p32(r), p32(h), p32(k), 0],
            ..LossModel::default()
        };
        let lost = run(&model, 3, 2_000_000).iter().filter(|&&l| l).count() as f64 / 2e6;
        let bad = p / (p + r);
        let expected = bad * (1.0 - h) + (1.0 - bad) * (1.0 - k);
        assert!((lost - expected).abs() < 0.001, "lost {lost}, expected {expected}");
    }

    #[test]
    fn markov_has_the_rate_of_its_stationary_state() {
        let (p13, p31, p32_, p23, p14) = (0.01, 0.3, 0.1, 0.4, 0.005);
        let model = LossModel {
            kind: MODEL_MARKOV,
            parameters: [p32(p13), p32(p31), p32(p32_), p32(p23), p32(p14)],
            ..LossModel::default()
        };
        let lost = run(&model, 5, 2_000_000).iter().filter(|&&l| l).count() as f64 / 2e6;
        // Stationary masses against the gap state's: pi3 = p13 / p31, pi2 = pi3 * p32 / p23, pi4 = p14.
        let (pi3, pi4) = (p13 / p31, p14);
        let pi2 = pi3 * p32_ / p23;
        let expected = (pi3 + pi4) / (1.0 + pi2 + pi3 + pi4);
        assert!((lost - expected).abs() < 0.0015, "lost {lost}, expected {expected}");
    }

    #[test]
    fn periodic_by_packets() {
        let model =
            LossModel { kind: MODEL_PERIODIC_PACKETS, parameters: [3, 2, 0, 0, 0], ..LossModel::default() };
        let lost = run(&model, 0, 10);
        assert_eq!(lost, [false, false, false, true, true, false, false, false, true, true]);
    }

    #[test]
    fn periodic_by_time_asks_the_clock_alone() {
        let model =
            LossModel { kind: MODEL_PERIODIC_TIME, parameters: [10, 5, 0, 0, 0], ..LossModel::default() };
        let lost: Vec<u64> = (0..30).filter(|&t| step(&model, 1, 0, 77, t).0).collect();
        assert_eq!(lost, [10, 11, 12, 13, 14, 25, 26, 27, 28, 29]);
    }

    proptest! {
        #[test]
        fn a_step_counts_one_packet(kind in 0_u32..6, parameters: [u64; 5], stream: u64, word: u64, elapsed: u64) {
            let model = LossModel { kind, parameters, ..LossModel::default() };
            let (_, next) = step(&model, stream, 1, word, elapsed);
            let mask = u64::MAX >> STATE_BITS;
            prop_assert_eq!(sequence(next), (sequence(word) + 1) & mask);
        }
    }
}
