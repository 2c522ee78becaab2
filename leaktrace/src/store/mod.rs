//! The history: what the daemon has seen, kept in one SQLite file for weeks, whatever happens to daemon and host. [`Writer`] is
//! the daemon's handle, [`Store`] the file as its one writer sees it, [`History`] what anybody may read of it meanwhile, or of
//! a copy. `docs/history.md` describes the tables.
//!
//! Times are seconds since the Unix epoch, as the clock said; sizes are bytes. Clocks jump: whatever must be in order is ordered
//! by the number of its row, and what ages does so at a bounded pace (see [`Store::tidy`]).

mod aside;
pub mod config;
pub mod entry;
pub mod error;
mod file;
pub mod history;
mod intern;
mod lock;
mod queue;
mod retention;
pub mod schema;
mod write;
mod write_report;
mod writer;

pub use config::StoreConfig;
pub use entry::Entry;
pub use error::StoreError;
pub use file::{Store, Written};
pub use history::History;
pub use writer::{Health, Writer};

/// Where the daemon's history is, unless configured otherwise.
pub const DEFAULT_FILE: &str = "/var/lib/leaktrace/history.db";
