//! The code of the object that holds an interpreter, or of another one whose functions its allocator table points to: where
//! functions begin, what lies in front of them, and whether a pointer means one of them. Read from the file: memory may
//! hold breakpoints of others.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::object::address::{AbsoluteAddress, FileOffset, VirtualOffset};
use crate::object::elf::{Elf, ElfError, Segment};
use crate::object::remembered::Remembered;
use crate::object::symbols::Table;
use crate::probe::padding::{self, MAX_PADDING, Nop};
use crate::process::maps::{self, Mapping};
use crate::unwind::Limits;
use crate::unwind::bounds::{self, Bounds};

/// `endbr64`: what functions begin with where indirect calls are to be checked.
const ENDBR: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// Bytes of a page.
const PAGE: u64 = 4096;

/// Objects whose functions are remembered, some ten thousand each: interpreters, and who hooks their allocators.
const MAX_REMEMBERED: usize = 32;

static FUNCTIONS: Remembered<(), Arc<[Bounds]>> = Remembered::new(MAX_REMEMBERED);

/// An object's code, and where it is loaded.
#[derive(Debug)]
pub struct Text {
    elf: Elf,
    bias: u64,
    functions: Arc<[Bounds]>,
    /// As the target sees it.
    pub path: PathBuf,
    /// Openable from here: what probes are attached through.
    pub openable: PathBuf,
    /// Device of the file.
    pub device: (u32, u32),
    /// Inode of the file.
    pub inode: u64,
}

/// What a pointer to code means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// Where the function begins.
    pub function: AbsoluteAddress,
    /// The pointer is not its beginning but another entry to the same code.
    pub is_alias: bool,
}

/// What is added to an object's own addresses, if `mapping` maps code of this segment. Mappings begin at whole pages, the
/// segment need not.
fn bias(mapping: &Mapping, segment: &Segment) -> Option<u64> {
    let first = segment.offset.0 & !(PAGE - 1);
    let end = segment.offset.0.checked_add(segment.file_bytes)?;
    let holds = segment.executable && (first..end).contains(&mapping.offset.0);
    let loaded = segment.address.0.wrapping_add(mapping.offset.0).wrapping_sub(segment.offset.0);
    holds.then(|| mapping.start.0.wrapping_sub(loaded))
}

impl Text {
    /// Opens an object. `bias`: absolute addresses less the object's own.
    ///
    /// # Errors
    /// It cannot be read, or is no object for this machine.
    pub fn open(path: &Path, openable: &Path, bias: u64) -> Result<Self, ElfError> {
        let elf = Elf::open(openable)?;
        let functions = FUNCTIONS.or_find(elf.identity(), (), || {
            bounds::functions(&elf, &Limits::default()).map(Arc::<[Bounds]>::from)
        })?;
        Ok(Self {
            elf,
            bias,
            functions,
            path: path.to_owned(),
            openable: openable.to_owned(),
            device: (0, 0),
            inode: 0,
        })
    }

