//! A private copy of what a symbol reader needs of an object.
//!
//! blazesym maps the files it reads. A target that truncates such a file would kill the daemon with SIGBUS, and one
//! that rewrites it would let the parser see two versions at once. So the parser is only ever given a sealed memory
//! file: the ELF headers, the symbol tables and the DWARF sections at their old places, nothing else (text and data,
//! most of a file, stay holes that cost nothing). Every section that was not copied loses its header, so the parser does
//! not find it: above all `.gnu_debuglink` and its relatives, through which an object could make a privileged reader
//! open any path. The one link that stays, to what several debug files share (`.gnu_debugaltlink`), is written anew and
//! leads to another such copy. Compressed sections are inflated here, because a parser would believe the size they claim.
//!
//! Copying is bounded by [`MAX_SYMBOLS`] and [`MAX_DEBUG`], and one copy is alive at a time. What exceeds the first has
//! no names; what exceeds the second has names from its symbol tables but no lines.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use memmap2::Mmap;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::bounds;
use super::inflate;
use super::outline::{Outline, OutlineError, Section, read_at};

/// Most bytes of headers and symbol tables. The largest browsers and databases stay below it.
pub const MAX_SYMBOLS: u64 = 192 << 20;
/// Most bytes of DWARF, inflated.
pub const MAX_DEBUG: u64 = 384 << 20;

const SYMBOL_SECTIONS: [&str; 7] =
    [".symtab", ".strtab", ".dynsym", ".dynstr", ".symtab_shndx", ".shstrtab", ".note.gnu.build-id"];
const DEBUG_SECTIONS: [&str; 11] = [
    ".debug_info",
    ".debug_abbrev",
    ".debug_line",
    ".debug_line_str",
    ".debug_str",
    ".debug_str_offsets",
    ".debug_addr",
    ".debug_ranges",
    ".debug_rnglists",
    ".debug_aranges",
    ".debug_types",
];
const ALTERNATE_LINK: &str = ".gnu_debugaltlink";
const SECTION_HEADER: u64 = 64;
const COMPRESSION_HEADER: usize = 24;
const SHF_COMPRESSED: u64 = 0x800;

/// Why no copy could be made.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Its symbol tables exceed the cap.
    #[error("its symbol tables are larger than {MAX_SYMBOLS} bytes")]
    TooLarge,
    /// It is cut off or contradicts itself.
    #[error(transparent)]
    Outline(#[from] OutlineError),
    /// The copy could not be written.
    #[error("copying failed: {0}")]
    Io(#[from] io::Error),
}

/// See the module.
#[derive(Debug)]
pub struct Snapshot {
    file: File,
    /// Whether DWARF was copied too.
    pub has_debug_information: bool,
    /// DWARF was there but too large, damaged, or compressed in a way that is not supported.
    pub debug_left_out: bool,
}

/// A copy being made.
struct Writer<'a> {
    source: &'a File,
    outline: &'a Outline,
    copy: File,
    /// Where inflated sections are appended.
    end: u64,
    /// Sections that keep their names.
    kept: Vec<bool>,
}

