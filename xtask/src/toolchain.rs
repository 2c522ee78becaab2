//! Which compiler builds what: the host crates with the toolchain that runs xtask, the eBPF crate with one that
//! carries the standard library's source.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, workspace};

/// The toolchain that `setup` provides; `leaktrace/build.rs` looks for the same name first.
pub const EBPF_TOOLCHAIN: &str = "leaktrace-ebpf";

/// Overrides the choice of toolchain for the eBPF crate; `leaktrace/build.rs` reads it too.
const OVERRIDE: &str = "LEAKTRACE_EBPF_TOOLCHAIN";

/// The first rustc on which aya 0.16 compiles as it is: it uses one library feature that was unstable before.
const FIRST_SUFFICIENT_MINOR: u32 = 98;

/// What an older rustc must be told to compile aya 0.16.
const FEATURE_FLAG: &str = "-Zcrate-attr=feature(result_option_map_or_default)";

/// `cargo SUBCOMMAND` for the host crates, with whatever this rustc needs.
pub fn cargo(subcommand: &str) -> Result<Command> {
    let mut command = bare_cargo(subcommand);
    if host_minor()? < FIRST_SUFFICIENT_MINOR {
        command.arg("--ignore-rust-version");
        command.env("RUSTC_BOOTSTRAP", "1");
        command.env("RUSTFLAGS", with_feature_flag(&env::var("RUSTFLAGS").unwrap_or_default()));
    }
    Ok(command)
}

/// `cargo SUBCOMMAND` in the repository's root and nothing else: for formatting and for installing tools.
pub fn bare_cargo(subcommand: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand).current_dir(workspace::root());
    command
}

fn with_feature_flag(flags: &str) -> String {
    if flags.contains(FEATURE_FLAG) {
        return flags.to_owned();
    }
    format!("{flags} {FEATURE_FLAG}").trim().to_owned()
}

fn host_minor() -> Result<u32> {
    let text = command::output(Command::new("rustc").arg("--version").current_dir(workspace::root()))?;
    minor(&text).with_context(|| format!("`rustc --version` printed {text:?}, which is no version"))
}

/// The 95 of `rustc 1.95.0 (...)`.
fn minor(version: &str) -> Option<u32> {
    version.split_whitespace().nth(1)?.split('.').nth(1)?.parse().ok()
}

/// A toolchain that can build the eBPF crate.
pub struct EbpfToolchain {
    /// Its name as rustup knows it.
    pub name: String,
    /// The version of its LLVM: bpf-linker's must not be older.
    pub llvm: u32,
}

/// The toolchain that `leaktrace/build.rs` will use, if that one can build the eBPF crate.
pub fn ebpf() -> Option<EbpfToolchain> {
    with_library_source(&ebpf_name())
}

/// The name of the toolchain that `leaktrace/build.rs` will use, whatever is behind it.
fn ebpf_name() -> String {
    let linked = || {
        is_listed(&command::output(Command::new("rustup").args(["toolchain", "list"])).unwrap_or_default())
    };
    overridden().unwrap_or_else(|| if linked() { EBPF_TOOLCHAIN } else { "nightly" }.to_owned())
}

/// The toolchain that the user insists on.
pub fn overridden() -> Option<String> {
    env::var(OVERRIDE).ok()
}

/// Whether `rustup toolchain list` names the toolchain that `setup` provides.
fn is_listed(list: &str) -> bool {
    list.lines().any(|line| line.split_whitespace().next() == Some(EBPF_TOOLCHAIN))
}

/// A named toolchain, if it is installed and carries the standard library's source.
pub fn with_library_source(name: &str) -> Option<EbpfToolchain> {
    let sysroot = command::output(rustc(name).args(["--print", "sysroot"])).ok()?;
    has_library_source(Path::new(sysroot.trim())).then_some(())?;
    let version = command::output(rustc(name).arg("-vV")).ok()?;
    Some(EbpfToolchain { name: name.to_owned(), llvm: llvm(&version)? })
}

/// The directory of an installed toolchain.
pub fn sysroot(name: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(command::output(rustc(name).args(["--print", "sysroot"]))?.trim()))
}

fn rustc(toolchain: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", toolchain, "rustc"]);
    command
}

fn has_library_source(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
}

/// The 22 of `LLVM version: 22.1.8`.
fn llvm(verbose_version: &str) -> Option<u32> {
    let line = verbose_version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_rustc_prints() {
        assert_eq!(minor("rustc 1.95.0 (abc 2026-01-01)"), Some(95));
        assert_eq!(minor("rustc 1.101.0-nightly (abc 2026-01-01)"), Some(101));
        assert_eq!(minor("nonsense"), None);
        assert_eq!(llvm("release: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
    }

    #[test]
    fn the_linked_toolchain_is_found_in_rustups_list() {
        assert!(is_listed("stable-x86_64-unknown-linux-gnu (active)\nleaktrace-ebpf\n"));
        assert!(!is_listed("leaktrace-ebpf-old\n"));
    }

    #[test]
    fn users_flags_are_kept_and_the_feature_is_added_once() {
        let once = with_feature_flag("-Cforce-frame-pointers=yes");
        assert_eq!(once, format!("-Cforce-frame-pointers=yes {FEATURE_FLAG}"));
        assert_eq!(with_feature_flag(&once), once);
        assert_eq!(with_feature_flag(""), FEATURE_FLAG);
    }
}
