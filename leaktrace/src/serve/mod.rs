//! HTTP on loopback or a Unix socket: metrics, health, reports.

pub mod config;

pub use config::ServeConfig;
