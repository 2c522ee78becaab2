//! The host: kernel release, lockdown, security modules, how `/proc` and tracefs are mounted. Each fact that cannot be
//! read is `None`, never a guess.

use std::fmt;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the wall clock says, seconds since the Unix epoch; 0 before it.
pub fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// This boot's identity: PIDs and start times mean nothing in another one. Empty if the kernel does not tell.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// A kernel release, ordered by its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRelease {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number; 0 if there is none.
    pub patch: u32,
    /// All of it, as `uname -r` prints it.
    pub text: String,
}

impl KernelRelease {
    /// The running kernel's.
    pub fn current() -> Option<Self> {
        let uname = rustix::system::uname();
        Self::parse(&uname.release().to_string_lossy())
    }

    /// Parses `6.1.0-18-cloud-amd64`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|letter: char| !letter.is_ascii_digit()).map(str::parse::<u32>);
        let major = numbers.next()?.ok()?;
        let minor = numbers.next()?.ok()?;
        let patch = numbers.next().and_then(Result::ok).unwrap_or(0);
        Some(Self { major, minor, patch, text: text.to_owned() })
    }

    /// Whether it is that version or a newer one.
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

impl fmt::Display for KernelRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// How far the kernel is locked down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// Not at all.
    None,
    /// The kernel may not be modified; BPF may still read.
    Integrity,
    /// BPF may not read kernel memory: tracing is refused.
    Confidentiality,
}

/// The lockdown state, or `None` where securityfs does not say.
pub fn lockdown() -> Option<Lockdown> {
    parse_lockdown(&fs::read_to_string("/sys/kernel/security/lockdown").ok()?)
}

/// `none [integrity] confidentiality`
fn parse_lockdown(text: &str) -> Option<Lockdown> {
    let (_, rest) = text.split_once('[')?;
    match rest.split_once(']')?.0 {
        "none" => Some(Lockdown::None),
        "integrity" => Some(Lockdown::Integrity),
        "confidentiality" => Some(Lockdown::Confidentiality),
        _ => None,
    }
}

/// Security modules and what they may have to say about tracing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// Active modules, in order.
    pub modules: Vec<String>,
    /// The label this process runs under (AppArmor profile, SELinux context).
    pub own_label: Option<String>,
    /// Yama's `ptrace_scope`.
    pub ptrace_scope: Option<u32>,
    /// SELinux enforces its policy.
    pub selinux_enforcing: bool,
}

impl Security {
    /// Reads all of it, as far as the host shows it.
    pub fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok().map(|text| clean(&text));
        Self {
            modules: parse_modules(&read("/sys/kernel/security/lsm").unwrap_or_default()),
            own_label: read("/proc/self/attr/current").filter(|label| !label.is_empty()),
            ptrace_scope: read("/proc/sys/kernel/yama/ptrace_scope").and_then(|text| text.parse().ok()),
            selinux_enforcing: read("/sys/fs/selinux/enforce").as_deref() == Some("1"),
        }
    }

    /// What may deny tracing to a process that holds every capability, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(label) = self.own_label.as_deref().filter(|label| !label.starts_with("unconfined")) {
            if self.selinux_enforcing {
                notes.push(format!("SELinux enforces its policy on leaktrace's own context {label}"));
            } else if self.modules.iter().any(|module| module == "apparmor") {
                notes.push(format!("AppArmor confines leaktrace under the profile {label}"));
            }
        }
        if self.ptrace_scope == Some(3) {
            notes.push("Yama forbids to read any process's memory (ptrace_scope is 3)".to_owned());
        }
        notes
    }
}

fn clean(text: &str) -> String {
    text.trim_matches(|letter: char| letter == '\0' || letter.is_whitespace()).to_owned()
}

fn parse_modules(text: &str) -> Vec<String> {
    text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// What hides processes from readers of `/proc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcMount {
    /// `hidepid` other than off, as written: other users' processes are hidden or unreadable.
    pub hidepid: Option<String>,
    /// `subset=pid`: files about the machine are missing.
    pub only_pids: bool,
}

/// One line of `mountinfo`, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount<'a> {
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

/// How `/proc` is mounted, or `None` if it is not.
pub fn proc_mount() -> Option<ProcMount> {
    parse_proc_mount(&fs::read_to_string("/proc/self/mountinfo").ok()?)
}

