//! The perf maps of processes: where they are looked for, which are believed, and when they are read.
//!
//! A program writes `/tmp/perf-PID.map` below its own root directory, under its PID as it knows it itself. What lies
//! there may be anybody's work. So: no links, regular files only, owned by root or by the user that the process runs
//! as, read in bounded pieces, and never through a mapping. The directory is held from the moment generated code is
//! first seen, so that the names can still be read when the process is gone.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::perf_map::PerfMap;
use crate::object::open::{directory, directory_below, open_owned};
use crate::process::status;

/// Most bytes that are read of one perf map.
const MAX_FILE: u64 = 64 << 20;
/// Bytes of names of all processes together.
const MAX_HELD: usize = 128 << 20;
/// Most processes whose generated code is looked after.
const MAX_PROCESSES: usize = 1024;
/// Bytes read at once.
const PIECE: usize = 256 << 10;
/// How much before the place reached is compared, to notice a file that was written anew.
const OVERLAP: usize = 64;

/// Why a perf map is not believed, or not to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refused {
    /// It belongs to neither root nor the process's user.
    ForeignOwner,
    /// It is a link, a FIFO, a device.
    NotAFile,
    /// It is longer than is read.
    TooLong,
    /// There are too many names in all.
    TooManyNames,
    /// Too many processes generate code.
    TooManyProcesses,
}

impl Refused {
    /// In words, for the truth line.
    pub fn describe(self) -> &'static str {
        match self {
            Self::ForeignOwner => "perf map is owned by neither root nor the process's user",
            Self::NotAFile => "perf map is no regular file",
            Self::TooLong => "perf map is longer than 64 MiB; the rest was not read",
            Self::TooManyNames => "perf maps hold too many names",
            Self::TooManyProcesses => "too many processes generate code",
        }
    }
}

/// All perf maps.
#[derive(Debug)]
pub struct Generated {
    processes: HashMap<u32, Process>,
    /// Bytes that may still be held.
    budget: usize,
    /// Perf maps refused or cut, by reason; each counts once.
    pub refused: BTreeMap<Refused, u64>,
    /// Lines that name no code.
    pub malformed: u64,
}

impl Default for Generated {
    fn default() -> Self {
        Self { processes: HashMap::new(), budget: MAX_HELD, refused: BTreeMap::new(), malformed: 0 }
    }
}

/// One process image that generates code.
#[derive(Debug)]
struct Process {
    /// Its `/tmp`.
    directory: OwnedFd,
    /// What its perf map may be called there, likeliest first.
    names: Vec<String>,
    owners: [u32; 2],
    reading: Option<Reading>,
    map: PerfMap,
    /// What is wrong with its perf map, and whether that was counted.
    refused: BTreeMap<Refused, bool>,
}

/// A perf map that is being read.
#[derive(Debug)]
struct Reading {
    file: File,
    name: String,
    /// Device, inode.
    identity: (u64, u64),
    position: u64,
    /// The last bytes before `position`.
    before: Vec<u8>,
    /// Size and time of change when it was last read.
    stamp: (u64, i64, i64),
}

impl Generated {
    /// Holds what is needed to read the process's perf map later. Nothing happens for a process that is known.
    pub fn learn(&mut self, pid: u32, serial: u32) {
        if self.processes.contains_key(&serial) {
            return;
        }
        if self.processes.len() >= MAX_PROCESSES {
            *self.refused.entry(Refused::TooManyProcesses).or_default() += 1;
            return;
        }
        // Gone, or without a /tmp: nothing to read.
        let Some(mut process) = Process::open(pid) else { return };
        process.find();
        self.processes.insert(serial, process);
    }

    /// Opens the process's perf map if it has appeared meanwhile: it may be gone when it is read.
    pub fn hold(&mut self, serial: u32) {
        if let Some(process) = self.processes.get_mut(&serial)
            && process.reading.is_none()
        {
            process.find();
        }
    }

    /// The name of generated code, and the file that it comes from.
    pub fn find(&self, serial: u32, address: u64) -> Option<(&str, PathBuf)> {
        let process = self.processes.get(&serial)?;
        let file = Path::new("/tmp").join(&process.reading.as_ref()?.name);
        Some((process.map.find(address)?, file))
    }

    /// Reads what was added since. Says whether anything was.
    pub fn refresh(&mut self, serial: u32) -> bool {
        let Some(process) = self.processes.get_mut(&serial) else { return false };
        let malformed = process.map.malformed;
        let changed = process.refresh(&mut self.budget);
        self.malformed += process.map.malformed.saturating_sub(malformed);
        self.take_refusals(serial);
        changed
    }

    /// Reads the rest of a process's perf map: nobody will add to it any more.
    pub fn finish(&mut self, serial: u32) {
        self.refresh(serial);
        if let Some(process) = self.processes.get_mut(&serial) {
            process.map.end_line(&mut self.budget);
        }
    }

