//! `[history]` of the configuration.

use serde::Deserialize;

use crate::setting::{Size, Time};

/// See the module.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// How long data is kept; older data is thinned before that.
    pub keep: Time,
    /// Most bytes that the database may take on disk, its write-ahead log included; the oldest data makes room. At least
    /// [`StoreConfig::LEAST_SIZE`].
    pub max_size: Size,
}

impl StoreConfig {
    /// The least [`StoreConfig::max_size`]: what a few reports take.
    pub const LEAST_SIZE: Size = Size(4 << 20);
    /// The least [`StoreConfig::keep`].
    pub const LEAST_KEEP: Time = Time::seconds(3600);

    /// What is wrong with the values, in one sentence; `None`: nothing.
    pub fn fault(&self) -> Option<String> {
        if self.max_size < Self::LEAST_SIZE {
            return Some(format!(
                "max_size = \"{}\" is too small: the least is {}",
                self.max_size,
                Self::LEAST_SIZE
            ));
        }
        let short = self.keep < Self::LEAST_KEEP;
        short.then(|| format!("keep = \"{}\" is too short: the least is {}", self.keep, Self::LEAST_KEEP))
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { keep: Time::seconds(30 * 24 * 3600), max_size: Size(512 << 20) }
    }
}
