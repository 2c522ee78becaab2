//! What a process's memory consists of, while it lives: `/proc/PID/smaps_rollup`, and the largest of its mappings. The kernel may let
//! a reader wait for as long as the process itself waits for memory, so it is read by a thread that is not waited for.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::process::{self, ProcessError, host::unix_now, identity};

/// How many of the largest mappings are kept.
const LARGEST: usize = 32;
/// Most mappings that are looked at; the kernel allows 65,530 unless told otherwise.
const MAX_MAPPINGS: usize = 262_144;
/// Longest line: the name of a mapping may be a path.
const MAX_LINE: u64 = 8192;
/// Threads that may be stuck at once.
const MAX_READERS: usize = 4;

static READERS: AtomicUsize = AtomicUsize::new(0);

/// Memory of one process, bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Breakdown {
    /// The process.
    pub pid: u32,
    /// When it was read, seconds since the Unix epoch.
    pub at_unix_s: f64,
    /// `smaps_rollup`, by its own names.
    pub sums: BTreeMap<String, u64>,
    /// How much is of which kind.
    pub kinds: BTreeMap<Kind, Amounts>,
    /// Those with most private memory, the largest first.
    pub largest: Vec<MappingMemory>,
    /// How many mappings were looked at.
    pub mappings: usize,
    /// Whether these are all.
    pub is_complete: bool,
}

/// What a mapping is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `[heap]`.
    Heap,
    /// The main thread's stack.
    Stack,
    /// Anonymous: allocators' arenas, large blocks, threads' stacks.
    #[default]
    Anonymous,
    /// Of a file.
    File,
    /// Shared memory without a file of its own, and what the kernel maps.
    Other,
}

/// What is in it, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amounts {
    /// Address space.
    pub size: u64,
    /// Resident.
    pub rss: u64,
    /// Resident anonymous memory.
    pub anonymous: u64,
    /// Swapped out.
    pub swap: u64,
}

/// One mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MappingMemory {
    /// `BEGIN-END`, hexadecimal.
    pub range: String,
    /// As the kernel writes them.
    pub permissions: String,
    /// Path or name; empty for anonymous ones.
    pub name: String,
    /// What is in it.
    pub amounts: Amounts,
}

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
pub enum BreakdownError {
    /// The process could not be read.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It took too long.
    #[error("the memory of process {pid} could not be read within {} ms: the process waits for memory itself", limit.as_millis())]
    Late {
        /// The process.
        pid: u32,
        /// How long was waited.
        limit: Duration,
    },
    /// Too many others are being read.
    #[error("the memory of process {pid} is not read: {MAX_READERS} other processes have not answered yet")]
    Busy {
        /// The process.
        pid: u32,
    },
}

/// Reads what a process's memory consists of, but no longer than `limit`; then what was read so far is returned. `start_ticks` says
/// which process is meant.
///
/// # Errors
/// If it has ended, may not be read, or answers nothing in time.
pub fn read_memory(pid: u32, start_ticks: u64, limit: Duration) -> Result<Breakdown, BreakdownError> {
    if READERS.fetch_add(1, Ordering::Relaxed) >= MAX_READERS {
        READERS.fetch_sub(1, Ordering::Relaxed);
        return Err(BreakdownError::Busy { pid });
    }
    let (answer, answered) = mpsc::sync_channel(1);
    let deadline = Instant::now() + limit;
    let reader = thread::Builder::new().name("smaps".into()).spawn(move || {
        let read = read(pid, start_ticks, deadline);
        READERS.fetch_sub(1, Ordering::Relaxed);
        // Whoever waited may have given up.
        let _ = answer.send(read);
    });
    if let Err(source) = reader {
        READERS.fetch_sub(1, Ordering::Relaxed);
        return Err(ProcessError::Io { pid, what: "a thread to read the memory".into(), source }.into());
    }
    // The reader looks at the clock itself, unless the kernel lets it wait.
    let patience = limit.saturating_add(limit / 2);
    answered.recv_timeout(patience).map_err(|_| BreakdownError::Late { pid, limit })?.map_err(Into::into)
}

