//! Which suspect comes first: leaks, by what they cost and how sure that is; then what may become one. Everybody who shows suspects
//! shows them in this order.

use std::cmp::Ordering;

use super::model::{Shape, Verdict};
use crate::report::model::Amount;

/// The worst first: by their verdicts, then by their survivors.
pub fn worst_first(left: (&Verdict, Amount), right: (&Verdict, Amount)) -> Ordering {
    let by_verdict = by_verdict(left.0, right.0);
    by_verdict.then_with(|| right.1.bytes.cmp(&left.1.bytes))
}

fn by_verdict(left: &Verdict, right: &Verdict) -> Ordering {
    let class = |verdict: &Verdict| match verdict.shape {
        Shape::GrowsSteadily => 0,
        Shape::TooEarly => 1,
        Shape::GrowsWithLoad => 2,
        Shape::LevelledOff => 3,
        Shape::Bursts => 4,
        Shape::Steady => 5,
    };
    let by_class = class(left).cmp(&class(right));
    by_class.then_with(|| weight(right).total_cmp(&weight(left)))
}

/// Bytes per hour that are to be expected. What is not sure of itself yet counts by its slope.
fn weight(verdict: &Verdict) -> f64 {
    let sure = if verdict.shape == Shape::TooEarly { 1.0 } else { verdict.confidence };
    let weight = verdict.bytes_per_hour * sure;
    if weight.is_nan() { 0.0 } else { weight }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(shape: Shape, bytes_per_hour: f64, confidence: f64) -> Verdict {
        Verdict { shape, bytes_per_hour, confidence, ..Verdict::default() }
    }

    #[test]
    fn leaks_come_first_and_the_surer_of_two_that_are_alike() {
        let mut all = [
            verdict(Shape::Steady, 0.0, 1.0),
            verdict(Shape::TooEarly, 9e9, 0.1),
            verdict(Shape::GrowsSteadily, 100.0, 0.91),
            verdict(Shape::GrowsSteadily, 100.0, 0.99),
            verdict(Shape::TooEarly, f64::NAN, 0.0),
            verdict(Shape::GrowsSteadily, 1000.0, 0.9),
        ];
        all.sort_by(by_verdict);
        let order: Vec<(Shape, f64)> =
            all.iter().map(|verdict| (verdict.shape, verdict.confidence)).collect();
        let leak = Shape::GrowsSteadily;
        assert_eq!(
            order.get(..4).unwrap(),
            [(leak, 0.9), (leak, 0.99), (leak, 0.91), (Shape::TooEarly, 0.1)]
        );
        assert_eq!(order.last().unwrap().0, Shape::Steady);
    }

    #[test]
    fn of_those_that_nothing_is_thought_of_what_holds_most_comes_first() {
        let (early, amount) = (Verdict::default(), |bytes| Amount { bytes, blocks: 1 });
        assert_eq!(worst_first((&early, amount(2)), (&early, amount(1))), Ordering::Less);
    }
}
