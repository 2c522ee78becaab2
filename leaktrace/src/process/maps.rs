//! The mappings of a process, from `/proc/PID/maps`. The kernel writes a file's path raw, only a newline is escaped
//! (as `\012`), so everything after the inode is the path, spaces included.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::{ProcessError, directory, read_file};
use crate::object::address::{AbsoluteAddress, FileOffset};
use crate::object::open::{self, inode_below};

/// Longest `maps` that is read: more than a million mappings with ordinary paths.
const MAX_BYTES: usize = 128 << 20;

/// What the kernel appends to the path of a file that was removed.
const DELETED: &[u8] = b" (deleted)";

/// One mapping of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: AbsoluteAddress,
    /// First address behind it.
    pub end: AbsoluteAddress,
    /// May be read.
    pub readable: bool,
    /// May be written.
    pub writable: bool,
    /// May be executed.
    pub executable: bool,
    /// Shared with other processes (`MAP_SHARED`).
    pub shared: bool,
    /// Position in the file of the byte at `start`.
    pub offset: FileOffset,
    /// Major and minor number of the file's device, as the kernel's inode says (may differ from `stat` on overlayfs).
    pub device: (u32, u32),
    /// Inode of the file, 0 if there is none.
    pub inode: u64,
    /// The file, as the target sees it, without the suffix " (deleted)".
    pub path: Option<PathBuf>,
    /// What the kernel calls it if it is no file: `[heap]`, `[stack]`, `[vdso]`, `[anon:NAME]`, `anon_inode:[x]`.
    pub label: Option<String>,
    /// The path does not lead to this file any more: it was removed or replaced.
    pub deleted: bool,
}

impl Mapping {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }

    /// Whether it covers nothing; the kernel never reports such.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `address` lies inside.
    pub fn contains(&self, address: AbsoluteAddress) -> bool {
        self.start <= address && address < self.end
    }

    /// Whether a file lies behind it.
    pub fn is_file(&self) -> bool {
        self.inode != 0 && self.path.is_some()
    }

    /// Whether it is private memory without a file: what `malloc` and `mmap` hand out (`[heap]` too, no stacks).
    pub fn is_anonymous(&self) -> bool {
        let named = |label: &str| label == "[heap]" || label.starts_with("[anon");
        self.inode == 0 && self.path.is_none() && self.label.as_deref().is_none_or(named)
    }

    /// Where in its file `address` lies, or `None` if it lies outside.
    pub fn file_offset(&self, address: AbsoluteAddress) -> Option<FileOffset> {
        if !self.contains(address) {
            return None;
        }
        self.offset.checked_add(address.offset_from(self.start)?)
    }
}

/// Every mapping of the process, by address. Empty for a zombie and for a kernel thread.
pub fn read(pid: u32) -> Result<Vec<Mapping>, ProcessError> {
    let bytes = read_file(pid, "maps", MAX_BYTES)?;
    let mut mappings = parse(&bytes).map_err(|line| ProcessError::malformed(pid, "a line of maps", &line))?;
    restore_names(pid, &mut mappings);
    Ok(mappings)
}

/// Parses the text of `maps`; fails with the first line that is none.
///
/// The kernel takes its locks page by page, so a mapping that changes meanwhile can appear twice: the later one wins.
pub fn parse(text: &[u8]) -> Result<Vec<Mapping>, Vec<u8>> {
    let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let mut mappings =
        lines.map(|line| parse_line(line).ok_or_else(|| line.to_vec())).collect::<Result<Vec<_>, _>>()?;
    mappings.reverse();
    mappings.sort_by_key(|mapping| mapping.start);
    mappings.dedup_by_key(|mapping| mapping.start);
    Ok(mappings)
}

/// The mapping that holds `address`; `mappings` as [`read`] returns them.
pub fn find(mappings: &[Mapping], address: AbsoluteAddress) -> Option<&Mapping> {
    let behind = mappings.partition_point(|mapping| mapping.start <= address);
    mappings.get(behind.checked_sub(1)?).filter(|mapping| mapping.contains(address))
}

