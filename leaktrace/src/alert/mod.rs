//! Telling people: rules that look at the daemon's state, and sinks that carry what they raise.

pub mod chat;
pub mod config;
pub mod finding;
pub mod json;
pub mod model;
pub mod rule;
pub mod rules;
pub mod sinks;
pub mod text;
pub mod told;

pub use config::AlertConfig;
pub use model::{Alert, AlertKind};
pub use rules::Rules;
pub use sinks::Sinks;

#[cfg(test)]
mod tests;
