//! Capabilities: which this process holds, and what the missing ones are called.

use std::fmt;

use super::{ProcessError, read_file};

/// A capability, by the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability(pub u8);

/// Reads any file and directory.
pub const DAC_READ_SEARCH: Capability = Capability(2);
/// Signals any process.
pub const KILL: Capability = Capability(5);
/// Reads other processes' memory and links.
pub const SYS_PTRACE: Capability = Capability(19);
/// Most of administration; before 5.8 also BPF and perf.
pub const SYS_ADMIN: Capability = Capability(21);
/// Exceeds resource limits.
pub const SYS_RESOURCE: Capability = Capability(24);
/// Reads kernel addresses.
pub const SYSLOG: Capability = Capability(34);
/// Opens perf events, attaches probes.
pub const PERFMON: Capability = Capability(38);
/// Loads BPF programs and maps.
pub const BPF: Capability = Capability(39);
/// Follows `/proc/PID/map_files`.
pub const CHECKPOINT_RESTORE: Capability = Capability(40);

const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.get(usize::from(self.0)) {
            Some(name) => write!(f, "CAP_{name}"),
            None => write!(f, "CAP_{}", self.0),
        }
    }
}

/// A set of capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySet(pub u64);

impl CapabilitySet {
    /// What a process may use right now (`CapEff`).
    pub fn effective(pid: u32) -> Result<Self, ProcessError> {
        let bytes = read_file(pid, "status", 1 << 20)?;
        parse(&bytes).ok_or_else(|| ProcessError::malformed(pid, "CapEff in status", &bytes))
    }

    /// Whether it is in the set.
    pub fn has(self, capability: Capability) -> bool {
        1_u64.checked_shl(u32::from(capability.0)).is_some_and(|bit| self.0 & bit != 0)
    }

    /// Those of `needed` that are not in the set.
    pub fn missing(self, needed: &[Capability]) -> Vec<Capability> {
        needed.iter().copied().filter(|&capability| !self.has(capability)).collect()
    }
}

fn parse(status: &[u8]) -> Option<CapabilitySet> {
    let text = String::from_utf8_lossy(status);
    let mask = text.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16).ok().map(CapabilitySet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_ones_are_named() {
        let set = parse(b"CapPrm:\t000001ffffffffff\nCapEff:\t0000008000080000\n").expect("sample");
        let missing = set.missing(&[SYS_PTRACE, BPF, PERFMON, SYS_ADMIN]);
        let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["CAP_PERFMON", "CAP_SYS_ADMIN"]);
        assert!(!set.has(Capability(255)));
        assert_eq!(Capability(63).to_string(), "CAP_63");
    }

    #[test]
    fn the_table_agrees_with_the_numbers() {
        let named =
            [(DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"), (KILL, "CAP_KILL"), (SYS_PTRACE, "CAP_SYS_PTRACE")];
        let more = [(SYS_RESOURCE, "CAP_SYS_RESOURCE"), (SYSLOG, "CAP_SYSLOG"), (BPF, "CAP_BPF")];
        for (capability, name) in named.into_iter().chain(more) {
            assert_eq!(capability.to_string(), name);
        }
        assert_eq!(CHECKPOINT_RESTORE.to_string(), "CAP_CHECKPOINT_RESTORE");
    }

    #[test]
    fn our_own_set_can_be_read_and_a_status_without_it_is_refused() {
        assert!(CapabilitySet::effective(std::process::id()).is_ok());
        assert_eq!(parse(b"Name:\tx\n"), None);
    }
}
