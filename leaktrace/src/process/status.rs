//! `/proc/PID/status` and `/proc/PID/stat`: state, credentials, memory, start time. Both cost some microseconds.

use super::{ProcessError, read_file};

/// Longest `status` that is read; it grows with the CPU mask and the list of groups (65,536 at most).
const MAX_STATUS: usize = 1 << 20;
const MAX_STAT: usize = 64 << 10;
/// The kernel's flag for its own threads.
const PF_KTHREAD: u64 = 0x0020_0000;
/// Its flag for threads that are ending, and may have left their cgroups already.
const PF_EXITING: u64 = 0x4;

/// The state letter of `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Running, sleeping or waiting: it has an address space (or is a kernel thread).
    Alive,
    /// Stopped by a signal or a debugger.
    Stopped,
    /// Ended, but its parent has not asked for the status: nothing is left to trace.
    Zombie,
}

/// Seccomp mode of a process's main thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SeccompMode {
    /// No filter.
    #[default]
    Off,
    /// read, write, exit and sigreturn only.
    Strict,
    /// A filter decides: some kernels kill such a process through a return probe.
    Filter,
}

/// What `/proc/PID/status` says. Sizes in bytes; absent for kernel threads and zombies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Short name (`comm`), at most 15 bytes.
    pub name: String,
    /// Whether it runs.
    pub state: RunState,
    /// Thread group; equal to the PID for a process, different for a mere thread.
    pub tgid: u32,
    /// Parent's PID.
    pub parent: u32,
    /// Effective user.
    pub uid: u32,
    /// The PID in each PID namespace, outermost (as seen by this `/proc`) first.
    pub namespace_pids: Vec<u32>,
    /// Threads.
    pub threads: u32,
    /// Seccomp mode.
    pub seccomp: SeccompMode,
    /// Resident set.
    pub rss_bytes: Option<u64>,
    /// Resident anonymous memory: heap, stacks, private writes.
    pub rss_anonymous_bytes: Option<u64>,
    /// Swapped out.
    pub swap_bytes: Option<u64>,
}

/// What `/proc/PID/stat` adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// When it started, in clock ticks since boot: with the PID, this names a process for good.
    pub start_ticks: u64,
    /// A thread of the kernel: there is nothing in user space to trace.
    pub kernel_thread: bool,
    /// Whether it runs.
    pub state: RunState,
    /// Its first thread is about to end: what else can be read of it may be gone already.
    pub ending: bool,
    /// Parent's PID.
    pub parent: u32,
    /// Threads that it has left.
    pub threads: u32,
    /// CPU time used so far, clock ticks: all its threads, those that have ended too, but not its children.
    pub cpu_ticks: u64,
}

/// Memory of a process, bytes. All zero for kernel threads and zombies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident set.
    pub rss_bytes: u64,
    /// Resident anonymous memory.
    pub anonymous_bytes: u64,
    /// Swapped out.
    pub swap_bytes: u64,
}

/// Reads `/proc/PID/status`.
pub fn read(pid: u32) -> Result<Status, ProcessError> {
    let bytes = read_file(pid, "status", MAX_STATUS)?;
    parse_status(&bytes).ok_or_else(|| ProcessError::malformed(pid, "status", &bytes))
}

/// Reads `/proc/PID/stat`.
pub fn read_stat(pid: u32) -> Result<Stat, ProcessError> {
    let bytes = read_file(pid, "stat", MAX_STAT)?;
    parse_stat(&bytes).ok_or_else(|| ProcessError::malformed(pid, "stat", &bytes))
}

/// Most descendants of a process that are looked for.
const MAX_DESCENDANTS: usize = 4096;

