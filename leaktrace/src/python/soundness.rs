//! What must hold for every code object that is read, whatever lies in the target's memory, and while it changes. Used by
//! tests and by the fuzz target, which includes this file.

use std::cell::{Cell, RefCell};

use leaktrace_common::python::{Layout, PythonFrame, chain, identity};

use super::code::{self, Code, MAX_FILE, MAX_NAME, MAX_TABLE};
use super::{Memory, Offsets};

/// Where a forged memory begins.
pub const BASE: u64 = 0x1_0000;
/// Bytes of an input before its memory.
const HEAD: usize = 12;
/// A string takes a header, eight types and its characters; there are two of them, a table, and the object twice.
const MAX_READS: u32 = 80;
/// Bytes that are shown of one character, at most.
const ESCAPED: usize = 10;

/// A memory that a byte of changes when it has been read a number of times.
pub struct Image {
    bytes: RefCell<Vec<u8>>,
    reads: Cell<u32>,
    read: Cell<usize>,
    tear: (u32, usize, u8),
}

impl Image {
    /// One that does not change.
    pub fn new(bytes: &[u8]) -> Self {
        Self::torn(bytes, (0, 0, 0))
    }

    /// After so many reads, the byte at an index is combined with another.
    pub fn torn(bytes: &[u8], tear: (u32, usize, u8)) -> Self {
        Self { bytes: RefCell::new(bytes.to_vec()), reads: Cell::new(0), read: Cell::new(0), tear }
    }
}

impl Memory for Image {
    fn fill(&self, address: u64, buffer: &mut [u8]) -> bool {
        if self.reads.get() == self.tear.0
            && let Some(byte) = self.bytes.borrow_mut().get_mut(self.tear.1)
        {
            *byte ^= self.tear.2;
        }
        self.reads.set(self.reads.get() + 1);
        self.read.set(self.read.get() + buffer.len());
        let bytes = self.bytes.borrow();
        let from = address.checked_sub(BASE).and_then(|from| usize::try_from(from).ok());
        let source = from.and_then(|from| bytes.get(from..from.checked_add(buffer.len())?));
        source.map(|source| buffer.copy_from_slice(source)).is_some()
    }
}

/// Where things lie in four versions whose code objects and strings differ.
pub fn offsets(version: u8) -> Offsets {
    let (chain, scale, code, strings) = match version & 3 {
        // 3.8 and 3.9
        0 => (chain::FRAME_OBJECT, 1, [36, 40, 112, 104, 0, 120], (48, 72)),
        1 => (chain::FRAME_OBJECT, 2, [36, 40, 112, 104, 0, 120], (48, 72)),
        // 3.11
        2 => (chain::CFRAME, 0, [48, 72, 120, 112, 128, 136], (48, 72)),
        // 3.12 and later
        _ => (chain::CURRENT_FRAME, 0, [48, 68, 120, 112, 128, 136], (40, 56)),
    };
    let [flags, first_line, name, file, code_qualname, code_line_table] = code;
    Offsets {
        layout: Layout {
            chain,
            instruction_scale: scale,
            code_flags: flags,
            code_first_line: first_line,
            code_name: name,
            code_file: file,
            ..Layout::default()
        },
        code_qualname,
        code_line_table,
        ascii_size: strings.0,
        compact_size: strings.1,
        unicode_length: 16,
        unicode_state: 32,
        bytes_size: 16,
        bytes_data: 32,
        ..Offsets::default()
    }
}

/// The frame that runs the code object at an address, as the memory is now.
pub fn frame(memory: &dyn Memory, offsets: &Offsets, code: u64, instruction: u32) -> PythonFrame {
    let layout = &offsets.layout;
    let at = |member: u32| code.wrapping_add(u64::from(member));
    let half = |member| memory.half(at(member)).unwrap_or(0);
    let word = |member| memory.word(at(member)).unwrap_or(0);
    let identity = identity(
        half(layout.code_first_line),
        half(layout.code_flags),
        word(layout.code_name),
        word(layout.code_file),
    );
    PythonFrame { code, entry: false, instruction, identity }
}

/// Takes bytes for a version, a change, a frame, and the memory; reads the frame's code object.
pub fn code(bytes: &[u8]) -> Option<Code> {
    let (head, bytes) = bytes.split_at_checked(HEAD)?;
    let [version, tear_after, tear_at @ ..] = head else { return None };
    let (tear_at, rest) = tear_at.split_first_chunk()?;
    let (with, rest) = rest.split_first()?;
    let (code_at, rest) = rest.split_first_chunk()?;
    let instruction = u32::from_le_bytes(*rest.first_chunk()?);
    let offsets = offsets(*version);
    let address = BASE + u64::from(u16::from_le_bytes(*code_at));
    let frame = frame(&Image::new(bytes), &offsets, address, instruction);
    let tear = (u32::from(*tear_after), usize::from(u16::from_le_bytes(*tear_at)), *with);
    let image = Image::torn(bytes, tear);
    let code = code::read(&image, &offsets, &frame).ok();
    assert!(image.reads.get() <= MAX_READS, "{} reads", image.reads.get());
    assert!(image.read.get() <= MAX_TABLE + 4 * (MAX_NAME + MAX_FILE) + 4096, "{} bytes", image.read.get());
    check(code.as_ref()?, &image, &offsets, &frame);
    code
}

/// Panics if something was read that must not have been.
fn check(code: &Code, image: &Image, offsets: &Offsets, frame: &PythonFrame) {
    // Behind the last look at the object only its type's name is read.
    let looked = image.reads.get() - 2;
    if !(looked..looked + 2).contains(&image.tear.0) {
        let now = Image::new(&image.bytes.borrow());
        let now = self::frame(&now, offsets, frame.code, frame.instruction);
        assert_eq!(now.identity, frame.identity, "the object changed while it was read");
    }
    for (text, cap) in [(&code.name, MAX_NAME), (&code.file, MAX_FILE)] {
        assert!(!text.contains(char::is_control), "{text:?}");
        assert!(text.chars().count() <= cap * ESCAPED + 40, "{} bytes", text.len());
    }
    assert!(code.lines.table.as_ref().is_none_or(|table| table.len() <= MAX_TABLE));
    for instruction in [0, 2, frame.instruction, u32::MAX] {
        assert_eq!(code.lines.line(instruction), code.lines.clone().line(instruction));
    }
}
