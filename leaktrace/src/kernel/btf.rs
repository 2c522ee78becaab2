//! Finds the offset of a member in a kernel structure, from the kernel's own type information. aya-ebpf has no
//! CO-RE relocations; the few offsets that the kernel side needs are passed as load-time constants.
//!
//! Format: Documentation/bpf/btf.rst of the kernel.

use std::fs;

use super::KernelError;

const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";
const BTF_MAGIC: u16 = 0xeb9f;
const KIND_POINTER: u32 = 2;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNCTION_PROTOTYPE: u32 = 13;
/// Anonymous members nest; the kernel's own never go deeper than a few levels.
const MAX_NESTING: u32 = 8;

/// Parsed just far enough to walk the types.
pub struct KernelTypes {
    bytes: Vec<u8>,
    types: Vec<usize>,
    strings: usize,
}

impl KernelTypes {
    /// Reads the running kernel's type information.
    ///
    /// # Errors
    /// If the kernel was built without BTF, or it cannot be read.
    pub fn of_running_kernel() -> Result<Self, KernelError> {
        let bytes = fs::read(BTF_PATH).map_err(|error| {
            KernelError::Unsupported(format!(
                "{BTF_PATH} cannot be read ({error}); a kernel with CONFIG_DEBUG_INFO_BTF is needed"
            ))
        })?;
        Self::parse(bytes).ok_or_else(|| {
            KernelError::Unsupported(format!("{BTF_PATH} does not hold type information as documented"))
        })
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        if u16_at(&bytes, 0)? != BTF_MAGIC {
            return None;
        }
        let header = u32_at(&bytes, 4)? as usize;
        let types_start = header.checked_add(u32_at(&bytes, 8)? as usize)?;
        let types_end = types_start.checked_add(u32_at(&bytes, 12)? as usize)?;
        let strings = header.checked_add(u32_at(&bytes, 16)? as usize)?;
        let mut types = vec![0];
        let mut position = types_start;
        while position < types_end {
            types.push(position);
            let info = u32_at(&bytes, position + 4)?;
            position = position.checked_add(12 + trailing_bytes(info)?)?;
        }
        Some(Self { bytes, types, strings })
    }

    /// Byte offset of `member` in `structure`.
    ///
    /// # Errors
    /// If the running kernel has no such structure or member.
    pub fn offset_of(&self, structure: &str, member: &str) -> Result<u32, KernelError> {
        self.types
            .iter()
            .skip(1)
            .filter(|at| {
                self.kind(**at) == Some(KIND_STRUCT) && self.name(**at) == Some(structure.as_bytes())
            })
            .find_map(|at| self.member_offset(*at, member.as_bytes(), 0))
            .ok_or_else(|| {
                KernelError::Unsupported(format!(
                    "its type information has no member {member} in struct {structure}"
                ))
            })
    }

    /// Bytes that a structure takes.
    ///
    /// # Errors
    /// If the running kernel has no such structure.
    pub fn size_of(&self, structure: &str) -> Result<u32, KernelError> {
        self.named(KIND_STRUCT, structure).and_then(|at| u32_at(&self.bytes, at + 8)).ok_or_else(|| {
            KernelError::Unsupported(format!("its type information has no struct {structure}"))
        })
    }

    /// Whether a tracepoint hands a pointer to its programs as that argument, counted from 0.
    ///
    /// # Errors
    /// If the running kernel has no such tracepoint, or none with so many arguments.
    pub fn tracepoint_gives_pointer(&self, tracepoint: &str, argument: usize) -> Result<bool, KernelError> {
        self.tracepoint_argument(tracepoint, argument).map(|kind| kind == KIND_POINTER).ok_or_else(|| {
            KernelError::Unsupported(format!(
                "its type information has no tracepoint {tracepoint} with {} arguments",
                argument + 1
            ))
        })
    }

    /// The kind of an argument's type. For programs, a tracepoint is a function: `typedef void (*btf_trace_NAME)(void *, ...)`.
    fn tracepoint_argument(&self, tracepoint: &str, argument: usize) -> Option<u32> {
        let pointer = self.leads_to(self.named(KIND_TYPEDEF, &format!("btf_trace_{tracepoint}"))?)?;
        let prototype = self.leads_to(pointer)?;
        if self.kind(prototype)? != KIND_FUNCTION_PROTOTYPE {
            return None;
        }
        let arguments = (u32_at(&self.bytes, prototype + 4)? & 0xffff) as usize;
        let parameter = prototype + 12 + (argument + 1) * 8;
        (argument + 1 < arguments).then_some(())?;
        self.kind(*self.types.get(u32_at(&self.bytes, parameter + 4)? as usize)?)
    }

    /// The type that a typedef or a pointer is made of.
    fn leads_to(&self, at: usize) -> Option<usize> {
        self.types.get(u32_at(&self.bytes, at + 8)? as usize).copied()
    }

    fn named(&self, kind: u32, name: &str) -> Option<usize> {
        let fits = |at: &usize| self.kind(*at) == Some(kind) && self.name(*at) == Some(name.as_bytes());
        self.types.iter().skip(1).copied().find(fits)
    }