    /// Forgets a process.
    pub fn forget(&mut self, serial: u32) {
        if let Some(process) = self.processes.remove(&serial) {
            self.budget += process.map.cost;
        }
    }

    fn take_refusals(&mut self, serial: u32) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        if process.map.refused > 0 {
            process.refuse(Refused::TooManyNames);
        }
        for (&reason, counted) in &mut process.refused {
            if !std::mem::replace(counted, true) {
                *self.refused.entry(reason).or_default() += 1;
            }
        }
    }
}

impl Process {
    fn open(pid: u32) -> Option<Self> {
        let root = directory(&PathBuf::from(format!("/proc/{pid}/root"))).ok()?;
        let status = status::read(pid).ok()?;
        let innermost = status.namespace_pids.last().copied().unwrap_or(pid);
        let mut names = vec![file_name(innermost), file_name(pid)];
        names.dedup();
        Some(Self {
            directory: directory_below(&root, Path::new("/tmp")).ok()?,
            names,
            owners: [0, status.uid],
            reading: None,
            map: PerfMap::default(),
            refused: BTreeMap::new(),
        })
    }

    fn refuse(&mut self, reason: Refused) {
        self.refused.entry(reason).or_insert(false);
    }

    /// Opens the perf map that its path leads to now. One that was opened before and has gone stays open.
    fn find(&mut self) {
        for name in self.names.clone() {
            match open_owned(&self.directory, &name, &self.owners) {
                Ok(file) => return self.begin(file, name),
                Err(error) => self.refused.extend(reason(&error).map(|reason| (reason, false))),
            }
        }
    }

    /// Begins to read a file, unless it is the one being read.
    fn begin(&mut self, file: File, name: String) {
        let Ok(metadata) = file.metadata() else { return };
        let identity = (metadata.dev(), metadata.ino());
        if self.reading.as_ref().is_none_or(|reading| reading.identity != identity) {
            let before = Vec::with_capacity(OVERLAP);
            let reading = Reading { file, name, identity, position: 0, before, stamp: (0, 0, 0) };
            self.reading = Some(reading);
        }
    }

    fn refresh(&mut self, budget: &mut usize) -> bool {
        self.find();
        let Some(reading) = &mut self.reading else { return false };
        let Ok(metadata) = reading.file.metadata() else { return false };
        if stamp(&metadata) == reading.stamp {
            return false;
        }
        reading.stamp = stamp(&metadata);
        if reading.was_rewritten() {
            // What was said before stays true of the code that is not mentioned again.
            reading.position = 0;
            reading.before.clear();
            self.map.end_line(budget);
        }
        if metadata.len() > MAX_FILE {
            self.refused.entry(Refused::TooLong).or_insert(false);
        }
        // Unreadable from here on: what was read counts.
        let _ = reading.read_on(&mut self.map, budget);
        true
    }
}

impl Reading {
    /// Whether what was read up to here is there no more: a writer that dumps all names begins again.
    fn was_rewritten(&self) -> bool {
        let mut now = vec![0; self.before.len()];
        let at = self.position.saturating_sub(now.len() as u64);
        self.file.read_exact_at(&mut now, at).is_err() || now != self.before
    }

    fn read_on(&mut self, map: &mut PerfMap, budget: &mut usize) -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        while self.position < MAX_FILE {
            let count = self.file.read_at(&mut buffer, self.position)?;
            let Some(piece) = buffer.get(..count).filter(|piece| !piece.is_empty()) else { break };
            map.feed(piece, budget);
            self.position += count as u64;
            self.before.extend_from_slice(piece.get(count.saturating_sub(OVERLAP)..).unwrap_or_default());
            self.before.drain(..self.before.len().saturating_sub(OVERLAP));
        }
        Ok(())
    }
}

