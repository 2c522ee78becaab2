//! Debian's kernels for the matrix: fetched as packages, unpacked, never installed.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::package;

/// A kernel series of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Series {
    /// Debian 12's own: the oldest that leaktrace supports.
    #[value(name = "6.1")]
    V6_1,
    /// The next long-term series.
    #[value(name = "6.12")]
    V6_12,
}

impl Series {
    /// Every series of the matrix, oldest first.
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// How the series is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// What its package names begin with, up to the counter that rises with every update.
    fn package_prefix(self) -> &'static str {
        match self {
            Self::V6_1 => "linux-image-6.1.",
            Self::V6_12 => "linux-image-6.12.",
        }
    }
}

/// The kernel image of a series, fetched if need be.
pub fn image(series: Series) -> Result<PathBuf> {
    let package = package::newest(series.package_prefix(), "-cloud-amd64")?;
    let boot = package::unpack(&package)?.join("boot");
    let entries = fs::read_dir(&boot).with_context(|| format!("cannot read {}", boot.display()))?;
    let mut files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    files
        .find(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")))
        .with_context(|| format!("the package {package} has no kernel image"))
}
