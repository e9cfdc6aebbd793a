//! What can be done to each operation here: the table of the ladder that experiments climb.

use injector_common::operation as border;
use serde::Serialize;

use super::{Ladder, at_operation, mechanism};
use crate::scenario::operation::can_sleep;
use crate::scenario::{Distribution, Failure, Harm, Times};

/// What can be done to one operation.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub operation: &'static str,
    /// `io.error`.
    pub error: Cell,
    /// `io.delay`.
    pub delay: Cell,
    /// `io.lost`.
    pub lost: Cell,
    /// `io.corrupt`.
    pub corrupt: Cell,
}

/// How it is done, or why it is not.
#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Cell {
    /// By this mechanism, as plans and reports have it.
    By(String),
    /// It is refused on every kernel, before one is asked.
    Never(String),
    /// It can't be done on this kernel.
    Refused(String),
}

/// A row for each operation, in the order of their numbers.
#[must_use]
pub fn matrix(ladder: &Ladder<'_>) -> Vec<Row> {
    // How it fails and for how long it sleeps make no difference to where.
    let fails = Harm::Error(Failure { errno: 5, stays: false, frees: false });
    let sleeps =
        Harm::Delay(Times::Spread { delay_ns: 1, jitter_ns: 0, distribution: Distribution::Uniform });
    let rots = Harm::Corrupt { bits: 1, offset: None };
    let row = |(number, operation): (usize, &&'static str)| {
        let number = number as u32;
        let cell = |harm: &Harm| match at_operation(number, harm, ladder) {
            Ok(functions) => Cell::By(mechanism(&functions.into_iter().collect())),
            Err(why) => Cell::Refused(why),
        };
        let only = |may: bool, harm: &Harm, else_why: &str| {
            if may { cell(harm) } else { Cell::Never(else_why.to_owned()) }
        };
        Row {
            operation,
            error: cell(&fails),
            delay: only(can_sleep(number), &sleeps, "no kernel lets a program sleep at its hook"),
            lost: only(
                number == border::WRITE,
                &Harm::Lost,
                "only what write(2) and pwrite(2) write can be lost",
            ),
            corrupt: only(
                number == border::READ,
                &rots,
                "only what read(2) and pread(2) read can be corrupted",
            ),
        }
    };
    border::NAMES.iter().enumerate().map(row).collect()
}
