//! Everything that is checked without running leaktrace.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::setup::Purpose;
use crate::{command, link, setup, toolchain, workspace};

/// What `leaktrace/build.rs` tells the compiler of the eBPF crate, as far as it matters for checking.
const EBPF_FLAGS: [&str; 3] = [
    "-Ctarget-cpu=v3",
    "--cfg=bpf_target_arch=\"x86_64\"",
    "--check-cfg=cfg(bpf_target_arch,values(\"x86_64\",\"aarch64\"))",
];

/// Formatting, clippy on every host target, the eBPF crate, links in the documentation.
pub fn run() -> Result<()> {
    setup::run(Purpose::Build)?;
    formatting()?;
    host_crates()?;
    ebpf_crate()?;
    link::check()
}

fn formatting() -> Result<()> {
    command::run(toolchain::bare_cargo("fmt").args(["--all", "--check"]))?;
    let manifest = "leaktrace-ebpf/Cargo.toml";
    command::run(toolchain::bare_cargo("fmt").args(["--check", "--manifest-path", manifest]))
}

fn host_crates() -> Result<()> {
    let mut clippy = toolchain::cargo("clippy")?;
    command::run(clippy.args(["--workspace", "--all-targets", "--", "--deny", "warnings"]))
}

/// The eBPF crate with clippy where its toolchain has it, else with the compiler's own warnings.
fn ebpf_crate() -> Result<()> {
    let toolchain = toolchain::ebpf().context("no toolchain for the eBPF crate: run `cargo xtask setup`")?;
    let has_clippy = command::succeeds(&mut cargo_in(&toolchain.name, &["clippy", "--version"]));
    let subcommand = if has_clippy { "clippy" } else { "check" };
    let mut check = cargo_in(
        &toolchain.name,
        &[subcommand, "--release", "--locked", "--ignore-rust-version", "--target", "bpfel-unknown-none"],
    );
    check.args(["-Zbuild-std=core", "--target-dir"]).arg(workspace::target().join("ebpf-lint"));
    let warnings = count_warnings(&mut check)?;
    if warnings > 0 {
        bail!("`cargo {subcommand}` has {warnings} warnings about the eBPF crate");
    }
    Ok(())
}

fn cargo_in(toolchain: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", toolchain, "cargo"]).args(arguments);
    command.current_dir(workspace::root().join("leaktrace-ebpf"));
    // Building `core` is an unstable feature of cargo; flags for the host have no place here.
    command.env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", EBPF_FLAGS.join("\x1f"));
    for name in ["RUSTFLAGS", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "CARGO"] {
        command.env_remove(name);
    }
    command
}

/// Passes cargo's messages on and counts the warnings. (`-D warnings` would hit `core` itself.)
fn count_warnings(cargo: &mut Command) -> Result<usize> {
    let text = command::describe(cargo);
    let mut child = cargo.stderr(Stdio::piped()).spawn().with_context(|| format!("cannot start `{text}`"))?;
    let mut warnings = 0;
    for line in BufReader::new(child.stderr.take().context("no stderr")?).lines() {
        let line = line.context("cannot read cargo's messages")?;
        warnings += usize::from(line.starts_with("warning: ") && !line.contains("generated"));
        eprintln!("{line}");
    }
    if !child.wait()?.success() {
        bail!("`{text}` failed");
    }
    Ok(warnings)
}
