//! The judgement of a site: what each session says of it, put together; held against the process's memory.

use super::{
    because,
    model::{Options, ProcessReading, Shape, SiteReading, Verdict},
    renewal,
    segment::{Finding, Segment},
    statistics::{self, Order},
};

/// A session that is shorter than this share of the longest has no say against it.
const SHORT: f64 = 0.25;
/// What is missing of certainty when growth was watched for just as long as is asked for; watched for twice as long, half of it
/// is, and so on: a cache that fills looks like a leak until it is full.
const DOUBT: f64 = 0.06;
/// Growth this even, or more so, is as even as can be expected.
const EVEN: f64 = 0.7;
/// And growth this uneven is none.
const UNEVEN: f64 = 0.2;
/// Later halves that rise this surely, of what can be expected of them, rise.
const LATELY: f64 = 0.75;

/// What a site's survivors do. `site` and `process` in any order; `process` may reach beyond the sessions, and may be empty.
pub fn judge(site: &[SiteReading], process: &[ProcessReading], options: &Options) -> Verdict {
    let segments = Segment::all(site, process);
    let findings: Vec<Finding> = segments.iter().map(Segment::finding).collect();
    let watched_s: f64 = segments.iter().map(Segment::span_s).sum();
    let readings: usize = segments.iter().map(|segment| segment.readings).sum();
    let enough = watched_s >= options.least_watched_s && readings >= options.least_readings;
    let run = Run::of(&segments, &findings);
    let latest = latest(&segments, &findings).filter(|_| enough);
    let mut verdict = match (latest, run) {
        (Some((_, finding)), Some(run)) if finding.shape == Shape::GrowsSteadily => {
            run.verdict(process, options)
        }
        (Some((segment, finding)), _) => without_growth(segment, finding, watched_s, options),
        (None, run) => too_early(run.as_ref(), watched_s, options),
    };
    verdict.survival = survival(site);
    if let Some(share) = verdict.survival.filter(|_| verdict.is_leak()) {
        verdict.because += &because::survival(share);
    }
    verdict
}

/// The last session that says anything.
fn latest<'a>(segments: &'a [Segment], findings: &'a [Finding]) -> Option<(&'a Segment, &'a Finding)> {
    let longest = segments.iter().map(Segment::span_s).fold(0.0, f64::max);
    let telling = |(segment, finding): &(&Segment, &Finding)| {
        finding.shape != Shape::TooEarly && segment.span_s() >= longest * SHORT
    };
    segments.iter().zip(findings).rev().find(telling)
}

fn survival(site: &[SiteReading]) -> Option<f64> {
    let made = site.iter().filter(|reading| reading.allocated_blocks > 0);
    let shares = made.map(|reading| (reading.blocks as f64 / reading.allocated_blocks as f64).min(1.0));
    statistics::median(shares.collect())
}

fn without_growth(segment: &Segment, finding: &Finding, watched_s: f64, options: &Options) -> Verdict {
    let clear = match finding.shape {
        Shape::LevelledOff => 1.0 - finding.evenness.min(1.0) / 2.0,
        Shape::Steady => 1.0 - (finding.rise / finding.highest.max(1.0)).min(1.0) / 4.0,
        _ => 0.9,
    };
    Verdict {
        shape: finding.shape,
        confidence: patience(watched_s, options) * clear,
        bytes_per_hour: if finding.shape == Shape::GrowsWithLoad { finding.slope * 3600.0 } else { 0.0 },
        since_unix_s: (finding.shape == Shape::GrowsWithLoad && finding.slope > 0.0)
            .then_some(segment.began_unix_s),
        watched_s,
        because: because::without_growth(finding, segment),
        ..Verdict::default()
    }
}

fn too_early(run: Option<&Run<'_>>, watched_s: f64, options: &Options) -> Verdict {
    Verdict {
        bytes_per_hour: run.map_or(0.0, Run::bytes_per_hour),
        watched_s,
        because: because::too_early(watched_s, run.map(Run::rise), options),
        ..Verdict::default()
    }
}

/// How sure one can be at most after watching for so long.
fn patience(watched_s: f64, options: &Options) -> f64 {
    let times = watched_s / options.least_watched_s.max(f64::MIN_POSITIVE);
    (1.0 - DOUBT / times.max(DOUBT)).clamp(0.0, 1.0)
}

/// Sessions up to the latest in which the survivors grew, with none between in which they did not.
pub(super) struct Run<'a> {
    /// In order of time.
    pub(super) sessions: Vec<(&'a Segment, &'a Finding)>,
}

impl<'a> Run<'a> {
    fn of(segments: &'a [Segment], findings: &'a [Finding]) -> Option<Self> {
        let telling = segments.iter().zip(findings).filter(|(_, finding)| finding.shape != Shape::TooEarly);
        let backwards = telling.rev().take_while(|(_, finding)| finding.shape == Shape::GrowsSteadily);
        let mut sessions: Vec<_> = backwards.collect();
        sessions.reverse();
        (!sessions.is_empty()).then_some(Self { sessions })
    }

    fn sum(&self, of: impl Fn(&Finding) -> f64) -> f64 {
        self.sessions.iter().map(|(_, finding)| of(finding)).sum()
    }

