//! What an object's unwind table is made of, taken out of a file that nobody vouches for: call frame information,
//! where its code lies, where it starts, and where signal handlers return to. Everything is read in bounded pieces;
//! what does not exist is a value, what cannot be read an error.

use std::fs::File;
use std::path::Path;

use gimli::{BaseAddresses, EhFrameHdr, LittleEndian, Pointer};

use crate::object::address::VirtualOffset;
use crate::object::elf::Elf;
pub use crate::object::elf::ElfError as SectionsError;
use crate::object::note::BuildId;
use crate::object::section::Section;
use crate::object::source::in_memory;
use crate::object::symbols::Table;

use super::entries;
use super::x86_64::{self as arch, Trampoline};

/// Largest call frame information that is read, bytes.
const MAX_FRAME_BYTES: u64 = 256 << 20;
/// First piece that is read where nothing but a terminator says how long it is.
const FIRST_PIECE: u64 = 1 << 20;
/// Enough of the frame table to see where the frames are.
const FRAME_TABLE_HEAD: u64 = 64;
/// Most executable segments.
const MAX_CODE_RANGES: usize = 4096;
/// Most code that is searched for trampolines, bytes.
const MAX_SEARCHED: u64 = 256 << 20;
/// How much of it at a time.
const SEARCH_PIECE: u64 = 1 << 20;
/// Most trampolines; a libc has one or two.
const MAX_TRAMPOLINES: usize = 64;
/// Where programs that need no other library keep the jumps to functions that they choose when they start.
const JUMP_TABLES: [&str; 4] = [".plt", ".plt.got", ".plt.sec", ".iplt"];
/// Exported functions of musl, and how many bytes before and behind their beginning hold what calls `main` (24 bytes before
/// in musl 1.2) and a thread's function (some 800 bytes before).
const STARTS: [(&str, u64, u64); 2] = [("__libc_start_main", 256, 256), ("pthread_create", 1024, 0)];
/// Goes before everything else into the digest, so that it is nobody else's.
const DIGEST_CONTEXT: &[u8] = b"leaktrace: what an unwind table is made of";

/// Which section describes the frames: their encodings differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// `.eh_frame`: what exceptions use, loaded with the code.
    EhFrame,
    /// `.debug_frame`: what debuggers use.
    DebugFrame,
}

/// Call frame information.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames {
    /// From which section.
    pub kind: FrameKind,
    /// Where it is loaded: pointers inside are relative to themselves.
    pub address: VirtualOffset,
    /// The section.
    pub bytes: Vec<u8>,
}

/// A range of executable addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CodeRange {
    /// First address.
    pub start: VirtualOffset,
    /// First address behind it.
    pub end: VirtualOffset,
}

/// What a table is made of, and nothing else but the build ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sections {
    /// The object's name for itself. Not to be trusted: two objects can claim the same.
    pub build_id: Option<BuildId>,
    /// Where execution begins.
    pub entry: VirtualOffset,
    /// Executable ranges: sorted, not empty, not touching each other.
    pub code: Vec<CodeRange>,
    /// `None`: the object says nothing about its frames.
    pub frames: Option<Frames>,
    /// Code that only signal handlers return to, whether or not it is described. Sorted.
    pub trampolines: Vec<Trampoline>,
    /// Code that is nothing but jumps, whether or not it is described.
    pub jumps: Vec<CodeRange>,
    /// Code around functions of a C library that call what a program or a thread begins with, whether or not it is described.
    pub starts: Vec<Start>,
    /// It is a shared C library: what it does not describe has no frame pointers either.
    pub is_c_library: bool,
}

/// See [`Sections::starts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Start {
    /// The function.
    pub function: VirtualOffset,
    /// Bytes before it that belong to it.
    pub before: u64,
    /// Bytes of it that matter.
    pub after: u64,
}

impl Sections {
    /// Reads them from an open file; `name` is only used in messages.
    ///
    /// # Errors
    /// The file cannot be read, is no object for this machine, or contradicts itself.
    pub fn read(file: &File, name: &Path) -> Result<Self, SectionsError> {
        let file = file.try_clone().map_err(|source| SectionsError::Io { path: name.to_owned(), source })?;
        Self::of(&Elf::from_file(file, name)?)
    }