    fn member_offset(&self, at: usize, member: &[u8], nesting: u32) -> Option<u32> {
        let info = u32_at(&self.bytes, at + 4)?;
        let bitfields = info >> 31 != 0;
        for index in 0..(info & 0xffff) as usize {
            let entry = at + 12 + index * 12;
            let bits = u32_at(&self.bytes, entry + 8)?;
            let offset = if bitfields { bits & 0x00ff_ffff } else { bits } / 8;
            let name = self.string(u32_at(&self.bytes, entry)?)?;
            if name == member {
                return Some(offset);
            }
            if name.is_empty() && nesting < MAX_NESTING {
                let inner = *self.types.get(u32_at(&self.bytes, entry + 4)? as usize)?;
                if matches!(self.kind(inner), Some(KIND_STRUCT | KIND_UNION))
                    && let Some(found) = self.member_offset(inner, member, nesting + 1)
                {
                    return Some(offset + found);
                }
            }
        }
        None
    }

    fn kind(&self, at: usize) -> Option<u32> {
        Some(u32_at(&self.bytes, at + 4)? >> 24 & 0x1f)
    }

    fn name(&self, at: usize) -> Option<&[u8]> {
        self.string(u32_at(&self.bytes, at)?)
    }

    fn string(&self, offset: u32) -> Option<&[u8]> {
        let rest = self.bytes.get(self.strings.checked_add(offset as usize)?..)?;
        rest.split(|byte| *byte == 0).next()
    }
}

/// Bytes that follow the common 12 of a type, by kind.
fn trailing_bytes(info: u32) -> Option<usize> {
    let count = (info & 0xffff) as usize;
    Some(match info >> 24 & 0x1f {
        // int, variable, declaration tag
        1 | 14 | 17 => 4,
        // array
        3 => 12,
        // struct, union, 64-bit enum
        4 | 5 | 19 => count * 12,
        // enum, function prototype
        6 | 13 => count * 8,
        // data section
        15 => count * 12,
        // pointer, forward, typedef, qualifiers, function, float, type tag
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { long a; struct { int b; int signal; }; }` by hand.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0a\0b\0signal\0long\0";
        let mut types: Vec<u32> = vec![19, 1 << 24, 8, 64];
        types.extend([0, 4 << 24 | 2, 8, 9, 1, 0, 11, 1, 32]);
        types.extend([1, 4 << 24 | 2, 16, 7, 1, 0, 0, 2, 64]);
        let mut bytes = Vec::new();
        bytes.extend(BTF_MAGIC.to_ne_bytes());
        bytes.extend([1, 0]);
        for word in [24, 0, types.len() as u32 * 4, types.len() as u32 * 4, strings.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        types.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes.extend_from_slice(strings);
        bytes
    }

    #[test]
    fn members_of_anonymous_members_are_found() {
        let types = KernelTypes::parse(sample()).unwrap();
        assert_eq!(types.offset_of("outer", "a").unwrap(), 0);
        assert_eq!(types.offset_of("outer", "signal").unwrap(), 12);
        assert!(types.offset_of("outer", "absent").is_err());
    }

    /// `typedef void (*btf_trace_x)(void *, struct outer *, int)` by hand.
    fn tracepoint() -> Vec<u8> {
        let strings = b"\0outer\0int\0btf_trace_x\0";
        let mut types: Vec<u32> = vec![1, 4 << 24, 8]; // 1: struct outer
        types.extend([0, 2 << 24, 1]); // 2: struct outer *
        types.extend([0, 2 << 24, 0]); // 3: void *
        types.extend([7, 1 << 24, 4, 32]); // 4: int
        types.extend([0, 13 << 24 | 3, 0, 0, 3, 0, 2, 0, 4]); // 5: void (void *, struct outer *, int)
        types.extend([0, 2 << 24, 5]); // 6: a pointer to it
        types.extend([11, 8 << 24, 6]); // 7: its name
        let mut bytes = Vec::new();
        bytes.extend(BTF_MAGIC.to_ne_bytes());
        bytes.extend([1, 0]);
        for word in [24, 0, types.len() as u32 * 4, types.len() as u32 * 4, strings.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        types.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes.extend_from_slice(strings);
        bytes
    }

    #[test]
    fn what_a_tracepoint_gives_is_found() {
        let types = KernelTypes::parse(tracepoint()).unwrap();
        assert!(types.tracepoint_gives_pointer("x", 0).unwrap());
        assert!(!types.tracepoint_gives_pointer("x", 1).unwrap());
        assert!(types.tracepoint_gives_pointer("x", 2).is_err());
        assert!(types.tracepoint_gives_pointer("y", 0).is_err());
        assert_eq!(types.size_of("outer").unwrap(), 8);
    }

    #[test]
    fn truncated_type_information_is_no_panic() {
        let whole = sample();
        for end in 0..whole.len() {
            if let Some(types) = KernelTypes::parse(whole[..end].to_vec()) {
                let _ = types.offset_of("outer", "signal");
            }
        }
        let whole = tracepoint();
        for end in 0..whole.len() {
            if let Some(types) = KernelTypes::parse(whole[..end].to_vec()) {
                let _ = types.tracepoint_gives_pointer("x", 0);
            }
        }
    }
}