/// Where tracefs is mounted, or `None` if it is not.
pub fn tracefs() -> Option<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
    text.lines()
        .filter_map(parse_mount)
        .find(|mount| mount.kind == "tracefs")
        .map(|mount| mount.point.to_owned())
}

fn parse_proc_mount(text: &str) -> Option<ProcMount> {
    // The last one mounted on a point is the one that is seen.
    let mut mounts = text.lines().filter_map(parse_mount);
    let mount = mounts.rfind(|mount| mount.point == "/proc" && mount.kind == "proc")?;
    let mut options = mount.options.split(',');
    let hidepid = options.clone().find_map(|option| option.strip_prefix("hidepid="));
    Some(ProcMount {
        hidepid: hidepid.filter(|value| !matches!(*value, "0" | "off")).map(str::to_owned),
        only_pids: options.any(|option| option == "subset=pid"),
    })
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG ...] - KIND SOURCE SUPER-OPTIONS`
fn parse_mount(line: &str) -> Option<Mount<'_>> {
    let (before, behind) = line.split_once(" - ")?;
    let point = before.split(' ').nth(4)?;
    let mut behind = behind.split(' ');
    let kind = behind.next()?;
    Some(Mount { point, kind, options: behind.nth(1).unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_understood() {
        let debian = KernelRelease::parse("6.1.0-18-cloud-amd64").expect("Debian");
        assert_eq!((debian.major, debian.minor, debian.patch), (6, 1, 0));
        assert!(debian.at_least(6, 1) && debian.at_least(5, 19) && !debian.at_least(6, 2));
        assert_eq!(KernelRelease::parse("6.18-rc3").map(|release| release.patch), Some(0));
        assert!(KernelRelease::parse("6.6.87.2-microsoft-standard-WSL2").is_some());
        assert_eq!(KernelRelease::parse("banana"), None);
        assert_eq!(KernelRelease::parse("6"), None);
        assert!(KernelRelease::current().is_some());
    }

    #[test]
    fn the_lockdown_state_in_brackets_counts() {
        assert_eq!(parse_lockdown("[none] integrity confidentiality\n"), Some(Lockdown::None));
        assert_eq!(parse_lockdown("none [integrity] confidentiality\n"), Some(Lockdown::Integrity));
        assert_eq!(parse_lockdown("none integrity [confidentiality]\n"), Some(Lockdown::Confidentiality));
        assert_eq!(parse_lockdown("none"), None);
    }

    const MOUNTS: &str = "\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n\
23 22 0:21 / /proc rw,nosuid,nodev shared:5 - proc proc rw,hidepid=invisible\n\
31 24 0:12 / /sys/kernel/tracing rw,nosuid shared:9 master:2 - tracefs tracefs rw\n";

    #[test]
    fn a_proc_that_hides_processes_is_noticed() {
        let hidden = parse_proc_mount(MOUNTS).expect("mounted");
        assert_eq!(hidden, ProcMount { hidepid: Some("invisible".to_owned()), only_pids: false });
        let open = format!("{MOUNTS}40 22 0:50 / /proc rw - proc proc rw,hidepid=off,subset=pid\n");
        let open = parse_proc_mount(&open).expect("mounted again");
        assert_eq!(open, ProcMount { hidepid: None, only_pids: true });
        assert_eq!(parse_proc_mount("22 1 254:1 / / rw - ext4 /dev/vda1 rw\n"), None);
        assert!(proc_mount().is_some());
    }

    #[test]
    fn tracefs_is_found_behind_any_number_of_tags() {
        let mount = MOUNTS.lines().filter_map(parse_mount).find(|mount| mount.kind == "tracefs");
        assert_eq!(mount.map(|mount| mount.point), Some("/sys/kernel/tracing"));
        assert_eq!(parse_mount("garbage"), None);
    }

    #[test]
    fn confinement_is_told_and_freedom_is_not() {
        let free = Security { own_label: Some("unconfined".to_owned()), ..Security::default() };
        assert!(free.notes().is_empty());
        let apparmor = Security {
            modules: parse_modules("lockdown,capability,apparmor"),
            own_label: Some("docker-default (enforce)".to_owned()),
            ptrace_scope: Some(3),
            selinux_enforcing: false,
        };
        let notes = apparmor.notes();
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[0].contains("docker-default"), "{notes:?}");
        let _ = Security::read();
    }
}
