//! The stacks of all process images, their frames normalised.

use std::collections::HashMap;

use crate::symbolize::FrameId;

/// Stacks kept; the site table's cap bounds how many can be in use.
const MAX_STACKS: usize = 1 << 18;

/// A stack whose frames have been normalised.
#[derive(Clone, Debug)]
pub struct Stack {
    /// Innermost first.
    pub frames: Vec<FrameId>,
    /// Why the walk ended.
    pub walk_end: u8,
    /// Why the walk of its Python frames ended.
    pub python_end: u8,
}

/// See the module.
#[derive(Default)]
pub struct Stacks {
    by_image: HashMap<u32, HashMap<u64, Stack>>,
    count: usize,
}

impl Stacks {
    /// Whether no more can be kept.
    pub fn is_full(&self) -> bool {
        self.count >= MAX_STACKS
    }

    /// Keeps one; one that is sent twice replaces itself.
    pub fn insert(&mut self, serial: u32, stack_id: u64, stack: Stack) {
        if self.by_image.entry(serial).or_default().insert(stack_id, stack).is_none() {
            self.count += 1;
        }
    }

    /// One stack of an image.
    pub fn get(&self, serial: u32, stack_id: u64) -> Option<&Stack> {
        self.by_image.get(&serial)?.get(&stack_id)
    }

    /// An image has gone.
    pub fn forget(&mut self, serial: u32) {
        self.count -= self.by_image.remove(&serial).map_or(0, |stacks| stacks.len());
    }
}
