//! MiniDebugInfo: the symbol table that Fedora and its relatives leave in stripped objects, packed by xz in
//! `.gnu_debugdata`. Unpacked it is an ELF file with nothing but the names of functions that `.dynsym` does not have.

use std::fs::File;

use rustix::fs::{MemfdFlags, memfd_create};

use super::inflate;
use super::outline::Outline;
use super::snapshot::Range;

const SECTION: &str = ".gnu_debugdata";
/// Most bytes packed.
const MAX_PACKED: u64 = 64 << 20;
/// Most bytes unpacked. The largest of distributions have a tenth.
const MAX_UNPACKED: u64 = 128 << 20;

/// What became of the packed symbol table.
#[derive(Debug)]
pub enum Unpacked {
    /// Here it is, in a memory file.
    Symbols(File, Outline),
    /// The object has none.
    Absent,
    /// Damaged, or more than is unpacked.
    Unusable,
}

/// Unpacks the symbol table of an object.
pub fn unpack(object: &File, outline: &Outline) -> Unpacked {
    let Some(section) = outline.section(SECTION) else { return Unpacked::Absent };
    let end = section.offset.checked_add(section.length).filter(|_| section.length <= MAX_PACKED);
    let unpacked = end.and_then(|end| unpack_range(Range { file: object, at: section.offset, end }));
    unpacked.map_or(Unpacked::Unusable, |(file, outline)| Unpacked::Symbols(file, outline))
}

fn unpack_range(packed: Range<'_>) -> Option<(File, Outline)> {
    let mut file = File::from(memfd_create("leaktrace-symbols", MemfdFlags::CLOEXEC).ok()?);
    inflate::xz(packed, MAX_UNPACKED, &mut file).ok()?;
    let outline = Outline::read(&file).ok()?;
    Some((file, outline))
}
