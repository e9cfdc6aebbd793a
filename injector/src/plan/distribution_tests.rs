//! The tables against the distributions that they stand for.

use super::*;
use injector_common::distribution::{Quantiles, quantile};
use injector_common::draw::draw;
use proptest::prelude::*;
use std::sync::Arc;

use crate::scenario::P32;

struct Table(Vec<u64>);

impl Quantiles for Table {
    fn at(&self, index: u32) -> u64 {
        self.0[index as usize]
    }
}

fn sample(distribution: Distribution, n: u64) -> Vec<f64> {
    let times = Times::Spread { delay_ns: 100_000_000, jitter_ns: 10_000_000, distribution };
    let table = Table(table(&times).unwrap());
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
    let times =
        Times::Spread { delay_ns: 1_000_000, jitter_ns: 10_000_000, distribution: Distribution::Normal };
    let table = table(&times).unwrap();
    assert_eq!(table[0], 0);
    assert!(table[..1025].is_sorted() && table[1025..].is_sorted());
}

#[test]
fn a_delay_without_jitter_needs_no_table() {
    let times = Times::Spread { delay_ns: 1, jitter_ns: 0, distribution: Distribution::Uniform };
    assert_eq!(table(&times), None);
}

fn table_of(profile: Profile) -> Table {
    Table(table(&Times::Measured(Arc::new(profile))).unwrap())
}

/// The chance of a draw of at most `ns`, from the table alone: bits go into it in steps of 2^-20.
fn share_at_most(table: &Table, ns: u64) -> f64 {
    const STEPS: u64 = 1 << 20;
    // A table's values grow with the bits.
    let (mut low, mut high) = (0, STEPS);
    while low < high {
        let middle = u64::midpoint(low, high);
        if quantile(table, 0, middle << 44) <= ns { low = middle + 1 } else { high = middle }
    }
    low as f64 / STEPS as f64
}

/// A body interval of a table: what lies within is one straight line.
const RESOLUTION: f64 = 1.0 / 1024.0;

#[test]
fn the_points_of_a_profile_are_quantiles_of_its_table() {
    let point = |delay_ns, share: f64| Point { delay_ns, probability: P32((share * 4_294_967_296.0) as u64) };
    // A tenth at 1 ms, a plateau between 2 and 50 ms, and a tail of one in a thousand up to 400 ms.
    let points = [(1.0, 0.1), (2.0, 0.5), (50.0, 0.5), (60.0, 0.999), (400.0, 1.0)];
    let profile = points.map(|(ms, share)| point((ms * 1e6) as u64, share)).to_vec();
    let table = table_of(Profile::Points(profile));
    let draw_at = |q: f64| quantile(&table, 0, (q * 2.0_f64.powi(64)) as u64) as f64 / 1e6;
    for (q, ms, tolerance) in [
        (0.0, 1.0, 1e-6),
        (0.05, 1.0, 1e-6),
        (0.3, 1.5, 0.01),
        (0.499, 2.0, 0.01),
        (0.502, 50.0, 0.1),
        (0.75, 55.01, 0.05),
        (0.9985, 59.99, 0.05),
        (0.9995, 230.0, 1.0),
        (0.999_999, 399.7, 1.0),
    ] {
        assert!((draw_at(q) - ms).abs() <= tolerance, "{q}: {} ms, expected {ms}", draw_at(q));
    }
}

proptest! {
    /// The largest distance between the distribution functions of the table and of the samples.
    #[test]
    fn the_table_of_samples_is_their_distribution(samples in prop::collection::vec(0_u64..1_000_000_000, 1..3000)) {
        let mut samples = samples;
        samples.sort_unstable();
        let table = table_of(Profile::Samples(samples.clone()));
        for &ns in samples.iter().step_by(1 + samples.len() / 50) {
            let below = samples.partition_point(|sample| *sample < ns) as f64 / samples.len() as f64;
            let at_most = samples.partition_point(|sample| *sample <= ns) as f64 / samples.len() as f64;
            let seen = share_at_most(&table, ns);
            prop_assert!(seen >= below - RESOLUTION && seen <= at_most + RESOLUTION, "{ns}: {below} to {at_most}, {seen}");
        }
    }

    #[test]
    fn the_table_of_points_is_their_distribution(
        steps in prop::collection::vec((prop_oneof![Just(0_u64), 1_000_000_u64..90_000_000], prop_oneof![Just(0_u64), 1_u64..1000]), 1..40),
    ) {
        let total: u64 = steps.iter().map(|step| step.1).sum::<u64>() + 1;
        let mut sum = (0, 0);
        let mut points: Vec<Point> = steps.iter().map(|step| {
            sum = (sum.0 + step.0, sum.1 + step.1);
            Point { delay_ns: sum.0, probability: P32(((u128::from(sum.1) << 32) / u128::from(total)) as u64) }
        }).collect();
        points.push(Point { delay_ns: sum.0 + 10_000_000, probability: P32::ONE });
        let table = table_of(Profile::Points(points.clone()));
        prop_assert!(table.0[..1025].is_sorted() && table.0[1025..].is_sorted());
        for point in &points {
            let same = |other: &&Point| other.delay_ns == point.delay_ns;
            // Where the function steps up, any value of the step.
            let first = points.iter().position(|other| other.delay_ns == point.delay_ns).unwrap();
            let below = if first == 0 { 0.0 } else { points.iter().find(same).unwrap().probability.as_f64() };
            let at_most = points.iter().rfind(same).unwrap().probability.as_f64();
            let seen = share_at_most(&table, point.delay_ns);
            prop_assert!(seen >= below - RESOLUTION && seen <= at_most + RESOLUTION, "{point:?}: {seen}");
        }
    }
}
