//! The daemon that is always on. It looks at everybody's memory (stage 0), traces what grows (stage 1), judges what it sees, and
//! hands all of it to history, alerts, metrics and evidence.

mod clock;
pub mod config;
mod curve;
pub mod evidence;
mod kills;
mod memory_of_old;
pub mod oom;
mod own;
pub mod schedule;
pub mod scope;
mod signals;
mod sites;
mod subject;
pub mod survey;
mod systemd;
mod trace;
mod watcher;

pub use config::Config;
pub use scope::ScopeConfig;
pub use survey::Survey;
pub use watcher::Watcher;