/// A path under which leaktrace itself can open the file behind a mapping: `/proc/PID/map_files/START-END`, which
/// leads to the very file even if it was deleted, replaced, or lies in another mount namespace. Only a privileged process
/// may follow it; for others, who can look but place no probe, it is the path below the target's root directory, if no link
/// lies on it and it leads to the inode that is mapped.
pub fn openable_path(pid: u32, mapping: &Mapping) -> PathBuf {
    let exact = map_files_path(pid, mapping);
    match exact.metadata() {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            same_below_root(pid, mapping).unwrap_or(exact)
        }
        _ => exact,
    }
}

/// `/proc/PID/map_files/START-END`.
pub fn map_files_path(pid: u32, mapping: &Mapping) -> PathBuf {
    directory(pid).join(format!("map_files/{:x}-{:x}", mapping.start, mapping.end))
}

fn same_below_root(pid: u32, mapping: &Mapping) -> Option<PathBuf> {
    let root = directory(pid).join("root");
    let path = mapping.path.as_deref()?;
    let inode = inode_below(&open::directory(&root).ok()?, path).ok()?;
    (inode == mapping.inode).then(|| root.join(path.strip_prefix("/").unwrap_or(path)))
}

/// A name may really end in what the kernel appends to names of files that were removed. Such a file is still there under
/// that name.
fn restore_names(pid: u32, mappings: &mut [Mapping]) {
    let doubtful = |mapping: &&mut Mapping| {
        mapping.deleted && mapping.inode != 0 && !mapping.path.as_deref().is_some_and(is_memory_file)
    };
    let mut doubtful = mappings.iter_mut().filter(doubtful).peekable();
    if doubtful.peek().is_none() {
        return;
    }
    let Ok(root) = open::directory(&directory(pid).join("root")) else { return };
    for mapping in doubtful {
        let mut name = mapping.path.clone().unwrap_or_default().into_os_string();
        name.push(OsStr::from_bytes(DELETED));
        if inode_below(&root, Path::new(&name)).is_ok_and(|inode| inode == mapping.inode) {
            mapping.path = Some(PathBuf::from(name));
            mapping.deleted = false;
        }
    }
}

/// `START-END PERMS OFFSET MAJOR:MINOR INODE      NAME`
fn parse_line(line: &[u8]) -> Option<Mapping> {
    let (range, rest) = word(line)?;
    let (permissions, rest) = word(rest)?;
    let (offset, rest) = word(rest)?;
    let (device, rest) = word(rest)?;
    let (inode, rest) = word(rest)?;
    let (start, end) = range.split_once('-')?;
    let (major, minor) = device.split_once(':')?;
    let flag = |index: usize, letter: u8| permissions.as_bytes().get(index) == Some(&letter);
    let (path, label, deleted) = parse_name(rest.trim_ascii_start());
    Some(Mapping {
        start: AbsoluteAddress(hexadecimal(start)?),
        end: AbsoluteAddress(hexadecimal(end)?),
        readable: flag(0, b'r'),
        writable: flag(1, b'w'),
        executable: flag(2, b'x'),
        shared: flag(3, b's'),
        offset: FileOffset(hexadecimal(offset)?),
        device: (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?),
        inode: inode.parse().ok()?,
        path,
        label,
        deleted,
    })
}

/// Splits one word off; at most one space belongs to the separator, so that a path may begin with one.
fn word(text: &[u8]) -> Option<(&str, &[u8])> {
    let end = text.iter().position(|&byte| byte == b' ').unwrap_or(text.len());
    let (word, rest) = text.split_at_checked(end)?;
    Some((std::str::from_utf8(word).ok()?, rest.get(1..).unwrap_or_default()))
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

fn parse_name(name: &[u8]) -> (Option<PathBuf>, Option<String>, bool) {
    if name.is_empty() {
        return (None, None, false);
    }
    if !name.starts_with(b"/") {
        return (None, Some(String::from_utf8_lossy(name).into_owned()), false);
    }
    let (path, deleted) = match name.strip_suffix(DELETED) {
        Some(path) => (path, true),
        None => (name, false),
    };
    (Some(PathBuf::from(OsString::from_vec(unescape(path)))), None, deleted)
}

/// Undoes the kernel's only escape. A path that really contains `\012` cannot be told apart.
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(br"\012") {
            result.push(b'\n');
            rest = tail;
        } else {
            result.push(first);
            rest = tail;
        }
    }
    result
}