fn read(pid: u32, start_ticks: u64, deadline: Instant) -> Result<Breakdown, ProcessError> {
    let failed = |name: &str, error| ProcessError::from_io(pid, &format!("/proc/{pid}/{name}"), error);
    let open =
        |name: &str| File::open(process::directory(pid).join(name)).map_err(|error| failed(name, error));
    let mut breakdown = Breakdown { pid, ..Breakdown::default() };
    breakdown.at_unix_s = unix_now();
    let mut text = String::new();
    let rollup = open("smaps_rollup")?.take(64 << 10).read_to_string(&mut text);
    rollup.map_err(|error| failed("smaps_rollup", error))?;
    breakdown.sums = text.lines().filter_map(field).map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    let is_late = || Instant::now() > deadline;
    add_mappings(&mut breakdown, BufReader::new(open("smaps")?), is_late)
        .map_err(|error| failed("smaps", error))?;
    // Nothing is said of a process that has ended meanwhile, or of another one with its PID.
    if breakdown.sums.is_empty() || !identity::is_same_process(pid, start_ticks) {
        return Err(ProcessError::Gone { pid });
    }
    Ok(breakdown)
}

/// Reads `smaps` to its end, or until it is late.
fn add_mappings(
    breakdown: &mut Breakdown,
    mut smaps: impl BufRead,
    is_late: impl Fn() -> bool,
) -> io::Result<()> {
    let mut current: Option<MappingMemory> = None;
    let mut line = Vec::new();
    loop {
        line.clear();
        if smaps.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            breakdown.is_complete = true;
            break;
        }
        let text = String::from_utf8_lossy(&line);
        match (header(&text), &mut current) {
            (Some(next), _) => {
                current.replace(next).into_iter().for_each(|mapping| breakdown.add(mapping));
                if breakdown.mappings >= MAX_MAPPINGS || is_late() {
                    break;
                }
            }
            (None, Some(mapping)) => mapping.amounts.set(&text),
            (None, None) => {}
        }
    }
    current.into_iter().for_each(|mapping| breakdown.add(mapping));
    breakdown.keep_largest(LARGEST);
    Ok(())
}

impl Breakdown {
    fn add(&mut self, mapping: MappingMemory) {
        self.mappings += 1;
        self.kinds.entry(mapping.kind()).or_default().add(&mapping.amounts);
        if mapping.amounts.private() > 0 {
            self.largest.push(mapping);
        }
        if self.largest.len() >= LARGEST * 8 {
            self.keep_largest(LARGEST);
        }
    }

    fn keep_largest(&mut self, count: usize) {
        self.largest.sort_by_key(|mapping| std::cmp::Reverse(mapping.amounts.private()));
        self.largest.truncate(count);
    }
}

impl MappingMemory {
    fn kind(&self) -> Kind {
        match self.name.as_str() {
            "[heap]" => Kind::Heap,
            "[stack]" => Kind::Stack,
            "" => Kind::Anonymous,
            name if name.starts_with("[anon") => Kind::Anonymous,
            name if name.starts_with('[') || name.starts_with("/dev/zero") || name.starts_with("/SYSV") => {
                Kind::Other
            }
            _ => Kind::File,
        }
    }
}

impl Amounts {
    /// What mappings are compared by.
    fn private(&self) -> u64 {
        self.anonymous.saturating_add(self.swap)
    }

    fn set(&mut self, line: &str) {
        let Some((name, bytes)) = field(line) else { return };
        match name {
            "Size" => self.size = bytes,
            "Rss" => self.rss = bytes,
            "Anonymous" => self.anonymous = bytes,
            "Swap" => self.swap = bytes,
            _ => {}
        }
    }

    fn add(&mut self, other: &Self) {
        self.size = self.size.saturating_add(other.size);
        self.rss = self.rss.saturating_add(other.rss);
        self.anonymous = self.anonymous.saturating_add(other.anonymous);
        self.swap = self.swap.saturating_add(other.swap);
    }
}

/// `Private_Dirty:       4 kB`
fn field(line: &str) -> Option<(&str, u64)> {
    let (name, rest) = line.split_once(':')?;
    let number = rest.trim().strip_suffix(" kB")?;
    Some((name, number.trim().parse::<u64>().ok()?.checked_mul(1024)?))
}