impl Snapshot {
    /// Copies what `outline` says from `source`; without DWARF if `with_debug` is false. `shared` is the copy of what
    /// its `.gnu_debugaltlink` leads to, and must outlive this one.
    pub fn take(
        source: &File,
        outline: &Outline,
        with_debug: bool,
        shared: Option<&Self>,
    ) -> Result<Self, SnapshotError> {
        let fd = memfd_create("leaktrace-object", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(io::Error::from)?;
        let mut writer = Writer {
            source,
            outline,
            copy: File::from(fd),
            end: source.metadata()?.len().next_multiple_of(16),
            kept: vec![false; outline.sections.len()],
        };
        writer.copy_symbols()?;
        let wanted = with_debug && outline.has_debug_information();
        let has_debug_information = wanted && writer.copy_debug_information();
        writer.hide_sections(has_debug_information)?;
        let linked = shared.and_then(|shared| writer.link(shared));
        let copy = writer.copy;
        let copied = checked_outline(&copy, linked)?;
        // Nobody else holds this file; the seals make sure that it stays harmless if somebody does.
        fcntl_add_seals(&copy, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)
            .map_err(io::Error::from)?;
        let has_debug_information = has_debug_information && is_parsable(&copy, &copied)?;
        Ok(Self { file: copy, has_debug_information, debug_left_out: wanted && !has_debug_information })
    }

    /// Where this process can open the copy, for as long as it lives.
    pub fn path(&self) -> PathBuf {
        path_of(&self.file)
    }
}

impl Writer<'_> {
    fn copy_symbols(&mut self) -> Result<(), SnapshotError> {
        let outline = self.outline;
        let wanted =
            |section: &Section| SYMBOL_SECTIONS.contains(&section.name.as_str()) && !section.compressed;
        let chosen: Vec<usize> = indices(&outline.sections, wanted);
        let ranges =
            chosen.iter().filter_map(|&index| outline.sections.get(index)).map(|s| (s.offset, s.length));
        let ranges: Vec<(u64, u64)> =
            [(0, 64), outline.program_headers, outline.section_headers].into_iter().chain(ranges).collect();
        let total = ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.1));
        if total > MAX_SYMBOLS {
            return Err(SnapshotError::TooLarge);
        }
        ranges.into_iter().try_for_each(|(offset, length)| self.copy_range(offset, length))?;
        self.keep(&chosen);
        Ok(())
    }

    /// Says whether all of it could be copied: DWARF sections are worthless without each other.
    fn copy_debug_information(&mut self) -> bool {
        let wanted = |section: &Section| DEBUG_SECTIONS.contains(&section.name.as_str());
        let chosen = indices(&self.outline.sections, wanted);
        let mut budget = MAX_DEBUG;
        let complete = chosen.iter().all(|&index| self.copy_debug_section(index, &mut budget).is_some());
        if complete {
            self.keep(&chosen);
        }
        complete
    }

    fn copy_debug_section(&mut self, index: usize, budget: &mut u64) -> Option<()> {
        let section = self.outline.sections.get(index)?;
        if section.compressed {
            return self.inflate(index, section, budget);
        }
        *budget = budget.checked_sub(section.length)?;
        self.copy_range(section.offset, section.length).ok()
    }

    /// Appends the inflated contents and lets the copied header point at them.
    fn inflate(&mut self, index: usize, section: &Section, budget: &mut u64) -> Option<()> {
        let header = read_at(self.source, section.offset, COMPRESSION_HEADER).ok()?;
        let kind = u32::from_le_bytes(*header.first_chunk()?);
        let size = u64::from_le_bytes(*header.get(8..)?.first_chunk()?);
        let packed = section.length.checked_sub(COMPRESSION_HEADER as u64)?;
        *budget = budget.checked_sub(size)?;
        let begin = section.offset.checked_add(COMPRESSION_HEADER as u64)?;
        let at = self.end;
        let packed = Range { file: self.source, at: begin, end: begin.checked_add(packed)? };
        let written = self.append(&mut inflate::section(kind, packed)?.take(size)).ok()?;
        (written == size).then_some(())?;
        self.patch_header(index, 24, at).ok()?;
        self.patch_header(index, 32, size).ok()?;
        let flags = read_at(&self.copy, self.header_position(index)? + 8, 8).ok()?;
        let flags = u64::from_le_bytes(*flags.first_chunk()?) & !SHF_COMPRESSED;
        self.patch_header(index, 8, flags).ok()
    }

    /// Makes the copy refer to `shared`. Returns where the new contents of the link lie.
    fn link(&mut self, shared: &Snapshot) -> Option<u64> {
        let index = self.outline.sections.iter().position(|section| section.name == ALTERNATE_LINK)?;
        let build_id = Outline::read(&shared.file).ok()?.build_id?;
        let path = shared.path().into_os_string().into_encoded_bytes();
        let contents = [&path[..], b"\0", &build_id].concat();
        let at = self.end;
        self.append(&mut &contents[..]).ok()?;
        // Hiding has cleared the header.
        let header = read_at(self.source, self.header_position(index)?, SECTION_HEADER as usize).ok()?;
        self.copy.write_all_at(&header, self.header_position(index)?).ok()?;
        self.patch_header(index, 24, at).ok()?;
        self.patch_header(index, 32, contents.len() as u64).ok()?;
        Some(at)
    }

    fn append(&mut self, contents: &mut dyn Read) -> io::Result<u64> {
        let mut buffer = vec![0; 256 << 10];
        let begin = self.end;
        loop {
            let count = contents.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            self.copy.write_all_at(buffer.get(..count).unwrap_or_default(), self.end)?;
            self.end += count as u64;
        }
        let written = self.end - begin;
        self.end = self.end.next_multiple_of(16);
        Ok(written)
    }

    fn copy_range(&self, offset: u64, length: u64) -> Result<(), SnapshotError> {
        let end = offset.checked_add(length).ok_or(OutlineError::NotElf)?;
        let mut at = offset;
        while at < end {
            let count = usize::try_from((end - at).min(1 << 20)).unwrap_or(1 << 20);
            self.copy.write_all_at(&read_at(self.source, at, count)?, at)?;
            at += count as u64;
        }
        Ok(())
    }

    fn keep(&mut self, indices: &[usize]) {
        for &index in indices {
            if let Some(kept) = self.kept.get_mut(index) {
                *kept = true;
            }
        }
    }

    /// Clears the header of every section that was not copied: name, place and length.
    fn hide_sections(&self, with_debug: bool) -> io::Result<()> {
        for (index, section) in self.outline.sections.iter().enumerate() {
            let debug = DEBUG_SECTIONS.contains(&section.name.as_str());
            let kept = self.kept.get(index).copied().unwrap_or(false) && (with_debug || !debug);
            if !kept && let Some(position) = self.header_position(index) {
                self.copy.write_all_at(&[0; SECTION_HEADER as usize], position)?;
            }
        }
        Ok(())
    }

    fn header_position(&self, index: usize) -> Option<u64> {
        self.outline.section_headers.0.checked_add((index as u64).checked_mul(SECTION_HEADER)?)
    }

    fn patch_header(&self, index: usize, field: u64, value: u64) -> io::Result<()> {
        match self.header_position(index) {
            Some(position) => self.copy.write_all_at(&value.to_le_bytes(), position + field),
            None => Ok(()),
        }
    }
}

