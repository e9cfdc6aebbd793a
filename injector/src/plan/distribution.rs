//! The delays of a distribution as the table of quantiles that the kernel draws from.
//!
//! Every distribution is standardised here: mean 0 and standard deviation 1, the uniform one from -1 to 1. A delay is then
//! `delay + jitter * z`, and never less than 0.

use injector_common::distribution::{MAX_DELAY_NS, TABLE_ENTRIES, quantile_of};
use statrs::distribution::{ContinuousCDF as _, Normal};

use crate::scenario::{Delay, Distribution};

/// Where the open ends of a distribution are cut: what lies beyond happens once in 262,144 packets.
const CUT: f64 = 1.0 / 262_144.0;
/// Mean and standard deviation of Pareto's distribution with the shape 3 and the minimum 1.
const PARETO_MEAN: f64 = 1.5;
const PARETO_DEVIATION: f64 = 0.866_025_403_784_438_6;
/// Parts of the two variables in a pareto-normal one, as in iproute2's `paretonormal.c`.
const NORMAL_PART: f64 = 0.25;
const PARETO_PART: f64 = 0.75;

/// The table of a delay, in ns; `None` if it is the same for every packet.
#[must_use]
pub(super) fn table(delay: &Delay) -> Option<Vec<u64>> {
    if delay.jitter_ns == 0 {
        return None;
    }
    let standardised = standardised(delay.distribution);
    let (mean, spread) = (delay.delay_ns as f64, delay.jitter_ns as f64);
    let value = |z: f64| (mean + spread * z).clamp(0.0, MAX_DELAY_NS as f64).round() as u64;
    Some(standardised.into_iter().map(value).collect())
}

/// The quantiles of a standardised distribution, one for each entry of a table.
fn standardised(distribution: Distribution) -> Vec<f64> {
    let inside = |q: f64| q.clamp(CUT, 1.0 - CUT);
    let of = |inverse: &dyn Fn(f64) -> f64| {
        (0..TABLE_ENTRIES).map(|entry| inverse(quantile_of(entry))).collect::<Vec<f64>>()
    };
    match distribution {
        Distribution::Uniform => of(&|q| 2.0 * q - 1.0),
        Distribution::Normal => {
            let normal = Normal::standard();
            of(&|q| normal.inverse_cdf(inside(q)))
        }
        Distribution::Pareto => of(&|q| pareto(q.min(1.0 - CUT))),
        Distribution::Exponential => of(&|q| -(1.0 - q).max(CUT).ln() - 1.0),
        Distribution::ParetoNormal => {
            let inverse = ParetoNormal::new();
            of(&|q| inverse.quantile(inside(q)))
        }
    }
}

fn pareto(q: f64) -> f64 {
    ((1.0 - q).powf(-1.0 / 3.0) - PARETO_MEAN) / PARETO_DEVIATION
}

/// The distribution function of the sum of a normal and a Pareto variable on a grid, which is inverted between its points.
struct ParetoNormal {
    /// Points and the function's values there, both growing.
    grid: Vec<(f64, f64)>,
}

impl ParetoNormal {
    /// Pareto's quantiles stand for equal shares, but for the tail, where the shares are finer.
    fn shares() -> Vec<(f64, f64)> {
        const BODY: u32 = 512;
        const TAIL: u32 = 2048;
        const TAIL_SHARE: f64 = 1.0 / 64.0;
        let middle = |n: u32, of: u32| (f64::from(n) + 0.5) / f64::from(of);
        let body =
            (0..BODY).map(|n| (middle(n, BODY) * (1.0 - TAIL_SHARE), (1.0 - TAIL_SHARE) / f64::from(BODY)));
        let tail = (0..TAIL)
            .map(|n| (1.0 - TAIL_SHARE + middle(n, TAIL) * TAIL_SHARE, TAIL_SHARE / f64::from(TAIL)));
        body.chain(tail).map(|(q, share)| (PARETO_PART * pareto(q), share)).collect()
    }

