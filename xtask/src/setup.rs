//! What a task needs, installed where it is missing. Repeating it changes nothing.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::package::Package;
use crate::toolchain::{EBPF_TOOLCHAIN, EbpfToolchain};
use crate::{command, interpreter, linker, package, toolchain, virtual_environment};

/// What the machine is prepared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Purpose {
    /// Building leaktrace.
    Build,
    /// The demo.
    Demo,
    /// The test suite.
    Test,
    /// The benchmark.
    Bench,
    /// Old kernels in qemu.
    Matrix,
    /// All of these.
    All,
}

/// The nightly that is fetched where no toolchain has the library's source. It is named by its date, so that no
/// toolchain of the user's is changed, and so that its LLVM (22) is one that Debian 12 has for bpf-linker.
const NIGHTLY: &str = "nightly-2026-05-20";

/// How long fetching the nightly may take before the distribution's compiler is taken instead.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(300);

const BUILD: &[Package] = &[
    Package { name: "gcc", why: "links Rust programs" },
    Package { name: "libc6-dev", why: "links Rust programs" },
];

const TEST: &[Package] = &[
    Package { name: "gcc", why: "compiles the programs that the tests trace" },
    Package { name: "libc6-dev", why: "compiles the programs that the tests trace" },
    Package { name: "g++", why: "compiles C++ programs whose stacks are compared with gdb's" },
    Package { name: "dwz", why: "compresses debug information as distributions do" },
    Package { name: "gdb", why: "shows the stacks that leaktrace's are compared with" },
    Package { name: "perl", why: "a program whose stacks are compared with gdb's" },
    Package { name: "python3", why: "a program whose stacks are compared with gdb's" },
    Package { name: "debootstrap", why: "fetches the Pythons of other suites of Debian" },
    Package { name: "debian-archive-keyring", why: "tells that they are Debian's" },
    Package { name: "musl-tools", why: "programs with another C library to trace" },
    Package { name: "crun", why: "starts containers whose services are traced" },
    Package { name: "runc", why: "starts containers as most engines do" },
    Package { name: "golang-go", why: "its pprof tool opens the profiles that leaktrace writes" },
    Package { name: "prometheus", why: "scrapes the daemon; its promtool checks the metrics" },
    Package { name: "libfaketime", why: "sets the clock of one daemon, and of nobody else" },
    Package { name: "openssl", why: "makes a certificate for a webhook that alerts are sent to" },
];

const SERVICES: &[Package] =
    &[Package { name: "python3-venv", why: "keeps the packages of the services that are traced apart" }];

const BENCH: &[Package] =
    &[Package { name: "bpfcc-tools", why: "memleak, which leaktrace is measured against" }];

const MATRIX: &[Package] = &[
    Package { name: "qemu-system-x86", why: "boots the kernels" },
    Package { name: "busybox-static", why: "the user space that they boot into" },
];

impl Purpose {
    fn includes(self, other: Self) -> bool {
        self == other || self == Self::All
    }
}

/// Prepares the machine.
pub fn run(purpose: Purpose) -> Result<()> {
    println!("setting up:");
    package::ensure(BUILD)?;
    compiler_for_ebpf()?;
    if purpose.includes(Purpose::Test) || purpose == Purpose::Matrix {
        package::ensure(TEST)?;
    }
    if purpose.includes(Purpose::Test) {
        interpreter::ensure_roots()?;
    }
    if purpose.includes(Purpose::Bench) {
        package::ensure(BENCH)?;
    }
    if [Purpose::Demo, Purpose::Test, Purpose::Bench].iter().any(|services| purpose.includes(*services)) {
        package::ensure(SERVICES)?;
        virtual_environment::ensure(&virtual_environment::SERVICES)?;
    }
    if purpose.includes(Purpose::Bench) {
        virtual_environment::ensure(&virtual_environment::BENCH)?;
    }
    if purpose.includes(Purpose::Matrix) {
        package::ensure(MATRIX)?;
    }
    Ok(())
}

/// A toolchain with the library's source, and a linker to match.
fn compiler_for_ebpf() -> Result<()> {
    let toolchain = match toolchain::ebpf() {
        Some(found) => found,
        None => provide_toolchain()?,
    };
    if linker::suits(toolchain.llvm) {
        println!(
            "  already there  {:<20} compiles the eBPF side (it has the library's source)",
            toolchain.name
        );
        println!("  already there  {:<20} links the eBPF object", "bpf-linker");
        return Ok(());
    }
    if linker::is_buildable(toolchain.llvm) {
        return linker::install(toolchain.llvm);
    }
    // The toolchain that is there is newer than any LLVM to be had: take one that fits.
    let provided = if toolchain.name == EBPF_TOOLCHAIN { toolchain } else { provide_toolchain()? };
    if linker::suits(provided.llvm) {
        return Ok(());
    }
    linker::install(provided.llvm)
        .context("no bpf-linker can be built here: install a released one (github.com/aya-rs/bpf-linker)")
}

/// Fetches a toolchain with the library's source and gives it the name that the build looks for.
fn provide_toolchain() -> Result<EbpfToolchain> {
    if command::find("rustup").is_none() {
        bail!(
            "no rustup here, and `{EBPF_TOOLCHAIN}` must be a rustup toolchain: install rustup, or set LEAKTRACE_EBPF_TOOLCHAIN"
        );
    }
    if let Some(name) = toolchain::overridden() {
        bail!(
            "LEAKTRACE_EBPF_TOOLCHAIN names `{name}`, which cannot build the eBPF side here: give it the component rust-src and a matching bpf-linker, or unset the variable"
        );
    }
    if !fetch_nightly()? {
        use_distribution()?;
    }
    toolchain::with_library_source(EBPF_TOOLCHAIN)
        .with_context(|| format!("the toolchain `{EBPF_TOOLCHAIN}` was set up but has no library source"))
}

/// Whether rustup could deliver the nightly in time.
fn fetch_nightly() -> Result<bool> {
    println!("  installing     {NIGHTLY:<20} compiles the eBPF side (it has the library's source)");
    let mut install = Command::new("rustup");
    install.args(["toolchain", "install", NIGHTLY, "--profile", "minimal", "--component", "rust-src"]);
    install.args(["--no-self-update"]);
    let done = command::run_for(&mut install, DOWNLOAD_LIMIT)?;
    if !done.is_some_and(|status| status.success()) {
        // What a stopped download left behind would look like a toolchain.
        command::succeeds(Command::new("rustup").args(["toolchain", "uninstall", NIGHTLY]));
        return Ok(false);
    }
    link(&toolchain::sysroot(NIGHTLY)?.to_string_lossy())?;
    Ok(true)
}

/// The distribution's compiler, which comes with the library's source as a package.
fn use_distribution() -> Result<()> {
    println!("  rustup could not deliver {NIGHTLY}: taking the distribution's compiler");
    package::ensure(&[
        Package { name: "rustc-web", why: "compiles the eBPF side" },
        Package { name: "cargo-web", why: "compiles the eBPF side" },
        Package { name: "rust-web-src", why: "the library's source, of which the eBPF side needs `core`" },
    ])?;
    link("/usr")
}

fn link(sysroot: &str) -> Result<()> {
    command::run(Command::new("rustup").args(["toolchain", "link", EBPF_TOOLCHAIN, sysroot]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_includes_every_purpose() {
        assert!(Purpose::All.includes(Purpose::Bench));
        assert!(!Purpose::Build.includes(Purpose::Test));
    }
}
