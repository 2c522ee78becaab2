//! Not yet there.
use crate::{
    alert::Alert,
    report::fingerprint::SiteKey,
    serve::ServeConfig,
    verdict::SiteReading,
    watched::{MemoryReading, Published},
};
use std::path::{Path, PathBuf};
pub struct Server;
impl Server {
    pub fn start(_: &ServeConfig, _: Published, _: PathBuf) -> Result<Self, String> {
        Ok(Self)
    }
    pub fn stop(self) {}
}
pub struct History;
impl History {
    pub fn open(_: &Path) -> Result<Self, String> {
        Err("pending".into())
    }
    pub fn memory(&self, _: &str, _: f64, _: f64) -> Result<Vec<MemoryReading>, String> {
        Err("pending".into())
    }
    pub fn site_readings(
        &self,
        _: &str,
        _: f64,
    ) -> Result<Vec<(SiteKey, Vec<SiteReading>, Vec<String>)>, String> {
        Err("pending".into())
    }
    pub fn alerts(&self, _: f64, _: f64) -> Result<Vec<Alert>, String> {
        Err("pending".into())
    }
}