/// `7f2a000-7f2b000 rw-p 00000000 00:00 0    [heap]`
fn header(line: &str) -> Option<MappingMemory> {
    let (range, rest) = line.trim_end_matches('\n').split_once(' ')?;
    let (begin, end) = range.split_once('-')?;
    let is_address = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_address(begin) || !is_address(end) {
        return None;
    }
    let (permissions, rest) = rest.split_once(' ')?;
    let mut rest = rest;
    for _ in 0..3 {
        rest = rest.trim_start_matches(' ');
        rest = rest.get(rest.find(' ').unwrap_or(rest.len())..).unwrap_or_default();
    }
    Some(MappingMemory {
        range: range.to_owned(),
        permissions: permissions.to_owned(),
        name: rest.trim_start_matches(' ').to_owned(),
        amounts: Amounts::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0c8a00000-55d0c8c00000 rw-p 00000000 00:00 0                          [heap]
Size:               2048 kB
Rss:                1500 kB
Anonymous:          1400 kB
Swap:                100 kB
VmFlags: rd wr mr mw me ac sd
7f0000000000-7f0000100000 rw-p 00000000 00:00 0 
Size:               1024 kB
Rss:                1024 kB
Anonymous:          1024 kB
Swap:                  0 kB
7f0000200000-7f0000300000 r-xp 00001000 08:01 77                         /usr/lib/a b.so (deleted)
Size:               1024 kB
Rss:                 200 kB
Anonymous:             0 kB
Swap:                  0 kB
";

    fn parsed(text: &str, is_late: bool) -> Breakdown {
        let mut breakdown = Breakdown::default();
        add_mappings(&mut breakdown, text.as_bytes(), || is_late).expect("from memory");
        breakdown
    }

    #[test]
    fn mappings_are_sorted_by_what_is_private_in_them() {
        let breakdown = parsed(SMAPS, false);
        assert!(breakdown.is_complete);
        assert_eq!(breakdown.mappings, 3);
        let names: Vec<&str> = breakdown.largest.iter().map(|mapping| mapping.name.as_str()).collect();
        assert_eq!(names, ["[heap]", ""]);
        assert_eq!(breakdown.largest[0].amounts.private(), 1500 << 10);
        assert_eq!(breakdown.kinds[&Kind::File].rss, 200 << 10);
        assert_eq!(breakdown.kinds[&Kind::Anonymous].anonymous, 1 << 20);
    }

    #[test]
    fn what_takes_too_long_is_cut_off_and_says_so() {
        let breakdown = parsed(SMAPS, true);
        assert!(!breakdown.is_complete && breakdown.mappings < 3);
    }

    #[test]
    fn a_file_name_keeps_its_blanks() {
        let line = SMAPS.lines().find(|line| line.contains("a b.so")).expect("sample");
        assert_eq!(header(line).expect("a header").name, "/usr/lib/a b.so (deleted)");
        for line in ["Size:  4 kB", "", "xyz-1 rw-p 0 0 0", "1-2"] {
            assert_eq!(header(line), None, "{line}");
        }
    }

    #[test]
    fn a_text_cut_off_anywhere_is_no_panic() {
        (0..SMAPS.len()).for_each(|end| drop(parsed(&SMAPS[..end], false)));
    }

    #[test]
    fn our_own_memory_is_what_the_kernel_says_it_is() {
        let own = std::process::id();
        let ticks = process::status::read_stat(own).expect("own").start_ticks;
        let breakdown = read_memory(own, ticks, Duration::from_secs(60)).expect("our own");
        assert!(breakdown.is_complete && breakdown.mappings > 10 && !breakdown.largest.is_empty());
        let rss: u64 = breakdown.kinds.values().map(|amounts| amounts.rss).sum();
        assert!(rss > 0 && breakdown.sums["Rss"] > 0);
        // Another process that was given its PID is not meant.
        assert!(read_memory(own, ticks + 1, Duration::from_secs(60)).is_err());
        assert!(read_memory(4_194_305, 1, Duration::from_secs(60)).is_err());
    }
}
