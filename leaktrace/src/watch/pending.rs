//! Not yet there.
use crate::{alert::Alert, report::fingerprint::SiteKey, verdict::SiteReading, watched::MemoryReading};
use std::path::Path;
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
