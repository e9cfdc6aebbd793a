//! A link whose rate is a recording: the times at which it could send, as mahimahi's `mm-link` replays them.
//!
//! A trace is a list of opportunities, each a time at which [`OPPORTUNITY_BYTES`] may leave; after the last one it begins
//! again, as if that time were 0 (`LinkQueue` in mahimahi's `src/frontend/link_queue.cc`; Netravali et al., "Mahimahi:
//! Accurate Record-and-Replay for HTTP", USENIX ATC 2015). A packet takes the first bytes that are still free of an
//! opportunity later than its arrival, the next packet those behind it. It leaves with its last byte. What nobody
//! waits for is lost: an opportunity that has passed is not made up for.
//!
//! So all opportunities ever are one sequence of bytes, in which the link is a position: what is in front of it is taken.
//! That is the virtual clock of [`crate::link`] with bytes for its unit.

/// Bytes that may leave at one opportunity: a full packet.
pub const OPPORTUNITY_BYTES: u64 = 1500;
/// Opportunities that one trace may have.
pub const MAX_OPPORTUNITIES: u32 = 1_000_000;
/// Steps in which the search halves that many down to one.
pub const SEARCH_STEPS: u32 = 20;
const _: () = assert!(1 << SEARCH_STEPS > MAX_OPPORTUNITIES);
const NS_PER_MS: u64 = 1_000_000;

/// The opportunities of all traces, one behind the other.
pub trait Opportunities {
    /// When an opportunity comes, in ms since the trace has begun; `u32::MAX` where there is none.
    fn at_ms(&self, index: u32) -> u32;

    /// Takes all [`SEARCH_STEPS`] of a search. A verifier that walks through a loop of lookups needs another one.
    #[inline(always)]
    fn finish(&self, search: Search) -> u32
    where
        Self: Sized,
    {
        let mut search = search;
        for step in 0..SEARCH_STEPS {
            search.halve(self, step);
        }
        search.passed
    }
}

/// The search for the first opportunity of a trace that has not passed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Search {
    first: u32,
    count: u32,
    into_ms: u64,
    /// Opportunities that have passed, as far as is known; at the end all that have.
    pub passed: u32,
}

impl Search {
    /// One step, from 0 on.
    #[inline(always)]
    pub fn halve<O: Opportunities>(&mut self, opportunities: &O, step: u32) {
        let half = (1 << (SEARCH_STEPS - 1)) >> (step & 31);
        let last = self.passed.wrapping_add(half).wrapping_sub(1);
        let is_past =
            last < self.count && opportunities.at_ms(self.first.wrapping_add(last)) as u64 <= self.into_ms;
        if is_past {
            self.passed = self.passed.wrapping_add(half);
        }
    }
}

/// One trace among all opportunities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTrace {
    /// Its first opportunity.
    pub first: u32,
    /// How many it has, 1 to [`MAX_OPPORTUNITIES`], at times that don't fall.
    pub count: u32,
    /// After so long it begins again: the time of its last opportunity, more than 0.
    pub period_ns: u64,
}

impl LinkTrace {
    /// The first byte of all that may leave after `elapsed_ns`.
    ///
    /// What arrives at the very time of an opportunity has missed it, as in mahimahi (`LinkQueue::read_packet` uses up
    /// what is due before it queues the packet).
    #[inline(always)]
    #[must_use]
    pub fn first_byte_after<O: Opportunities>(&self, opportunities: &O, elapsed_ns: u64) -> u64 {
        if self.period_ns == 0 {
            return 0;
        }
        let round = elapsed_ns / self.period_ns;
        let into_ms = (elapsed_ns % self.period_ns) / NS_PER_MS;
        let passed =
            opportunities.finish(Search { first: self.first, count: self.count, into_ms, passed: 0 });
        round.wrapping_mul(self.count as u64).wrapping_add(passed as u64).wrapping_mul(OPPORTUNITY_BYTES)
    }