    /// Seconds in which it was watched growing.
    pub(super) fn span_s(&self) -> f64 {
        self.sum(|finding| finding.span_s)
    }

    /// By how much survivors rose in all sessions, bytes.
    pub(super) fn rise(&self) -> f64 {
        self.sum(|finding| finding.rise)
    }

    /// How many sessions.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The deepest fall in any session.
    pub(super) fn fall(&self) -> f64 {
        self.sessions.iter().map(|(_, finding)| finding.fall).fold(0.0, f64::max)
    }

    /// The times of each session, seconds since the Unix epoch.
    pub(super) fn times(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.sessions.iter().map(|(segment, _)| (segment.began_unix_s, segment.ended_unix_s))
    }

    /// Whether growth is even by work done and not by time.
    pub(super) fn by_work(&self) -> bool {
        self.sum(|finding| if finding.by_work { finding.span_s } else { 0.0 }) * 2.0 > self.span_s()
    }

    /// Weighted by how long each was watched.
    pub(super) fn bytes_per_hour(&self) -> f64 {
        let whole: f64 = self.sessions.iter().map(|(segment, _)| segment.span_s()).sum();
        let rise: f64 = self.sessions.iter().map(|(segment, finding)| finding.slope * segment.span_s()).sum();
        if whole > 0.0 { rise / whole * 3600.0 } else { 0.0 }
    }

    fn began_unix_s(&self) -> f64 {
        self.times().map(|(began, _)| began).fold(f64::INFINITY, f64::min)
    }

    /// Of the sessions themselves, and from session to session.
    fn evenness(&self) -> f64 {
        let within = self.sum(|finding| finding.evenness.min(1.0) * finding.span_s)
            / self.span_s().max(f64::MIN_POSITIVE);
        within.min(self.evenness_of_sessions().unwrap_or(1.0))
    }

    /// How surely each session's later half rises by itself.
    fn lately(&self) -> f64 {
        self.sum(|finding| finding.lately * finding.span_s) / self.span_s().max(f64::MIN_POSITIVE)
    }

    /// The rate of the last third of the sessions as a share of that of those before, by time or by work.
    fn evenness_of_sessions(&self) -> Option<f64> {
        let turn =
            self.sessions.len().checked_sub(self.sessions.len().div_ceil(3)).filter(|turn| *turn >= 2)?;
        let (before, lately) = self.sessions.split_at_checked(turn)?;
        let rate = |sessions: &[(&Segment, &Finding)], of: fn(&Segment, &Finding) -> f64| {
            let sum: f64 = sessions.iter().map(|(segment, finding)| of(segment, finding)).sum();
            sessions.iter().map(|(_, finding)| finding.rise).sum::<f64>() / sum
        };
        let share = |of| rate(lately, of) / rate(before, of);
        let by_time = share(|segment, _| segment.span_s());
        let by_work = share(|_, finding| finding.work);
        Some(by_time.max(by_work)).filter(|share| share.is_finite())
    }

    /// The largest part of the whole rise that came at once, 0 to 1.
    fn step(&self) -> f64 {
        let largest = self.sessions.iter().map(|(_, finding)| finding.step).fold(0.0, f64::max);
        largest / self.rise().max(f64::MIN_POSITIVE)
    }

    /// The rise as a share of the deepest fall, at most 1. What is read at intervals that nearly fit what comes and goes seems to rise
    /// slowly, by less than it falls each time.
    fn above_falls(&self) -> f64 {
        let fall = self.fall();
        if fall > 0.0 { (self.rise() / fall).min(1.0) } else { 1.0 }
    }

    /// How sure it is that this is growth, and goes on.
    fn confidence(&self, options: &Options) -> f64 {
        let order = self.sessions.iter().fold(Order::default(), |sum, (_, finding)| sum.plus(finding.order));
        let even = ((self.evenness() - UNEVEN) / (EVEN - UNEVEN)).clamp(0.0, 1.0);
        let gradual = ((1.0 - self.step()) * 2.0).clamp(0.0, 1.0);
        let lately = (self.lately() / LATELY).min(1.0);
        patience(self.span_s(), options) * order.rises() * even * gradual * lately * self.above_falls()
    }

    fn verdict(&self, process: &[ProcessReading], options: &Options) -> Verdict {
        let mut verdict = Verdict {
            shape: Shape::GrowsSteadily,
            confidence: self.confidence(options),
            bytes_per_hour: self.bytes_per_hour(),
            since_unix_s: Some(self.began_unix_s()),
            share_of_growth: renewal::share_of_growth(self, process),
            watched_s: self.span_s(),
            because: because::growth(self),
            ..Verdict::default()
        };
        if let Some(sentence) = renewal::explains(self, process, options) {
            verdict.shape = Shape::Steady;
            verdict.because = sentence;
        } else if verdict.bytes_per_hour < options.least_bytes_per_hour {
            verdict.shape = Shape::Steady;
            verdict.because = because::too_slow(self, options);
        } else if verdict.confidence < options.least_confidence || verdict.watched_s < options.least_watched_s
        {
            verdict.shape = Shape::TooEarly;
            verdict.because = because::unsure(&verdict);
        }
        verdict
    }
}
