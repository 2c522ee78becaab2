//! What must hold before anything is touched. Each check answers in one sentence that says what to do.

use crate::{
    cli::Failure,
    process::{
        capability::{self, Capability, CapabilitySet},
        host::{self, KernelRelease, Lockdown},
        limit::OpenFiles,
        namespace,
    },
};

/// Oldest kernel that leaktrace is tested on.
const FLOOR: (u32, u32) = (6, 1);
/// Descriptors needed: maps, programs, links (perf links take one per probe), objects held open.
const WANTED_FILES: u64 = 65_536;
/// Fewer than this and attaching one process may fail half-way.
const LEAST_FILES: u64 = 256;
/// Load and attach programs; place probes in other processes and read user memory; read what `/proc` says of them; open
/// the very files that they have mapped.
const NEEDED: &[Capability] =
    &[capability::BPF, capability::PERFMON, capability::SYS_PTRACE, capability::CHECKPOINT_RESTORE];

/// Checks everything.
///
/// # Errors
/// The first thing that keeps leaktrace from working here.
pub fn check() -> Result<(), Failure> {
    for check in [kernel, capabilities, lockdown, namespaces, open_files] {
        if let Some(sentence) = check() {
            return Err(Failure::Unsupported(sentence));
        }
    }
    Ok(())
}

/// Everything that is wrong, for `doctor`: what was looked at, and what is wrong with it.
pub fn findings() -> Vec<(&'static str, Option<String>)> {
    vec![
        ("kernel version", kernel()),
        ("capabilities", capabilities()),
        ("lockdown", lockdown()),
        ("PID namespace", namespaces()),
        ("open files", open_files()),
    ]
}

fn kernel() -> Option<String> {
    let release = KernelRelease::current()?;
    (!release.at_least(FLOOR.0, FLOOR.1)).then(|| {
        format!(
            "kernel {} is older than {}.{}, the oldest that leaktrace works on: update the kernel",
            release.text, FLOOR.0, FLOOR.1
        )
    })
}

fn capabilities() -> Option<String> {
    let own = CapabilitySet::effective(std::process::id()).ok()?;
    let mut missing = own.missing(NEEDED);
    if own.has(capability::SYS_ADMIN) {
        // Includes the others, as it did before they existed.
        missing.retain(|capability| *capability == capability::SYS_PTRACE);
    }
    if missing.is_empty() {
        return None;
    }
    let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Some(format!("leaktrace lacks {}: run it as root, with sudo, or grant what is missing", names.join(", ")))
}

fn lockdown() -> Option<String> {
    (host::lockdown() == Some(Lockdown::Confidentiality)).then(|| {
        "the kernel is locked down for confidentiality, which forbids BPF to read user memory: boot with lockdown=integrity or none".into()
    })
}

fn namespaces() -> Option<String> {
    (!namespace::in_initial_pid_namespace()).then(|| {
        "leaktrace runs inside a PID namespace, where process numbers are not the kernel's own: run it on the host (for a container: with the host's PID namespace)".into()
    })
}

fn open_files() -> Option<String> {
    let limit = OpenFiles::raise(WANTED_FILES);
    (limit.soft < LEAST_FILES).then(|| {
        format!(
            "at most {} files may be open and the limit cannot be raised: leaktrace needs {LEAST_FILES}, raise it with ulimit -n",
            limit.soft
        )
    })
}
