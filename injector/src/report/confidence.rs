//! The interval in which the true rate lies.

/// Two-sided 95 % quantile of the normal distribution.
pub(super) const Z_95: f64 = 1.959_964;

/// The score interval of Wilson (1927) for `hits` of `trials`. It keeps its coverage for rare hits, where the
/// textbook interval does not. `trials` of 0 gives 0 to 1.
#[must_use]
pub fn wilson(hits: u64, trials: u64, z: f64) -> [f64; 2] {
    if trials == 0 {
        return [0.0, 1.0];
    }
    let n = trials as f64;
    let p = hits as f64 / n;
    let z2 = z * z;
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    [(centre - half).max(0.0), (centre + half).min(1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn published_values() {
        // Newcombe (1998), Statistics in Medicine 17, table I, method 3: 81 of 263 and 0 of 20.
        let [low, high] = wilson(81, 263, 1.96);
        assert!((low - 0.2553).abs() < 5e-5 && (high - 0.3662).abs() < 5e-5, "{low} {high}");
        let [low, high] = wilson(0, 20, 1.96);
        assert!(low < 1e-9 && (high - 0.1611).abs() < 5e-5, "{low} {high}");
    }

    proptest! {
        #[test]
        fn the_interval_holds_the_estimate(trials in 1_u64..1_000_000, share in 0.0_f64..=1.0) {
            let hits = (trials as f64 * share) as u64;
            let [low, high] = wilson(hits, trials, Z_95);
            let p = hits as f64 / trials as f64;
            prop_assert!(0.0 <= low && low <= p + 1e-12 && p <= high + 1e-12 && high <= 1.0);
        }
    }
}
