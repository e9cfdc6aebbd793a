//! Distributions as tables of their quantiles: the inverse of the distribution function, drawn by a uniform number.
//!
//! BPF has neither floats nor logarithms, so user space computes the table once, for any distribution alike, and the kernel
//! interpolates. The upper 1/64 has a table of its own: tails are what such distributions are chosen for, and the last entry
//! but one stands for the quantile 1 - 2^-16.

/// Intervals of the table of all quantiles, and of that of the upper 1/64.
pub const INTERVALS: u32 = 1024;
/// Entries of one distribution: the ends of the intervals of both tables.
pub const TABLE_ENTRIES: u32 = 2 * (INTERVALS + 1);
/// The tail is what has so many leading ones.
const TAIL_BITS: u32 = 6;
/// log2 of `INTERVALS`.
const INDEX_BITS: u32 = 10;
/// Bits of a draw that say where in an interval it lies.
const FRACTION_BITS: u32 = 16;

/// Longest delay of a table, so that the interpolation stays in 64 bits: an hour.
pub const MAX_DELAY_NS: u64 = 3_600_000_000_000;

/// The entries of all tables, one behind the other.
pub trait Quantiles {
    /// An entry; 0 where there is none.
    fn at(&self, index: u32) -> u64;
}

/// Which quantile an entry of a table is, 0 to 1; the inverse of what [`quantile`] does.
#[cfg(any(test, feature = "user"))]
#[must_use]
pub fn quantile_of(entry: u32) -> f64 {
    let part = |index: u32| f64::from(index) / f64::from(INTERVALS);
    if entry <= INTERVALS {
        part(entry)
    } else {
        1.0 - (1.0 - part(entry - INTERVALS - 1)) / f64::from(1 << TAIL_BITS)
    }
}

/// The value of the table that begins at `table` for 64 uniform bits.
#[inline(always)]
#[must_use]
pub fn quantile<Q: Quantiles>(quantiles: &Q, table: u32, bits: u64) -> u64 {
    let (bits, first) = if bits >> (64 - TAIL_BITS) == (1 << TAIL_BITS) - 1 {
        (bits << TAIL_BITS, table.wrapping_add(INTERVALS + 1))
    } else {
        (bits, table)
    };
    let index = first.wrapping_add((bits >> (64 - INDEX_BITS)) as u32);
    let fraction = (bits >> (64 - INDEX_BITS - FRACTION_BITS)) & ((1 << FRACTION_BITS) - 1);
    let (low, high) = (quantiles.at(index), quantiles.at(index.wrapping_add(1)));
    low.wrapping_add(high.saturating_sub(low).wrapping_mul(fraction) >> FRACTION_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw;

    struct Table(Vec<u64>);

    impl Quantiles for Table {
        fn at(&self, index: u32) -> u64 {
            self.0.get(index as usize).copied().unwrap_or(0)
        }
    }

    fn table(inverse: impl Fn(f64) -> f64) -> Table {
        Table((0..TABLE_ENTRIES).map(|entry| inverse(quantile_of(entry)) as u64).collect())
    }

    #[test]
    fn the_quantiles_of_a_large_sample_are_those_of_the_table() {
        // Exponential with a mean of 10 ms, cut where 2^-20 is left.
        let exponential = table(|q| -1e7 * (1.0 - q).max(1.0 / f64::from(1 << 20)).ln());
        let n = 1_000_000_usize;
        let mut values: Vec<u64> =
            (0..n as u64).map(|s| quantile(&exponential, 0, draw::draw(7, 1, s))).collect();
        values.sort_unstable();
        for q in [0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999] {
            let (seen, expected) = (values[(q * n as f64) as usize] as f64, -1e7 * f64::ln(1.0 - q));
            // The standard error of a sample quantile is sqrt(q (1 - q) / n) / density.
            let error = (q * (1.0 - q) / n as f64).sqrt() / ((1.0 - q) / 1e7);
            assert!(
                (seen - expected).abs() < 5.0 * error + 1e4,
                "{q}: {seen}, expected {expected} +- {error}"
            );
        }
    }

    #[test]
    fn the_ends_of_the_tables_meet() {
        let line = table(|q| q * 1e9);
        assert_eq!(quantile(&line, 0, 0), 0);
        let tail = (1_u64 << TAIL_BITS) - 1;
        let (below, above) = ((tail << 58) - 1, tail << 58);
        let step = quantile(&line, 0, above) - quantile(&line, 0, below);
        assert!(step < 1000, "a step of {step} where the tail begins");
        assert!(quantile(&line, 0, u64::MAX) > 999_990_000);
    }
}
