//! Telling people: rules that look at the daemon's state, and sinks that carry what they raise.

pub mod config;
pub mod model;

pub use config::AlertConfig;
pub use model::{Alert, AlertKind};
