//! Programs that are made up, as tracing would read them.

use super::super::model::{Options, ProcessReading, SiteReading};

/// When they begin, seconds since the Unix epoch.
pub const EPOCH: f64 = 1_750_000_000.0;
/// What all of them grow by at first, bytes a second.
pub const PACE: f64 = 2048.0;
/// Size of a block.
const BLOCK: f64 = 128.0;

/// What the survivors of a site do. Times in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Course {
    /// One block for so many requests, for ever.
    LeakPerRequest,
    /// One now and then, whatever the load.
    LeakPerTime,
    /// A leak among garbage at the same line that goes at each collection; the garbage is so many times what leaks between two.
    LeakAmongGarbage { collection_s: f64, times: f64 },
    /// All at once, so often.
    LeakInSteps { every_s: f64 },
    /// Grows until it is full.
    CacheThatFills { full_s: f64 },
    /// Fills ever more slowly.
    CacheThatSaturates { within_s: f64 },
    /// Full from the beginning; renews its entries within so long.
    FullCache { renewed_s: f64 },
    /// Grows, then never again.
    WarmUp { over_s: f64 },
    /// Grows, and gives everything back.
    Sawtooth { period_s: f64 },
    /// What requests under way need.
    UnderWay { lifetime_s: f64 },
    /// A pool that had its members soon.
    Pool { size_s: f64 },
}

/// How busy the program is, over time, 1 on average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// Always alike.
    Even,
    /// Up and down with this period.
    Waves { period_s: f64 },
    /// Rises steadily, to three times what it was, over this time; and stays.
    Rises { over_s: f64 },
    /// Works for half of each period.
    Pauses { period_s: f64 },
}

impl Load {
    /// Work done by a time.
    fn done(self, t: f64) -> f64 {
        match self {
            Self::Even => t,
            Self::Waves { period_s } => {
                t + 0.7 * period_s / std::f64::consts::TAU
                    * (1.0 - (t / period_s * std::f64::consts::TAU).cos())
            }
            Self::Rises { over_s } => {
                0.5 * t + if t < over_s { t * t / over_s / 2.0 } else { t - over_s / 2.0 }
            }
            Self::Pauses { period_s } => {
                let (whole, part) = ((t / period_s).floor(), (t / period_s).fract());
                let busy = part.min(0.5);
                period_s * (whole * 1.01 + busy * 2.0 + (part - busy) * 0.02)
            }
        }
    }
}

/// How it is traced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tracing {
    /// Between two readings.
    pub interval_s: f64,
    /// When the first session begins in the program's life.
    pub from_s: f64,
    /// How long a session is.
    pub session_s: f64,
    /// From the end of one to the beginning of the next.
    pub gap_s: f64,
    /// How many.
    pub sessions: u64,
    /// Noise of survivors, bytes either way.
    pub noise: f64,
    /// Which noise.
    pub seed: u64,
}

impl Tracing {
    /// One session from the beginning.
    pub fn once(interval_s: f64, session_s: f64) -> Self {
        Self { interval_s, from_s: 0.0, session_s, gap_s: 0.0, sessions: 1, noise: 0.0, seed: 1 }
    }
}

/// A program.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Program {
    /// What its site does.
    pub course: Course,
    /// How busy it is.
    pub load: Load,
}

/// Numbers that look random, -1 to 1.
pub struct Noise(pub u64);

impl Noise {
    /// The next.
    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }
}

impl Program {
    /// All that the site had ever allocated by a time, bytes.
    fn made(&self, t: f64) -> f64 {
        let work = self.load.done(t) * PACE;
        match self.course {
            Course::LeakPerTime => t * PACE,
            Course::LeakAmongGarbage { times, .. } => t * PACE * (1.0 + times),
            Course::LeakInSteps { every_s } => (t / every_s).floor() * every_s * PACE,
            Course::WarmUp { over_s } => work.min(self.load.done(over_s) * PACE),
            Course::CacheThatSaturates { within_s } => saturated(work, within_s),
            Course::Pool { size_s } => work.min(size_s * PACE),
            _ => work,
        }
    }

