//! The virtual environment of the services that tests, demo and benchmark trace: real packages, at fixed versions, under
//! the distribution's interpreter.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, interpreter, workspace};

/// Its name in the directory of interpreters.
const NAME: &str = "services";

/// Packages that are installed together: a list in the repository.
pub struct Requirements {
    /// The list.
    file: &'static str,
    /// What needs them, in words.
    why: &'static str,
}

/// What the services themselves need.
pub const SERVICES: Requirements = Requirements {
    file: "leaktrace/tests/targets/python/requirements.txt",
    why: "Python services that are traced",
};

/// What the benchmark needs beside them.
pub const BENCH: Requirements =
    Requirements { file: "xtask/bench/requirements.txt", why: "memray, which leaktrace is measured against" };

/// The environment's interpreter.
pub fn python() -> Result<PathBuf> {
    Ok(interpreter::directory()?.join(NAME).join("bin/python3"))
}

/// Makes the environment where it is missing, and installs the packages unless exactly these are in it already.
pub fn ensure(requirements: &Requirements) -> Result<()> {
    let list = workspace::root().join(requirements.file);
    let text = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let home = interpreter::directory()?.join(NAME);
    let stamp = home.join(stamp_name(requirements.file));
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == text) && works(&python()?) {
        println!("  already there  {NAME:<20} {}", requirements.why);
        return Ok(());
    }
    println!("  installing     {NAME:<20} {}", requirements.why);
    if !works(&python()?) {
        command::run(interpreter::of_the_machine()?.args(["-m", "venv", "--clear"]).arg(&home))
            .context("cannot make a virtual environment (Debian has that in the package python3-venv)")?;
    }
    let mut install = Command::new(python()?);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    command::run(install.arg("--requirement").arg(&list))?;
    // Last step: what carries the list has what is in it.
    fs::write(&stamp, text).with_context(|| format!("cannot write {}", stamp.display()))
}

/// Whether there is an interpreter with pip: a distribution's update may have taken the one that an environment was made
/// with.
fn works(python: &Path) -> bool {
    python.exists() && command::succeeds(Command::new(python).args(["-m", "pip", "--version"]))
}

/// What a list of packages is called in the environment that has them.
fn stamp_name(list: &str) -> String {
    format!("installed-{}", list.replace('/', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_stamps_of_their_own() {
        assert_ne!(stamp_name(SERVICES.file), stamp_name(BENCH.file));
    }

    #[test]
    fn every_package_has_one_version() -> Result<()> {
        for list in [SERVICES.file, BENCH.file] {
            let text = fs::read_to_string(workspace::root().join(list))?;
            let packages = text.lines().filter(|line| !line.starts_with('#'));
            assert!(packages.clone().count() > 0, "{list}");
            assert_eq!(packages.filter(|line| !line.contains("==")).count(), 0, "{list}");
        }
        Ok(())
    }
}