    /// Reads them from memory in which every byte lies at its file offset, as the kernel's vDSO does.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn from_image(bytes: &[u8], name: &Path) -> Result<Self, SectionsError> {
        let file = in_memory(bytes).map_err(|source| SectionsError::Io { path: name.to_owned(), source })?;
        Self::of(&Elf::from_file(file, name)?)
    }

    /// Reads them from an object.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn of(elf: &Elf) -> Result<Self, SectionsError> {
        let code = code_ranges(elf)?;
        Ok(Self {
            // A build ID that cannot be read is none: the table does not depend on it.
            build_id: elf.build_id().unwrap_or(None),
            entry: elf.entry(),
            frames: if code.is_empty() { None } else { frames(elf)? },
            trampolines: trampolines(elf)?,
            jumps: jumps(elf),
            starts: starts(elf),
            is_c_library: is_c_library(elf),
            code,
        })
    }

    /// Identity of the table that is made of this. The build ID is no part of it: it can be forged.
    pub fn digest(&self) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(DIGEST_CONTEXT);
        let mut word = |word: u64| {
            hasher.update(&word.to_le_bytes());
        };
        word(self.entry.0);
        word(self.code.len() as u64);
        for range in &self.code {
            word(range.start.0);
            word(range.end.0);
        }
        word(self.trampolines.len() as u64);
        for trampoline in &self.trampolines {
            word(trampoline.start.0);
            word(trampoline.length);
        }
        word(self.jumps.len() as u64);
        for range in &self.jumps {
            word(range.start.0);
            word(range.end.0);
        }
        word(u64::from(self.is_c_library));
        word(self.starts.len() as u64);
        for start in &self.starts {
            word(start.function.0);
            word(start.before);
            word(start.after);
        }
        if let Some(frames) = &self.frames {
            word(match frames.kind {
                FrameKind::EhFrame => 1,
                FrameKind::DebugFrame => 2,
            });
            word(frames.address.0);
            hasher.update(&frames.bytes);
        }
        let mut digest = [0; 16];
        hasher.finalize_xof().fill(&mut digest);
        digest
    }
}

/// Executable ranges, sorted, touching ones merged.
fn code_ranges(elf: &Elf) -> Result<Vec<CodeRange>, SectionsError> {
    let mut ranges = Vec::new();
    for segment in elf.segments().filter(|segment| segment.executable && segment.file_bytes > 0) {
        let end = segment.address.checked_add(segment.file_bytes);
        let end = end.ok_or_else(|| elf.malformed("a segment ends behind the last address"))?;
        if ranges.len() == MAX_CODE_RANGES {
            return Err(elf.malformed(format!("it has more than {MAX_CODE_RANGES} executable segments")));
        }
        ranges.push(CodeRange { start: segment.address, end });
    }
    ranges.sort_unstable();
    ranges.dedup_by(|next, last| {
        let touching = next.start <= last.end;
        if touching {
            last.end = last.end.max(next.end);
        }
        touching
    });
    Ok(ranges)
}

/// `.eh_frame`, as loaded or else by name; `.debug_frame` only where there is none.
pub(super) fn frames(elf: &Elf) -> Result<Option<Frames>, SectionsError> {
    if let Some(frames) = loaded_frames(elf)? {
        return Ok(Some(frames));
    }
    // Headers of sections may be cut off or overwritten in a file that runs well: then nothing can be found by name.
    for (name, kind) in [(".eh_frame", FrameKind::EhFrame), (".debug_frame", FrameKind::DebugFrame)] {
        let Some(section) = elf.section(name).unwrap_or(None).filter(|section| section.bytes > 0) else {
            continue;
        };
        let bytes = elf.section_bytes(&section, "its call frame information", MAX_FRAME_BYTES)?;
        return Ok(Some(Frames { kind, address: section.address, bytes }));
    }
    Ok(None)
}

/// `.eh_frame` where the program headers lead to it.
fn loaded_frames(elf: &Elf) -> Result<Option<Frames>, SectionsError> {
    let Some(address) = frames_address(elf)? else { return Ok(None) };
    let named = elf.section(".eh_frame").unwrap_or(None).filter(|section| section.address == address);
    let length = named.map(|section| section.bytes);
    let bytes = match length {
        Some(length) => elf.bytes_at("its call frame information", address, length, MAX_FRAME_BYTES)?,
        None => terminated_frames(elf, address)?,
    };
    Ok(bytes.map(|bytes| Frames { kind: FrameKind::EhFrame, address, bytes }))
}

