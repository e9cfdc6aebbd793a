//! What the kernel does not show of a qdisc, or not as it was given: the few things about single kinds that have to be known.

use super::Piece;
use crate::host::netlink::{Attributes, Request, u16_at, u32_at};

const TCA_STATS2: u16 = 7;
const TCA_STAB: u16 = 8;
const TCA_HW_OFFLOAD: u16 = 12;
const TCA_INGRESS_BLOCK: u16 = 13;
const TCA_EGRESS_BLOCK: u16 = 14;
const TCA_STATS_RATE_EST: u16 = 2;
const TCA_STATS_RATE_EST64: u16 = 5;

const TCA_HTB_INIT: u16 = 2;
const TCA_NETEM_JITTER64: u16 = 11;
const TCA_NETEM_SLOT: u16 = 12;
const NETEM_QOPT_LEN: usize = 24;

const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_PRATE64: u16 = 5;
const TCA_TBF_BURST: u16 = 6;
const TCA_TBF_PBURST: u16 = 7;
/// `TC_LINKLAYER_ATM`.
const LINKLAYER_ATM: u8 = 2;

/// Nanoseconds in one of the kernel's ticks of traffic control (`PSCHED_SHIFT`).
const TICK_NS: u128 = 64;

/// Kinds with classes that can't be read as they are made; all are gone from Linux 6.3 on.
const OPAQUE: [&str; 3] = ["atm", "cbq", "dsmark"];

/// What of a piece can't be put back because the kernel does not show it, in words.
pub(super) fn of(piece: &Piece, attributes: Attributes<'_>) -> Vec<String> {
    let has = |kind| attributes.get(kind).is_some();
    let estimated = attributes.nested(TCA_STATS2).is_some_and(|stats| {
        stats.get(TCA_STATS_RATE_EST).is_some() || stats.get(TCA_STATS_RATE_EST64).is_some()
    });
    let offloaded = attributes.get(TCA_HW_OFFLOAD).is_some_and(|flag| flag.first() != Some(&0));
    let options = piece.shown.as_ref().map_or(&[][..], |shown| &shown.0);
    [
        (has(TCA_STAB), "the size table (stab) of"),
        (has(TCA_INGRESS_BLOCK) || has(TCA_EGRESS_BLOCK), "the shared filter block of"),
        (estimated, "the rate estimator of"),
        (offloaded, "the offload to hardware of"),
        (OPAQUE.contains(&piece.kind.as_str()), "the classes of"),
        (
            piece.kind == "netem" && may_have_a_distribution(options),
            "the distribution of the jitter, which the kernel does not show, of",
        ),
        (
            piece.kind == "tbf" && has_atm_cells(options),
            "the largest packet, which the kernel does not show, of",
        ),
    ]
    .into_iter()
    .filter(|(is_hidden, _)| *is_hidden)
    .map(|(_, what)| format!("{what} {piece}"))
    .collect()
}

/// The tables of a jitter's distribution are never shown (`netem_dump`); without a jitter there is nothing to distribute.
fn may_have_a_distribution(options: &[u8]) -> bool {
    // `struct tc_netem_qopt`: latency, limit, loss, gap, duplicate, jitter.
    let jitter = u32_at(options, 20).unwrap_or_default();
    let more = Attributes::new(options.get(NETEM_QOPT_LEN..).unwrap_or_default());
    let is_set = |bytes: &[u8]| bytes.iter().any(|byte| *byte != 0);
    let jitter64 = more.get(TCA_NETEM_JITTER64).is_some_and(is_set);
    // `struct tc_netem_slot`: min_delay, max_delay, max_packets, max_bytes, dist_delay, dist_jitter.
    let slot = more.get(TCA_NETEM_SLOT).and_then(|slot| slot.get(24..)).is_some_and(is_set);
    jitter != 0 || jitter64 || slot
}

fn has_atm_cells(options: &[u8]) -> bool {
    let parameters = Attributes::new(options).get(TCA_TBF_PARMS).unwrap_or_default();
    parameters.get(1) == Some(&LINKLAYER_ATM) || parameters.get(13) == Some(&LINKLAYER_ATM)
}

/// Options without the counters that some kinds show among them: `direct_pkts` of htb, the marks and drops of sfq's red.
pub(super) fn without_statistics(kind: &str, options: &[u8]) -> Vec<u8> {
    let mut options = options.to_vec();
    let counters = match kind {
        "htb" => attribute_at(&options, TCA_HTB_INIT).map(|at| at + 16..at + 20),
        "sfq" => Some(48..72),
        _ => None,
    };
    if let Some(counters) = counters.and_then(|range| options.get_mut(range)) {
        counters.fill(0);
    }
    options
}

