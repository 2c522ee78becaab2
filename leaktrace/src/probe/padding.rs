//! The nops that compilers put in front of a function so that it begins at a round address. A call that enters there runs
//! into the function: another entry to the same code, and a place for a probe that only such calls pass.

use iced_x86::{Decoder, DecoderOptions};

use super::cost::{CostTable, InstructionClass};
use super::site::Site;
use super::x86_64;

/// Most bytes in front of a function that are looked at: compilers pad to 16, 32 or 64.
pub const MAX_PADDING: usize = 64;

/// A position in front of a function from which there is nothing but nops up to the function's first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nop {
    /// Bytes before the function.
    pub distance: u64,
    /// Bytes of the first instruction there.
    pub length: u64,
    /// Its class.
    pub class: InstructionClass,
    /// Spelled as a disassembler would.
    pub instruction: String,
}

/// Every such position, the one farthest from the function first. `before`: the bytes that end where the function
/// begins. Positions inside of a long nop count too, where what is left of it is still one.
///
/// ```
/// use leaktrace::probe::padding::entries;
///
/// // jmp rax; xchg ax, ax
/// let found = entries(&[0xff, 0xe0, 0x66, 0x90]);
/// assert_eq!(found.iter().map(|nop| nop.distance).collect::<Vec<_>>(), [2, 1]);
/// ```
pub fn entries(before: &[u8]) -> Vec<Nop> {
    let before = before.get(before.len().saturating_sub(MAX_PADDING)..).unwrap_or_default();
    let mut found: Vec<Nop> = Vec::new();
    for distance in 1..=before.len() {
        let bytes = before.get(before.len() - distance..).unwrap_or_default();
        let Some(nop) = nop(bytes) else { continue };
        let rest = distance as u64 - nop.length;
        if rest == 0 || found.iter().any(|known| known.distance == rest) {
            found.push(nop);
        }
    }
    found.reverse();
    found
}

/// The nop that `bytes` begin with, if it ends within them.
fn nop(bytes: &[u8]) -> Option<Nop> {
    let instruction = Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode();
    if instruction.is_invalid() || !x86_64::is_nop(&instruction) {
        return None;
    }
    let own = bytes.get(..instruction.len())?;
    Some(Nop {
        distance: bytes.len() as u64,
        length: own.len() as u64,
        class: x86_64::classify(own, &instruction),
        instruction: x86_64::text(&instruction),
    })
}

/// The nops that a call entering at `distance` passes, as probe sites: nothing has been pushed there, and nothing below the
/// stack pointer is in use.
pub fn sites(padding: &[Nop], distance: u64, costs: &CostTable) -> Vec<Site> {
    let mut sites = Vec::new();
    let mut at = distance;
    while let Some(nop) = padding.iter().find(|nop| nop.distance == at) {
        if nop.class != InstructionClass::Refused {
            sites.push(Site {
                offset: 0,
                in_front: nop.distance,
                instruction: nop.instruction.clone(),
                class: nop.class,
                pushed_words: 0,
                cost: costs.cost(nop.class),
                reentered: false,
            });
        }
        at = at.saturating_sub(nop.length.max(1));
    }
    sites
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distances(before: &[u8]) -> Vec<u64> {
        entries(before).iter().map(|nop| nop.distance).collect()
    }

    /// In front of `_PyObject_Free` of Debian 12's python3.11: jmp; xchg ax, ax. The second byte alone is a nop as well.
    #[test]
    fn a_prefix_of_a_nop_may_be_left_out() {
        let found = entries(&[0xeb, 0x8a, 0x66, 0x90]);
        let seen: Vec<_> = found.iter().map(|nop| (nop.distance, nop.class)).collect();
        assert_eq!(seen, [(2, InstructionClass::Nop2), (1, InstructionClass::Nop1)]);
    }

    /// In front of `_PyObject_Malloc` there: the displacement of a jump, and one nop.
    #[test]
    fn the_end_of_another_function_is_no_padding() {
        assert_eq!(distances(&[0xff, 0xd0, 0xeb, 0xe0, 0x90]), [1]);
        assert_eq!(distances(&[0x48, 0x83, 0xc4, 0x18, 0xc3]), [0_u64; 0]);
    }

    /// In front of `_PyMem_RawFree` of Debian 11's python3.9: the function before it ends there.
    #[test]
    fn a_function_without_padding_has_no_entry() {
        assert_eq!(distances(&[0x48, 0x8b, 0x3d, 0xe2, 0x75, 0x41, 0x00, 0xff, 0xe0]), [0_u64; 0]);
    }

    /// In front of Debian 12's `_PyMem_RawMalloc`: a nop of 11 bytes, then one of 4.
    #[test]
    fn several_nops_are_followed_one_by_one() {
        let before = [0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, 0x0f, 0x1f, 0x40, 0];
        assert_eq!(distances(&before), [15, 14, 13, 12, 4]);
        let sites = sites(&entries(&before), 12, &CostTable::default());
        assert_eq!(sites.iter().map(|site| site.in_front).collect::<Vec<_>>(), [12, 4]);
    }

    /// `pause` and what only looks like a nop from its middle are none.
    #[test]
    fn what_has_an_effect_is_no_padding() {
        assert_eq!(distances(&[0xf3, 0x90]), [1]);
        assert_eq!(distances(&[0xc3, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0]), [8]);
        assert_eq!(distances(&[]), [0_u64; 0]);
    }

    #[test]
    fn any_bytes_are_decoded_within_bounds() {
        use proptest::prelude::*;
        proptest!(|(before in proptest::collection::vec(any::<u8>(), 0..100))| {
            for nop in entries(&before) {
                prop_assert!(nop.distance as usize <= before.len() && nop.length <= nop.distance);
            }
        });
    }
}
