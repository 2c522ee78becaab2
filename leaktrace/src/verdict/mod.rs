//! What readings say: whether memory grows, how sure that is, and what each allocation site's survivors do. Pure: readings and
//! options in, judgement out; names of functions play no part.
//!
//! [`memory_trend`] watches the memory of a subject (stage 0). [`readings`] takes a report apart, [`judge`] judges a site from
//! what it was in all of them, [`worst_first`] orders the judgements, [`unexplained`] says when memory grew and tracked
//! bytes did not.
//!
//! Everything is judged by its [`lows`]: what an amount never falls below. A leak raises them, evenly by time or by work done,
//! and to the end.

mod because;
mod load;
mod lows;
pub mod model;
mod pauses;
mod rank;
pub mod readings;
mod renewal;
mod segment;
mod site;
mod statistics;
#[cfg(test)]
mod tests;
mod trend;
mod unexplained;

pub use model::{
    Facts, MemoryTrend, Options, ProcessReading, Shape, SiteReading, Trend, Unexplained, Verdict,
};
pub use rank::worst_first;
pub use site::judge;
pub use trend::memory_trend;
pub use unexplained::unexplained;
