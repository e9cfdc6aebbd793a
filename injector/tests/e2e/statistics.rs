//! What chance allows.

/// The least and the greatest number of hits in `n` trials that both tails of the exact binomial distribution
/// allow at the given confidence (0.999: each tail is at most 0.05 %).
pub(crate) fn binomial_interval(n: u64, p: f64, confidence: f64) -> [u64; 2] {
    let tail = (1.0 - confidence) / 2.0;
    let mut ln_mass = n as f64 * (-p).ln_1p();
    let (mut below, mut low) = (0.0, None);
    for k in 0..n {
        let up_to_k = below + ln_mass.exp();
        if low.is_none() && up_to_k > tail {
            low = Some(k);
        }
        if 1.0 - up_to_k <= tail {
            return [low.unwrap_or(k), k];
        }
        below = up_to_k;
        ln_mass += ((n - k) as f64 / (k + 1) as f64).ln() + (p / (1.0 - p)).ln();
    }
    [low.unwrap_or(n), n]
}

/// Lengths of the runs of lost packets and of delivered ones, both ends left out: those are cut off.
pub(crate) fn runs(lost: &[u32], count: u32) -> (Vec<u32>, Vec<u32>) {
    let mut is_lost = vec![false; count as usize];
    for &n in lost {
        is_lost[n as usize] = true;
    }
    let (mut bursts, mut gaps) = (Vec::new(), Vec::new());
    let all: Vec<&[bool]> = is_lost.chunk_by(|a, b| a == b).collect();
    for run in all.iter().skip(1).take(all.len().saturating_sub(2)) {
        if run[0] { bursts.push(run.len() as u32) } else { gaps.push(run.len() as u32) }
    }
    (bursts, gaps)
}

/// The mean, and its standard error.
pub(crate) fn mean(values: &[u32]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

/// The value below which a share of the values lies.
pub(crate) fn quantile(values: impl IntoIterator<Item = f64>, share: f64) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[(values.len() as f64 * share) as usize]
}

/// The largest distance between the distribution functions of two samples (Kolmogorov and Smirnov).
pub(crate) fn distance(one: &[f64], other: &[f64]) -> f64 {
    let below = |sample: &[f64], value: f64| {
        sample.iter().filter(|other| **other <= value).count() as f64 / sample.len() as f64
    };
    let off = |value: &f64| (below(one, *value) - below(other, *value)).abs();
    one.iter().chain(other).map(off).fold(0.0, f64::max)
}

/// What the distance of two samples of one distribution exceeds once in a thousand times.
pub(crate) fn critical_distance(one: usize, other: usize) -> f64 {
    1.9495 * ((one + other) as f64 / (one as f64 * other as f64)).sqrt()
}

#[test]
fn distances_are_the_tabled_ones() {
    // scipy.stats.ks_2samp
    assert!((distance(&[1.0, 2.0, 3.0, 4.0], &[2.5, 3.5, 4.5, 5.5]) - 0.5).abs() < 1e-9);
    assert!((distance(&[1.0, 1.0, 2.0], &[1.0, 2.0, 2.0]) - 1.0 / 3.0).abs() < 1e-9);
    // scipy.special.kolmogi(0.001) * sqrt(2 / 200)
    assert!((critical_distance(200, 200) - 0.1949).abs() < 1e-4);
}

#[test]
fn binomial_intervals_are_the_tabled_ones() {
    // scipy.stats.binom(n, p).ppf([0.0005, 0.9995])
    assert_eq!(binomial_interval(20, 0.5, 0.95), [6, 14]);
    assert_eq!(binomial_interval(100_000, 0.0001, 0.999), [2, 22]);
}

#[test]
fn runs_leave_out_what_is_cut_off() {
    assert_eq!(runs(&[0, 2, 3, 7], 9), (vec![2, 1], vec![1, 3]));
}
