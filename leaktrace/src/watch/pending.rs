//! Not yet there.
use super::oom::OomKill;
use crate::{
    alert::Alert,
    report::fingerprint::SiteKey,
    serve::ServeConfig,
    verdict::SiteReading,
    watched::{MemoryReading, Published, SubjectState},
};
use serde::Deserialize;
use std::path::{Path, PathBuf};
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvidenceConfig {}
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub at_unix_s: f64,
    pub memory: Vec<MemoryReading>,
    pub kill: Option<OomKill>,
}
pub struct Keeper;
impl Keeper {
    pub fn new(_: PathBuf, _: &EvidenceConfig) -> Self {
        Self
    }
    pub fn write(&self, _: &str, _: &SubjectState, _: &Facts) -> Result<PathBuf, String> {
        Err("pending".into())
    }
}
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