    /// What is live of that which was made since `from`, bytes.
    fn survivors(&self, from: f64, t: f64) -> f64 {
        let since = self.made(t) - self.made(from);
        let kept = |most: f64| since.min(most);
        match self.course {
            Course::LeakPerRequest | Course::LeakPerTime | Course::LeakInSteps { .. } => since,
            Course::LeakAmongGarbage { collection_s, times } => {
                let garbage = (t % collection_s).min(t - from) * PACE * times;
                (t - from) * PACE + garbage
            }
            Course::CacheThatFills { full_s } => kept(self.load.done(full_s) * PACE),
            Course::FullCache { renewed_s } => kept(renewed_s * PACE),
            Course::WarmUp { .. } | Course::CacheThatSaturates { .. } | Course::Pool { .. } => since,
            Course::Sawtooth { period_s } => self.made(t) - self.made((t - t % period_s).max(from)),
            Course::UnderWay { lifetime_s } => self.made(t) - self.made((t - lifetime_s).max(from)),
        }
    }

    /// What a cache has given up between two times of what it held at the first of them: its oldest.
    fn freed_from_before(&self, from: f64, t: f64) -> f64 {
        let (held, most) = match self.course {
            Course::FullCache { renewed_s } => (renewed_s * PACE, renewed_s * PACE),
            Course::CacheThatFills { full_s } => {
                let most = self.load.done(full_s) * PACE;
                (self.made(from).min(most), most)
            }
            _ => return 0.0,
        };
        (held + self.made(t) - self.made(from) - most).clamp(0.0, held)
    }

    /// Memory of the process: 50 MB, and what the site has ever kept.
    fn memory(&self, t: f64) -> f64 {
        let kept = match self.course {
            Course::FullCache { renewed_s } => renewed_s * PACE,
            _ => self.survivors(0.0, t),
        };
        50e6 + kept
    }

    /// As traced.
    pub fn readings(&self, tracing: Tracing) -> (Vec<SiteReading>, Vec<ProcessReading>) {
        let (mut site, mut process, mut noise) = (Vec::new(), Vec::new(), Noise(tracing.seed));
        for session in 0..tracing.sessions {
            let from = tracing.from_s + (tracing.session_s + tracing.gap_s) * session as f64;
            for number in 1..=(tracing.session_s / tracing.interval_s) as u64 {
                let t = from + tracing.interval_s * number as f64;
                let bytes = (self.survivors(from, t) + (1.0 + noise.next()) * tracing.noise).max(0.0);
                let made = self.made(t) - self.made(from) + tracing.noise;
                site.push(SiteReading {
                    at_unix_s: EPOCH + t,
                    session,
                    bytes: bytes as u64,
                    blocks: (bytes / BLOCK) as u64,
                    allocated_bytes: made as u64,
                    allocated_blocks: (made / BLOCK) as u64,
                });
                process.push(self.process_reading(session, from, t));
            }
        }
        (site, process)
    }

    fn process_reading(&self, session: u64, from: f64, t: f64) -> ProcessReading {
        ProcessReading {
            at_unix_s: EPOCH + t,
            session: Some(session),
            memory_bytes: self.memory(t) as u64,
            cpu_s: self.load.done(t) * 0.1,
            allocated_bytes: ((self.load.done(t) - self.load.done(from)) * 1e6) as u64,
            allocated_blocks: ((self.load.done(t) - self.load.done(from)) * 1e4) as u64,
            tracked_bytes: self.survivors(from, t) as u64,
            freed_from_before: Some(10 + (self.freed_from_before(from, t) / BLOCK) as u64),
        }
    }
}

fn saturated(work: f64, within_s: f64) -> f64 {
    let most = within_s * PACE;
    most * (1.0 - (-work / most).exp())
}

/// Options for readings at this interval, as they are by default at 30 seconds.
pub fn options(interval_s: f64) -> Options {
    Options { least_watched_s: interval_s * 20.0, least_memory_bytes: 1 << 16, ..Options::default() }
}
