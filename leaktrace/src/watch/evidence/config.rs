//! `[evidence]` of the configuration.

use serde::Deserialize;

use crate::setting::Size;

/// See the module. Of what is too much, the oldest cases go first.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvidenceConfig {
    /// Most bytes that all cases together may take; the newest is kept whatever it takes.
    pub max_size: Size,
    /// Most cases that are kept; at least one is.
    pub max_count: usize,
}

impl Default for EvidenceConfig {
    fn default() -> Self {
        Self { max_size: Size(512 << 20), max_count: 100 }
    }
}
