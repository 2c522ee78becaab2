//! How a stack walk ends. The code travels with every stack, so that a truncated one says why.

use crate::unwind::Registers;

/// Most frames a stack keeps.
pub const MAX_FRAMES: usize = 127;

/// A walk under way. It lies in the thread's scratch, not on the BPF stack: what the verifier does not know there, it
/// does not follow through every combination either.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Walk {
    /// The frame that the walk has got to.
    pub at: Registers,
    /// The code mappings that it looks things up in.
    pub code: CodeList,
    /// Address that the window was read from.
    pub window_base: u64,
    /// Hash over what was found so far.
    pub hash: u64,
    /// How many frames were found.
    pub count: u64,
    /// One of [`end`].
    pub reason: u64,
}

/// A process's code mappings at the time of a walk.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CodeList {
    /// Number of the list; what the cache holds is told apart by it.
    pub number: u64,
    /// Index into CODE of the header.
    pub head: u32,
    /// How many mappings.
    pub count: u32,
    /// 0, or the reason why no address can be looked up, one of [`end`].
    pub unusable: u64,
}

/// Why a walk stopped.
pub mod end {
    /// Reached the outermost frame.
    pub const COMPLETE: u8 = 0;
    /// A word of the stack could not be read.
    pub const UNREADABLE: u8 = 1;
    /// The rule leads to a frame that does not lie further out.
    pub const NOT_ASCENDING: u8 = 2;
    /// The frame pointer is not aligned: the function uses the register for something else.
    pub const MISALIGNED: u8 = 3;
    /// More than [`super::MAX_FRAMES`] frames.
    pub const TOO_DEEP: u8 = 4;
    /// A return address that cannot be code.
    pub const BAD_RETURN_ADDRESS: u8 = 5;
    /// Code without a table, and no frame pointer either.
    pub const NO_FRAME_POINTER: u8 = 6;
    /// An address in no mapping that was known at the time of the walk.
    pub const UNKNOWN_CODE: u8 = 7;
    /// The object says nothing about this code.
    pub const NO_RULE: u8 = 8;
    /// The object's rule is one that the kernel side cannot follow.
    pub const UNSUPPORTED_RULE: u8 = 9;
    /// The rule needs a register whose value is not known.
    pub const REGISTER_LOST: u8 = 10;
    /// The object's table was still being built.
    pub const TABLE_PENDING: u8 = 11;
    /// There was no room for the object's table.
    pub const NO_ROOM: u8 = 12;
    /// The object's unwind information could not be read.
    pub const UNREADABLE_OBJECT: u8 = 13;
    /// Libraries had been exchanged a moment before; the mappings known were the old ones.
    pub const STALE_MAPPINGS: u8 = 14;
    /// The return address is that of the kernel's trampoline: somebody else's return probe is in the way.
    pub const TRAMPOLINE: u8 = 15;
    /// Text for people, by code.
    pub const NAMES: [&str; 16] = [
        "complete",
        "stack memory unreadable",
        "next frame does not lie further out",
        "frame pointer register used for data",
        "deeper than 127 frames",
        "return address is no code address",
        "no unwind table and no frame pointer",
        "code in no known mapping",
        "no unwind information for this code",
        "unwind rule not supported",
        "register needed by the unwind rule not known",
        "unwind table still being built",
        "unwind tables full",
        "unwind information unreadable",
        "libraries had just been exchanged",
        "return address replaced by another return probe",
    ];
}
