//! One ELF object: header, segments, sections, and the translation between its addresses. 64-bit little-endian
//! only. Everything is read on demand, in pieces with caps.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use object::LittleEndian as Little;
use object::elf::{self, FileHeader64, ProgramHeader64, SectionHeader64};
use object::pod;

use super::address::{FileOffset, VirtualOffset};
use super::dynamic::Dynamic;
use super::note::{self, BuildId};
use super::remembered::FileIdentity;
pub use super::source::ElfError;
use super::source::Source;

/// Byte order of every object that is read.
pub(super) const E: Little = Little;

const MAX_PROGRAM_HEADERS: u64 = 4 << 20;
const MAX_SECTION_HEADERS: u64 = 16 << 20;
const MAX_INTERPRETER: u64 = 4096;
const MAX_DYNAMIC: u64 = 1 << 20;
const MAX_NOTES: u64 = 1 << 20;
const MAX_CODE: u64 = 16 << 20;

/// What the header says the object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// Loaded where its headers say.
    FixedExecutable,
    /// A library, or an executable that can be loaded anywhere.
    Shared,
    /// Core file, relocatable object or other.
    Other(u16),
}

/// A loaded piece of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it is loaded, relative to the object's load bias.
    pub address: VirtualOffset,
    /// Where it lies in the file.
    pub offset: FileOffset,
    /// Bytes in the file.
    pub file_bytes: u64,
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Holds code.
    pub executable: bool,
}

/// An open ELF object.
#[derive(Debug)]
pub struct Elf {
    pub(super) source: Source,
    kind: ObjectKind,
    machine: u16,
    program_headers: Vec<ProgramHeader64<Little>>,
    section_header: FileHeader64<Little>,
    sections: OnceLock<Vec<SectionHeader64<Little>>>,
}

impl Elf {
    /// Opens and checks an object.
    ///
    /// ```
    /// use leaktrace::object::elf::Elf;
    ///
    /// let own = Elf::open("/proc/self/exe".as_ref())?;
    /// assert!(own.segments().any(|segment| segment.executable));
    /// # Ok::<(), leaktrace::object::elf::ElfError>(())
    /// ```
    pub fn open(path: &Path) -> Result<Self, ElfError> {
        Self::from_source(Source::open(path)?)
    }

    /// The same for a file that is already open; `path` is only used in messages.
    pub fn from_file(file: File, path: &Path) -> Result<Self, ElfError> {
        Self::from_source(Source::from_file(file, path)?)
    }

    fn from_source(source: Source) -> Result<Self, ElfError> {
        let header = read_header(&source)?;
        let kind = match header.e_type.get(E) {
            elf::ET_EXEC => ObjectKind::FixedExecutable,
            elf::ET_DYN => ObjectKind::Shared,
            other => ObjectKind::Other(other.0),
        };
        let program_headers = read_program_headers(&source, &header)?;
        let machine = header.e_machine.get(E).0;
        let sections = OnceLock::new();
        Ok(Self { source, kind, machine, program_headers, section_header: header, sections })
    }

