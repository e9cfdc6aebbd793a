//! The delays of a distribution as the table of quantiles that the kernel draws from.
//!
//! Every distribution is standardised here: mean 0 and standard deviation 1, the uniform one from -1 to 1. A delay is then
//! `delay + jitter * z`, and never less than 0. A measured profile has its quantiles as they are.

use injector_common::distribution::{MAX_DELAY_NS, TABLE_ENTRIES, quantile_of};
use statrs::distribution::{ContinuousCDF as _, Normal};

use crate::scenario::{Distribution, Point, Profile, Times};

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
pub(super) fn table(times: &Times) -> Option<Vec<u64>> {
    let (delay_ns, jitter_ns, distribution) = match times {
        Times::Measured(profile) => {
            return Some((0..TABLE_ENTRIES).map(|entry| measured(profile, quantile_of(entry))).collect());
        }
        Times::Spread { jitter_ns: 0, .. } => return None,
        Times::Spread { delay_ns, jitter_ns, distribution } => (*delay_ns, *jitter_ns, *distribution),
    };
    let standardised = standardised(distribution);
    let (mean, spread) = (delay_ns as f64, jitter_ns as f64);
    let value = |z: f64| (mean + spread * z).clamp(0.0, MAX_DELAY_NS as f64).round() as u64;
    Some(standardised.into_iter().map(value).collect())
}

/// A quantile of a profile, in ns.
fn measured(profile: &Profile, q: f64) -> u64 {
    match profile {
        Profile::Samples(samples) => {
            // The least sample that a share of at least q does not exceed.
            let rank = (q * samples.len() as f64).ceil() as usize;
            samples.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        }
        Profile::Points(points) => {
            let at = points.partition_point(|point| point.probability.as_f64() < q);
            let upper = points.get(at).or(points.last());
            // What the first point does not leave to the others has its delay.
            let lower = at.checked_sub(1).and_then(|below| points.get(below)).or(upper);
            lower.zip(upper).map_or(0, |(lower, upper)| between(lower, upper, q))
        }
    }
}

/// The delay between two points of a distribution function at which it has the value `q`.
fn between(lower: &Point, upper: &Point, q: f64) -> u64 {
    let (low, high) = (lower.probability.as_f64(), upper.probability.as_f64());
    let part = if high > low { ((q - low) / (high - low)).clamp(0.0, 1.0) } else { 1.0 };
    let span_ns = upper.delay_ns.saturating_sub(lower.delay_ns);
    lower.delay_ns.saturating_add((span_ns as f64 * part).round() as u64)
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
#[path = "distribution_tests.rs"]
mod tests;
