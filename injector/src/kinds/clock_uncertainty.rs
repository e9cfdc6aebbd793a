//! `clock.uncertainty`: what the target is told of how wrong the clock may be.

use std::str::FromStr as _;

use schemars::SchemaGenerator;
use serde_json::{Map, Value};
use syscalls::Sysno;

use super::meant;
use super::{Kind, Strikes};
use crate::scenario::operation::SyscallName;
use crate::scenario::quantity::DurationNs;
use crate::scenario::read::{Spanned, Table as _, table};
use crate::scenario::{Effect, Errors, FaultTable, Harm, Key, Meant, OperationFault, Reader, Uncertainty};

/// See the module.
pub(super) struct ClockUncertainty;

/// The calls that tell of it: the C library asks by either.
const CALLS: [&str; 2] = ["adjtimex", "clock_adjtime"];
const LONGEST_NS: u64 = 3_600_000_000_000;

table! {
    /// What is told.
    pub(crate) struct UncertaintyTable {
        /// The maximum error, such as `"10s"`, to a microsecond, at most an hour. Default: the true one.
        "maxerror" maxerror: DurationNs,
        /// The estimated error, likewise. Default: the true one.
        "esterror" esterror: DurationNs,
        /// Whether the clock is said to be synchronised. Default: the truth.
        "synchronised" synchronised: bool,
    }
}

impl Kind for ClockUncertainty {
    fn name(&self) -> &'static str {
        "clock.uncertainty"
    }

    fn summary(&self) -> &'static str {
        "Tells the target by adjtimex(2) that its clock may be more wrong, or less, than it is."
    }

    fn keys(&self) -> &'static [Key] {
        UncertaintyTable::KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = UncertaintyTable::read_from(own, errors);
        if !table.unread.is_empty() {
            return None;
        }
        if table.maxerror.is_none() && table.esterror.is_none() && table.synchronised.is_none() {
            errors
                .at(own.span(), "nothing that is told is named")
                .expected("one of `maxerror`, `esterror` and `synchronised`");
            return None;
        }
        if [&table.maxerror, &table.esterror].into_iter().flatten().any(|given| is_too_large(given, errors)) {
            return None;
        }
        let us = |given: Option<Spanned<DurationNs>>| given.map(|given| (given.value.0 / 1000) as u32);
        let call = |name| {
            let number = Sysno::from_str(name).ok()?.id().cast_unsigned();
            Some(SyscallName { number, name })
        };
        let told = Uncertainty {
            max_error_us: us(table.maxerror),
            estimated_error_us: us(table.esterror),
            synchronised: table.synchronised.map(|given| given.value),
        };
        Some(Effect::Operations(OperationFault {
            meant: Meant::Syscalls(CALLS.into_iter().filter_map(call).collect()),
            harm: Harm::Uncertainty(told),
            fallback: None,
        }))
    }

    fn check(&self, _effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        meant::check_syscalls(fault, errors);
    }

    fn strikes(&self) -> Strikes {
        Strikes::Ends
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        UncertaintyTable::properties(generator)
    }
}

/// Whether an error is too large to be told, which `errors` then has.
fn is_too_large(given: &Spanned<DurationNs>, errors: &mut Errors) -> bool {
    let is_too_large = given.value.0 > LONGEST_NS;
    if is_too_large {
        errors
            .at(given.span, "nobody would believe a clock that may be so wrong")
            .expected("at most \"1h\"")
            .hint("the kernel itself tells 16 s at most (`NTP_PHASE_LIMIT`)");
    }
    is_too_large
}