/// Whether `path` names a file that lives in memory only (`memfd_create`, System V and anonymous shared memory).
pub fn is_memory_file(path: &Path) -> bool {
    let path = path.as_os_str().as_encoded_bytes();
    [b"/memfd:".as_slice(), b"/SYSV", b"/dev/zero"].iter().any(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = b"\
55d0c8a00000-55d0c8a02000 r--p 00000000 fe:01 131 /usr/bin/my program\n\
55d0c8a02000-55d0c8a06000 r-xp 00002000 fe:01 131                        /usr/bin/my program\n\
55d0c9b00000-55d0c9b21000 rw-p 00000000 00:00 0                          [heap]\n\
7f0000000000-7f0000021000 rw-p 00000000 00:00 0 \n\
7f1000000000-7f1000001000 r-xp 0001f000 103:0a 99 /lib/a\\012b.so (deleted)\n\
7f2000000000-7f2000001000 rw-s 00000000 00:01 7 /memfd:x y (deleted)\n\
7f3000000000-7f3000001000 rw-p 00000000 00:00 0 [anon: glibc: malloc]\n\
7fff00000000-7fff00021000 rw-p 00000000 00:00 0 [stack]\n\
7fff00030000-7fff00032000 r-xp 00000000 00:00 0 [vdso]\n\
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\n";

    #[test]
    fn every_kind_of_line_is_understood() {
        let all = parse(SAMPLE).expect("sample");
        assert_eq!(all.len(), 10);
        let program = &all[1];
        assert_eq!(program.path.as_deref(), Some(Path::new("/usr/bin/my program")));
        assert!(program.readable && program.executable && !program.writable && !program.shared);
        assert_eq!((program.offset, program.device, program.inode), (FileOffset(0x2000), (0xfe, 1), 131));
        let deleted = &all[4];
        assert_eq!(deleted.path.as_deref(), Some(Path::new("/lib/a\nb.so")));
        assert!(deleted.deleted);
        assert_eq!(deleted.device, (0x103, 0xa));
        assert!(all[5].shared && all[5].deleted && is_memory_file(all[5].path.as_deref().expect("memfd")));
        assert_eq!(all[8].label.as_deref(), Some("[vdso]"));
    }

    #[test]
    fn only_memory_that_an_allocator_could_own_is_anonymous() {
        let all = parse(SAMPLE).expect("sample");
        let anonymous: Vec<usize> = (0..all.len()).filter(|&index| all[index].is_anonymous()).collect();
        assert_eq!(anonymous, [2, 3, 6]);
    }

    #[test]
    fn an_address_is_found_in_its_mapping_and_not_in_the_gap_behind() {
        let all = parse(SAMPLE).expect("sample");
        let found = find(&all, AbsoluteAddress(0x55d0_c8a0_2010)).expect("mapped");
        assert_eq!(found.file_offset(AbsoluteAddress(0x55d0_c8a0_2010)), Some(FileOffset(0x2010)));
        assert!(find(&all, AbsoluteAddress(0x55d0_c8a0_6000)).is_none());
        assert!(find(&all, AbsoluteAddress(0)).is_none());
        assert!(find(&all, AbsoluteAddress(u64::MAX)).is_none());
        assert!(find(&[], AbsoluteAddress(1)).is_none());
    }

    #[test]
    fn a_mapping_that_changed_while_it_was_read_appears_once() {
        let text = b"1000-2000 r--p 0 0:0 0 \n1000-3000 rw-p 0 0:0 0 \n";
        let all = parse(text).expect("two lines");
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].end, AbsoluteAddress(0x3000));
    }

    #[test]
    fn a_line_that_is_no_mapping_is_handed_back() {
        for line in [&b"garbage"[..], b"1-2 r--p", b"1000-2000 r--p 0 0:0 x", b"\xff\xfe-1 r 0 0:0 0"] {
            assert_eq!(parse(line), Err(line.to_vec()));
        }
    }

    #[test]
    fn our_own_code_is_found_in_our_own_mappings() {
        let here = our_own_code_is_found_in_our_own_mappings as fn() as usize as u64;
        let all = read(std::process::id()).expect("own maps");
        let mapping = find(&all, AbsoluteAddress(here)).expect("own code is mapped");
        assert!(mapping.executable && mapping.is_file());
        let path = openable_path(std::process::id(), mapping);
        assert!(path.metadata().is_ok(), "{}", path.display());
    }
}
