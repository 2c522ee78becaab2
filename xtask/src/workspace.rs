//! Where things are in the repository, and where what is built or downloaded is kept.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The repository's root.
pub fn root() -> PathBuf {
    // Set at compile time: xtask is always run from the checkout that it was built in.
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Cargo's output directory.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |set| root().join(set))
}

/// A directory of our own under cargo's output directory, made when it is not there.
pub fn cache(name: &str) -> Result<PathBuf> {
    directory(target().join(name))
}

/// Makes a directory with its parents.
pub fn directory(path: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&path).with_context(|| format!("cannot create the directory {}", path.display()))?;
    Ok(path)
}

/// A path as it is shown: relative to the repository where possible.
pub fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
