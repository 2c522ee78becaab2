//! Which live blocks may have changed hands unseen: those that now hold an object of a kind which CPython hands out again from
//! a free list that is not closed ([`super::free_lists`]). For a sample of blocks this tells how far a site's figures can be
//! trusted. A block is looked at as it is now; what is not certain (its size is another, its type is not that of the kind)
//! does not count.

use super::{Interpreter, Memory};
use crate::report::model::Recycled;

/// What a collected object has in front.
const HEADER: usize = 16;

/// Where an object says what it is.
const TYPE: usize = 8;

/// How much of a block is read.
const PREFIX: usize = HEADER + TYPE + 8;

/// A kind that is kept in free lists.
#[derive(Clone, Copy, Debug)]
struct Kept {
    /// Its type.
    name: &'static str,
    /// The collector's header lies in front of it.
    collected: bool,
    /// Bytes of the object, where all have the same.
    bytes: Option<u64>,
    /// Minor versions that keep it.
    minors: (u8, u8),
    /// Minor versions whose list of it can be closed.
    closable: (u8, u8),
}

const ALWAYS: (u8, u8) = (8, 14);
const NEVER: (u8, u8) = (1, 0);
const UNIFORM: (u8, u8) = (14, 14);

const fn kept(
    name: &'static str,
    collected: bool,
    bytes: Option<u64>,
    minors: (u8, u8),
    closable: (u8, u8),
) -> Kept {
    Kept { name, collected, bytes, minors, closable }
}

const KEPT: [Kept; 14] = [
    kept("PyFloat_Type", false, Some(24), ALWAYS, ALWAYS),
    kept("PyTuple_Type", true, None, ALWAYS, ALWAYS),
    kept("PyList_Type", true, Some(40), ALWAYS, UNIFORM),
    kept("PyDict_Type", true, Some(48), ALWAYS, UNIFORM),
    // One only, but every slice that dies while the place is free goes there.
    kept("PySlice_Type", true, Some(40), ALWAYS, UNIFORM),
    kept("PyContext_Type", true, None, ALWAYS, UNIFORM),
    kept("PyFrame_Type", true, None, (8, 10), NEVER),
    kept("PyMethod_Type", true, None, (8, 8), NEVER),
    kept("PyCFunction_Type", true, None, (8, 8), NEVER),
    kept("_PyAsyncGenASend_Type", true, None, ALWAYS, UNIFORM),
    kept("PyLong_Type", false, None, UNIFORM, UNIFORM),
    kept("PyListIter_Type", true, None, UNIFORM, UNIFORM),
    kept("PyTupleIter_Type", true, None, UNIFORM, UNIFORM),
    kept("PyRangeIter_Type", false, None, UNIFORM, UNIFORM),
];

/// The kinds of one interpreter that may change hands unseen.
#[derive(Clone, Debug, Default)]
pub struct Kinds {
    /// Address of the type, and what is known of its objects.
    kinds: Vec<(u64, Kept)>,
}

impl Kinds {
    /// `closed`: the free lists that can be closed are.
    pub fn of(interpreter: &Interpreter, closed: bool) -> Self {
        let minor = interpreter.version.minor;
        let within = |(first, last): (u8, u8)| (first..=last).contains(&minor);
        let open = KEPT.iter().filter(|kept| within(kept.minors) && !(closed && within(kept.closable)));
        Self { kinds: open.filter_map(|kept| Some((interpreter.address(kept.name)?, *kept))).collect() }
    }

    /// How many of the blocks (address, and bytes that were asked for) hold such an object. Blocks that cannot be read are not
    /// examined.
    pub fn recycled(&self, memory: &dyn Memory, blocks: impl IntoIterator<Item = (u64, u64)>) -> Recycled {
        let mut found = Recycled::default();
        for (address, bytes) in blocks {
            let mut prefix = [0; PREFIX];
            let length = usize::try_from(bytes).map_or(PREFIX, |bytes| bytes.min(PREFIX));
            let Some(prefix) = prefix.get_mut(..length).filter(|prefix| !prefix.is_empty()) else { continue };
            if memory.fill(address, prefix) {
                found.examined += 1;
                found.holding += u64::from(self.holds(prefix, bytes));
            }
        }
        found
    }

    fn holds(&self, prefix: &[u8], bytes: u64) -> bool {
        self.kinds.iter().any(|(object_type, kept)| {
            let header = if kept.collected { HEADER } else { 0 };
            let right_size = kept.bytes.is_none_or(|object| object + header as u64 == bytes);
            right_size && word(prefix, header + TYPE) == Some(*object_type)
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..).and_then(<[u8]>::first_chunk::<8>).map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds() -> Kinds {
        Kinds { kinds: KEPT.iter().enumerate().map(|(index, kept)| (0x1000 + index as u64, *kept)).collect() }
    }

    fn object(header: usize, object_type: u64) -> Vec<u8> {
        let mut bytes = vec![0; header + TYPE];
        bytes.extend(object_type.to_le_bytes());
        bytes
    }

    #[test]
    fn an_object_is_known_by_its_type_and_its_size() {
        let (float, list) = (0x1000, 0x1002);
        assert!(kinds().holds(&object(0, float), 24));
        assert!(!kinds().holds(&object(0, float), 32), "no float has 32 bytes");
        assert!(kinds().holds(&object(HEADER, list), 56));
        assert!(!kinds().holds(&object(0, list), 40), "a list has a header");
        assert!(!kinds().holds(&object(0, 0x2000), 24));
        assert!(!kinds().holds(&[0; 3], 3));
    }
}