fn stamp(metadata: &Metadata) -> (u64, i64, i64) {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

fn file_name(pid: u32) -> String {
    format!("perf-{pid}.map")
}

/// Why a file was refused; `None` if there is no such file.
fn reason(error: &io::Error) -> Option<Refused> {
    match error.raw_os_error() {
        Some(libc::ENOENT) => None,
        _ if error.kind() == io::ErrorKind::PermissionDenied => Some(Refused::ForeignOwner),
        _ => Some(Refused::NotAFile),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    /// A process whose `/tmp` is a directory of the test.
    fn process(tmp: &Path) -> Process {
        let held = directory(tmp).expect("directory");
        let uid = rustix::process::geteuid().as_raw();
        Process {
            directory: held,
            names: vec![file_name(7), file_name(4242)],
            owners: [0, uid],
            reading: None,
            map: PerfMap::default(),
            refused: BTreeMap::new(),
        }
    }

    fn refreshed(tmp: &Path) -> Process {
        let mut process = process(tmp);
        process.refresh(&mut (1 << 20));
        process
    }

    fn reasons(process: &Process) -> Vec<Refused> {
        process.refused.keys().copied().collect()
    }

    #[test]
    fn the_pid_that_the_process_knows_comes_before_the_hosts() {
        let tmp = tempfile::tempdir().expect("directory");
        fs::write(tmp.path().join("perf-4242.map"), "1000 10 by_host\n").expect("write");
        assert_eq!(refreshed(tmp.path()).map.find(0x1000), Some("by_host"));
        fs::write(tmp.path().join("perf-7.map"), "1000 10 by_namespace\n").expect("write");
        assert_eq!(refreshed(tmp.path()).map.find(0x1000), Some("by_namespace"));
    }

    #[test]
    fn what_is_added_is_read_once_and_what_is_written_anew_from_its_beginning() {
        let tmp = tempfile::tempdir().expect("directory");
        let path = tmp.path().join("perf-7.map");
        let (mut process, mut budget) = (process(tmp.path()), 1 << 20);
        assert!(!process.refresh(&mut budget), "not there yet");
        fs::write(&path, "1000 10 one\n2000 10 tw").expect("write");
        assert!(process.refresh(&mut budget) && !process.refresh(&mut budget));
        assert_eq!((process.map.find(0x1000), process.map.find(0x2000)), (Some("one"), None));
        let mut file = File::options().append(true).open(&path).expect("open");
        file.write_all(b"o\n").expect("append");
        assert!(process.refresh(&mut budget));
        assert_eq!((process.map.find(0x2000), process.map.len()), (Some("two"), 2));
        fs::write(&path, "1000 10 changed\n5000 10 much longer than what was here before\n").expect("write");
        assert!(process.refresh(&mut budget));
        assert_eq!(process.map.find(0x1000), Some("changed"));
        fs::remove_file(&path).expect("remove");
        fs::write(&path, "1000 10 another_file\n").expect("write");
        assert!(process.refresh(&mut budget));
        assert_eq!(process.map.find(0x1000), Some("another_file"));
        assert_eq!(process.map.malformed, 0);
    }

    #[test]
    fn a_perf_map_that_was_opened_is_read_on_after_it_was_removed() {
        let tmp = tempfile::tempdir().expect("directory");
        let path = tmp.path().join("perf-7.map");
        let (mut process, mut budget) = (process(tmp.path()), 1 << 20);
        let mut file = File::create(&path).expect("create");
        process.refresh(&mut budget);
        fs::remove_file(&path).expect("remove");
        file.write_all(b"1000 10 late\n").expect("write");
        assert!(process.refresh(&mut budget));
        assert_eq!(process.map.find(0x1000), Some("late"));
    }

    #[test]
    fn links_and_fifos_are_refused_and_do_not_block() {
        let tmp = tempfile::tempdir().expect("directory");
        let path = tmp.path().join("perf-7.map");
        symlink("/etc/shadow", &path).expect("link");
        assert_eq!(reasons(&refreshed(tmp.path())), [Refused::NotAFile]);
        fs::remove_file(&path).expect("remove");
        let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("no NUL");
        // SAFETY: `name` is a valid C string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o666) }, 0);
        assert_eq!(reasons(&refreshed(tmp.path())), [Refused::NotAFile]);
    }

    #[test]
    fn a_perf_map_of_4_gib_is_read_to_the_cap_and_no_further() {
        let tmp = tempfile::tempdir().expect("directory");
        let path = tmp.path().join("perf-7.map");
        fs::write(&path, "1000 10 first\n").expect("write");
        File::options().write(true).open(&path).expect("open").set_len(4 << 30).expect("sparse");
        let process = refreshed(tmp.path());
        assert_eq!((process.map.find(0x1000), reasons(&process)), (Some("first"), vec![Refused::TooLong]));
        assert!(process.reading.is_some_and(|reading| reading.position < MAX_FILE + PIECE as u64));
    }

    #[test]
    fn another_users_perf_map_is_refused() {
        let tmp = tempfile::tempdir().expect("directory");
        fs::write(tmp.path().join("perf-7.map"), "1000 10 forged\n").expect("write");
        let mut process = process(tmp.path());
        process.owners = [u32::MAX - 1; 2];
        process.refresh(&mut (1 << 20));
        assert_eq!((process.map.find(0x1000), reasons(&process)), (None, vec![Refused::ForeignOwner]));
    }

    #[test]
    fn a_forgotten_process_gives_its_memory_back() {
        let mut generated = Generated::default();
        generated.learn(std::process::id(), 1);
        let process = generated.processes.get_mut(&1).expect("we have a /tmp");
        process.map.feed(b"1000 10 name\n", &mut generated.budget);
        assert!(generated.budget < MAX_HELD);
        generated.forget(1);
        assert_eq!((generated.budget, generated.processes.len()), (MAX_HELD, 0));
    }
}
