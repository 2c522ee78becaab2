//! The history, in SQLite.

pub mod config;
pub mod entry;

pub use config::StoreConfig;
pub use entry::Entry;

/// Where the daemon's history is, unless configured otherwise.
pub const DEFAULT_FILE: &str = "/var/lib/leaktrace/history.db";
