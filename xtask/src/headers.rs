//! A kernel header tree for bcc's memleak, which compiles its BPF programs at run time. Debian's is unpacked below
//! `target/` and lent to the running kernel by two links, which are removed at the end.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{command, package, workspace};

/// What was put where the running kernel's headers are looked for; dropping it takes that away again.
pub struct Borrowed {
    /// Removed in this order: links first, then the directories that were made for them.
    made: Vec<PathBuf>,
}

/// Makes sure that there are headers for the running kernel, by lending it Debian 12's where there are none.
pub fn borrow() -> Result<Borrowed> {
    let release = command::output(std::process::Command::new("uname").arg("-r"))?;
    let modules = Path::new("/lib/modules").join(release.trim());
    let mut borrowed = Borrowed { made: Vec::new() };
    // What an interrupted run left behind is ours to use and to remove.
    let left_behind =
        fs::read_link(modules.join("build")).is_ok_and(|to| to.starts_with(workspace::target()));
    if modules.join("build").exists() && !left_behind {
        return Ok(borrowed);
    }
    let build = tree("-amd64")?;
    let source = tree("-common")?;
    for directory in [Path::new("/lib/modules"), &modules] {
        borrowed.directory(directory)?;
    }
    borrowed.link(&build, &modules.join("build"))?;
    borrowed.link(&source, &modules.join("source"))?;
    Ok(borrowed)
}

/// The unpacked tree of one of the two packages that headers come in.
fn tree(suffix: &str) -> Result<PathBuf> {
    let package = package::newest("linux-headers-6.1.0-", suffix)?;
    Ok(package::unpack(&package)?.join("usr/src").join(&package))
}

impl Borrowed {
    fn directory(&mut self, path: &Path) -> Result<()> {
        if !path.exists() {
            fs::create_dir(path).with_context(|| format!("cannot create {}", path.display()))?;
            self.made.insert(0, path.to_path_buf());
        }
        Ok(())
    }

    fn link(&mut self, to: &Path, at: &Path) -> Result<()> {
        if fs::read_link(at).is_ok_and(|old| old.starts_with(workspace::target())) {
            fs::remove_file(at).with_context(|| format!("cannot replace the link {}", at.display()))?;
        }
        if fs::symlink_metadata(at).is_err() {
            symlink(to, at).with_context(|| format!("cannot create the link {}", at.display()))?;
            self.made.insert(0, at.to_path_buf());
        }
        Ok(())
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        for path in &self.made {
            let removed = if path.is_symlink() { fs::remove_file(path) } else { fs::remove_dir(path) };
            if let Err(error) = removed {
                eprintln!("xtask: cannot remove {}: {error}", path.display());
            }
        }
    }
}
