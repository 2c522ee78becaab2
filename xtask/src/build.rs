//! Building the leaktrace binary.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::setup::Purpose;
use crate::{command, setup, toolchain, workspace};

/// Builds leaktrace and says where it is.
pub fn run(release: bool) -> Result<()> {
    setup::run(Purpose::Build)?;
    let binary = leaktrace(release)?;
    println!("built {}", workspace::shown(&binary));
    Ok(())
}

/// Builds leaktrace, eBPF object included, and returns the binary.
pub fn leaktrace(release: bool) -> Result<PathBuf> {
    let mut build = toolchain::cargo("build")?;
    build.args(["--package", "leaktrace"]);
    if release {
        build.arg("--release");
    }
    command::run(&mut build)?;
    let binary = workspace::target().join(if release { "release" } else { "debug" }).join("leaktrace");
    if !binary.exists() {
        bail!("cargo succeeded but there is no {}", binary.display());
    }
    Ok(binary)
}