/// PIDs of the processes that it has started and that these have started, as far as they are still its own.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied().filter(|_| found.len() < MAX_DESCENDANTS) {
        next += 1;
        let tasks = std::fs::read_dir(super::directory(parent).join("task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found.split_off(1)
}

/// Parses the text of `status`.
pub fn parse_status(bytes: &[u8]) -> Option<Status> {
    let text = String::from_utf8_lossy(bytes);
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim)
    };
    let number = |name: &str| field(name)?.split_ascii_whitespace().next()?.parse::<u32>().ok();
    let pids = field("NSpid").or_else(|| field("Pid"))?;
    Some(Status {
        name: name(&text)?,
        state: state(field("State")?)?,
        tgid: number("Tgid")?,
        parent: number("PPid")?,
        uid: field("Uid")?.split_ascii_whitespace().nth(1)?.parse().ok()?,
        namespace_pids: pids.split_ascii_whitespace().map_while(|pid| pid.parse().ok()).collect(),
        threads: number("Threads").unwrap_or(1),
        seccomp: seccomp(number("Seccomp")),
        rss_bytes: field("VmRSS").and_then(kibibytes),
        rss_anonymous_bytes: field("RssAnon").and_then(kibibytes),
        swap_bytes: field("VmSwap").and_then(kibibytes),
    })
}

/// The name, which may hold anything: ends of lines and backslashes are escaped by the kernel, other white space is its own.
fn name(status: &str) -> Option<String> {
    let escaped = status.split('\n').find_map(|line| line.strip_prefix("Name:\t"))?;
    let mut letters = escaped.chars();
    let mut name = String::new();
    while let Some(letter) = letters.next() {
        name.push(match letter {
            '\\' => match letters.next() {
                Some('n') => '\n',
                other => other.unwrap_or(letter),
            },
            _ => letter,
        });
    }
    Some(name)
}

/// Only the memory in the text of `status`, which is looked at often.
pub fn parse_memory(text: &[u8]) -> Memory {
    let mut memory = Memory::default();
    for line in text.split(|&byte| byte == b'\n') {
        let (field, rest) = match line {
            [b'V', b'm', b'R', b'S', b'S', b':', rest @ ..] => (&mut memory.rss_bytes, rest),
            [b'R', b's', b's', b'A', b'n', b'o', b'n', b':', rest @ ..] => {
                (&mut memory.anonymous_bytes, rest)
            }
            [b'V', b'm', b'S', b'w', b'a', b'p', b':', rest @ ..] => (&mut memory.swap_bytes, rest),
            _ => continue,
        };
        *field = std::str::from_utf8(rest).ok().and_then(kibibytes).unwrap_or(0);
    }
    memory
}

/// The short name in the text of `stat`, as the process has set it.
pub fn parse_name(stat: &[u8]) -> Option<&[u8]> {
    let open = stat.iter().position(|&byte| byte == b'(')?;
    let close = stat.iter().rposition(|&byte| byte == b')')?;
    stat.get(open + 1..close)
}

/// Parses the text of `stat`: the name stands in parentheses and may itself contain any of them.
pub fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let behind = bytes.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(bytes.get(behind + 1..)?).ok()?;
    // proc(5) counts from 1 and the state is its third field.
    let mut words = [""; 20];
    words.iter_mut().zip(rest.split_ascii_whitespace()).for_each(|(word, found)| *word = found);
    let word = |number: usize| words.get(number - 3).copied().unwrap_or_default();
    let field = |number: usize| word(number).parse::<u64>().ok();
    Some(Stat {
        start_ticks: field(22)?,
        kernel_thread: field(9)? & PF_KTHREAD != 0,
        ending: field(9)? & PF_EXITING != 0,
        state: state(word(3))?,
        parent: u32::try_from(field(4)?).ok()?,
        threads: field(20).and_then(|threads| u32::try_from(threads).ok()).unwrap_or(1),
        cpu_ticks: field(14)?.saturating_add(field(15)?),
    })
}

fn state(text: &str) -> Option<RunState> {
    Some(match text.chars().next()? {
        'Z' | 'X' | 'x' => RunState::Zombie,
        'T' | 't' => RunState::Stopped,
        _ => RunState::Alive,
    })
}

fn seccomp(mode: Option<u32>) -> SeccompMode {
    match mode {
        Some(1) => SeccompMode::Strict,
        Some(2) => SeccompMode::Filter,
        _ => SeccompMode::Off,
    }
}

