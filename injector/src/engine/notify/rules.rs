//! The rules of a command's calls, applied in user space as the kernel half applies its own (`injector-ebpf/src/fail.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use injector_common::decide::{
    Memory, Outcome, Word, decide_or_stay, free, note_strike, stay, stays, window_ns,
};
use injector_common::distribution::{Quantiles, quantile};
use injector_common::draw;
use injector_common::glob;
use injector_common::layout::Counters;
use injector_common::operation::{
    self as border, FREEING, SUBJECT_DEVICE, SUBJECT_FREES, SUBJECT_MAGIC, SUBJECT_PATH, SUBJECT_STAYS,
    SUBJECT_SYSCALLS, SUBJECT_TYPES, SYSCALL_BASE,
};
use injector_common::packet::{CLASSES, Packet};
use injector_common::treatment::TREAT_DISTRIBUTED;

use crate::plan::operations::notified::{Deed, NotifiedRule, deeds_of};
use crate::scenario::Harm;

/// What is looked up of a call, where a rule asks for it.
pub(super) trait Sight {
    /// Its number and its arguments.
    fn call(&self) -> (u32, [u64; 6]);
    /// What it does an operation to; `None` if it does not do it.
    fn look(&self, deed: &Deed) -> Option<Box<dyn Seen>>;
    /// How many bytes it is to move, if it may be fewer.
    fn asked(&self) -> Option<u64>;
}

/// What an operation is done to.
pub(super) trait Seen {
    /// `S_IFMT >> 12`.
    fn kind(&self) -> u32;
    /// The device, as the kernel has it.
    fn device(&self) -> u32;
    /// The kind of file system.
    fn magic(&self) -> u32;
    /// The absolute paths.
    fn paths(&self) -> &[Vec<u8>];
}

/// What the rules make of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fate {
    /// By how much it is later.
    pub(super) delay_ns: u64,
    /// With which errno it fails; 0 is none.
    pub(super) errno: i32,
    /// How many bytes it moves, if it is cut short.
    pub(super) moves: Option<u64>,
}

/// The rules of all faults, in the order of the file.
#[derive(Debug, Default)]
pub(in crate::engine) struct Rules(Vec<Own>);

/// A rule, and what it remembers.
#[derive(Debug)]
struct Own {
    rule: NotifiedRule,
    memory: State,
    tally: Tally,
}

/// How often what became of a call, in the order of [`Outcome`].
#[derive(Debug, Default)]
struct Tally {
    matched: AtomicU64,
    injected: AtomicU64,
    spared_by_limit: AtomicU64,
    spared_by_budget: AtomicU64,
    contended: AtomicU64,
}

/// The memory of a fault, as the kernel half has it in a map.
#[derive(Debug)]
struct State {
    words: [AtomicU64; 7],
    sequences: Vec<AtomicU64>,
    /// [`Word::First`] of all faults, for those that follow others.
    firsts: Arc<[AtomicU64]>,
    slot: usize,
}

impl State {
    /// A word; `None` of a slot that is not there.
    fn word(&self, word: Word) -> Option<&AtomicU64> {
        if word == Word::First { self.firsts.get(self.slot) } else { self.words.get(word as usize) }
    }
}

impl Memory for State {
    fn increment(&self, word: Word) -> u64 {
        self.word(word).map_or(u64::MAX, |word| word.fetch_add(1, Ordering::Relaxed))
    }

    fn next_sequence(&self, class: u32) -> u64 {
        self.sequences.get(class as usize).map_or(0, |sequence| sequence.fetch_add(1, Ordering::Relaxed))
    }

    fn not_before(&self, _class: u32, at_ns: u64) -> u64 {
        at_ns
    }

    fn load(&self, word: Word) -> u64 {
        self.word(word).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn replace(&self, word: Word, old: u64, new: u64) -> bool {
        let exchange =
            |word: &AtomicU64| word.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
        self.word(word).is_some_and(|word| exchange(word).is_ok())
    }

    fn first_of(&self, slot: u32) -> u64 {
        self.firsts.get(slot as usize).map_or(0, |first| first.load(Ordering::Relaxed))
    }
}

/// The table of a rule's distribution.
struct Table<'a>(&'a [u64]);

impl Quantiles for Table<'_> {
    fn at(&self, index: u32) -> u64 {
        self.0.get(index as usize).copied().unwrap_or(0)
    }
}

impl Rules {
    pub(super) fn new(rules: Vec<NotifiedRule>) -> Self {
        let firsts: Arc<[AtomicU64]> = rules.iter().map(|_| AtomicU64::new(0)).collect();
        let own = |(slot, rule)| Own {
            rule,
            memory: State {
                words: Default::default(),
                sequences: (0..CLASSES).map(|_| AtomicU64::new(0)).collect(),
                firsts: Arc::clone(&firsts),
                slot,
            },
            tally: Tally::default(),
        };
        Self(rules.into_iter().enumerate().map(own).collect())
    }

