//! Reports: the model, and one file per output format. Every format is a sink over a writer; which one a file gets
//! follows from its name.

pub mod aside;
pub mod difference;
pub mod fingerprint;
pub mod flamegraph;
pub mod folded;
pub mod group;
pub(crate) mod heading;
pub mod human;
pub mod json;
pub mod line;
pub mod merge;
pub mod model;
pub mod output;
pub mod path;
pub mod plumbing;
pub mod pprof;
pub mod proto;
mod python;
mod table;
pub mod text;
pub mod truth;
pub(crate) mod wording;

pub use output::{OutputError, OutputFormat, check_writable, write_file};