fn kibibytes(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &[u8] = b"Name:\tgunicorn: wor\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t4242\nNgid:\t0\n\
Pid:\t4242\nPPid:\t17\nTracerPid:\t0\nUid:\t1000\t33\t33\t33\nGid:\t33\t33\t33\t33\nNStgid:\t4242\t7\nNSpid:\t4242\t7\n\
VmPeak:\t  300 kB\nVmRSS:\t  120 kB\nRssAnon:\t   80 kB\nVmSwap:\t       4 kB\nThreads:\t9\nSeccomp:\t2\n\
Seccomp_filters:\t1\n";

    #[test]
    fn every_field_of_status_is_read() {
        let status = parse_status(STATUS).expect("sample");
        assert_eq!(status.name, "gunicorn: wor");
        assert_eq!(status.state, RunState::Alive);
        assert_eq!((status.tgid, status.parent, status.uid, status.threads), (4242, 17, 33, 9));
        assert_eq!(status.namespace_pids, [4242, 7]);
        assert_eq!(status.seccomp, SeccompMode::Filter);
        assert_eq!(status.rss_bytes, Some(120 * 1024));
        assert_eq!(status.rss_anonymous_bytes, Some(80 * 1024));
        assert_eq!(status.swap_bytes, Some(4096));
        let memory = Memory { rss_bytes: 120 * 1024, anonymous_bytes: 80 * 1024, swap_bytes: 4096 };
        assert_eq!(parse_memory(STATUS), memory);
    }

    #[test]
    fn a_name_is_what_its_owner_has_chosen() {
        let named = |text: &str| name(&format!("Name:\t{text}\nUmask:\t0022\n"));
        for (escaped, meant) in
            [("a\\nb", "a\nb"), ("a\\\\nb", "a\\nb"), (" a\t\r", " a\t\r"), ("", ""), ("a\\", "a\\")]
        {
            assert_eq!(named(escaped).as_deref(), Some(meant));
        }
        assert_eq!(name("Umask:\t0022\n"), None);
    }

    #[test]
    fn a_zombie_has_no_memory() {
        let text = b"Name:\tx\nState:\tZ (zombie)\nTgid:\t5\nPid:\t5\nPPid:\t1\nUid:\t0 0 0 0\nThreads:\t1\n";
        let status = parse_status(text).expect("zombie");
        assert_eq!((status.state, status.rss_bytes), (RunState::Zombie, None));
        assert_eq!(status.namespace_pids, [5]);
    }

    #[test]
    fn a_status_cut_off_anywhere_is_no_panic() {
        for end in 0..STATUS.len() {
            let _ = (parse_status(&STATUS[..end]), parse_memory(&STATUS[..end]));
        }
        assert!(parse_status(b"").is_none());
        assert_eq!(parse_memory(b"Name:\tx\nState:\tZ (zombie)\n"), Memory::default());
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields_of_stat() {
        let text = b"77 (a) b (c)) S 1 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 9 9\n";
        let state = RunState::Alive;
        let expected = Stat {
            start_ticks: 123_456,
            kernel_thread: false,
            state,
            ending: false,
            parent: 1,
            threads: 1,
            cpu_ticks: 5 + 6,
        };
        assert_eq!(parse_stat(text), Some(expected));
        let kernel = b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 1 0 0\n";
        let expected = Stat {
            start_ticks: 1,
            kernel_thread: true,
            state,
            ending: false,
            parent: 0,
            threads: 1,
            cpu_ticks: 0,
        };
        assert_eq!(parse_stat(kernel), Some(expected));
        assert_eq!(parse_stat(b"2 (x) S 0"), None);
        assert_eq!(parse_name(text), Some(&b"a) b (c)"[..]));
        assert_eq!(parse_name(b"77 )("), None);
    }

    #[test]
    fn our_own_status_names_us_and_has_memory() {
        let status = read(std::process::id()).expect("own status");
        assert_eq!(status.tgid, std::process::id());
        assert!(status.rss_bytes.is_some_and(|bytes| bytes > 100 * 1024));
        assert!(read_stat(std::process::id()).expect("own stat").start_ticks > 0);
    }
}
