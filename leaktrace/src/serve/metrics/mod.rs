//! `/metrics`: what Prometheus scrapes. Names and units follow its conventions (base units, so growth is per second); what could be
//! unbounded is cut, and how much was cut is a metric too.

mod chosen;
mod exposition;
mod families;
mod labels;

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text::encode},
    registry::Registry,
};

pub(super) use exposition::Exposition;

use crate::watched::State;

/// How much is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Subjects.
    pub subjects: usize,
    /// Suspects of each.
    pub suspects: usize,
}

/// All metrics of a state.
///
/// # Errors
/// None that is known: memory takes all text.
pub(super) fn text(state: Arc<State>, limits: Limits, exposition: Exposition) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Metrics { state, limits }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(exposition.of(text))
}

#[derive(Debug)]
struct Metrics {
    state: Arc<State>,
    limits: Limits,
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        families::encode(&self.state, self.limits, encoder)
    }
}

#[cfg(test)]
mod tests;
