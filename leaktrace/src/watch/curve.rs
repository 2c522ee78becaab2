//! A subject's memory over time, in bounded room: the latest readings one by one, older ones further apart. Pure.

use std::collections::VecDeque;

use crate::watched::MemoryReading;

/// How far apart readings are in each tier, in ticks, and how many it holds: with a tick of ten seconds 20 minutes, 2 hours, 2 days
/// and a month.
const TIERS: [(f64, usize); 4] = [(0.0, 120), (6.0, 128), (90.0, 192), (1080.0, 240)];
/// Whole readings that are kept, for evidence.
const WHOLE: usize = 360;

/// One point: seconds since the Unix epoch, bytes.
pub type Point = (f64, u64);

/// See the module.
#[derive(Clone, Debug)]
pub struct Curve {
    tick_s: f64,
    tiers: [VecDeque<Point>; TIERS.len()],
    whole: VecDeque<MemoryReading>,
}

impl Curve {
    /// An empty one, for readings that come every `tick_s` seconds.
    pub fn new(tick_s: f64) -> Self {
        Self { tick_s, tiers: Default::default(), whole: VecDeque::new() }
    }

    /// Takes a reading that is newer than all before; others are left out.
    pub fn record(&mut self, reading: &MemoryReading) {
        let point = (reading.at_unix_s, reading.private_bytes());
        if self.latest().is_some_and(|latest| latest.0 >= point.0) {
            return;
        }
        for ((apart, room), tier) in TIERS.into_iter().zip(&mut self.tiers) {
            if tier.back().is_none_or(|last| point.0 - last.0 >= apart * self.tick_s) {
                tier.push_back(point);
                if tier.len() > room {
                    tier.pop_front();
                }
            }
        }
        self.whole.push_back(*reading);
        if self.whole.len() > WHOLE {
            self.whole.pop_front();
        }
    }

    /// Every point that is kept, the oldest first.
    pub fn points(&self) -> Vec<Point> {
        let mut points: Vec<Point> = Vec::new();
        // From the finest on, each tier adds what is older than what the finer ones have.
        for tier in &self.tiers {
            let oldest = points.last().map_or(f64::INFINITY, |point| point.0);
            points.extend(tier.iter().rev().filter(|point| point.0 < oldest));
        }
        points.reverse();
        points
    }

    /// The latest whole readings, the oldest first.
    pub fn whole(&self) -> impl Iterator<Item = &MemoryReading> {
        self.whole.iter()
    }

    /// Moves everything in time: the wall clock was set.
    pub fn shift(&mut self, by: f64) {
        self.tiers.iter_mut().flatten().for_each(|point| point.0 += by);
        self.whole.iter_mut().for_each(|reading| reading.at_unix_s += by);
    }

    fn latest(&self) -> Option<&Point> {
        self.tiers.first().and_then(VecDeque::back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at_unix_s: f64) -> MemoryReading {
        MemoryReading { at_unix_s, anonymous_bytes: at_unix_s as u64, ..MemoryReading::default() }
    }

    #[test]
    fn a_month_fits_into_some_hundred_points_in_order() {
        let mut curve = Curve::new(10.0);
        (0..260_000).for_each(|tick| curve.record(&reading(f64::from(tick) * 10.0)));
        let points = curve.points();
        assert!(points.len() < 700, "{}", points.len());
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(points.last().unwrap().0, 2_599_990.0);
        let days = (points.last().unwrap().0 - points.first().unwrap().0) / 86_400.0;
        assert!(days > 29.0, "{days}");
        // The last 20 minutes are there reading by reading.
        assert!(
            points.iter().rev().take(119).zip(points.iter().rev().skip(1)).all(|(a, b)| a.0 - b.0 == 10.0)
        );
    }

    #[test]
    fn what_is_older_or_twice_is_left_out_and_a_set_clock_moves_all() {
        let mut curve = Curve::new(1.0);
        [5.0, 5.0, 3.0, 6.0].iter().for_each(|at| curve.record(&reading(*at)));
        curve.shift(-4.0);
        assert_eq!(curve.points(), [(1.0, 5), (2.0, 6)]);
    }
}