fn frames_address(elf: &Elf) -> Result<Option<VirtualOffset>, SectionsError> {
    let Some(table) = elf.frame_table_address() else { return Ok(None) };
    let Some(head) = elf.bytes_at("its frame table", table, FRAME_TABLE_HEAD, FRAME_TABLE_HEAD)? else {
        return Ok(None);
    };
    let bases = BaseAddresses::default().set_eh_frame_hdr(table.0);
    let parsed = EhFrameHdr::new(&head, LittleEndian).parse(&bases, arch::ADDRESS_BYTES);
    Ok(match parsed.map(|parsed| parsed.eh_frame_ptr()) {
        Ok(Pointer::Direct(address)) => Some(VirtualOffset(address)),
        _ => None,
    })
}

/// Reads up to the terminator or the end of the segment: pieces that double, since a segment may be large and its
/// frames small.
fn terminated_frames(elf: &Elf, address: VirtualOffset) -> Result<Option<Vec<u8>>, SectionsError> {
    let mut length = FIRST_PIECE;
    loop {
        let what = "its call frame information";
        let Some(mut bytes) = elf.bytes_at(what, address, length, MAX_FRAME_BYTES)? else { return Ok(None) };
        if let Some(end) = entries::terminator(&bytes) {
            bytes.truncate(end);
            return Ok(Some(bytes));
        }
        if (bytes.len() as u64) < length {
            return Ok(Some(bytes));
        }
        length *= 2;
    }
}

fn needs_others(elf: &Elf) -> bool {
    elf.dynamic().ok().flatten().is_some_and(|dynamic| !dynamic.needed.is_empty())
}

/// Linkers describe tables that bind lazily, but not those of static programs: their entries push nothing.
fn jumps(elf: &Elf) -> Vec<CodeRange> {
    if needs_others(elf) {
        return Vec::new();
    }
    let section = |name: &&str| elf.section(name).ok().flatten();
    let range = |section: Section| {
        Some(CodeRange { start: section.address, end: section.address.checked_add(section.bytes)? })
    };
    JUMP_TABLES.iter().filter_map(section).filter_map(range).collect()
}

fn is_c_library(elf: &Elf) -> bool {
    let start = || elf.symbol(Table::Dynamic, STARTS[0].0);
    !needs_others(elf) && start().is_ok_and(|found| found.is_ok())
}

/// musl describes nothing of its own code. Its functions that call `main` and a thread's function are local, so stripped of their
/// names, but lie beside exported ones of the same source files.
fn starts(elf: &Elf) -> Vec<Start> {
    if needs_others(elf) {
        return Vec::new();
    }
    let names = STARTS.map(|(name, ..)| name);
    let look = |table| elf.symbols(table, &names).unwrap_or_default();
    let found =
        [Table::Dynamic, Table::Full].map(look).into_iter().flat_map(|found| STARTS.iter().zip(found));
    let mut starts: Vec<_> = found
        .filter_map(|((_, before, after), symbol)| {
            let function = symbol.ok()?.address;
            Some(Start { function, before: *before, after: *after })
        })
        .collect();
    starts.sort_unstable();
    starts.dedup();
    starts
}

/// Searches objects that bring their own: those that need no other library (C libraries, static programs, the vDSO).
fn trampolines(elf: &Elf) -> Result<Vec<Trampoline>, SectionsError> {
    let mut found = Vec::new();
    if needs_others(elf) {
        return Ok(found);
    }
    let mut searched = 0;
    for segment in elf.segments().filter(|segment| segment.executable) {
        let mut inside = 0;
        while inside < segment.file_bytes && searched < MAX_SEARCHED {
            let Some(address) = segment.address.checked_add(inside) else { break };
            // A trampoline may lie across the border of two pieces.
            let length = SEARCH_PIECE + arch::LONGEST_TRAMPOLINE;
            let Some(code) = elf.bytes_at("its code", address, length, length)? else { break };
            arch::find_trampolines(&code, address, &mut found);
            if found.len() > 2 * MAX_TRAMPOLINES {
                break;
            }
            (inside, searched) = (inside + SEARCH_PIECE, searched + SEARCH_PIECE);
        }
    }
    found.sort_unstable();
    found.dedup();
    found.truncate(MAX_TRAMPOLINES);
    Ok(found)
}

#[cfg(test)]
mod tests;
