//! The share of matching packets that a fault was asked to strike.

use crate::scenario::quantity::P32;
use crate::scenario::{Effect, Fault, Frequency, Loss, LossModel, Reorder};

/// The requested rate, 0 to 1; `None` where the fault counts (`nth`, a budget) and asks for no share.
#[must_use]
pub fn requested(fault: &Fault) -> Option<f64> {
    if fault.budget.is_some() || fault.limit.is_some() {
        return None;
    }
    match fault.effect {
        Effect::Loss(Loss { model, .. }) if model != LossModel::Bernoulli => of_model(&model),
        Effect::Link
        | Effect::Process(_)
        | Effect::Clock(_)
        | Effect::Reorder(Reorder { gap: Some(_), .. }) => None,
        _ => match fault.frequency {
            Frequency::Probability(p) => Some(p.as_f64()),
            Frequency::Nth(_) => None,
        },
    }
}

/// The stationary rate of a model.
fn of_model(model: &LossModel) -> Option<f64> {
    let share = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
    match *model {
        LossModel::Bernoulli => None,
        LossModel::GilbertElliott { p, r, h, k } => {
            let [p, r, h, k] = [p, r, h, k].map(P32::as_f64);
            // Without a way out of the good state the bad one is never seen.
            let bad = share(p, p + r).unwrap_or(0.0);
            Some(bad * (1.0 - h) + (1.0 - bad) * (1.0 - k))
        }
        LossModel::Markov { p13, p31, p32, p23, p14 } => {
            let [p13, p31, p32, p23, p14] = [p13, p31, p32, p23, p14].map(P32::as_f64);
            // Balance against the gap state's mass: the burst (2 and 3) is left by p31 alone.
            let in_burst = share(p13, p31);
            let passes = in_burst.and_then(|b| if p32 == 0.0 { Some(0.0) } else { share(b * p32, p23) });
            in_burst.zip(passes).and_then(|(b, q)| share(b + p14, 1.0 + b + q + p14))
        }
        LossModel::PeriodicPackets { up, down } => share(down as f64, (up + down) as f64),
        LossModel::PeriodicTime { up_ns, down_ns } => share(down_ns as f64, (up_ns + down_ns) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(x: f64) -> P32 {
        P32((x * 4_294_967_296.0) as u64)
    }

    fn close(a: Option<f64>, b: f64) -> bool {
        (a.unwrap() - b).abs() < 1e-6
    }

    #[test]
    fn stationary_rates() {
        let ge = LossModel::GilbertElliott { p: p(0.01), r: p(0.25), h: P32::ZERO, k: P32::ONE };
        assert!(close(of_model(&ge), 0.01 / 0.26));
        let never = LossModel::GilbertElliott { p: P32::ZERO, r: P32::ZERO, h: P32::ZERO, k: P32::ONE };
        assert_eq!(of_model(&never), Some(0.0));
        let markov = LossModel::Markov { p13: p(0.01), p31: p(0.3), p32: p(0.1), p23: p(0.4), p14: p(0.005) };
        let (b, q) = (0.01 / 0.3, 0.01 / 0.3 * 0.1 / 0.4);
        assert!(close(of_model(&markov), (b + 0.005) / (1.0 + b + q + 0.005)));
        assert!(close(of_model(&LossModel::PeriodicPackets { up: 9, down: 1 }), 0.1));
    }
}