/// The file may have been rewritten while it was copied: the copy must show nothing but what was chosen, and no link
/// but the one that was written at `linked`.
fn checked_outline(copy: &File, linked: Option<u64>) -> Result<Outline, SnapshotError> {
    let chosen = |section: &Section| match section.name.as_str() {
        ALTERNATE_LINK => linked == Some(section.offset),
        name => SYMBOL_SECTIONS.contains(&name) || DEBUG_SECTIONS.contains(&name),
    };
    let outline = Outline::read(copy)?;
    // A hostile name table may give a name to cleared headers, too; without contents that leads nowhere.
    if outline.sections.iter().all(|section| section.length == 0 || chosen(section)) {
        return Ok(outline);
    }
    Err(OutlineError::NotElf.into())
}

/// Whether the DWARF in a sealed copy is fit to be parsed.
fn is_parsable(copy: &File, outline: &Outline) -> io::Result<bool> {
    // SAFETY: the copy is sealed against writing and shrinking, so what is mapped neither changes nor goes away.
    let map = unsafe { Mmap::map(&File::open(path_of(copy))?)? };
    let contents = |section: &Section| {
        let (start, length) = (usize::try_from(section.offset).ok()?, usize::try_from(section.length).ok()?);
        map.get(start..start.checked_add(length)?)
    };
    Ok(bounds::is_parsable(|name| outline.section(name).and_then(contents).unwrap_or_default()))
}

fn path_of(copy: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", copy.as_raw_fd()))
}

fn indices(sections: &[Section], wanted: impl Fn(&Section) -> bool) -> Vec<usize> {
    let with_contents =
        sections.iter().enumerate().filter(|(_, section)| section.length > 0 && wanted(section));
    with_contents.map(|(index, _)| index).collect()
}

