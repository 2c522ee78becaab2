//! The outline of an ELF file: segments, sections, build ID. It is read with a few positioned reads of bounded length,
//! never through a mapping: the file belongs to the target, which may truncate it at any moment, and a mapped file that
//! shrinks is a SIGBUS.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::object::address::{AbsoluteAddress, FileOffset, VirtualOffset};

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;
const MAX_PROGRAM_HEADERS: usize = 4096;
const MAX_NAMES: usize = 16 << 20;
const MAX_NOTES: usize = 1 << 20;
const MAX_BUILD_ID: usize = 64;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Segments are mapped by whole pages of 4 KiB.
const PAGE_MASK: u64 = 0xfff;
const PF_X: u32 = 1;
const SHT_NOTE: u32 = 7;
const SHT_NOBITS: u32 = 8;
const SHF_COMPRESSED: u64 = 0x800;
const NT_GNU_BUILD_ID: u32 = 3;

/// Why a file is no object that can be read.
#[derive(Debug, thiserror::Error)]
pub enum OutlineError {
    /// Not an ELF file, or cut off within its headers.
    #[error("not a complete ELF file")]
    NotElf,
    /// Another word size or byte order than this machine's.
    #[error("not a 64-bit little-endian ELF file")]
    Foreign,
    /// The file could not be read.
    #[error("reading failed: {0}")]
    Io(#[from] io::Error),
}

/// A loadable part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the file.
    pub offset: FileOffset,
    /// Where it begins in the object's own addresses.
    pub address: VirtualOffset,
    /// Bytes in the file.
    pub length: u64,
    /// Holds code.
    pub executable: bool,
}

/// A section header, as far as it matters for names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Name; empty if it has none or lies.
    pub name: String,
    /// Where its contents begin in the file.
    pub offset: u64,
    /// Bytes in the file; 0 if it has no contents there.
    pub length: u64,
    /// `SHF_COMPRESSED`.
    pub compressed: bool,
    note: bool,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// Loadable segments, in the file's order.
    pub segments: Vec<Segment>,
    /// Sections, by their index.
    pub sections: Vec<Section>,
    /// GNU build ID.
    pub build_id: Option<Vec<u8>>,
    /// Where the program headers lie: offset and bytes.
    pub program_headers: (u64, u64),
    /// Where the section headers lie: offset and bytes.
    pub section_headers: (u64, u64),
}

impl Outline {
    /// Reads the outline of a regular file.
    pub fn read(file: &File) -> Result<Self, OutlineError> {
        let header = read_at(file, 0, HEADER)?;
        check_identity(&header)?;
        let program_headers = (u64_at(&header, 32), u64::from(u16_at(&header, 56)) * PROGRAM_HEADER as u64);
        let section_headers = (u64_at(&header, 40), u64::from(u16_at(&header, 60)) * SECTION_HEADER as u64);
        if usize::from(u16_at(&header, 56)) > MAX_PROGRAM_HEADERS {
            return Err(OutlineError::NotElf);
        }
        let programs = read_at(file, program_headers.0, length(program_headers.1))?;
        // Sections are a convenience: a file that lost them still has segments and may have a build ID.
        let headers = read_at(file, section_headers.0, length(section_headers.1)).unwrap_or_default();
        let sections = read_sections(file, &headers, usize::from(u16_at(&header, 62)));
        let mut outline = Self {
            segments: segments(&programs),
            sections,
            build_id: None,
            program_headers,
            section_headers: (section_headers.0, headers.len() as u64),
        };
        outline.build_id = outline.find_build_id(file, &programs);
        Ok(outline)
    }

    /// The section of that name, if it has contents in the file.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name && section.length > 0)
    }

    /// Whether it carries DWARF.
    pub fn has_debug_information(&self) -> bool {
        self.section(".debug_info").is_some()
    }

    /// The object's own address of a position in its file.
    pub fn virtual_offset(&self, offset: FileOffset) -> Option<VirtualOffset> {
        self.segments.iter().find_map(|segment| {
            let inside = offset.offset_from(segment.offset).filter(|&inside| inside < segment.length)?;
            segment.address.checked_add(inside)
        })
    }

    /// What an address has to be reduced by to become one of the object's own, for code mapped from `offset` on to
    /// `start` on, `length` bytes of it. Mappings begin at whole pages, so `offset` may lie before the segment.
    pub fn load_bias(&self, start: AbsoluteAddress, offset: FileOffset, length: u64) -> Option<u64> {
        let end = offset.checked_add(length)?;
        let inside = |segment: &&Segment| {
            segment.executable
                && segment.offset < end
                && segment.offset.checked_add(segment.length).is_some_and(|behind| behind > offset)
        };
        let candidates = || self.segments.iter().filter(inside);
        // The last page of one segment can be the first of the next: the mapping is of the one that begins it.
        let begins = |segment: &&Segment| segment.offset.0 & !PAGE_MASK == offset.0;
        let segment = candidates().find(begins).or_else(|| candidates().next())?;
        let address = segment.address.0.wrapping_add(offset.0).wrapping_sub(segment.offset.0);
        Some(start.0.wrapping_sub(address))
    }

    /// The separate debug file that `.gnu_debuglink` names, and its CRC-32. Only a plain file name is believed.
    pub fn debug_link(&self, file: &File) -> Option<(String, u32)> {
        let section = self.section(".gnu_debuglink").filter(|section| section.length <= 4096)?;
        parse_debug_link(&read_at(file, section.offset, length(section.length)).ok()?)
    }

    /// What `.gnu_debugaltlink` leads to: a file that several debug files share (made by `dwz`), and its build ID.
    pub fn alternate_link(&self, file: &File) -> Option<(PathBuf, Vec<u8>)> {
        let section = self.section(".gnu_debugaltlink").filter(|section| section.length <= 8192)?;
        parse_alternate_link(&read_at(file, section.offset, length(section.length)).ok()?)
    }

    fn find_build_id(&self, file: &File, programs: &[u8]) -> Option<Vec<u8>> {
        let noted = self.sections.iter().filter(|section| section.note);
        let sections = noted.map(|section| (section.offset, section.length));
        let notes = programs.chunks_exact(PROGRAM_HEADER).filter(|header| u32_at(header, 0) == PT_NOTE);
        let segments = notes.map(|header| (u64_at(header, 8), u64_at(header, 32)));
        sections.chain(segments).take(64).find_map(|(offset, size)| {
            let wanted = length(size).min(MAX_NOTES);
            parse_build_id(&read_at(file, offset, wanted).ok()?)
        })
    }
}

