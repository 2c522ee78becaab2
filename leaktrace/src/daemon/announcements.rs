//! Who is traced, on stderr. Few processes are told of one by one, when each is traced; many in one line, with what most of
//! them are called: at the start once all are, later every few seconds.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{FEW, tracer::Tracer};
use crate::{
    report::{aside::say, human::noun_of},
    target::image::Image,
};

/// How often at most processes are told of in sum while tracing.
const EVERY: Duration = Duration::from_secs(10);
/// Names in such a line.
const NAMES: usize = 3;
/// Different names that are counted for it.
const MAX_NAMES: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Announcements {
    /// All that are in scope at the start are told of in one line.
    beginning: bool,
    /// Lines that may still be said before the next sum.
    lines_left: usize,
    /// When a sum was last due.
    summed: Option<Instant>,
    untold: usize,
    names: BTreeMap<String, usize>,
}

impl Announcements {
    /// With so many processes in scope at the start.
    pub(super) fn new(processes: usize) -> Self {
        Self { beginning: processes > FEW, lines_left: FEW, summed: None, untold: 0, names: BTreeMap::new() }
    }

    /// Whether a process is told of by itself, with which so many are traced. If not, it is part of the next sum.
    fn tells_alone(&mut self, name: &str, traced: usize) -> bool {
        if !self.beginning && traced <= FEW && self.lines_left > 0 {
            self.lines_left -= 1;
            return true;
        }
        self.untold += 1;
        if self.names.len() < MAX_NAMES || self.names.contains_key(name) {
            *self.names.entry(name.to_owned()).or_default() += 1;
        }
        false
    }

    /// Everything that was in scope at the start is traced. `None`: each was told of.
    fn of_the_beginning(&mut self, took: Duration) -> Option<String> {
        if !std::mem::take(&mut self.beginning) {
            return None;
        }
        let (count, names) = self.take_untold()?;
        let processes = noun_of(count as u64, "process");
        Some(format!("tracing {count} {processes} ({names}), placed in {:.1} ms", took.as_secs_f64() * 1e3))
    }

    /// What is to be said of those that came since, while so many are traced.
    fn of_newcomers(&mut self, now: Instant, traced: usize) -> Option<String> {
        if self.summed.is_some_and(|last| now.saturating_duration_since(last) < EVERY) {
            return None;
        }
        self.lines_left = FEW;
        let (count, names) = self.take_untold()?;
        self.summed = Some(now);
        Some(format!("tracing {count} {} ({names}); {traced} now", noun_of(count as u64, "more process")))
    }

    fn take_untold(&mut self) -> Option<(usize, String)> {
        let names = most_frequent(&std::mem::take(&mut self.names));
        Some((std::mem::take(&mut self.untold), names)).filter(|(count, _)| *count > 0)
    }
}

/// `480 nginx, 20 sh, 1 cron and 2 other names`.
fn most_frequent(names: &BTreeMap<String, usize>) -> String {
    let mut sorted: Vec<_> = names.iter().collect();
    sorted.sort_by_key(|(_, count)| Reverse(**count));
    let first: Vec<String> =
        sorted.iter().take(NAMES).map(|(name, count)| format!("{count} {name}")).collect();
    match sorted.len().saturating_sub(NAMES) {
        0 => first.join(", "),
        others => format!("{} and {others} {}", first.join(", "), noun_of(others as u64, "other name")),
    }
}

impl Tracer {
    /// A process is about to be traced: says so, if it is one of few.
    pub(super) fn tell_of(&mut self, image: &Image, how: &str) {
        let name = &image.identity.name;
        let sentence = format!("tracing {} ({name}): {how}", image.pid);
        if self.announcements.tells_alone(name, self.traced_pids.len() + 1) {
            say(sentence);
        } else {
            tracing::debug!("{sentence}");
        }
    }

    /// Says what there is to trace at the start, if it is many.
    pub(super) fn tell_of_the_beginning(&mut self) {
        if let Some(sentence) = self.announcements.of_the_beginning(self.started.elapsed()) {
            say(sentence);
        }
    }

    /// Says how many have come since that was last said.
    pub(super) fn tell_of_newcomers(&mut self) {
        if let Some(sentence) = self.announcements.of_newcomers(Instant::now(), self.traced_pids.len()) {
            say(sentence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn few_are_told_of_one_by_one_and_many_at_once() {
        let mut few = Announcements::new(FEW);
        assert!((1..=FEW).all(|traced| few.tells_alone("worker", traced)));
        assert_eq!(few.of_the_beginning(SECOND), None);
        let mut many = Announcements::new(FEW + 1);
        assert!(!(1..=FEW + 1).any(|traced| many.tells_alone("worker", traced)));
        let sentence = many.of_the_beginning(SECOND);
        assert_eq!(sentence.as_deref(), Some("tracing 17 processes (17 worker), placed in 1000.0 ms"));
        assert_eq!(many.of_newcomers(Instant::now(), FEW + 1), None);
    }

    #[test]
    fn those_that_come_later_are_told_of_now_and_then() {
        let (mut announcements, begun) = (Announcements::new(1), Instant::now());
        let mut come = |now| {
            assert!(!announcements.tells_alone("sh", FEW + 1));
            announcements.of_newcomers(now, FEW + 1)
        };
        assert_eq!(come(begun).as_deref(), Some("tracing 1 more process (1 sh); 17 now"));
        assert_eq!(come(begun + SECOND), None);
        let sentence = come(begun + EVERY);
        assert_eq!(sentence.as_deref(), Some("tracing 2 more processes (2 sh); 17 now"));
    }

    #[test]
    fn a_few_that_come_and_go_fast_are_told_of_in_sum_too() {
        let (mut announcements, begun) = (Announcements::new(1), Instant::now());
        assert!((0..FEW).all(|_| announcements.tells_alone("cron", 2)));
        assert!(!announcements.tells_alone("cron", 2));
        assert!(announcements.of_newcomers(begun, 2).is_some());
        assert!(announcements.tells_alone("cron", 2));
    }

    #[test]
    fn the_most_frequent_names_come_first() {
        let names =
            |pairs: &[(&str, usize)]| pairs.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        assert_eq!(most_frequent(&names(&[("a", 1), ("b", 7)])), "7 b, 1 a");
        let many = names(&[("a", 1), ("b", 7), ("c", 3), ("d", 2), ("e", 1)]);
        assert_eq!(most_frequent(&many), "7 b, 3 c, 2 d and 2 other names");
    }
}