    /// Which file it is, and as of when: what is found in it may be remembered by that.
    pub fn identity(&self) -> FileIdentity {
        self.source.identity()
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// What it is.
    pub fn kind(&self) -> ObjectKind {
        self.kind
    }

    /// `e_machine`; on this host always that of x86-64 (see [`ElfError::ForeignMachine`]).
    pub fn machine(&self) -> u16 {
        self.machine
    }

    /// Where execution begins.
    pub fn entry(&self) -> VirtualOffset {
        VirtualOffset(self.section_header.e_entry.get(E))
    }

    /// Where the program headers lie in the object's own addresses: comparing it with `AT_PHDR` gives the load bias.
    pub fn program_headers_address(&self) -> Option<VirtualOffset> {
        self.virtual_offset(FileOffset(self.section_header.e_phoff.get(E)))
    }

    /// Every loaded segment.
    pub fn segments(&self) -> impl Iterator<Item = Segment> {
        self.program_headers.iter().filter(|header| header.p_type.get(E) == elf::PT_LOAD).map(|header| {
            Segment {
                address: VirtualOffset(header.p_vaddr.get(E)),
                offset: FileOffset(header.p_offset.get(E)),
                file_bytes: header.p_filesz.get(E),
                memory_bytes: header.p_memsz.get(E),
                executable: header.p_flags.get(E).0 & elf::PF_X.0 != 0,
            }
        })
    }

    /// The file offset behind an address, or `None` if the file has no byte for it.
    pub fn file_offset(&self, address: VirtualOffset) -> Option<FileOffset> {
        self.segments().find_map(|segment| {
            let inside = address.offset_from(segment.address)?;
            (inside < segment.file_bytes).then(|| segment.offset.checked_add(inside)).flatten()
        })
    }

    /// The address at which a byte of the file is loaded, or `None` if it is not.
    pub fn virtual_offset(&self, offset: FileOffset) -> Option<VirtualOffset> {
        self.segments().find_map(|segment| {
            let inside = offset.offset_from(segment.offset)?;
            (inside < segment.file_bytes).then(|| segment.address.checked_add(inside)).flatten()
        })
    }

    /// Whether an address lies in code that the file provides.
    pub fn is_code(&self, address: VirtualOffset) -> bool {
        self.segments().any(|segment| {
            let inside = address.offset_from(segment.address);
            segment.executable && inside.is_some_and(|inside| inside < segment.file_bytes)
        })
    }

    /// Up to `length` bytes of code at an address: fewer where the segment ends before, at most 16 MiB.
    pub fn code_at(&self, address: VirtualOffset, length: u64) -> Result<Vec<u8>, ElfError> {
        let found = self.segments().filter(|segment| segment.executable).find_map(|segment| {
            let inside = address.offset_from(segment.address)?;
            let rest = segment.file_bytes.checked_sub(inside).filter(|rest| *rest > 0)?;
            Some((segment.offset.checked_add(inside)?, rest))
        });
        let (offset, rest) =
            found.ok_or_else(|| self.source.malformed(format!("no code at address {address:#x}")))?;
        self.source.read("code", offset.0, length.min(rest), MAX_CODE)
    }

    /// Up to `length` bytes as loaded at an address: fewer where the segment's bytes in the file end before, at most
    /// `cap`. `None` if the file has no byte for that address. `what` is used in messages.
    pub fn bytes_at(
        &self,
        what: &'static str,
        address: VirtualOffset,
        length: u64,
        cap: u64,
    ) -> Result<Option<Vec<u8>>, ElfError> {
        let Some((offset, rest)) = self.segments().find_map(|segment| {
            let inside = address.offset_from(segment.address)?;
            let rest = segment.file_bytes.checked_sub(inside).filter(|rest| *rest > 0)?;
            Some((segment.offset.checked_add(inside)?, rest))
        }) else {
            return Ok(None);
        };
        self.source.read(what, offset.0, length.min(rest), cap).map(Some)
    }

    /// Where the table of its call frame information lies (`PT_GNU_EH_FRAME`).
    pub fn frame_table_address(&self) -> Option<VirtualOffset> {
        self.program_header(elf::PT_GNU_EH_FRAME).map(|header| VirtualOffset(header.p_vaddr.get(E)))
    }

    /// The dynamic linker that the object asks for (`PT_INTERP`).
    pub fn interpreter(&self) -> Result<Option<PathBuf>, ElfError> {
        let Some(bytes) = self.segment_bytes(elf::PT_INTERP, "the interpreter's path", MAX_INTERPRETER)?
        else {
            return Ok(None);
        };
        let path = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        match path.is_empty() {
            true => Err(self.source.malformed("the path of its interpreter is empty")),
            false => Ok(Some(PathBuf::from(OsStr::from_bytes(path)))),
        }
    }

    /// What its dynamic section says; `None` for an object without one.
    pub fn dynamic(&self) -> Result<Option<Dynamic>, ElfError> {
        let Some(bytes) = self.segment_bytes(elf::PT_DYNAMIC, "the dynamic section", MAX_DYNAMIC)? else {
            return Ok(None);
        };
        Dynamic::parse(self, &bytes).map(Some)
    }

    /// The address of the dynamic section.
    pub fn dynamic_address(&self) -> Option<VirtualOffset> {
        self.program_header(elf::PT_DYNAMIC).map(|header| VirtualOffset(header.p_vaddr.get(E)))
    }

    /// An executable that needs no dynamic linker.
    pub fn is_static_executable(&self) -> bool {
        self.program_header(elf::PT_INTERP).is_none()
    }

    /// The GNU build ID, or `None` where there is none.
    pub fn build_id(&self) -> Result<Option<BuildId>, ElfError> {
        let notes = self.program_headers.iter().filter(|header| header.p_type.get(E) == elf::PT_NOTE);
        for header in notes {
            let (offset, length) = (header.p_offset.get(E), header.p_filesz.get(E));
            let bytes = self.source.read("the notes", offset, length, MAX_NOTES)?;
            if let Some(id) = note::build_id(&bytes, header.p_align.get(E)) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    fn program_header(&self, kind: elf::ProgramType) -> Option<&ProgramHeader64<Little>> {
        self.program_headers.iter().find(|header| header.p_type.get(E) == kind)
    }

    fn segment_bytes(
        &self,
        kind: elf::ProgramType,
        what: &'static str,
        cap: u64,
    ) -> Result<Option<Vec<u8>>, ElfError> {
        let Some(header) = self.program_header(kind) else { return Ok(None) };
        self.source.read(what, header.p_offset.get(E), header.p_filesz.get(E), cap).map(Some)
    }

    /// Which section holds the names of sections. Files with more than 65,279 sections say it elsewhere and are taken
    /// to have no names.
    pub(super) fn section_names_index(&self) -> u16 {
        self.section_header.e_shstrndx.get(E).0
    }

    /// An error about the content.
    pub fn malformed(&self, what: impl Into<String>) -> ElfError {
        self.source.malformed(what)
    }

    /// Section headers: empty where the file was stripped of them.
    pub(super) fn sections(&self) -> Result<&[SectionHeader64<Little>], ElfError> {
        if let Some(sections) = self.sections.get() {
            return Ok(sections);
        }
        let sections = read_section_headers(&self.source, &self.section_header)?;
        Ok(self.sections.get_or_init(|| sections))
    }
}

fn read_header(source: &Source) -> Result<FileHeader64<Little>, ElfError> {
    let path = || source.path().to_owned();
    let ident = source.read("the ELF header", 0, 20, 20).map_err(|error| match error {
        ElfError::Malformed { path, .. } => ElfError::NotElf { path },
        other => other,
    })?;
    let (magic, class, order) = (ident.get(..4), ident.get(4), ident.get(5));
    if magic != Some(elf::ELFMAG.as_slice()) {
        return Err(ElfError::NotElf { path: path() });
    }
    if class == Some(&elf::ELFCLASS32.0) {
        return Err(ElfError::ThirtyTwoBit { path: path() });
    }
    let little = order == Some(&elf::ELFDATA2LSB.0);
    let machine: [u8; 2] = ident.get(18..20).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
    let machine = if little { u16::from_le_bytes(machine) } else { u16::from_be_bytes(machine) };
    if !little || machine != elf::EM_X86_64.0 {
        let order = if little { "little" } else { "big" };
        return Err(ElfError::ForeignMachine { path: path(), machine, order });
    }
    let length = size_of::<FileHeader64<Little>>() as u64;
    let bytes = source.read("the ELF header", 0, length, length)?;
    first(&bytes).ok_or_else(|| source.malformed("its header is cut off"))
}

/// The first value in a piece of the file.
pub(super) fn first<T: pod::Pod>(bytes: &[u8]) -> Option<T> {
    pod::from_bytes::<T>(bytes).ok().map(|(value, _)| *value)
}

fn read_program_headers(
    source: &Source,
    header: &FileHeader64<Little>,
) -> Result<Vec<ProgramHeader64<Little>>, ElfError> {
    let mut count = u64::from(header.e_phnum.get(E));
    if count == u64::from(elf::PN_XNUM) {
        count = first_section(source, header)?.map_or(0, |section| u64::from(section.sh_info.get(E)));
    }
    let size = size_of::<ProgramHeader64<Little>>();
    if count > 0 && usize::from(header.e_phentsize.get(E)) != size {
        return Err(source.malformed("its program headers have an unknown size"));
    }
    read_table(source, "program headers", header.e_phoff.get(E), count, MAX_PROGRAM_HEADERS)
}

fn read_section_headers(
    source: &Source,
    header: &FileHeader64<Little>,
) -> Result<Vec<SectionHeader64<Little>>, ElfError> {
    let Some(first) = first_section(source, header)? else { return Ok(Vec::new()) };
    let count = match header.e_shnum.get(E) {
        // More than the field holds: the true number is in the first header.
        0 => first.sh_size.get(E),
        count => u64::from(count),
    };
    read_table(source, "section headers", header.e_shoff.get(E), count, MAX_SECTION_HEADERS)
}

fn first_section(
    source: &Source,
    header: &FileHeader64<Little>,
) -> Result<Option<SectionHeader64<Little>>, ElfError> {
    let offset = header.e_shoff.get(E);
    let size = size_of::<SectionHeader64<Little>>();
    if offset == 0 || usize::from(header.e_shentsize.get(E)) != size {
        return Ok(None);
    }
    let bytes = source.read("the section headers", offset, size as u64, size as u64)?;
    Ok(first(&bytes))
}

/// Reads `count` entries at `offset`.
pub(super) fn read_table<T: pod::Pod>(
    source: &Source,
    what: &'static str,
    offset: u64,
    count: u64,
    cap: u64,
) -> Result<Vec<T>, ElfError> {
    let length = count.checked_mul(size_of::<T>() as u64);
    let length = length.ok_or_else(|| source.malformed(format!("{what} lie outside the file")))?;
    let bytes = source.read(what, offset, length, cap)?;
    pod::slice_from_all_bytes::<T>(&bytes)
        .map(<[T]>::to_vec)
        .map_err(|()| source.malformed(format!("{what} are cut off")))
}
