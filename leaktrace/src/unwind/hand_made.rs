//! Call frame information made byte by byte, for tests.

use super::sections::{CodeRange, FrameKind, Frames, Sections};
use crate::object::address::VirtualOffset;

/// What every common entry of x86-64 begins with: CFA = stack pointer + 8, return address at CFA - 8.
pub const INITIAL: [u8; 5] = [0x0c, 7, 8, 0x90, 1];

/// A section in the making. Pointers are absolute.
#[derive(Clone, Debug, Default)]
pub struct Maker {
    pub bytes: Vec<u8>,
}

impl Maker {
    /// With a common entry that says [`INITIAL`] at offset 0.
    pub fn new() -> Self {
        let mut maker = Self::default();
        maker.common("", &INITIAL);
        maker
    }

    /// A common entry; returns its offset. A `z` in the augmentation has no data.
    pub fn common(&mut self, augmentation: &str, instructions: &[u8]) -> usize {
        let mut content = vec![0, 0, 0, 0, 1];
        content.extend(augmentation.bytes());
        // NUL, code factor 1, data factor -8, return address in column 16.
        content.extend([0, 1, 0x78, 16]);
        if augmentation.starts_with('z') {
            content.push(0);
        }
        content.extend(instructions);
        self.entry(content)
    }

    /// A function described with the common entry at an offset.
    pub fn function_of(&mut self, common: usize, start: u64, length: u64, instructions: &[u8]) -> usize {
        let distance = u32::try_from(self.bytes.len() + 4 - common).expect("small");
        let mut content = distance.to_le_bytes().to_vec();
        content.extend(start.to_le_bytes());
        content.extend(length.to_le_bytes());
        if self.bytes.get(common + 9) == Some(&b'z') {
            content.push(0);
        }
        content.extend(instructions);
        self.entry(content)
    }

    /// A function described with the first common entry.
    pub fn function(&mut self, start: u64, length: u64, instructions: &[u8]) -> usize {
        self.function_of(0, start, length, instructions)
    }

    fn entry(&mut self, mut content: Vec<u8>) -> usize {
        let offset = self.bytes.len();
        content.resize(content.len().next_multiple_of(4), 0);
        self.bytes.extend(u32::try_from(content.len()).expect("small").to_le_bytes());
        self.bytes.extend(content);
        offset
    }

    /// An object with this and code from 0x1000 up to `end`, that starts nowhere in it.
    pub fn object(&self, end: u64) -> Sections {
        let code = CodeRange { start: VirtualOffset(0x1000), end: VirtualOffset(end) };
        let frames =
            Frames { kind: FrameKind::EhFrame, address: VirtualOffset(0x100), bytes: self.bytes.clone() };
        Sections {
            build_id: None,
            entry: VirtualOffset(0),
            code: vec![code],
            frames: Some(frames),
            trampolines: Vec::new(),
            jumps: Vec::new(),
            starts: Vec::new(),
            is_c_library: false,
        }
    }
}
