//! The dynamic section: what an object tells the dynamic linker.

use object::LittleEndian as Little;
use object::elf::{self, Dyn64, DynamicTag};
use object::pod;

use super::address::VirtualOffset;
use super::elf::{E, Elf, ElfError};

/// Names are short; this is a library's file name.
const MAX_NAME: u64 = 4096;

/// An object that needs more libraries than that is forged.
const MAX_NEEDED: usize = 4096;

/// Facts from the dynamic section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dynamic {
    /// Libraries it asks for, in order (`DT_NEEDED`).
    pub needed: Vec<String>,
    /// The name it goes by (`DT_SONAME`).
    pub soname: Option<String>,
    /// Position of `DT_DEBUG` in the section: at run time the linker leaves the address of its list of objects there.
    pub debug_entry: Option<usize>,
    entries: Vec<(DynamicTag, u64)>,
}

impl Dynamic {
    pub(super) fn parse(object: &Elf, bytes: &[u8]) -> Result<Self, ElfError> {
        let count = bytes.len() / size_of::<Dyn64<Little>>();
        let (raw, _) = pod::slice_from_bytes::<Dyn64<Little>>(bytes, count)
            .map_err(|()| object.source.malformed("the dynamic section is cut off"))?;
        let entries: Vec<_> = raw
            .iter()
            .map(|entry| (entry.d_tag.get(E), entry.d_val.get(E)))
            .take_while(|(tag, _)| *tag != elf::DT_NULL)
            .collect();
        let debug_entry = entries.iter().position(|(tag, _)| *tag == elf::DT_DEBUG);
        let mut dynamic = Self { debug_entry, entries, ..Self::default() };
        dynamic.read_names(object)?;
        Ok(dynamic)
    }

    /// The value of the first entry with this tag.
    pub(super) fn value(&self, tag: DynamicTag) -> Option<u64> {
        self.entries.iter().find(|(found, _)| *found == tag).map(|(_, value)| *value)
    }

    /// Where the string table lies.
    pub(super) fn strings(&self) -> Option<(VirtualOffset, u64)> {
        self.value(elf::DT_STRTAB).map(VirtualOffset).zip(self.value(elf::DT_STRSZ))
    }

    fn read_names(&mut self, object: &Elf) -> Result<(), ElfError> {
        let needed: Vec<u64> = self.values(elf::DT_NEEDED).take(MAX_NEEDED).collect();
        self.needed = needed.into_iter().map(|at| self.name(object, at)).collect::<Result<_, _>>()?;
        self.soname = self.value(elf::DT_SONAME).map(|at| self.name(object, at)).transpose()?;
        Ok(())
    }

    fn values(&self, tag: DynamicTag) -> impl Iterator<Item = u64> {
        self.entries.iter().filter(move |(found, _)| *found == tag).map(|(_, value)| *value)
    }

    fn name(&self, object: &Elf, at: u64) -> Result<String, ElfError> {
        let outside =
            || object.source.malformed("a name in its dynamic section lies outside its string table");
        let (table, length) = self.strings().ok_or_else(outside)?;
        let rest = length.checked_sub(at).filter(|rest| *rest > 0).ok_or_else(outside)?;
        let offset = object.file_offset(table).and_then(|start| start.checked_add(at)).ok_or_else(outside)?;
        let rest = rest.min(object.source.length().saturating_sub(offset.0));
        let bytes = object.source.read("a library's name", offset.0, rest.min(MAX_NAME), MAX_NAME)?;
        let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(name).into_owned())
    }
}
