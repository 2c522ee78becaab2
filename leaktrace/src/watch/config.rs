//! The configuration file.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{alert::AlertConfig, serve::ServeConfig, store::StoreConfig};

/// Everything that can be configured; `docs/leaktrace.toml` explains each key.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the daemon keeps its state.
    pub state_directory: Option<PathBuf>,
    /// `[history]`.
    pub history: StoreConfig,
    /// `[alerts]`.
    pub alerts: AlertConfig,
    /// `[serve]`.
    pub serve: ServeConfig,
}
