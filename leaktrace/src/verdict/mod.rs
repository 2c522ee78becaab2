//! What readings say: whether memory grows, how sure that is, and what each allocation site's survivors do. Pure: readings and
//! options in, judgement out; names of functions play no part.

pub mod model;

pub use model::{MemoryTrend, Options, Shape, SiteReading, Trend, Unexplained, Verdict};