    /// What was counted for the fault at a position.
    pub(in crate::engine) fn counters(&self, position: usize) -> impl Iterator<Item = Counters> {
        let own = self.0.iter().filter(move |own| own.rule.position == position);
        own.map(|own| {
            let [matched, injected, by_limit, by_budget, contended] = [
                &own.tally.matched,
                &own.tally.injected,
                &own.tally.spared_by_limit,
                &own.tally.spared_by_budget,
                &own.tally.contended,
            ]
            .map(|word| word.load(Ordering::Relaxed));
            Counters {
                matched,
                segments_matched: matched,
                injected,
                segments_injected: injected,
                spared_by_limit: by_limit,
                spared_by_budget: by_budget,
                contended,
                ..Counters::default()
            }
        })
    }

    /// Applies the rules to all that a call does, until one makes it fail.
    pub(super) fn decide(&self, sight: &dyn Sight, elapsed_ns: u64) -> Fate {
        let (number, args) = sight.call();
        let mut fate = Fate::default();
        for own in &self.0 {
            let word = own.rule.subject.syscalls.get(number as usize / 64).copied().unwrap_or(0);
            if fate.errno == 0
                && own.rule.subject.flags & SUBJECT_SYSCALLS != 0
                && word >> (number % 64) & 1 != 0
            {
                own.apply(SYSCALL_BASE + number as u16, sight, elapsed_ns, &mut fate);
            }
        }
        for deed in deeds_of(number).iter().filter(|deed| deed.when.holds(&args)) {
            let means = |own: &&Own| own.rule.operations >> deed.operation & 1 != 0;
            if fate.errno != 0 || !self.0.iter().any(|own| means(&own)) {
                continue;
            }
            let Some(seen) = sight.look(deed) else { continue };
            for own in self.0.iter().filter(means) {
                if fate.errno == 0 && own.is_of_subject(&*seen) {
                    own.apply(deed.operation as u16, sight, elapsed_ns, &mut fate);
                }
            }
        }
        fate
    }
}

impl Own {
    fn is_of_subject(&self, seen: &dyn Seen) -> bool {
        let subject = &self.rule.subject;
        let asks = |flag| subject.flags & flag != 0;
        let pattern = subject.pattern.get(..subject.pattern_length as usize).unwrap_or_default();
        !(asks(SUBJECT_TYPES) && subject.types >> (seen.kind() & 15) & 1 == 0
            || asks(SUBJECT_DEVICE) && subject.device != seen.device()
            || asks(SUBJECT_MAGIC) && subject.magic != seen.magic()
            || asks(SUBJECT_PATH) && !seen.paths().iter().any(|path| glob::is_meant(pattern, path)))
    }

    /// Decides over an operation, or a system call with its base, that the rule means.
    fn apply(&self, number: u16, sight: &dyn Sight, elapsed_ns: u64, fate: &mut Fate) {
        let NotifiedRule { rule, subject, harm, .. } = &self.rule;
        if subject.flags & SUBJECT_FREES != 0 && FREEING >> (number & 63) & 1 != 0 {
            free(&self.memory);
            return;
        }
        // What would not become shorter is not meant.
        let moves = match harm {
            Harm::Short(share) => {
                let asked = sight.asked().map(|asked| (asked, share.of(asked)));
                let Some((_, moves)) = asked.filter(|(asked, moves)| moves < asked) else { return };
                Some(moves)
            }
            _ => None,
        };
        let packet = border::packet(number);
        let may_stay = subject.flags & SUBJECT_STAYS != 0;
        let Some(window_ns) = window_ns(rule, elapsed_ns, &self.memory) else { return };
        let has_struck = may_stay && stays(rule, window_ns, &self.memory);
        let outcome = decide_or_stay(rule, &packet, (elapsed_ns, window_ns), &self.memory, has_struck);
        self.tally.count(outcome);
        if outcome != Outcome::Injected {
            return;
        }
        note_strike(rule, elapsed_ns, &self.memory);
        if may_stay && !has_struck {
            stay(rule, window_ns, &self.memory);
        }
        match harm {
            Harm::Error(failure) => fate.errno = failure.errno,
            Harm::Delay(_) => fate.delay_ns = fate.delay_ns.saturating_add(self.delay_ns(&packet)),
            // Of two the shorter piece.
            Harm::Short(_) => fate.moves = fate.moves.into_iter().chain(moves).min(),
            // It is counted, and that is all; the others have no such fallback.
            Harm::Observe | Harm::Signal(_) | Harm::Lost | Harm::Corrupt { .. } | Harm::Uncertainty(_) => {}
        }
    }

    fn delay_ns(&self, packet: &Packet) -> u64 {
        let rule = &self.rule.rule;
        let treatment = &rule.treatment;
        if treatment.flags & TREAT_DISTRIBUTED == 0 {
            return treatment.delay_ns;
        }
        let class = packet.class(rule.direction);
        let bits = draw::draw(treatment.stream, class, self.memory.next_sequence(class));
        quantile(&Table(&self.rule.quantiles), 0, bits)
    }
}

impl Tally {
    fn count(&self, outcome: Outcome) {
        let add = |word: &AtomicU64| {
            word.fetch_add(1, Ordering::Relaxed);
        };
        match outcome {
            Outcome::NotMeant => return,
            Outcome::Injected => add(&self.injected),
            Outcome::SparedByLimit => add(&self.spared_by_limit),
            Outcome::SparedByBudget => add(&self.spared_by_budget),
            Outcome::Contended => add(&self.contended),
            Outcome::QueueFull | Outcome::Matched => {}
        }
        add(&self.matched);
    }
}

#[cfg(test)]
mod tests;
