//! What is live, since when, and how it develops. No I/O: what the kernel side counted and a clock value go in,
//! amounts come out.

mod epochs;
mod growth;
mod intervals;
mod sites;

pub use epochs::{Epochs, Fold};
pub use growth::GrowthTracker;
pub use intervals::{IntervalMap, MappingLabel, MappingSums, Piece};
pub use sites::{Ages, Ledger, SiteState};
