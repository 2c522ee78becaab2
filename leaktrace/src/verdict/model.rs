//! Judgements, and what they are made from.

use serde::{Deserialize, Serialize};

use crate::report::model::Detail;

/// What a site's survivors do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Not watched long enough to tell.
    #[default]
    TooEarly,
    /// They grow with time or with work done, and nothing is ever given back: a leak.
    GrowsSteadily,
    /// They follow how busy the process is, up and down.
    GrowsWithLoad,
    /// They grew, and then no more: a cache that filled, a warm-up.
    LevelledOff,
    /// They neither grow nor fall.
    Steady,
    /// They come and go.
    Bursts,
}

/// The judgement of one site.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdict {
    /// What the survivors do.
    pub shape: Shape,
    /// How sure that is, 0 to 1.
    pub confidence: f64,
    /// Slope of the survivors' bytes, bytes per hour.
    pub bytes_per_hour: f64,
    /// Since when they have grown, seconds since the Unix epoch; `None`: they do not grow.
    pub since_unix_s: Option<f64>,
    /// Their part of what the process grew by in the same time, 0 to 1; `None`: the process did not grow.
    pub share_of_growth: Option<f64>,
    /// How long they were watched in all, seconds; of a site that grows, how long they were watched growing.
    pub watched_s: f64,
    /// Of the blocks that were allocated here, the share that survived: the median over all readings, 0 to 1. `None`: nothing
    /// was allocated while traced.
    pub survival: Option<f64>,
    /// Why, in one sentence with the figures.
    pub because: String,
}

impl Verdict {
    /// Whether this says "leak".
    pub fn is_leak(&self) -> bool {
        self.shape == Shape::GrowsSteadily
    }
}

/// One reading of a site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SiteReading {
    /// When, seconds since the Unix epoch. Clocks jump: see [`crate::watched`] for who guards against that.
    pub at_unix_s: f64,
    /// The session it was read in. Survivors begin at nothing in each.
    pub session: u64,
    /// Survivors, bytes.
    pub bytes: u64,
    /// Survivors, blocks.
    pub blocks: u64,
    /// Ever allocated in that session, bytes.
    pub allocated_bytes: u64,
    /// Ever allocated in that session, blocks.
    pub allocated_blocks: u64,
}

/// One reading of the whole subject: what its sites' survivors are held against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessReading {
    /// When, seconds since the Unix epoch.
    pub at_unix_s: f64,
    /// The session it was read in; `None`: memory only, nothing was traced then.
    pub session: Option<u64>,
    /// Memory of its own, wherever it lies now ([`crate::watched::MemoryReading::private_bytes`]).
    pub memory_bytes: u64,
    /// CPU seconds used so far: work done. 0 if not known.
    pub cpu_s: f64,
    /// Ever allocated in that session, bytes.
    pub allocated_bytes: u64,
    /// Ever allocated in that session, blocks: work done, counted better than by CPU time.
    pub allocated_blocks: u64,
    /// Live, and allocated in that session, bytes.
    pub tracked_bytes: u64,
    /// Frees, in that session, of blocks that were there before it. `None`: not counted.
    pub freed_from_before: Option<u64>,
}

/// What else is known when memory grew and tracked bytes did not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Facts {
    /// How closely allocations were looked at.
    pub detail: Detail,
    /// Events that were lost.
    pub lost_events: u64,
    /// Blocks that Python's interpreter counts beyond those that it had when tracing began.
    pub python_blocks_gained: Option<i64>,
    /// Live small blocks of Python's that are tracked.
    pub python_blocks_tracked: Option<u64>,
    /// Whether the interpreter allocates where no probe sees it.
    pub python_unseen: bool,
    /// Memory that was there before tracing began, bytes.
    pub before_attach_bytes: Option<u64>,
}

/// How an amount develops over one stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trend {
    /// How long the stretch is that was looked at, seconds.
    pub over_s: f64,
    /// Bytes per hour.
    pub bytes_per_hour: f64,
    /// How sure it is that this is growth and no chance, 0 to 1.
    pub confidence: f64,
    /// Bytes at its end minus those at its beginning, as fitted.
    pub change_bytes: i64,
}

/// How a subject's memory develops: over minutes, hours, days; those that there are readings for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryTrend {
    /// The shortest stretch first.
    pub trends: Vec<Trend>,
    /// Whether it grows: sure enough, and by enough, over some stretch.
    pub grows: bool,
    /// The stretch that says so most surely, else the longest.
    pub leading: Option<Trend>,
    /// Seconds until the limit is reached, if it goes on so; `None`: no limit, or no growth.
    pub to_limit_s: Option<f64>,
}

/// "RSS grew, tracked live bytes did not", with the figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Unexplained {
    /// By how much memory grew while traced, bytes.
    pub grown_bytes: i64,
    /// By how much tracked live bytes did.
    pub tracked_bytes: i64,
    /// The likely reasons with their figures, one sentence each.
    pub reasons: Vec<String>,
}

/// What judging depends on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// No site is called a leak that was watched for less, seconds.
    pub least_watched_s: f64,
    /// Nor with fewer readings.
    pub least_readings: usize,
    /// Nor with less confidence, 0 to 1.
    pub least_confidence: f64,
    /// Less growth than that is nobody's concern, bytes per hour.
    pub least_bytes_per_hour: f64,
    /// A process's memory comes and goes in steps (arenas, tops of heaps): changes by less say nothing, bytes.
    pub least_memory_bytes: u64,
    /// The stretches that memory is judged over, seconds: minutes, hours, days.
    pub stretches_s: [f64; 3],
}

impl Default for Options {
    fn default() -> Self {
        Self {
            least_watched_s: 600.0,
            least_readings: 20,
            least_confidence: 0.9,
            least_bytes_per_hour: 65_536.0,
            least_memory_bytes: 2 << 20,
            stretches_s: [900.0, 6.0 * 3600.0, 3.0 * 86_400.0],
        }
    }
}
