//! The version of an interpreter, from its own memory: the word `Py_Version` (3.11 and later), before that the string that the
//! code of `Py_GetVersion` refers to.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind};

use super::{Memory, Version};

/// How much of `Py_GetVersion` is looked at.
const MAX_CODE: usize = 512;

/// Longest string that may be a version, its zero byte too.
const MAX_STRING: usize = 32;

/// Release candidates and releases; earlier stages still change structures.
const CANDIDATE: u64 = 0xc;

impl Version {
    /// Major and minor.
    pub fn series(self) -> (u8, u8) {
        (self.major, self.minor)
    }

    /// From `PY_VERSION_HEX`. `None` for an alpha or beta, and for what is no version.
    pub fn from_word(word: u64) -> Option<Self> {
        let [_, _, _, _, major, minor, micro, stage] = word.to_be_bytes();
        let known = word >> 32 == 0 && major > 1 && u64::from(stage >> 4) >= CANDIDATE;
        known.then_some(Self { major, minor, micro })
    }

    /// From text like `3.9.2`, `3.12.0rc1` or `3.8.5+`, all of it.
    pub fn from_text(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let text = text.strip_suffix('+').unwrap_or(text);
        let text = text.split_once("rc").map_or(text, |(version, _)| version);
        let mut parts = text.split('.').map(|part| part.parse::<u8>().ok());
        let version = Self { major: parts.next()??, minor: parts.next()??, micro: parts.next()?? };
        (parts.next().is_none() && version.major > 1).then_some(version)
    }
}

/// The version that the code of `Py_GetVersion` names; `address` is where it lies in the process. `None` unless it is exactly
/// one.
pub fn of_code(memory: &dyn Memory, address: u64, size: u64) -> Option<Version> {
    let length = usize::try_from(size).ok().filter(|size| *size > 0).unwrap_or(MAX_CODE).min(MAX_CODE);
    let mut code = vec![0; length];
    if !memory.fill(address, &mut code) {
        return None;
    }
    let mut versions: Vec<Version> =
        addresses(&code, address).filter_map(|address| string_at(memory, address)).collect();
    versions.sort_unstable();
    versions.dedup();
    match versions.as_slice() {
        [only] => Some(*only),
        _ => None,
    }
}

/// Every address that the code computes or loads as a constant.
pub(super) fn addresses(code: &[u8], address: u64) -> impl Iterator<Item = u64> {
    let decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    decoder.into_iter().take_while(|instruction| !instruction.is_invalid()).flat_map(|instruction| {
        let relative = instruction.is_ip_rel_memory_operand().then(|| instruction.memory_displacement64());
        relative.or_else(|| immediate(&instruction))
    })
}

fn immediate(instruction: &Instruction) -> Option<u64> {
    let moves =
        matches!(instruction.code(), Code::Mov_r32_imm32 | Code::Mov_r64_imm64 | Code::Mov_rm64_imm32);
    (moves && instruction.op1_kind() != OpKind::Register).then(|| instruction.immediate(1))
}

fn string_at(memory: &dyn Memory, address: u64) -> Option<Version> {
    let mut bytes = [0; MAX_STRING];
    if !memory.fill(address, &mut bytes) {
        return None;
    }
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Version::from_text(bytes.get(..end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_word_and_from_text() {
        let version = |minor, micro| Some(Version { major: 3, minor, micro });
        assert_eq!(Version::from_word(0x030b_02f0), version(11, 2));
        assert_eq!(Version::from_word(0x030e_00c1), version(14, 0));
        assert_eq!(Version::from_word(0x030e_00b1), None, "a beta");
        assert_eq!(Version::from_word(0x1_030b_02f0), None);
        assert_eq!(Version::from_text(b"3.9.18"), version(9, 18));
        assert_eq!(Version::from_text(b"3.12.0rc3"), version(12, 0));
        assert_eq!(Version::from_text(b"3.8.5+"), version(8, 5));
        for text in
            [b"3.9".as_slice(), b"3.9.1.2", b"", b"three", b"3.999.1", b"\xff\xfe", b"%.80s (%.80s) %.80s"]
        {
            assert_eq!(Version::from_text(text), None);
        }
    }
}