/// Part of a file, read from its beginning.
pub struct Range<'a> {
    /// The file.
    pub file: &'a File,
    /// Where the next byte lies.
    pub at: u64,
    /// Where the part ends.
    pub end: u64,
}

impl Read for Range<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let count = self.file.read_at(buffer.get_mut(..wanted).unwrap_or_default(), self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn own() -> File {
        File::open(std::env::current_exe().expect("test binary")).expect("readable")
    }

    #[test]
    fn the_copy_holds_symbols_and_dwarf_and_no_text() {
        let source = own();
        let outline = Outline::read(&source).expect("ELF");
        let snapshot = Snapshot::take(&source, &outline, true, None).expect("copied");
        assert!(snapshot.has_debug_information && !snapshot.debug_left_out);
        let copied = Outline::read(&File::open(snapshot.path()).expect("open")).expect("still ELF");
        assert!(copied.section(".symtab").is_some() && copied.has_debug_information());
        assert!(copied.section(".text").is_none() && copied.section(".gnu_debuglink").is_none());
        assert_eq!(copied.segments, outline.segments);
    }

    #[test]
    fn the_copy_cannot_be_changed_or_cut() {
        let source = own();
        let outline = Outline::read(&source).expect("ELF");
        let snapshot = Snapshot::take(&source, &outline, false, None).expect("copied");
        assert!(!snapshot.has_debug_information && !snapshot.debug_left_out);
        assert!(snapshot.file.set_len(1).is_err());
        assert!((&snapshot.file).write(b"x").is_err());
    }

    /// Our own binary with the length of one section changed, and its file sparsely longer than any cap.
    fn with_huge_section(name: &str) -> File {
        let huge = tempfile::tempfile().expect("temporary file");
        huge.write_all_at(&std::fs::read(std::env::current_exe().expect("test binary")).expect("read"), 0)
            .expect("write");
        huge.set_len(6 << 30).expect("sparse");
        let outline = Outline::read(&huge).expect("ELF");
        let index = outline.sections.iter().position(|section| section.name == name).expect("section");
        let position = outline.section_headers.0 + 64 * index as u64 + 32;
        huge.write_all_at(&(4_u64 << 30).to_le_bytes(), position).expect("write");
        huge
    }

    #[test]
    fn a_symbol_table_of_4_gib_is_refused_and_such_dwarf_is_left_out() {
        let huge = with_huge_section(".symtab");
        let outline = Outline::read(&huge).expect("ELF");
        assert!(matches!(Snapshot::take(&huge, &outline, true, None), Err(SnapshotError::TooLarge)));
        let huge = with_huge_section(".debug_info");
        let outline = Outline::read(&huge).expect("ELF");
        let snapshot = Snapshot::take(&huge, &outline, true, None).expect("symbols fit");
        assert!(snapshot.debug_left_out && !snapshot.has_debug_information);
        let copied = Outline::read(&File::open(snapshot.path()).expect("open")).expect("still ELF");
        assert!(copied.section(".symtab").is_some() && !copied.has_debug_information());
    }

    #[test]
    fn a_file_that_changes_its_section_names_meanwhile_is_refused() {
        let source = own();
        let before = Outline::read(&source).expect("ELF");
        let names = before.section(".shstrtab").expect("names");
        let mut table =
            read_at(&source, names.offset, usize::try_from(names.length).expect("small")).expect("read");
        let at = table
            .windows(9)
            .position(|name| name == b".strtab\0.")
            .or_else(|| table.windows(8).position(|name| name == b".symtab\0"));
        let at = at.expect("a name");
        table[at + 1..at + 3].copy_from_slice(b"xx");
        let changed = tempfile::tempfile().expect("temporary file");
        changed
            .write_all_at(&std::fs::read(std::env::current_exe().expect("test binary")).expect("read"), 0)
            .expect("write");
        changed.write_all_at(&table, names.offset).expect("write");
        assert!(Snapshot::take(&changed, &before, false, None).is_err());
    }
}
