//! The daemon that is always on. It looks at everybody's memory (stage 0), traces what grows (stage 1), judges what it sees, and
//! hands all of it to history, alerts, metrics and evidence.

pub mod config;
pub mod oom;

pub use config::Config;
