//! Compiles leaktrace-ebpf for `bpfel-unknown-none` and leaves its objects where `kernel::load` and `kernel::oom` include them.
//!
//! aya-build cannot do this: atomics need `-C target-cpu=v3` and debug information, and its flags are fixed.
//! The toolchain must have rust-src. `LEAKTRACE_EBPF_TOOLCHAIN` names it; otherwise one linked under the name
//! `leaktrace-ebpf` is taken, else nightly. `cargo xtask setup` provides either.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// The programs of leaktrace-ebpf, and what their objects are called here.
const OBJECTS: [(&str, &str); 2] = [("leaktrace", "leaktrace.bpf.o"), ("leaktrace-oom", "oom.bpf.o")];
const LINKED_TOOLCHAIN: &str = "leaktrace-ebpf";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let arch = env::var("CARGO_CFG_TARGET_ARCH").map_err(|error| error.to_string())?;
    let source = manifest.join("../leaktrace-ebpf");
    for path in ["../leaktrace-ebpf/src", "../leaktrace-ebpf/Cargo.toml", "../leaktrace-common/src"] {
        println!("cargo:rerun-if-changed={path}");
    }
    println!("cargo:rerun-if-env-changed=LEAKTRACE_EBPF_TOOLCHAIN");

    let target = out.join("ebpf-target");
    let toolchain = toolchain()?;
    let status = command(&source, &target, &toolchain, &arch)
        .status()
        .map_err(|error| format!("could not start cargo to build leaktrace-ebpf: {error}"))?;
    if !status.success() {
        return Err(format!(
            "building leaktrace-ebpf with toolchain {toolchain} failed; `cargo xtask setup` installs what it needs"
        ));
    }
    for (program, name) in OBJECTS {
        let object = target.join("bpfel-unknown-none/release").join(program);
        fs::copy(&object, out.join(name))
            .map_err(|error| format!("copying {}: {error}", object.display()))?;
    }
    Ok(())
}

fn command(source: &Path, target: &Path, toolchain: &str, arch: &str) -> Command {
    let flags = [
        "-Ctarget-cpu=v3".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "--check-cfg=cfg(bpf_target_arch,values(\"x86_64\",\"aarch64\"))".to_owned(),
    ];
    let mut command = Command::new("rustup");
    command
        .args(["run", toolchain, "cargo", "build", "--release", "--locked", "--ignore-rust-version"])
        .args(["-Z", "build-std=core", "--target", "bpfel-unknown-none", "--target-dir"])
        .arg(target)
        .current_dir(source)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("RUSTC_BOOTSTRAP", "1");
    // What cargo tells a build script must not leak into the inner build.
    for name in [
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "CARGO",
        "RUSTDOC",
    ] {
        command.env_remove(name);
    }
    command
}

fn toolchain() -> Result<String, String> {
    if let Ok(named) = env::var("LEAKTRACE_EBPF_TOOLCHAIN") {
        return Ok(named);
    }
    let output = Command::new("rustup")
        .args(["toolchain", "list"])
        .output()
        .map_err(|error| format!("could not run rustup to find a toolchain for leaktrace-ebpf: {error}"))?;
    let list = String::from_utf8_lossy(&output.stdout);
    let linked = list.lines().any(|line| line.split_whitespace().next() == Some(LINKED_TOOLCHAIN));
    Ok(if linked { LINKED_TOOLCHAIN } else { "nightly" }.to_owned())
}
