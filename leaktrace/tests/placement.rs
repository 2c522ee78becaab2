//! Promise: probes that all processes of a file share tell the same as probes of one process, and who pays for them is known:
//! with links of its own a process costs nobody else anything, with shared ones the neighbours' code is as it was
//! once tracing ends.

mod harness;

use harness::{Outcomes, Target, check_exact};

const SHARED: &[&str] = &["--placement", "shared"];
/// Every case once, then most blocks freed, then a long random mix, then blocks from before tracing freed.
const EVERYTHING: &[&str] = &["go", "free", "again", "free-old"];

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_shared_probes_in_glibc_are_exact() -> Outcomes<()> {
    check_exact(&mut Target::start("exact")?, EVERYTHING, SHARED).map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_shared_probes_in_musl_are_exact() -> Outcomes<()> {
    check_exact(&mut Target::start("exact-musl")?, EVERYTHING, SHARED).map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_shared_probes_in_a_static_program_are_exact() -> Outcomes<()> {
    check_exact(&mut Target::start("exact-static-pie")?, EVERYTHING, SHARED).map(|_| ())
}

/// Two files are probed, and a block of one is made of a block of the other.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_shared_probes_in_two_layers_are_exact() -> Outcomes<()> {
    let mut target = Target::prepare("exact")?.preload("forwarding.so")?.start()?;
    check_exact(&mut target, EVERYTHING, SHARED).map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_shared_probes_by_perf_links_are_exact() -> Outcomes<()> {
    let options = ["--placement", "shared", "--link-mode", "perf"];
    check_exact(&mut Target::prepare("threads")?.arg("5000").arg("8").start()?, &["go", "go"], &options).map(|_| ())
}
