//! The file system that a kernel of the matrix boots into: busybox, programs with the libraries they need, and an
//! init script.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::archive::Archive;
use crate::command;

type Output = Archive<GzEncoder<BufWriter<File>>>;

/// Commands that the init script calls by name.
const APPLETS: &[&str] = &["mount", "cat", "ls", "poweroff", "uname", "timeout", "mkdir", "kill", "true"];

/// Commands that the tests call by name, some of them as targets: busybox would be one static program without symbols.
const REAL_PROGRAMS: &[&str] = &["sh", "env", "sleep", "find"];

/// A file system being put together.
pub struct Initramfs {
    archive: Output,
    /// What is in it already: libraries are shared by many programs, and directories by many files.
    present: BTreeSet<PathBuf>,
}

impl Initramfs {
    /// Starts a file system in a file, with busybox and the usual directories.
    pub fn create(file: &Path) -> Result<Self> {
        let output = File::create(file).with_context(|| format!("cannot create {}", file.display()))?;
        let compressed = GzEncoder::new(BufWriter::new(output), Compression::fast());
        let mut created = Self { archive: Archive::new(compressed), present: BTreeSet::new() };
        for directory in ["/proc", "/sys", "/dev", "/tmp", "/root", "/etc"] {
            created.directory(Path::new(directory))?;
        }
        created.busybox()?;
        Ok(created)
    }

    fn busybox(&mut self) -> Result<()> {
        let busybox = command::find("busybox").context("no busybox: run `cargo xtask setup --for matrix`")?;
        self.file(&busybox, Path::new("/bin/busybox"))?;
        for applet in APPLETS {
            self.script(
                &format!("/bin/{applet}"),
                &format!("#!/bin/busybox sh\nexec /bin/busybox {applet} \"$@\"\n"),
            )?;
        }
        Ok(())
    }

    /// Adds the commands that the tests call, as they are here.
    pub fn real_programs(&mut self) -> Result<()> {
        for name in REAL_PROGRAMS {
            let program = command::find(name).with_context(|| format!("no command `{name}` here"))?;
            self.program(&program, &Path::new("/bin").join(name))?;
        }
        Ok(())
    }

    /// Adds a text file that can be run.
    pub fn script(&mut self, path: &str, text: &str) -> Result<()> {
        self.add(Path::new(path), text.as_bytes())
    }

    /// Adds a program with the libraries that it loads.
    pub fn program(&mut self, from: &Path, to: &Path) -> Result<()> {
        self.file(from, to)?;
        for library in libraries(from) {
            self.file(&library, &library)?;
        }
        Ok(())
    }

    /// Adds a program without its debug information, with its libraries.
    pub fn stripped_program(&mut self, from: &Path, to: &Path) -> Result<()> {
        let stripped = from.with_extension("stripped");
        command::run(Command::new("strip").arg("--strip-debug").arg("-o").arg(&stripped).arg(from))?;
        self.program(&stripped, to)?;
        fs::remove_file(&stripped).with_context(|| format!("cannot remove {}", stripped.display()))
    }

    /// Adds a file.
    pub fn file(&mut self, from: &Path, to: &Path) -> Result<()> {
        if self.present.contains(to) {
            return Ok(());
        }
        let contents = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.add(to, &contents)
    }

    fn add(&mut self, path: &Path, contents: &[u8]) -> Result<()> {
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        if self.present.insert(path.to_path_buf()) {
            self.archive.program(&path.to_string_lossy(), contents).context("cannot write the initramfs")?;
        }
        Ok(())
    }

    fn directory(&mut self, path: &Path) -> Result<()> {
        if path == Path::new("/") || self.present.contains(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        self.present.insert(path.to_path_buf());
        self.archive.directory(&path.to_string_lossy()).context("cannot write the initramfs")
    }

    /// Completes the file.
    pub fn finish(self) -> Result<()> {
        let compressed = self.archive.finish().context("cannot write the initramfs")?;
        compressed.finish().context("cannot compress the initramfs")?;
        Ok(())
    }
}

/// The libraries that a program loads, its dynamic linker included; none for a static one or a library of another
/// C library's.
pub fn libraries(program: &Path) -> Vec<PathBuf> {
    let listed = command::output(Command::new("ldd").arg(program)).unwrap_or_default();
    listed.lines().filter_map(library).filter(|path| path.exists()).collect()
}

/// The path in a line of ldd such as `libc.so.6 => /lib/libc.so.6 (0x...)` or `/lib64/ld.so (0x...)`.
fn library(line: &str) -> Option<PathBuf> {
    let path = line.split_once("=> ").map_or(line, |(_, path)| path).trim().split(" (").next()?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let found = |line| library(line).map(|path| path.display().to_string());
        assert_eq!(found("\tlibc.so.6 => /lib/libc.so.6 (0x7f)").as_deref(), Some("/lib/libc.so.6"));
        assert_eq!(
            found("\t/lib64/ld-linux-x86-64.so.2 (0x7f)").as_deref(),
            Some("/lib64/ld-linux-x86-64.so.2")
        );
        assert_eq!(found("\tlinux-vdso.so.1 (0x7f)"), None);
        assert_eq!(found("\tstatically linked"), None);
    }
}
