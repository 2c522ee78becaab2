//! How a stack walk ends. The code travels with every stack, so that a truncated one says why.

/// Most frames a stack keeps.
pub const MAX_FRAMES: usize = 127;

/// Why a walk stopped.
pub mod end {
    /// Reached the outermost frame.
    pub const COMPLETE: u8 = 0;
    /// A frame record could not be read.
    pub const UNREADABLE: u8 = 1;
    /// The next frame record lies below the last one: not a chain of frame pointers.
    pub const NOT_ASCENDING: u8 = 2;
    /// The frame pointer is not aligned: the function uses the register for something else.
    pub const MISALIGNED: u8 = 3;
    /// More than [`super::MAX_FRAMES`] frames.
    pub const TOO_DEEP: u8 = 4;
    /// A return address that cannot be code.
    pub const BAD_RETURN_ADDRESS: u8 = 5;
    /// Text for people, by code.
    pub const NAMES: [&str; 6] = [
        "complete",
        "frame record unreadable",
        "no frame pointer in the calling code",
        "frame pointer register used for data",
        "deeper than 127 frames",
        "return address is no code address",
    ];
}