/// Where the value of an attribute begins.
fn attribute_at(options: &[u8], wanted: u16) -> Option<usize> {
    let mut at = 0;
    loop {
        let (len, kind) = (usize::from(u16_at(options, at)?), u16_at(options, at + 2)?);
        if kind == wanted {
            return Some(at + 4);
        }
        at += len.max(4).next_multiple_of(4);
    }
}

/// Options as the kernel must be given them to show them so, as far as that can be told beforehand.
///
/// tbf shows its burst as a time in ticks. Given that, it would compute from it how large a packet may be, and come out one
/// byte below what was asked for: full packets would not pass any more. So it is given the bytes too, as many as take that time.
/// htb shows the version of its code where it wants to be given that of its options.
pub(super) fn as_given(kind: &str, shown: &[u8]) -> Vec<u8> {
    match kind {
        "tbf" => [shown, &tbf_bytes(shown)].concat(),
        "htb" => {
            let mut given = shown.to_vec();
            if let Some(version) = attribute_at(shown, TCA_HTB_INIT).and_then(|at| given.get_mut(at..at + 4))
            {
                let major = u32_at(version, 0).unwrap_or_default() >> 16;
                version.copy_from_slice(&major.to_ne_bytes());
            }
            given
        }
        _ => shown.to_vec(),
    }
}

/// The attributes with tbf's burst in bytes, and that of its peak rate if it has one.
fn tbf_bytes(shown: &[u8]) -> Vec<u8> {
    let row = Attributes::new(shown);
    let parameters = row.get(TCA_TBF_PARMS).unwrap_or_default();
    let bytes = |ratespec_at: usize, ticks_at: usize, rate64: u16| {
        let ratespec = parameters.get(ratespec_at..)?;
        let overhead = u128::from(u16_at(ratespec, 2)?);
        let rate64 = row.get(rate64).and_then(|value| value.try_into().ok()).map(u64::from_ne_bytes);
        let rate =
            rate64.map_or_else(|| u32_at(ratespec, 8).map(u64::from), Some).filter(|rate| *rate > 0)?;
        let ticks = u128::from(u32_at(parameters, ticks_at)?);
        let bytes = (ticks + 1) * TICK_NS * u128::from(rate) / 1_000_000_000;
        u32::try_from(bytes.saturating_sub(overhead)).ok()
    };
    // `struct tc_tbf_qopt`: rate, peakrate, limit, buffer, mtu.
    let burst = bytes(0, 28, TCA_TBF_RATE64).map(|bytes| (TCA_TBF_BURST, bytes.to_ne_bytes()));
    let peak_burst = bytes(12, 32, TCA_TBF_PRATE64).map(|bytes| (TCA_TBF_PBURST, bytes.to_ne_bytes()));
    let more: Vec<(u16, [u8; 4])> = burst.into_iter().chain(peak_burst).collect();
    let more: Vec<(u16, &[u8])> = more.iter().map(|(kind, value)| (*kind, &value[..])).collect();
    Request::nested(&more)
}

/// What to give the kernel instead of `given`, of which it showed `seen` where `shown` is wanted. `None` if nothing is known.
///
/// Kinds round what they are given before they keep it, and again before they show it: a codel of 5,000 us keeps units of
/// 1,024 ns and shows 4,999 us, of which it would show 4,998.
pub(super) fn adjusted(kind: &str, given: &[u8], shown: &[u8], seen: &[u8]) -> Option<Vec<u8>> {
    let (mut given, shown, seen) = (split(given)?, split(shown)?, split(seen)?);
    let mut is_changed = false;
    for (attribute, value) in &mut given {
        let Ok(own) = <[u8; 4]>::try_from(value.as_slice()) else { continue };
        let (wanted, got) = match (kind, *attribute) {
            ("tbf", TCA_TBF_BURST) => (tbf_ticks(&shown, 28), tbf_ticks(&seen, 28)),
            ("tbf", TCA_TBF_PBURST) => (tbf_ticks(&shown, 32), tbf_ticks(&seen, 32)),
            _ => (number(&shown, *attribute), number(&seen, *attribute)),
        };
        let (Some(wanted), Some(got)) = (wanted, got) else { continue };
        // Ticks are no bytes: one byte less is tried at a time.
        let step =
            if kind == "tbf" { u32::from(got > wanted).wrapping_neg() } else { wanted.wrapping_sub(got) };
        is_changed |= step != 0;
        *value = u32::from_ne_bytes(own).wrapping_add(step).to_ne_bytes().to_vec();
    }
    let row: Vec<(u16, &[u8])> = given.iter().map(|(kind, value)| (*kind, value.as_slice())).collect();
    is_changed.then(|| Request::nested(&row))
}

