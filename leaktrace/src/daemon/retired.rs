//! Serials of images that are gone. Each is remembered until nothing of it is left in the kernel side's tables: its blocks are
//! swept out of the live map, its rows recycled.

use std::collections::{HashMap, HashSet};

/// What is known of one.
#[derive(Clone, Copy, Debug)]
struct Gone {
    /// The walk through the live map that has to end: the first that began after the image had gone.
    walk: u64,
    /// No row of it is left.
    rowless: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Retired {
    serials: HashMap<u32, Gone>,
    /// Walks through the live map that have ended.
    walks: u64,
    /// One is under way.
    walking: bool,
}

impl Retired {
    /// An image has gone.
    pub fn insert(&mut self, serial: u32) {
        let walk = self.walks + 1 + u64::from(self.walking);
        self.serials.insert(serial, Gone { walk, rowless: false });
    }

    /// Whether it is one of them.
    pub fn contains(&self, serial: u32) -> bool {
        self.serials.contains_key(&serial)
    }

    /// Whether the live map has to be walked through.
    pub fn wants_walk(&self) -> bool {
        self.walking || self.serials.values().any(|gone| gone.walk > self.walks)
    }

    /// A part of the live map has been walked through, the last one if `at_end`.
    pub fn walked(&mut self, at_end: bool) {
        self.walking = !at_end;
        if at_end {
            self.walks += 1;
            self.forget();
        }
    }

    /// Every row has been looked at: these have some left.
    pub fn have_rows(&mut self, with_rows: &HashSet<u32>) {
        for (serial, gone) in &mut self.serials {
            gone.rowless |= !with_rows.contains(serial);
        }
        self.forget();
    }

    fn forget(&mut self) {
        let walks = self.walks;
        self.serials.retain(|_, gone| gone.walk > walks || !gone.rowless);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_is_forgotten_once_its_blocks_are_swept_and_its_rows_gone() {
        let mut retired = Retired::default();
        retired.insert(3);
        retired.have_rows(&HashSet::from([3]));
        retired.walked(true);
        assert!(retired.contains(3) && !retired.wants_walk());
        retired.have_rows(&HashSet::new());
        assert!(!retired.contains(3));
    }

    #[test]
    fn one_that_goes_while_the_map_is_walked_waits_for_the_next_walk() {
        let mut retired = Retired::default();
        retired.insert(3);
        retired.walked(false);
        retired.insert(4);
        retired.have_rows(&HashSet::new());
        retired.walked(true);
        assert!(!retired.contains(3) && retired.contains(4) && retired.wants_walk());
        retired.walked(true);
        assert!(!retired.contains(4) && !retired.wants_walk());
    }
}