    /// Opens the object whose code a mapping of process `pid` maps.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn of_mapping(pid: u32, mapping: &Mapping) -> Result<Self, ElfError> {
        let openable = maps::openable_path(pid, mapping);
        let path = mapping.path.clone().unwrap_or_else(|| openable.clone());
        let mut text = Self::open(&path, &openable, 0)?;
        let bias = text.elf.segments().find_map(|segment| bias(mapping, &segment));
        text.bias = bias.ok_or_else(|| text.elf.malformed("a mapping of it lies in no segment"))?;
        text.device = mapping.device;
        text.inode = mapping.inode;
        Ok(text)
    }

    /// The file.
    pub fn elf(&self) -> &Elf {
        &self.elf
    }

    /// The object's own address for an absolute one.
    pub fn own(&self, address: AbsoluteAddress) -> VirtualOffset {
        VirtualOffset(address.0.wrapping_sub(self.bias))
    }

    /// The reverse of [`Self::own`].
    pub fn absolute(&self, address: VirtualOffset) -> AbsoluteAddress {
        AbsoluteAddress(address.0.wrapping_add(self.bias))
    }

    /// Where in the file an address lies.
    pub fn file_offset(&self, address: VirtualOffset) -> Option<FileOffset> {
        self.elf.file_offset(address)
    }

    /// Whether an address lies in the object's code.
    pub fn holds(&self, address: AbsoluteAddress) -> bool {
        self.elf.is_code(self.own(address))
    }

    /// An exported function, or one that only the full symbol table knows.
    pub fn exported(&self, name: &str) -> Option<AbsoluteAddress> {
        let found = [Table::Dynamic, Table::Full]
            .into_iter()
            .find_map(|table| self.elf.symbol(table, name).ok().and_then(Result::ok));
        found.map(|symbol| self.absolute(symbol.address))
    }

    /// The bounds of the function that begins at an address.
    pub fn function_at(&self, address: AbsoluteAddress) -> Option<Bounds> {
        let own = self.own(address);
        let index = self.functions.binary_search_by_key(&own, |bounds| bounds.start).ok()?;
        self.functions.get(index).cloned()
    }

    /// The function, or part of one, that an address lies in.
    pub fn enclosing(&self, own: VirtualOffset) -> Option<Bounds> {
        let index = self.functions.partition_point(|bounds| bounds.start <= own).checked_sub(1)?;
        self.functions.get(index).filter(|bounds| bounds.contains(&own)).cloned()
    }

    /// Every described function.
    pub fn functions(&self) -> &[Bounds] {
        &self.functions
    }

    /// Up to `length` bytes of code from an address on; empty if there is none.
    pub fn code(&self, address: AbsoluteAddress, length: u64) -> Vec<u8> {
        self.elf.code_at(self.own(address), length).unwrap_or_default()
    }

    /// The bytes of the function that begins at an address, and whether these are all of it.
    pub fn body(&self, function: AbsoluteAddress, cap: u64, window: u64) -> (Vec<u8>, bool) {
        let size = self.function_at(function).and_then(|bounds| bounds.end.offset_from(bounds.start));
        match size.filter(|size| *size <= cap) {
            Some(size) => {
                let bytes = self.code(function, size);
                let complete = bytes.len() as u64 == size;
                (bytes, complete)
            }
            None => (self.code(function, window), false),
        }
    }

    /// The nops in front of a function. Where another function is described to reach is no padding.
    pub fn padding(&self, function: AbsoluteAddress) -> Vec<Nop> {
        let own = self.own(function);
        let before = self.functions.partition_point(|bounds| bounds.start < own);
        let previous = before.checked_sub(1).and_then(|index| self.functions.get(index));
        let free = previous.map_or(MAX_PADDING as u64, |bounds| own.0.saturating_sub(bounds.end.0));
        let length = free.min(MAX_PADDING as u64);
        let bytes = self.code(AbsoluteAddress(function.0.wrapping_sub(length)), length);
        if bytes.len() as u64 == length { padding::entries(&bytes) } else { Vec::new() }
    }

    /// Whether a function begins with `endbr64`, so that it can be entered behind it as well.
    pub fn begins_with_endbr(&self, function: AbsoluteAddress) -> bool {
        self.code(function, ENDBR.len() as u64) == ENDBR
    }

    /// The function that a pointer means: where it begins, or another entry to it. `None`: neither.
    pub fn meaning(&self, pointer: AbsoluteAddress) -> Option<Meaning> {
        if self.function_at(pointer).is_some() {
            return Some(Meaning { function: pointer, is_alias: false });
        }
        let alias = |function| Meaning { function, is_alias: true };
        let behind = AbsoluteAddress(pointer.0.wrapping_sub(ENDBR.len() as u64));
        if self.function_at(behind).is_some() && self.begins_with_endbr(behind) {
            return Some(alias(behind));
        }
        let own = self.own(pointer);
        let next = self.functions.get(self.functions.partition_point(|bounds| bounds.start <= own))?;
        let distance = next.start.offset_from(own)?;
        let function = self.absolute(next.start);
        self.padding(function).iter().any(|nop| nop.distance == distance).then(|| alias(function))
    }
}
