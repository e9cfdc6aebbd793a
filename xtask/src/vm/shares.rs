//! Which tests run on which kernel, and in which guest. Pure.

use super::kernels::Series;
use super::qemu;

/// The test programs by how long they take, which is the order of their guests.
pub(super) const LONGEST_FIRST: [&str; 5] = ["e2e", "lifetime", OPERATIONS, "processes", SHORTEST];
const OPERATIONS: &str = "operations";
pub(super) const SHORTEST: &str = "host";

/// What `cargo xtask test` runs where, the longest first. All on all takes between one and two hours in emulation, more than CI has, and is
/// what `cargo xtask vm` does. Here each test of the long programs runs on one stock kernel, dealt out by turns in the order of their names,
/// so that the tests of one subject meet all of them; the newest gets least, since its verifier walks four times as far. What can fail
/// differs from kernel to kernel, so all of that runs on the newest, where most can, and half on each of the others. Tests about time run
/// once more, where it is exact. That every kernel takes every program is a stage of its own, and this machine's own kernel runs all tests too.
pub(super) const SHARES: [(&str, Series, Share); 16] = [
    ("e2e", Series::V7_3, Share::Dealt(&[0], 5)),
    ("e2e", Series::V6_1, Share::Dealt(&[1, 3], 5)),
    ("e2e", Series::V6_12, Share::Dealt(&[2, 4], 5)),
    ("e2e", Series::V7_3, Share::Timed),
    (OPERATIONS, Series::V7_3, Share::All),
    ("lifetime", Series::V6_1, Share::Dealt(&[0, 2], 5)),
    ("lifetime", Series::V7_3, Share::Dealt(&[1], 5)),
    ("lifetime", Series::V6_12, Share::Dealt(&[3, 4], 5)),
    (OPERATIONS, Series::V6_12, Share::Dealt(&[0], 2)),
    (OPERATIONS, Series::V6_1, Share::Dealt(&[1], 2)),
    (SHORTEST, Series::V7_3, Share::All),
    ("processes", Series::V7_3, Share::Dealt(&[0], 3)),
    ("processes", Series::V6_12, Share::Dealt(&[1], 3)),
    ("processes", Series::V6_1, Share::Dealt(&[2], 3)),
    (SHORTEST, Series::V6_12, Share::All),
    (SHORTEST, Series::V6_1, Share::All),
];

/// Which tests of a program run on a kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    All,
    /// Of so many in the order of their names these, and so on.
    Dealt(&'static [usize], usize),
    /// Those of the modules [`TIMED`], in a guest whose clock is exact.
    Timed,
}

/// The modules of end-to-end tests that are about time. Where the clock is exact they are strict, and do all of their work:
/// a link of 1 Gbit/s and a delay of 90 s.
const TIMED: [&str; 4] = ["delay", "measured", "rate", "round_trips"];

impl Share {
    /// The filters of the test program for it: none, or the exact names.
    pub(super) fn filters(self, names: Vec<String>) -> Vec<String> {
        let timed = |name: &String| name.split("::").next().is_some_and(|module| TIMED.contains(&module));
        let exactly = std::iter::once("--exact".to_owned());
        match self {
            Self::All => Vec::new(),
            Self::Dealt(own, of) => {
                let numbered = names.into_iter().enumerate();
                exactly
                    .chain(numbered.filter(|(n, _)| own.contains(&(n % of))).map(|(_, name)| name))
                    .collect()
            }
            Self::Timed => exactly.chain(names.into_iter().filter(timed)).collect(),
        }
    }

    /// The guest that runs it: its name, and how QEMU runs it.
    pub(super) fn guest(self, program: &str) -> (String, qemu::Accel) {
        match self {
            Self::All | Self::Dealt(..) => (program.to_owned(), qemu::Accel::Tcg),
            Self::Timed => (format!("{program}-timed"), qemu::Accel::CountedFast),
        }
    }
}

/// Processors of a guest. The kernel changes its own code while it runs, for static keys and programs at functions, by a breakpoint that every
/// processor is told of. Emulated ones that run in parallel may trap on it after it is gone, which the kernel takes for its own fault
/// (`Oops: int3`); those that take turns don't. With those 6.1 does not find its second processor: it hangs where it starts it.
pub(crate) fn processors_for(accel: qemu::Accel, series: Series) -> u32 {
    match accel {
        qemu::Accel::Tcg => 1,
        qemu::Accel::Counted | qemu::Accel::CountedFast if series == Series::V6_1 => 1,
        qemu::Accel::Counted | qemu::Accel::CountedFast | qemu::Accel::Kvm => 2,
    }
}

/// Whether a test program asks real databases, which its guests then hold.
pub(super) fn asks_databases(program: &str) -> bool {
    program == OPERATIONS
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::programs::PRIVILEGED_TESTS;

    #[test]
    fn tests_about_time_are_those_of_some_modules() {
        let names = ["delay::a", "delayed::a", "loss::rate::b", "rate::c"].map(str::to_owned).to_vec();
        assert_eq!(Share::Timed.filters(names), ["--exact", "delay::a", "rate::c"]);
    }

    #[test]
    fn every_test_runs_on_a_stock_kernel_and_every_program_on_each() {
        let names: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        for program in PRIVILEGED_TESTS {
            let shares = SHARES.iter().filter(|(name, _, _)| *name == program);
            let kernels: BTreeSet<Series> = shares.clone().map(|(_, series, _)| *series).collect();
            assert_eq!(kernels, Series::ALL.into_iter().collect(), "{program}");
            let filters: Vec<_> = shares.map(|(_, _, share)| share.filters(names.clone())).collect();
            let runs = |name| filters.iter().any(|filters| filters.is_empty() || filters.contains(name));
            assert!(names.iter().all(runs), "{program}");
        }
    }
}