    fn new() -> Self {
        let shares = Self::shares();
        // What lies more than 8 deviations of the normal part below a point counts in full.
        const REACH: f64 = 8.0 * NORMAL_PART;
        let mut below = vec![0.0];
        for (_, share) in &shares {
            below.push(below.last().copied().unwrap_or(0.0) + share);
        }
        let normal = Normal::standard();
        let function = |x: f64| {
            let from = shares.partition_point(|(center, _)| *center < x - REACH);
            let to = shares.partition_point(|(center, _)| *center < x + REACH);
            let near = shares[from..to].iter();
            below[from]
                + near.map(|(center, share)| share * normal.cdf((x - center) / NORMAL_PART)).sum::<f64>()
        };
        // Dense where the mass is, then ever wider: the tail reaches far.
        let points = std::iter::successors(Some(-2.5_f64), |x| {
            let next = x + 0.01_f64.max((x + 1.0) * 0.01);
            (next < 120.0).then_some(next)
        });
        Self { grid: points.map(|x| (x, function(x))).collect() }
    }

    fn quantile(&self, q: f64) -> f64 {
        let deviation = NORMAL_PART.hypot(PARETO_PART);
        let at = self.grid.partition_point(|(_, share)| *share < q).clamp(1, self.grid.len() - 1);
        let ((x0, q0), (x1, q1)) = (self.grid[at - 1], self.grid[at]);
        let part = if q1 > q0 { ((q - q0) / (q1 - q0)).clamp(0.0, 1.0) } else { 0.0 };
        (x0 + part * (x1 - x0)) / deviation
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use injector_common::distribution::{Quantiles, quantile};
    use injector_common::draw::draw;

    struct Table(Vec<u64>);

    impl Quantiles for Table {
        fn at(&self, index: u32) -> u64 {
            self.0[index as usize]
        }
    }

    fn sample(distribution: Distribution, n: u64) -> Vec<f64> {
        let delay = Delay { delay_ns: 100_000_000, jitter_ns: 10_000_000, distribution, reorder: true };
        let table = Table(table(&delay).unwrap());
        (0..n).map(|s| quantile(&table, 0, draw(11, 3, s)) as f64 / 1e6).collect()
    }

    /// Mean and standard deviation.
    fn moments(values: &[f64]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    #[test]
    fn delay_is_the_mean_and_jitter_the_deviation() {
        for (distribution, deviation, tolerance) in [
            (Distribution::Uniform, 10.0 / 3.0_f64.sqrt(), 0.02),
            (Distribution::Normal, 10.0, 0.02),
            (Distribution::Exponential, 10.0, 0.05),
            // The tail that is cut has part of the deviation: of Pareto's a third of the fourth digit of the mean.
            (Distribution::Pareto, 10.0, 0.6),
            (Distribution::ParetoNormal, 10.0, 0.6),
        ] {
            let (mean, seen) = moments(&sample(distribution, 400_000));
            assert!((mean - 100.0).abs() < 0.1, "{distribution:?}: mean {mean}");
            assert!((seen - deviation).abs() < tolerance * 2.0, "{distribution:?}: deviation {seen}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_textbook() {
        for (distribution, q, expected) in [
            (Distribution::Normal, 0.99, 100.0 + 23.263),
            (Distribution::Normal, 0.999, 100.0 + 30.902),
            (Distribution::Exponential, 0.999, 90.0 + 69.078),
            (Distribution::Pareto, 0.99, 100.0 + 10.0 * (0.01_f64.powf(-1.0 / 3.0) - 1.5) / PARETO_DEVIATION),
            (Distribution::Uniform, 0.25, 95.0),
        ] {
            let mut values = sample(distribution, 400_000);
            values.sort_by(f64::total_cmp);
            let seen = values[(q * 400_000.0) as usize];
            assert!((seen - expected).abs() < 1.0, "{distribution:?} {q}: {seen}, expected {expected}");
        }
    }

    #[test]
    fn a_normal_delay_is_never_negative() {
        let delay = Delay {
            delay_ns: 1_000_000,
            jitter_ns: 10_000_000,
            distribution: Distribution::Normal,
            reorder: true,
        };
        let table = table(&delay).unwrap();
        assert_eq!(table[0], 0);
        assert!(table[..1025].is_sorted() && table[1025..].is_sorted());
    }

    #[test]
    fn a_delay_without_jitter_needs_no_table() {
        let delay = Delay { delay_ns: 1, jitter_ns: 0, distribution: Distribution::Uniform, reorder: true };
        assert_eq!(table(&delay), None);
    }
}