/// Reads exactly that many bytes; the caller has bounded `length`. A file that ends before is [`OutlineError::NotElf`].
pub fn read_at(file: &File, offset: u64, length: usize) -> Result<Vec<u8>, OutlineError> {
    // Asked first, so that a header that lies does not make us allocate what the file cannot hold.
    let end = offset.checked_add(length as u64).ok_or(OutlineError::NotElf)?;
    if end > file.metadata()?.len() {
        return Err(OutlineError::NotElf);
    }
    let mut bytes = vec![0; length];
    match file.read_exact_at(&mut bytes, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(OutlineError::NotElf),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(bytes),
    }
}

fn check_identity(header: &[u8]) -> Result<(), OutlineError> {
    if !header.starts_with(b"\x7fELF") {
        return Err(OutlineError::NotElf);
    }
    let sizes_match = u16_at(header, 54) == PROGRAM_HEADER as u16 || u16_at(header, 56) == 0;
    let native = header.get(4..6) == Some([2, 1].as_slice());
    if native && sizes_match { Ok(()) } else { Err(OutlineError::Foreign) }
}

fn segments(programs: &[u8]) -> Vec<Segment> {
    let loadable = programs.chunks_exact(PROGRAM_HEADER).filter(|header| u32_at(header, 0) == PT_LOAD);
    let segment = |header: &[u8]| Segment {
        offset: FileOffset(u64_at(header, 8)),
        address: VirtualOffset(u64_at(header, 16)),
        length: u64_at(header, 32),
        executable: u32_at(header, 4) & PF_X != 0,
    };
    loadable.map(segment).collect()
}

fn read_sections(file: &File, headers: &[u8], names_index: usize) -> Vec<Section> {
    let headers: Vec<&[u8]> = headers.chunks_exact(SECTION_HEADER).collect();
    let names = headers.get(names_index).map(|header| (u64_at(header, 24), length(u64_at(header, 32))));
    let names =
        names.filter(|&(_, size)| size <= MAX_NAMES).and_then(|(at, size)| read_at(file, at, size).ok());
    let names = names.unwrap_or_default();
    headers.iter().map(|header| section(header, &names)).collect()
}

fn section(header: &[u8], names: &[u8]) -> Section {
    let kind = u32_at(header, 4);
    let name = names.get(length(u64::from(u32_at(header, 0)))..).unwrap_or_default();
    // No name that matters is longer, and a name can be referred to by every section of a hostile file.
    let name = name.iter().take(64).take_while(|&&byte| byte != 0).copied().collect::<Vec<u8>>();
    Section {
        name: String::from_utf8(name).unwrap_or_default(),
        offset: u64_at(header, 24),
        length: if kind == SHT_NOBITS { 0 } else { u64_at(header, 32) },
        compressed: u64_at(header, 8) & SHF_COMPRESSED != 0,
        note: kind == SHT_NOTE,
    }
}

/// Finds the build ID among notes: `name size, contents size, kind, name, contents`, padded to four bytes.
fn parse_build_id(mut notes: &[u8]) -> Option<Vec<u8>> {
    while notes.len() >= 12 {
        let (name, contents, kind) = (u32_at(notes, 0), u32_at(notes, 4), u32_at(notes, 8));
        let name_end = 12_usize.checked_add(padded(name)?)?;
        let end = name_end.checked_add(padded(contents)?)?;
        if kind == NT_GNU_BUILD_ID && notes.get(12..16) == Some(b"GNU\0".as_slice()) {
            let id = notes.get(name_end..name_end.checked_add(length(u64::from(contents)))?)?;
            return (1..=MAX_BUILD_ID).contains(&id.len()).then(|| id.to_vec());
        }
        notes = notes.get(end..)?;
    }
    None
}

