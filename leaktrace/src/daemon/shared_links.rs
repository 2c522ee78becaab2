//! Links that are shared by every process that maps a file: one for each set of probes in a file. A link has a number, which
//! travels in its cookies; a process's entry on the kernel side holds the numbers that count for it. So two sets can
//! lie on one instruction (two processes may want different probes in one file, and overlay file systems show the same
//! file under many names), and yet each hit is counted once.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::kernel::AttachPoint;

/// How long a link is kept that no process uses: the next worker may be on its way.
const IDLE: Duration = Duration::from_secs(30);
/// Links given up at a time.
const GIVEN_UP_AT_A_TIME: usize = 4;
/// Sets of probes that are shared at once. Fifty containers of different images have some three hundred.
pub const MAX_SETS: usize = 4096;

/// A file, as `stat` of the opened file tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Device number.
    pub device: u64,
    /// Inode number. While a link lies on the file it is not given to another.
    pub inode: u64,
}

/// Probes of one file that are placed together: what two processes must agree in to share a link.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProbeSet {
    file: FileId,
    /// File offset, cookie, whether the return is probed.
    points: Vec<(u64, u64, bool)>,
}

impl ProbeSet {
    /// The set of these probes, in whatever order they come.
    pub fn new(file: FileId, points: &[AttachPoint]) -> Self {
        let point = |point: &AttachPoint| (point.offset.0, point.cookie.pack(), point.needs_return);
        let mut points: Vec<_> = points.iter().map(point).collect();
        points.sort_unstable();
        Self { file, points }
    }
}

struct SharedLink<A> {
    set: ProbeSet,
    attachment: A,
    idle_since: Option<Instant>,
}

/// The registry; `A` is what keeps a link in place.
pub struct SharedLinks<A> {
    by_number: HashMap<u16, SharedLink<A>>,
    by_set: HashMap<ProbeSet, u16>,
    last: u16,
}

impl<A> Default for SharedLinks<A> {
    fn default() -> Self {
        Self { by_number: HashMap::new(), by_set: HashMap::new(), last: 0 }
    }
}

impl<A> SharedLinks<A> {
    /// The number of the link that holds this set; `place` makes it if there is none. `None`: there are too many.
    ///
    /// # Errors
    /// Those of `place`.
    pub fn number_of<E>(
        &mut self,
        set: ProbeSet,
        place: impl FnOnce(u16) -> Result<A, E>,
    ) -> Result<Option<u16>, E> {
        if let Some(number) = self.by_set.get(&set) {
            return Ok(Some(*number));
        }
        if self.by_number.len() >= MAX_SETS {
            return Ok(None);
        }
        let number = self.next_number();
        let attachment = place(number)?;
        self.by_set.insert(set.clone(), number);
        self.by_number.insert(number, SharedLink { set, attachment, idle_since: None });
        Ok(Some(number))
    }

    /// Numbers go round, so that one comes again only after all others: whatever still holds it, such as the entry of a process
    /// that was forked and has not been entered yet, is long gone.
    fn next_number(&mut self) -> u16 {
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if !self.by_number.contains_key(&self.last) {
                return self.last;
            }
        }
    }

    /// Gives up what none of the images in `used` has needed for a while: a few at a time.
    pub fn give_up(&mut self, used: &HashSet<u16>, now: Instant) -> Vec<A> {
        for (number, link) in &mut self.by_number {
            link.idle_since = if used.contains(number) { None } else { link.idle_since.or(Some(now)) };
        }
        let is_due = |link: &SharedLink<A>| {
            link.idle_since.is_some_and(|since| now.saturating_duration_since(since) >= IDLE)
        };
        let due: Vec<u16> = self
            .by_number
            .iter()
            .filter(|(_, link)| is_due(link))
            .map(|(number, _)| *number)
            .take(GIVEN_UP_AT_A_TIME)
            .collect();
        due.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    fn remove(&mut self, number: u16) -> Option<A> {
        let link = self.by_number.remove(&number)?;
        self.by_set.remove(&link.set);
        Some(link.attachment)
    }

    /// Gives up everything.
    pub fn take_all(&mut self) -> Vec<A> {
        self.by_set.clear();
        self.by_number.drain().map(|(_, link)| link.attachment).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::address::FileOffset;
    use leaktrace_common::hook::HookCookie;

    fn set(inode: u64, offsets: &[u64]) -> ProbeSet {
        let point = |offset: &u64| AttachPoint {
            path: format!("/some/way/to/{inode}").into(),
            offset: FileOffset(*offset),
            cookie: HookCookie::default(),
            needs_return: true,
        };
        let points: Vec<AttachPoint> = offsets.iter().map(point).collect();
        ProbeSet::new(FileId { device: 1, inode }, &points)
    }

    fn number(links: &mut SharedLinks<u16>, set: ProbeSet) -> u16 {
        links.number_of(set, Ok::<u16, ()>).expect("placed").expect("a number")
    }

    #[test]
    fn processes_that_want_the_same_share_a_link_and_others_do_not() {
        let mut links = SharedLinks::default();
        let first = number(&mut links, set(7, &[1, 2]));
        assert_eq!(number(&mut links, set(7, &[2, 1])), first);
        assert_ne!(number(&mut links, set(7, &[1])), first);
        assert_ne!(number(&mut links, set(8, &[1, 2])), first);
        assert_eq!(links.by_number.len(), 3);
    }

    #[test]
    fn a_set_that_cannot_be_placed_has_no_number() {
        let mut links = SharedLinks::<u16>::default();
        assert_eq!(links.number_of(set(7, &[1]), |_| Err("refused")), Err("refused"));
        assert_eq!(links.by_number.len(), 0);
        number(&mut links, set(7, &[1]));
        assert_eq!(links.by_number.len(), 1);
    }

    #[test]
    fn what_nobody_uses_is_given_up_after_a_while_and_its_number_rests() {
        let mut links = SharedLinks::default();
        let begun = Instant::now();
        let (kept, idle) = (number(&mut links, set(1, &[1])), number(&mut links, set(2, &[1])));
        let used = HashSet::from([kept]);
        assert!(links.give_up(&used, begun).is_empty());
        assert!(links.give_up(&HashSet::from([kept, idle]), begun + IDLE).is_empty());
        assert!(links.give_up(&used, begun + IDLE).is_empty());
        assert_eq!(links.give_up(&used, begun + IDLE * 2), [idle]);
        let again = number(&mut links, set(2, &[1]));
        assert!(again != idle && again != kept);
    }

    #[test]
    fn there_is_a_cap_and_numbers_go_round() {
        let mut links = SharedLinks { last: u16::MAX - 1, ..SharedLinks::default() };
        for inode in 0..MAX_SETS as u64 {
            assert_ne!(number(&mut links, set(inode, &[1])), 0);
        }
        assert_eq!(links.number_of(set(u64::MAX, &[1]), Ok::<u16, ()>), Ok(None));
        assert_eq!(links.take_all().len(), MAX_SETS);
    }
}