    /// When a byte leaves, in ns since the trace has begun for the first time.
    #[inline(always)]
    #[must_use]
    pub fn leaves_ns<O: Opportunities>(&self, opportunities: &O, byte: u64) -> u64 {
        let opportunity = byte / OPPORTUNITY_BYTES;
        if self.count == 0 {
            return 0;
        }
        let (round, index) = (opportunity / self.count as u64, (opportunity % self.count as u64) as u32);
        let into_ns = opportunities.at_ms(self.first.wrapping_add(index)) as u64 * NS_PER_MS;
        round.wrapping_mul(self.period_ns).saturating_add(into_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    struct Table(Vec<u32>);

    impl Opportunities for Table {
        fn at_ms(&self, index: u32) -> u32 {
            self.0.get(index as usize).copied().unwrap_or(u32::MAX)
        }
    }

    /// When the packets leave: `(arrival, bytes)`, in ns.
    fn leave(schedule_ms: &[u32], packets: &[(u64, u64)]) -> Vec<u64> {
        // Behind another trace, as in the map.
        let table = Table([&[7, 9], schedule_ms].concat());
        let period_ns = u64::from(*schedule_ms.last().unwrap()) * NS_PER_MS;
        let trace = LinkTrace { first: 2, count: schedule_ms.len() as u32, period_ns };
        let mut free = 0;
        let one = |&(at_ns, bytes): &(u64, u64)| {
            free = trace.first_byte_after(&table, at_ns).max(free) + bytes;
            trace.leaves_ns(&table, free - 1)
        };
        packets.iter().map(one).collect()
    }

    /// mahimahi's link as it is written there: a queue, and opportunities that are used up one by one.
    struct Model {
        schedule_ns: Vec<u64>,
        next: usize,
        base_ns: u64,
        queue: VecDeque<(usize, u64)>,
        left_ns: Vec<u64>,
    }

    impl Model {
        fn next_ns(&self) -> u64 {
            self.base_ns + self.schedule_ns[self.next]
        }

        fn use_opportunity(&mut self) {
            let (now_ns, mut room) = (self.next_ns(), 1500);
            self.next += 1;
            if self.next == self.schedule_ns.len() {
                self.next = 0;
                self.base_ns += self.schedule_ns.last().unwrap();
            }
            while room > 0 {
                let Some((packet, left)) = self.queue.front_mut() else { break };
                let sent = room.min(*left);
                *left -= sent;
                room -= sent;
                if *left == 0 {
                    self.left_ns[*packet] = now_ns;
                    self.queue.pop_front();
                }
            }
        }

        fn leave(schedule_ms: &[u32], packets: &[(u64, u64)]) -> Vec<u64> {
            let mut link = Self {
                schedule_ns: schedule_ms.iter().map(|&ms| u64::from(ms) * 1_000_000).collect(),
                next: 0,
                base_ns: 0,
                queue: VecDeque::new(),
                left_ns: vec![0; packets.len()],
            };
            for (packet, &(at_ns, bytes)) in packets.iter().enumerate() {
                while link.next_ns() <= at_ns {
                    link.use_opportunity();
                }
                link.queue.push_back((packet, bytes));
            }
            while !link.queue.is_empty() {
                link.use_opportunity();
            }
            link.left_ns
        }
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn small_packets_share_an_opportunity_and_large_ones_take_several() {
        // Two and a half fit into the first; the other half goes with the next. 64 KiB take 44.
        let left = leave(&[10, 20, 30], &[(0, 600), (0, 600), (0, 600), (25 * MS, 65_536)]);
        assert_eq!(left, [10 * MS, 10 * MS, 20 * MS, (30 + 43 * 10) * MS]);
    }

    #[test]
    fn an_opportunity_that_has_passed_is_not_made_up_for() {
        assert_eq!(leave(&[5, 5, 5, 20], &[(5 * MS, 1500), (12 * MS, 1500)]), [20 * MS, 25 * MS]);
        // A packet takes the rest of an opportunity only if it is there before.
        assert_eq!(leave(&[5, 20], &[(0, 100), (6 * MS, 1400)]), [5 * MS, 20 * MS]);
    }

    #[test]
    fn the_trace_begins_again_at_its_last_time() {
        // As if that were 0: the opportunity at 0 comes together with the last one.
        assert_eq!(leave(&[0, 10], &[(0, 1500), (0, 1500), (0, 1500)]), [10 * MS, 10 * MS, 20 * MS]);
    }

    #[test]
    fn the_longest_trace_is_searched_to_its_ends() {
        let schedule: Vec<u32> = (1..=MAX_OPPORTUNITIES).collect();
        for at_ms in [0, 1, 499_999, 500_000, 999_998, 999_999, 1_000_000, 1_000_001] {
            assert_eq!(leave(&schedule, &[(at_ms * MS, 1)]), [(at_ms + 1) * MS]);
        }
    }

    proptest! {
        #[test]
        fn packets_leave_as_in_mahimahi(
            gaps in prop::collection::vec(prop_oneof![3 => Just(0_u32), 5 => 0_u32..4, 1 => 0_u32..200], 1..60),
            more in 1_u32..5,
            packets in prop::collection::vec((prop_oneof![3 => 0_u64..2 * MS, 1 => 0_u64..300 * MS], 1_u64..=1500), 1..200),
        ) {
            let mut schedule: Vec<u32> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            if schedule.last() == Some(&0) {
                schedule.push(more);
            }
            let packets: Vec<(u64, u64)> =
                packets.iter().scan(0, |at, &(gap, bytes)| { *at += gap; Some((*at, bytes)) }).collect();
            prop_assert_eq!(leave(&schedule, &packets), Model::leave(&schedule, &packets));
        }
    }
}
