//! The code that a signal handler returns to. It stands at its very beginning when the handler runs, so looking one
//! byte before the return address, as for a call, would name whatever function happens to lie there; and stripped
//! libraries have no name for it at all. Debuggers know it by its instructions, and so do we.

use std::fs::File;

use super::lookup::Call;
use super::outline::read_at;
use crate::object::address::FileOffset;
use crate::report::model::Frame;

/// `mov $15, %rax; syscall` (rt_sigreturn).
const RETURN_FROM_SIGNAL: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
/// The same with the shorter move.
const RETURN_FROM_SIGNAL_SHORT: [u8; 7] = [0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05];

/// Whether a signal handler returns to this place of an object.
pub fn is_return(file: &File, offset: FileOffset) -> bool {
    let starts_with = |code: &[u8]| read_at(file, offset.0, code.len()).is_ok_and(|found| found == code);
    starts_with(&RETURN_FROM_SIGNAL) || starts_with(&RETURN_FROM_SIGNAL_SHORT)
}

/// Its name, the one that the C libraries give it.
pub fn call() -> Call {
    Call { function: Some(Frame::SIGNAL_RETURN.to_owned()), ..Call::default() }
}
