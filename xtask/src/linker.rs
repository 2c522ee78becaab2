//! bpf-linker: turns what rustc emits for BPF into an object. It reads rustc's bitcode, so its LLVM must not be
//! older than the compiler's.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::package::Package;
use crate::{command, package, toolchain};

/// The released version that this repository is built with.
const VERSION: &str = "0.13.0";

/// Whether an installed bpf-linker can link what a compiler with this LLVM emits.
pub fn suits(llvm: u32) -> bool {
    let Some(program) = command::find("bpf-linker") else { return false };
    // Released binaries carry their LLVM inside and are newer than any toolchain that we choose.
    linked_llvm(&program).is_none_or(|own| own >= llvm)
}

/// The version of the LLVM library that a bpf-linker loads; `None` when it carries its own.
fn linked_llvm(program: &Path) -> Option<u32> {
    llvm_in(&command::output(Command::new("ldd").arg(program)).ok()?)
}

/// The 22 of `libLLVM.so.22.1 => ...` or `libLLVM-22.so.1 => ...`.
fn llvm_in(libraries: &str) -> Option<u32> {
    let (_, rest) = libraries.split_once("libLLVM")?;
    let digits = rest.trim_start_matches(|letter: char| !letter.is_ascii_digit());
    digits.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// Whether the machine's package sources offer this LLVM, so that a linker can be built with it.
pub fn is_buildable(llvm: u32) -> bool {
    package::is_offered(&format!("llvm-{llvm}-dev"))
}

/// Builds bpf-linker with the distribution's LLVM.
pub fn install(llvm: u32) -> Result<()> {
    package::ensure_names(
        &[&format!("llvm-{llvm}-dev"), &format!("libpolly-{llvm}-dev")],
        "the LLVM that bpf-linker is linked with",
    )?;
    package::ensure(&[
        Package { name: "libzstd-dev", why: "needed by LLVM" },
        Package { name: "zlib1g-dev", why: "needed by LLVM" },
        Package { name: "libxml2-dev", why: "needed by LLVM" },
    ])?;
    println!(
        "  installing     bpf-linker {VERSION:<9} links the eBPF object (built from its crate, about a minute)"
    );
    let mut install = toolchain::bare_cargo("install");
    install.args(["--quiet", "--locked", "--force", "--no-default-features"]);
    install.args(["--features", &format!("llvm-{llvm}"), &format!("bpf-linker@{VERSION}")]);
    install.env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"));
    command::run(&mut install).context("cannot build bpf-linker")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_is_read_from_both_spellings() {
        assert_eq!(llvm_in("\tlibLLVM.so.22.1 => /usr/lib/x (0x1)\n"), Some(22));
        assert_eq!(llvm_in("\tlibLLVM-19.so.1 => /usr/lib/x (0x1)\n"), Some(19));
        assert_eq!(llvm_in("\tstatically linked\n"), None);
    }
}
