//! One site in one session: a stretch of readings without a gap, in which survivors began at nothing.

use super::{
    load,
    lows::{self, Lows, Point},
    model::{ProcessReading, Shape, SiteReading},
    pauses,
    statistics::{self, Order},
};

/// Fewer readings say nothing.
const LEAST_POINTS: usize = 4;
/// Lows that rise by less of the highest reading have not grown.
const LEAST_RISE: f64 = 0.1;
/// Growth that was over after this share of the time was the beginning of tracing: survivors start at nothing.
const BEGINNING: f64 = 1.0 / 6.0;
/// Growth of which no more than this share of its earlier rate is left has levelled off.
const LEVELLED: f64 = 0.35;
/// Survivors that fell by this share of their range come and go.
const FALLEN: f64 = 0.5;
/// How many standard errors rates are believed to be off, the wrong way.
const DOUBT: f64 = 0.5;
/// Growth that has only just begun has no earlier rate to be compared with: so much faster than that, at most.
const MOST_EVEN: f64 = 10.0;

/// A site's readings of one session, with the work that was done meanwhile.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// When the first reading was made, seconds since the Unix epoch.
    pub began_unix_s: f64,
    /// When the last was.
    pub ended_unix_s: f64,
    /// How many readings there were.
    pub readings: usize,
    /// In order of time; thinned.
    pub points: Vec<Point>,
    /// Survivors in the last reading, blocks.
    pub blocks: u64,
}

/// What one segment says.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    /// The shape so far; [`Shape::TooEarly`]: cannot tell.
    pub shape: Shape,
    /// Of the lows.
    pub order: Order,
    /// Seconds that count: of growth with work, those in which work was done.
    pub span_s: f64,
    /// By how much the lows rose, bytes.
    pub rise: f64,
    /// Bytes per second.
    pub slope: f64,
    /// Work that was done.
    pub work: f64,
    /// Rate of growth lately, as a share of what it was before, by time or by work done: whichever is more even.
    pub evenness: f64,
    /// How surely the later half rises by itself, 0 to 1.
    pub lately: f64,
    /// Whether growth is even by work done and not by time.
    pub by_work: bool,
    /// The largest part of the rise that came at once, bytes.
    pub step: f64,
    /// The deepest fall, bytes.
    pub fall: f64,
    /// The highest reading, bytes.
    pub highest: f64,
}

impl Segment {
    /// One for each session, in order of time. What has no time, or the same as the reading before, is left out.
    pub(super) fn all(site: &[SiteReading], process: &[ProcessReading]) -> Vec<Self> {
        let mut readings: Vec<SiteReading> =
            site.iter().filter(|reading| reading.at_unix_s.is_finite()).copied().collect();
        readings.sort_by(|a, b| a.session.cmp(&b.session).then(a.at_unix_s.total_cmp(&b.at_unix_s)));
        readings.dedup_by(|later, earlier| {
            later.session == earlier.session && later.at_unix_s <= earlier.at_unix_s
        });
        let sessions = readings.chunk_by(|a, b| a.session == b.session);
        let mut all: Vec<Self> = sessions.filter_map(|readings| Self::of(readings, process)).collect();
        all.sort_by(|a, b| a.began_unix_s.total_cmp(&b.began_unix_s));
        all
    }

    fn of(readings: &[SiteReading], process: &[ProcessReading]) -> Option<Self> {
        let (first, last) = (readings.first()?, readings.last()?);
        let work = work_curve(process, first.session, first.at_unix_s, last.at_unix_s);
        let point = |reading: &SiteReading| Point {
            at: reading.at_unix_s - first.at_unix_s,
            amount: reading.bytes as f64,
            work: statistics::interpolate(&work, reading.at_unix_s).unwrap_or(0.0),
            made: reading.allocated_bytes as f64,
        };
        let points: Vec<Point> = readings.iter().map(point).collect();
        Some(Self {
            began_unix_s: first.at_unix_s,
            ended_unix_s: last.at_unix_s,
            readings: readings.len(),
            points: lows::thinned(&points),
            blocks: last.blocks,
        })
    }

    /// How long it is, seconds.
    pub(super) fn span_s(&self) -> f64 {
        lows::span(&self.points)
    }

    /// What it says.
    pub(super) fn finding(&self) -> Finding {
        let lows = Lows::of(&self.points);
        let highest = self.points.iter().map(|point| point.amount).fold(0.0, f64::max);
        let (evenness, lately, by_work) = evenness(&lows.points);
        Finding {
            shape: self.shape(&lows, highest, evenness),
            order: lows.order(),
            span_s: if by_work { self.busy_s() } else { self.span_s() },
            rise: lows.rise().max(0.0),
            slope: lows.slope(),
            work: self.points.last().map_or(0.0, |last| last.work),
            evenness,
            lately,
            by_work,
            step: lows.largest_step() * lows.rise().max(0.0),
            fall: lows.fall,
            highest,
        }
    }

    fn shape(&self, lows: &Lows, highest: f64, evenness: f64) -> Shape {
        if self.points.len() < LEAST_POINTS || self.span_s() <= 0.0 {
            return Shape::TooEarly;
        }
        let grown = lows.rise() > highest * LEAST_RISE && lows.points.len() >= 3;
        if !grown {
            return self.shape_without_growth(lows, highest);
        }
        if self.grew_at_the_beginning(lows) {
            return Shape::Steady;
        }
        if load::explains(&self.points) {
            return Shape::GrowsWithLoad;
        }
        if evenness < LEVELLED || pauses::has_ended(&self.points) {
            return Shape::LevelledOff;
        }
        Shape::GrowsSteadily
    }

