//! Other entries to a function: addresses that differ from its beginning and run the same code. Where the compiler has inlined
//! an allocator behind a comparison with its address, any other address takes the call.

use crate::object::address::AbsoluteAddress;

use super::text::Text;

/// Bytes of `endbr64`.
const ENDBR_BYTES: u64 = 4;

/// Another entry to a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// Where it lies.
    pub address: AbsoluteAddress,
    /// What it is.
    pub kind: AliasKind,
    /// How much of a pointer changes.
    pub change: Change,
}

/// What another entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AliasKind {
    /// A nop in front of the function.
    Padding,
    /// The instruction behind `endbr64`.
    BehindEndbr,
}

/// What has to be written to make a pointer to a function one to its other entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Only the lowest byte: nobody can read half of it.
    LowestByte,
    /// Several bytes: written while no thread of the process runs.
    Several,
}

/// How two pointers differ.
pub fn change(from: AbsoluteAddress, to: AbsoluteAddress) -> Change {
    if from.0 >> 8 == to.0 >> 8 { Change::LowestByte } else { Change::Several }
}

/// Every other entry to the function that begins at `function`.
pub fn of(text: &Text, function: AbsoluteAddress) -> Vec<Alias> {
    let nops = text.padding(function);
    let padding =
        nops.iter().filter_map(|nop| Some((function.0.checked_sub(nop.distance)?, AliasKind::Padding)));
    let behind = text.begins_with_endbr(function).then(|| function.checked_add(ENDBR_BYTES)).flatten();
    let behind = behind.map(|address| (address.0, AliasKind::BehindEndbr));
    let alias = |(address, kind)| {
        let address = AbsoluteAddress(address);
        Alias { address, kind, change: change(function, address) }
    };
    padding.chain(behind).map(alias).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_at_a_round_address_has_no_padding_within_one_byte() {
        let function = AbsoluteAddress(0x4fb800);
        assert_eq!(change(function, AbsoluteAddress(0x4fb7ff)), Change::Several);
        assert_eq!(change(function, AbsoluteAddress(0x4fb804)), Change::LowestByte);
        assert_eq!(change(AbsoluteAddress(0x4fb801), AbsoluteAddress(0x4fb800)), Change::LowestByte);
    }
}
