//! What the history holds of one subject in a span, gathered.

use serde::Serialize;

use crate::{
    alert::Alert,
    cli::args::Sort,
    store::{
        History, StoreError,
        history::{Evidence, Span, Told},
    },
    verdict::Unexplained,
    watched::{MemoryReading, SessionInfo, Subject, Suspect},
};

/// Less time between two readings does not make a slope, seconds.
const LEAST_S: f64 = 1.0;

/// See the module. In order of time, but for suspects.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Account {
    /// Who.
    pub subject: Subject,
    /// How its memory developed; `None`: it was not read then.
    pub memory: Option<Curve>,
    /// What is behind that.
    pub readings: Vec<MemoryReading>,
    /// When it was traced.
    pub sessions: Vec<SessionInfo>,
    /// What was decided about it.
    pub decisions: Vec<Told>,
    /// Sites that were judged.
    pub suspects: Vec<Suspect>,
    /// Growth that tracked memory does not explain.
    pub unexplained: Option<Unexplained>,
    /// What people were told.
    pub alerts: Vec<Alert>,
    /// What was written before a kill.
    pub evidence: Vec<Evidence>,
}

/// A curve of memory in a few figures: anonymous memory, swapped out or not.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Curve {
    /// The first reading.
    pub from: Point,
    /// The last one.
    pub to: Point,
    /// The highest.
    pub peak_bytes: u64,
    /// Slope of a line through all readings since the clock was last put back, bytes per hour.
    pub bytes_per_hour: Option<f64>,
    /// How long that line is, seconds.
    pub over_s: f64,
    /// Of the cgroup's limit, what could not be taken back at last, 0 to 1.
    pub share_of_limit: Option<f64>,
}

/// A reading.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Point {
    /// Seconds since the Unix epoch.
    pub at_unix_s: f64,
    /// Bytes.
    pub bytes: u64,
}

impl Account {
    /// Gathers it.
    pub(super) fn of(
        history: &History,
        subject: &Subject,
        span: Span,
        sort: Option<Sort>,
    ) -> Result<Self, StoreError> {
        let key = subject.key.as_str();
        let readings = history.memory(key, span)?;
        let mut suspects = history.suspects(key, span)?;
        if let Some(sort) = sort {
            suspects.sort_by(|a, b| order(sort, a).total_cmp(&order(sort, b)));
        }
        Ok(Self {
            subject: subject.clone(),
            memory: Curve::of(&readings),
            readings,
            sessions: history.sessions(Some(key), span)?,
            decisions: history.decisions(Some(key), span)?,
            suspects,
            unexplained: history.unexplained(key, span)?,
            alerts: history.alerts(Some(key), span)?,
            evidence: history.evidence(Some(key), span)?,
        })
    }

    /// Whether anything is known of it in that time.
    pub(super) fn says_something(&self) -> bool {
        let lists = [self.sessions.len(), self.decisions.len(), self.suspects.len(), self.alerts.len()];
        self.memory.is_some() || self.unexplained.is_some() || lists.iter().any(|length| *length > 0)
    }
}

/// Descending.
fn order(sort: Sort, suspect: &Suspect) -> f64 {
    -match sort {
        Sort::Bytes => suspect.survivors.bytes as f64,
        Sort::Count => suspect.survivors.blocks as f64,
        Sort::Growth => suspect.verdict.bytes_per_hour,
    }
}

impl Curve {
    fn of(readings: &[MemoryReading]) -> Option<Self> {
        let point =
            |reading: &MemoryReading| Point { at_unix_s: reading.at_unix_s, bytes: reading.private_bytes() };
        let last = readings.last()?;
        let points: Vec<Point> = since_the_last_jump(readings).iter().map(point).collect();
        let over_s = last.at_unix_s - points.first()?.at_unix_s;
        Some(Self {
            from: point(readings.first()?),
            to: point(last),
            peak_bytes: readings.iter().map(MemoryReading::private_bytes).max()?,
            bytes_per_hour: slope(&points).filter(|_| over_s >= LEAST_S).map(|slope| slope * 3600.0),
            over_s,
            share_of_limit: last.cgroup.and_then(|cgroup| cgroup.share_of_limit()),
        })
    }
}

/// The readings after the clock was put back for the last time: a line through others would have no meaning.
fn since_the_last_jump(readings: &[MemoryReading]) -> &[MemoryReading] {
    let jump = readings.windows(2).rposition(|pair| match pair {
        [before, after] => after.at_unix_s < before.at_unix_s,
        _ => false,
    });
    jump.and_then(|jump| readings.get(jump + 1..)).unwrap_or(readings)
}

/// Of a line fitted by least squares, bytes per second; `None`: all at one moment.
fn slope(points: &[Point]) -> Option<f64> {
    let count = points.len() as f64;
    let mean = |of: fn(&Point) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (time, bytes) = (mean(|point| point.at_unix_s), mean(|point| point.bytes as f64));
    let (mut above, mut below) = (0.0, 0.0);
    for point in points {
        let distance = point.at_unix_s - time;
        above += distance * (point.bytes as f64 - bytes);
        below += distance * distance;
    }
    (below > 0.0).then(|| above / below)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at_unix_s: f64, anonymous_bytes: u64) -> MemoryReading {
        MemoryReading { at_unix_s, anonymous_bytes, ..MemoryReading::default() }
    }

    #[test]
    fn a_curve_is_its_ends_its_peak_and_its_slope() {
        let readings: Vec<MemoryReading> = (0..=10)
            .map(|step| reading(f64::from(step) * 360.0, 1000 + u64::from(step as u32) * 100))
            .collect();
        let curve = Curve::of(&readings).unwrap();
        assert_eq!((curve.from.bytes, curve.to.bytes, curve.peak_bytes), (1000, 2000, 2000));
        assert!((curve.bytes_per_hour.unwrap() - 1000.0).abs() < 1e-6);
        assert_eq!(Curve::of(&[]), None);
        assert_eq!(Curve::of(&readings[..1]).unwrap().bytes_per_hour, None);
    }

    #[test]
    fn a_clock_that_was_put_back_does_not_bend_the_slope() {
        let readings = [reading(1e9, 5), reading(0.0, 1000), reading(3600.0, 3000)];
        let curve = Curve::of(&readings).unwrap();
        assert!((curve.bytes_per_hour.unwrap() - 2000.0).abs() < 1e-6);
        assert_eq!((curve.over_s, curve.from.bytes), (3600.0, 5));
    }
}