    fn shape_without_growth(&self, lows: &Lows, highest: f64) -> Shape {
        if load::is_followed(&self.points) {
            return Shape::GrowsWithLoad;
        }
        let moves = lows.range > highest * FALLEN && lows.fall > lows.range * FALLEN;
        if moves { Shape::Bursts } else { Shape::Steady }
    }

    fn grew_at_the_beginning(&self, lows: &Lows) -> bool {
        let (first, end) = (lows.points.first().map_or(0.0, |low| low.amount), self.span_s() * BEGINNING);
        let early =
            lows.points.iter().take_while(|low| low.at <= end).map(|low| low.amount).fold(first, f64::max);
        early - first > lows.rise() * 0.9
    }

    /// Seconds until nearly all work was done: what idles afterwards says nothing.
    fn busy_s(&self) -> f64 {
        let nearly = self.points.last().map_or(0.0, |last| last.work * 0.97);
        self.points.iter().find(|point| point.work >= nearly).map_or(0.0, |point| point.at)
    }
}

/// Work done since the first of these, by time: blocks that the process allocated in the session, or else its CPU time.
fn work_curve(process: &[ProcessReading], session: u64, from: f64, to: f64) -> Vec<(f64, f64)> {
    let curve = |of: fn(&ProcessReading) -> f64, session: Option<u64>| {
        let meant = process.iter().filter(|reading| {
            reading.at_unix_s >= from - 1.0
                && reading.at_unix_s <= to + 1.0
                && (session.is_none() || reading.session == session)
        });
        rising(meant.map(|reading| (reading.at_unix_s, of(reading))).collect())
    };
    let moves = |curve: &Vec<(f64, f64)>| curve.last().is_some_and(|last| last.1 > 0.0);
    let blocks = curve(|reading| reading.allocated_blocks as f64, Some(session));
    if moves(&blocks) { blocks } else { curve(|reading| reading.cpu_s, None) }
}

/// In order of time, from naught on; what falls (a worker that ended took its count along) counts as no progress.
fn rising(mut curve: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    curve.retain(|(at, work)| at.is_finite() && work.is_finite());
    curve.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut before, mut done) = (curve.first().map_or(0.0, |first| first.1), 0.0);
    for point in &mut curve {
        done += (point.1 - before).max(0.0);
        before = point.1;
        point.1 = done;
    }
    curve
}

/// See [`Finding::evenness`], [`Finding::lately`] and [`Finding::by_work`].
fn evenness(lows: &[Point]) -> (f64, f64, bool) {
    let by = |clock: fn(&Point) -> f64| {
        let curve: Vec<(f64, f64)> = lows.iter().map(|low| (clock(low), low.amount)).collect();
        (evenness_by(&curve), rises_lately(&curve))
    };
    let ((time, lately), (work, with_work)) = (by(|low| low.at), by(|low| low.work));
    if work > time { (work, with_work.max(lately), time < 0.5) } else { (time, lately, false) }
}

/// Rate of growth in the last third, as a share of that before it. What is set up when tracing begins, or at the first request, is
/// no growth: it counts half.
pub(super) fn evenness_by(curve: &[(f64, f64)]) -> f64 {
    let lately = part(curve, 2.0 / 3.0, 1.0);
    let share = |from: f64| share_of_rate(&lately, &part(curve, from, 2.0 / 3.0));
    share(1.0 / 6.0).min(share(0.0) * 2.0)
}

/// One rate as a share of another, both as they would be if chance had made growth look more even than it is.
fn share_of_rate(lately: &[(f64, f64)], before: &[(f64, f64)]) -> f64 {
    let ((before, error), (lately, late_error)) =
        (statistics::fitted_slope(before), statistics::fitted_slope(lately));
    let (before, lately) = (before + error * DOUBT, lately - late_error * DOUBT);
    match lately / before {
        share if before > 0.0 => share.clamp(0.0, MOST_EVEN),
        _ if lately > 0.0 => MOST_EVEN,
        _ => 0.0,
    }
}

/// How sure it is that the later half rises by itself, as a share of how sure so few can make one.
pub(super) fn rises_lately(curve: &[(f64, f64)]) -> f64 {
    let half = part(curve, 0.5, 1.0);
    let best: Vec<(f64, f64)> = (0..half.len()).map(|at| (at as f64, at as f64)).collect();
    let (found, best) = (Order::of(&half).rises(), Order::of(&best).rises());
    if best > 0.0 { found / best } else { 0.0 }
}

/// The part of a curve between two shares of its length, with its ends where they fall between points.
fn part(curve: &[(f64, f64)], from: f64, to: f64) -> Vec<(f64, f64)> {
    let (Some(first), Some(last)) = (curve.first(), curve.last()) else { return Vec::new() };
    let at = |share: f64| first.0 + (last.0 - first.0) * share;
    let (from, to) = (at(from), at(to));
    let end = |at: f64| statistics::interpolate(curve, at).map(|value| (at, value));
    let within = curve.iter().filter(|point| point.0 > from && point.0 < to).copied();
    end(from).into_iter().chain(within).chain(end(to)).collect()
}