fn tbf_ticks(options: &[(u16, Vec<u8>)], at: usize) -> Option<u32> {
    let (_, parameters) = options.iter().find(|(kind, _)| *kind == TCA_TBF_PARMS)?;
    u32_at(parameters, at)
}

fn number(options: &[(u16, Vec<u8>)], wanted: u16) -> Option<u32> {
    let (_, value) = options.iter().find(|(kind, _)| *kind == wanted)?;
    value.as_slice().try_into().ok().map(u32::from_ne_bytes)
}

/// Options as a row of attributes; `None` if they are something else, such as a plain structure.
fn split(mut options: &[u8]) -> Option<Vec<(u16, Vec<u8>)>> {
    let mut row = Vec::new();
    while !options.is_empty() {
        let (len, kind) = (usize::from(u16_at(options, 0)?), u16_at(options, 2)?);
        row.push((kind, options.get(4..len)?.to_vec()));
        options = options.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(row: &[(u16, u32)]) -> Vec<u8> {
        let bytes: Vec<(u16, [u8; 4])> = row.iter().map(|(kind, n)| (*kind, n.to_ne_bytes())).collect();
        Request::nested(&bytes.iter().map(|(kind, value)| (*kind, &value[..])).collect::<Vec<_>>())
    }

    #[test]
    fn what_a_kind_rounds_is_given_so_much_more() {
        let (shown, seen) = (numbers(&[(1, 4999), (2, 77)]), numbers(&[(1, 4998), (2, 77)]));
        assert_eq!(adjusted("codel", &shown, &shown, &seen), Some(numbers(&[(1, 5000), (2, 77)])));
        assert_eq!(adjusted("codel", &shown, &shown, &shown), None, "there is nothing to adjust");
        // A plain structure, whose first number is no length.
        assert_eq!(adjusted("pfifo", &[77, 0, 0, 0], &[77, 0, 0, 0], &[78, 0, 0, 0]), None);
    }

    /// As `tc` has it: 3 mbit and a burst of 1,600 bytes, which are 66,666 ticks, and a little more.
    #[test]
    fn a_bucket_keeps_its_bytes() {
        let mut parameters = [0; 36];
        parameters[8..12].copy_from_slice(&375_000_u32.to_ne_bytes());
        parameters[28..32].copy_from_slice(&66_666_u32.to_ne_bytes());
        let shown = Request::nested(&[(TCA_TBF_PARMS, &parameters)]);
        let given = as_given("tbf", &shown);
        assert_eq!(given[..shown.len()], shown);
        assert_eq!(Attributes::new(&given).u32(TCA_TBF_BURST), Some(1600));
        assert_eq!(Attributes::new(&given).get(TCA_TBF_PBURST), None, "it has no peak rate");
        assert_eq!(as_given("pfifo", &shown), shown);

        // One byte too many shows in the ticks.
        let mut later = parameters;
        later[28..32].copy_from_slice(&66_667_u32.to_ne_bytes());
        let seen = Request::nested(&[(TCA_TBF_PARMS, &later)]);
        let fewer = adjusted("tbf", &given, &shown, &seen).unwrap();
        assert_eq!(Attributes::new(&fewer).u32(TCA_TBF_BURST), Some(1599));
        assert_eq!(adjusted("tbf", &given, &shown, &shown), None);
    }

    #[test]
    fn counters_among_options_are_no_options() {
        let counted = |packets: u32| {
            let glob =
                [[3, 10, 0x10, 0].map(u32::to_ne_bytes).concat(), packets.to_ne_bytes().to_vec()].concat();
            Request::nested(&[(5, &1000_u32.to_ne_bytes()), (TCA_HTB_INIT, &glob)])
        };
        assert_eq!(without_statistics("htb", &counted(17)), counted(0));
        assert_eq!(without_statistics("pfifo", &counted(17)), counted(17));
        assert_eq!(without_statistics("sfq", &[1; 72]), [[1; 48].as_slice(), &[0; 24]].concat());
        assert_eq!(without_statistics("htb", &[1, 2]), [1, 2]);
    }

    #[test]
    fn a_jitter_may_have_a_distribution_that_nobody_sees() {
        let mut options = [0; NETEM_QOPT_LEN];
        options[0] = 5;
        assert!(!may_have_a_distribution(&options));
        let slot = Request::nested(&[(TCA_NETEM_SLOT, &[[0; 24].as_slice(), &[1; 16]].concat())]);
        assert!(may_have_a_distribution(&[options.as_slice(), &slot].concat()));
        options[20] = 1;
        assert!(may_have_a_distribution(&options));
    }
}
