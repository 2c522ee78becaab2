//! Sections by name, for what no segment points to. A file may have none: nothing that runs needs them.

use flate2::{Decompress, FlushDecompress, Status};
use object::LittleEndian as Little;
use object::elf::{self, CompressionHeader64, SectionHeader64};

use super::address::{FileOffset, VirtualOffset};
use super::elf::{E, Elf, ElfError, first};

/// Largest table of section names.
const MAX_NAMES: u64 = 16 << 20;

/// Where a section lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// Where it is loaded; 0 if it is not.
    pub address: VirtualOffset,
    /// Where its bytes are in the file.
    pub offset: FileOffset,
    /// How many.
    pub bytes: u64,
    compressed: bool,
}

impl Elf {
    /// The section of that name which has bytes in this file; `None` where there is none.
    pub fn section(&self, name: &str) -> Result<Option<Section>, ElfError> {
        let headers = self.sections()?;
        let Some(names) = headers.get(usize::from(self.section_names_index())) else { return Ok(None) };
        let (offset, bytes) = (names.sh_offset.get(E), names.sh_size.get(E));
        let names = self.source.read("the section names", offset, bytes, MAX_NAMES)?;
        let named = |header: &&SectionHeader64<Little>| {
            header.sh_type.get(E) != elf::SHT_NOBITS && is_name_at(&names, header.sh_name.get(E), name)
        };
        Ok(headers.iter().find(named).map(|header| Section {
            address: VirtualOffset(header.sh_addr.get(E)),
            offset: FileOffset(header.sh_offset.get(E)),
            bytes: header.sh_size.get(E),
            compressed: header.sh_flags.get(E).0 & elf::SHF_COMPRESSED.0 != 0,
        }))
    }

    /// The bytes of a section, inflated if they are compressed; at most `cap`. `what` is used in messages.
    pub fn section_bytes(
        &self,
        section: &Section,
        what: &'static str,
        cap: u64,
    ) -> Result<Vec<u8>, ElfError> {
        let bytes = self.source.read(what, section.offset.0, section.bytes, cap)?;
        if section.compressed { self.inflated(&bytes, what, cap) } else { Ok(bytes) }
    }

    fn inflated(&self, bytes: &[u8], what: &'static str, cap: u64) -> Result<Vec<u8>, ElfError> {
        let header: CompressionHeader64<Little> =
            first(bytes).ok_or_else(|| self.source.malformed(format!("{what} is cut off")))?;
        if header.ch_type.get(E) != elf::ELFCOMPRESS_ZLIB {
            return Err(self
                .source
                .malformed(format!("{what} is compressed in a way that leaktrace does not know")));
        }
        let length = header.ch_size.get(E);
        if length > cap {
            return Err(ElfError::TooLarge { path: self.path().to_owned(), what, bytes: length, cap });
        }
        let packed = bytes.get(size_of::<CompressionHeader64<Little>>()..).unwrap_or_default();
        inflate(packed, length).ok_or_else(|| self.source.malformed(format!("{what} cannot be decompressed")))
    }
}

/// Whether the NUL-terminated string at an offset is `name`.
fn is_name_at(names: &[u8], offset: u32, name: &str) -> bool {
    let rest = usize::try_from(offset).ok().and_then(|offset| names.get(offset..));
    rest.and_then(|rest| rest.strip_prefix(name.as_bytes())).is_some_and(|rest| rest.first() == Some(&0))
}

/// Inflates to exactly `length` bytes. Zlib's best ratio is 1,032, so a claim beyond that takes no memory.
fn inflate(packed: &[u8], length: u64) -> Option<Vec<u8>> {
    if length > (packed.len() as u64).saturating_mul(1032) {
        return None;
    }
    let length = usize::try_from(length).ok()?;
    let mut bytes = Vec::with_capacity(length);
    let status = Decompress::new(true).decompress_vec(packed, &mut bytes, FlushDecompress::Finish).ok()?;
    (status == Status::StreamEnd && bytes.len() == length).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).expect("into memory");
        encoder.finish().expect("into memory")
    }

    #[test]
    fn inflating_gives_the_claimed_length_or_nothing() {
        let bytes = vec![7; 100_000];
        assert_eq!(inflate(&packed(&bytes), 100_000).expect("inflated"), bytes);
        assert_eq!(inflate(&packed(&bytes), 99_999), None);
        assert_eq!(inflate(&packed(&bytes), 100_001), None);
        assert_eq!(inflate(&packed(&bytes), 1 << 40), None);
        assert_eq!(inflate(b"no zlib", 7), None);
    }

    #[test]
    fn sections_are_found_by_their_whole_name() {
        let own = Elf::open("/proc/self/exe".as_ref()).expect("own executable");
        let text = own.section(".text").expect("readable").expect("code");
        assert!(own.is_code(text.address));
        assert_eq!(own.section(".tex").expect("readable"), None);
        assert_eq!(own.section(".bss").expect("readable"), None, "has no bytes");
        let interpreter = own.section(".interp").expect("readable").expect("a dynamic executable");
        let bytes = own.section_bytes(&interpreter, "the path", 4096).expect("readable");
        assert!(bytes.starts_with(b"/") && bytes.ends_with(b"\0"));
    }
}
