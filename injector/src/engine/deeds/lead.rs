//! By how much earlier something is ended than it is to end: the thread has to be woken, and the kernel has to let the target go. Pure.

/// So many ends are looked back at.
const RECENT: usize = 8;
/// Whatever was measured, an end is not earlier than this before its time.
const MOST_NS: u64 = 500_000;

/// How long it took at the last few ends from when they were due until they had come true.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lead {
    took_ns: [u64; RECENT],
    count: usize,
}

impl Lead {
    /// Notes an end.
    pub(super) fn note(&mut self, took_ns: u64) {
        if let Some(slot) = self.took_ns.get_mut(self.count % RECENT) {
            *slot = took_ns;
        }
        self.count += 1;
    }

    /// By how much earlier the next may be: the shortest of the last few, so that one that was held up makes none too short. None is known before the
    /// first.
    pub(super) fn ns(&self) -> u64 {
        let known = self.took_ns.iter().take(self.count.min(RECENT));
        known.min().copied().unwrap_or(0).min(MOST_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_as_early_as_the_shortest_of_the_last_few_was_late() {
        let mut lead = Lead::default();
        assert_eq!(lead.ns(), 0);
        lead.note(100_000);
        lead.note(90_000_000);
        assert_eq!(lead.ns(), 100_000);
        // What was shorter is forgotten after a while.
        for _ in 0..RECENT {
            lead.note(130_000);
        }
        assert_eq!(lead.ns(), 130_000);
        for _ in 0..RECENT {
            lead.note(90_000_000);
        }
        assert_eq!(lead.ns(), MOST_NS);
    }
}
