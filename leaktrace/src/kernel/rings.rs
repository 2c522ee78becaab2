//! The two ring buffers, drained into plain values.

use std::os::fd::{AsFd, OwnedFd};

use aya::maps::{MapData, RingBuf};
use leaktrace_common::{
    event::{Event, StackHeader},
    python::{FRAME_WORDS, MAX_PYTHON_FRAMES, PythonFrame},
    walk::MAX_FRAMES,
};

use super::KernelError;
use crate::object::address::AbsoluteAddress;

/// A stack, seen for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackRecord {
    /// Identity and circumstances.
    pub header: StackHeader,
    /// Return addresses, innermost first.
    pub frames: Vec<AbsoluteAddress>,
    /// Python frames, innermost first.
    pub python: Vec<PythonFrame>,
}

/// STACKS and EVENTS.
pub struct Rings {
    stacks: RingBuf<MapData>,
    events: RingBuf<MapData>,
}

impl Rings {
    pub(super) fn new(stacks: RingBuf<MapData>, events: RingBuf<MapData>) -> Self {
        Self { stacks, events }
    }

    /// Descriptors that become readable when something arrives: stacks, events.
    ///
    /// # Errors
    /// If no more descriptors can be had.
    pub fn fds(&self) -> Result<[OwnedFd; 2], KernelError> {
        let clone = |ring: &RingBuf<MapData>| ring.as_fd().try_clone_to_owned();
        let failed =
            |source| KernelError::Io { what: "duplicating a ring buffer's descriptor".into(), source };
        Ok([clone(&self.stacks).map_err(failed)?, clone(&self.events).map_err(failed)?])
    }

    /// The next stack, if one is there.
    pub fn next_stack(&mut self) -> Option<StackRecord> {
        loop {
            // A record of a shape that this version does not know is passed over.
            if let Some(record) = decode_stack(&self.stacks.next()?) {
                return Some(record);
            }
        }
    }

    /// The next mapping or lifecycle event, if one is there.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = decode_event(&self.events.next()?) {
                return Some(event);
            }
        }
    }
}

fn decode_event(bytes: &[u8]) -> Option<Event> {
    // SAFETY: the length is checked; any bytes are a valid Event, and the read does not ask for alignment.
    (bytes.len() >= size_of::<Event>()).then(|| unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}

fn decode_stack(bytes: &[u8]) -> Option<StackRecord> {
    let (head, rest) = bytes.split_at_checked(size_of::<StackHeader>())?;
    // SAFETY: the length is checked; any bytes are a valid StackHeader.
    let header = unsafe { head.as_ptr().cast::<StackHeader>().read_unaligned() };
    let count = (header.frame_count as usize).min(MAX_FRAMES).min(rest.len() / 8);
    let words: Vec<u64> =
        rest.chunks_exact(8).filter_map(|chunk| Some(u64::from_ne_bytes(chunk.try_into().ok()?))).collect();
    let (frames, python) = words.split_at_checked(count)?;
    let python_count = (header.python_count as usize).min(MAX_PYTHON_FRAMES);
    let (python, _) = python.as_chunks::<FRAME_WORDS>();
    Some(StackRecord {
        header,
        frames: frames.iter().copied().map(AbsoluteAddress).collect(),
        python: python.iter().take(python_count).copied().map(PythonFrame::from_words).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_or_boastful_record_is_cut_to_what_is_there() {
        assert_eq!(decode_stack(&[0; 39]), None);
        let mut bytes = vec![0u8; 40 + 16];
        bytes[24..28].copy_from_slice(&1000u32.to_ne_bytes());
        bytes[40] = 7;
        let record = decode_stack(&bytes).unwrap();
        assert_eq!(record.frames, [AbsoluteAddress(7), AbsoluteAddress(0)]);
        assert_eq!(decode_event(&[0; 55]), None);
    }
}