fn padded(size: u32) -> Option<usize> {
    Some(length(u64::from(size.checked_add(3)? & !3)))
}

fn parse_debug_link(section: &[u8]) -> Option<(String, u32)> {
    let end = section.iter().position(|&byte| byte == 0)?;
    let name = std::str::from_utf8(section.get(..end)?).ok()?;
    let plain = !name.is_empty() && !name.contains('/') && name != ".." && name != ".";
    let checksum = section.get((end + 4) & !3..)?.first_chunk::<4>()?;
    plain.then(|| (name.to_owned(), u32::from_le_bytes(*checksum)))
}

fn parse_alternate_link(section: &[u8]) -> Option<(PathBuf, Vec<u8>)> {
    let end = section.iter().position(|&byte| byte == 0)?;
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(section.get(..end)?));
    let build_id = section.get(end + 1..)?;
    let usable = end > 0 && (1..=MAX_BUILD_ID).contains(&build_id.len());
    usable.then(|| (path, build_id.to_vec()))
}

/// A length as the machine counts; what does not fit will fail to be read.
fn length(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |chunk| u16::from_le_bytes(*chunk))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn own() -> (File, Vec<u8>) {
        let path = std::env::current_exe().expect("test binary");
        (File::open(&path).expect("readable"), std::fs::read(&path).expect("readable"))
    }

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("temporary file");
        file.write_all(bytes).expect("write");
        file
    }

    #[test]
    fn our_own_binary_has_segments_sections_and_debug_information() {
        let outline = Outline::read(&own().0).expect("an ELF file");
        assert!(outline.has_debug_information() && outline.section(".symtab").is_some());
        let text = outline.sections.iter().find(|section| section.name == ".text").expect(".text");
        let virtual_offset = outline.virtual_offset(FileOffset(text.offset)).expect("loaded");
        assert!(virtual_offset.0 >= text.offset);
        assert_eq!(outline.virtual_offset(FileOffset(u64::MAX)), None);
    }

    #[test]
    fn a_file_cut_off_anywhere_is_an_error_or_a_poorer_outline() {
        let (_, bytes) = own();
        for end in [0, 3, 5, 63, 64, 100, 500, 5000, bytes.len() / 2, bytes.len() - 1] {
            if let Ok(outline) = Outline::read(&file_of(&bytes[..end])) {
                assert!(outline.sections.is_empty(), "section headers stand at the end");
            }
        }
    }

    #[test]
    fn lengths_beyond_the_file_are_refused_without_being_allocated() {
        let (_, mut bytes) = own();
        bytes.truncate(1 << 16);
        for at in [32, 40] {
            let mut broken = bytes.clone();
            broken[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
            let _ = Outline::read(&file_of(&broken));
        }
        assert!(matches!(read_at(&file_of(b"x"), 0, usize::MAX), Err(OutlineError::NotElf)));
    }

    #[test]
    fn the_build_id_is_found_behind_other_notes() {
        let mut notes = Vec::new();
        notes.extend([4_u32, 5, 1].iter().flat_map(|word| word.to_le_bytes()));
        notes.extend(b"GNU\0abcde\0\0\0");
        notes.extend([4_u32, 2, 3].iter().flat_map(|word| word.to_le_bytes()));
        notes.extend(b"GNU\0\xca\xfe\0\0");
        assert_eq!(parse_build_id(&notes), Some(vec![0xca, 0xfe]));
        for end in 0..notes.len() - 2 {
            assert_eq!(parse_build_id(&notes[..end]), None, "{end}");
        }
        assert_eq!(parse_build_id(&[0xff; 64]), None);
    }

    #[test]
    fn a_debug_link_must_be_a_plain_file_name() {
        assert_eq!(parse_debug_link(b"a.debug\0\x01\0\0\0"), Some(("a.debug".to_owned(), 1)));
        assert_eq!(parse_debug_link(b"a.dbg\0\0\0\x01\0\0\0"), Some(("a.dbg".to_owned(), 1)));
        for hostile in
            [&b"/tmp/fifo\0\0\0\x01\0\0\0"[..], b"../../x\0\x01\0\0\0", b"..\0\0\x01\0\0\0", b"\0", b"abc"]
        {
            assert_eq!(parse_debug_link(hostile), None);
        }
    }

    #[test]
    fn an_alternate_link_is_a_path_and_a_build_id() {
        let parsed = parse_alternate_link(b"/usr/lib/debug/.dwz/x\0\x01\x02");
        assert_eq!(parsed, Some((PathBuf::from("/usr/lib/debug/.dwz/x"), vec![1, 2])));
        for broken in [&b""[..], b"abc", b"abc\0", b"\0\x01"] {
            assert_eq!(parse_alternate_link(broken), None);
        }
        assert_eq!(parse_alternate_link(&[&b"x\0"[..], &[1; 65]].concat()), None);
    }

    #[test]
    fn a_32_bit_file_is_foreign() {
        let (_, mut bytes) = own();
        bytes[4] = 1;
        assert!(matches!(Outline::read(&file_of(&bytes)), Err(OutlineError::Foreign)));
    }
}
