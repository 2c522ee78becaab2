//! The daemon that is always on. It looks at everybody's memory (stage 0), traces what grows (stage 1), judges what it sees, and
//! hands all of it to history, alerts, metrics and evidence.

pub mod config;
pub mod evidence;
pub mod oom;
pub mod scope;
pub mod survey;

pub use config::Config;
pub use scope::ScopeConfig;
pub use survey::Survey;
