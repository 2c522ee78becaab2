//! `[serve]` of the configuration.

use serde::Deserialize;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServeConfig {}
