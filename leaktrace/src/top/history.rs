//! How survivors developed: the latest readings of each site, of each process and of everything. Pure.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::report::model::{ProcessReport, Report, SiteReport};

/// Readings kept of each.
pub(super) const DEPTH: usize = 96;
/// Sites that have a history; of more, those with most survivors.
const MAX_SITES: usize = 20_000;
/// Processes that have one.
const MAX_PROCESSES: usize = 20_000;

/// Identity of a site, or of a process, within one trace.
pub(super) type Id = u64;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// Reports so far. The first is reading 1.
    readings: u64,
    rings: HashMap<Id, Ring>,
    total: Ring,
}

/// The latest readings of one thing.
#[derive(Clone, Debug, Default)]
struct Ring {
    values: VecDeque<u64>,
    /// The reading that the last value is of.
    last: u64,
}

impl Ring {
    /// What was not seen meanwhile had nothing.
    fn push(&mut self, reading: u64, value: u64) {
        let gap = reading.saturating_sub(self.last).saturating_sub(1).min(DEPTH as u64);
        if self.last > 0 {
            (0..gap).for_each(|_| self.values.push_back(0));
        }
        self.values.push_back(value);
        self.values.drain(..self.values.len().saturating_sub(DEPTH));
        self.last = reading;
    }

    fn at(&self, reading: u64) -> u64 {
        let back = self.last.checked_sub(reading).and_then(|back| usize::try_from(back).ok());
        let place = back.and_then(|back| self.values.len().checked_sub(back + 1));
        place.and_then(|place| self.values.get(place)).copied().unwrap_or(0)
    }
}

impl History {
    /// Takes a report's survivors over; returns the number of this reading.
    pub(super) fn add(&mut self, report: &Report) -> u64 {
        self.readings += 1;
        let reading = self.readings;
        let total =
            report.processes.iter().fold(0u64, |sum, process| sum.saturating_add(process.survivors.bytes));
        self.total.push(reading, total);
        for process in report.processes.iter().take(MAX_PROCESSES) {
            self.push(process_id(process), process.survivors.bytes);
        }
        for (id, bytes) in largest_sites(report) {
            self.push(id, bytes);
        }
        self.rings.retain(|_, ring| ring.last + DEPTH as u64 > reading);
        reading
    }

    fn push(&mut self, id: Id, bytes: u64) {
        let reading = self.readings;
        let room = self.rings.len() < 2 * (MAX_SITES + MAX_PROCESSES);
        match self.rings.get_mut(&id) {
            // The same site twice in a report: never in practice.
            Some(ring) if ring.last == reading => {}
            Some(ring) => ring.push(reading, bytes),
            None if room => self.rings.entry(id).or_default().push(reading, bytes),
            None => {}
        }
    }

    /// Up to `most` sums of these up to and including a reading, the oldest first.
    pub(super) fn sums(&self, ids: &[Id], reading: u64, most: usize) -> Vec<u64> {
        let rings: Vec<&Ring> = ids.iter().filter_map(|id| self.rings.get(id)).collect();
        let sum = |at| rings.iter().fold(0u64, |sum, ring| sum.saturating_add(ring.at(at)));
        window(reading, most).map(sum).collect()
    }

    /// The same of everything, what has ended included.
    pub(super) fn totals(&self, reading: u64, most: usize) -> Vec<u64> {
        window(reading, most).map(|at| self.total.at(at)).collect()
    }
}

/// The numbers of the latest readings.
fn window(reading: u64, most: usize) -> std::ops::RangeInclusive<u64> {
    let most = most.clamp(1, DEPTH) as u64;
    reading.saturating_sub(most - 1).max(1)..=reading
}

/// Identity of a process image.
pub(super) fn process_id(process: &ProcessReport) -> Id {
    hash(&("process", process.pid, process.serial))
}

/// Identity of a site of it.
pub(super) fn site_id(process: &ProcessReport, site: &SiteReport) -> Id {
    hash(&(process.pid, process.serial, site.stack_id, &site.domain, &site.label))
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn largest_sites(report: &Report) -> Vec<(Id, u64)> {
    let of = |process: &ProcessReport, site: &SiteReport| (site_id(process, site), site.survivors.bytes);
    let sites =
        report.processes.iter().flat_map(|process| process.sites.iter().map(move |site| of(process, site)));
    let mut sites: Vec<(Id, u64)> = sites.filter(|(_, bytes)| *bytes > 0).collect();
    if sites.len() > MAX_SITES {
        sites.sort_unstable_by_key(|(_, bytes)| Reverse(*bytes));
        sites.truncate(MAX_SITES);
    }
    sites
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::Amount;

    fn report(sites: &[(u64, u64)]) -> Report {
        let site = |(stack_id, bytes): &(u64, u64)| SiteReport {
            stack_id: *stack_id,
            survivors: Amount { bytes: *bytes, blocks: 1 },
            ..SiteReport::default()
        };
        let sites: Vec<SiteReport> = sites.iter().map(site).collect();
        let bytes = sites.iter().map(|site| site.survivors.bytes).sum();
        let survivors = Amount { bytes, blocks: 1 };
        Report {
            processes: vec![ProcessReport { pid: 7, sites, survivors, ..ProcessReport::default() }],
            ..Report::default()
        }
    }

    fn id(stack_id: u64) -> Id {
        site_id(&report(&[]).processes[0], &SiteReport { stack_id, ..SiteReport::default() })
    }

    #[test]
    fn readings_of_sites_add_up_and_gaps_are_nothing() {
        let mut history = History::default();
        for sites in [&[(1, 10)][..], &[(1, 20), (2, 5)], &[(2, 6)], &[(1, 30), (2, 7)]] {
            history.add(&report(sites));
        }
        assert_eq!(history.sums(&[id(1)], 4, 10), [10, 20, 0, 30]);
        assert_eq!(history.sums(&[id(1), id(2)], 4, 3), [25, 6, 37]);
        assert_eq!(history.sums(&[id(1), id(2)], 2, 10), [10, 25], "as it was when the picture was stopped");
        assert_eq!(history.totals(4, 10), [10, 25, 6, 37]);
    }

    #[test]
    fn histories_are_bounded_and_forgotten() {
        let mut history = History::default();
        history.add(&report(&[(1, 10)]));
        (0..2 * DEPTH).for_each(|_| {
            history.add(&report(&[(2, 5)]));
        });
        assert_eq!(history.sums(&[id(2)], history.readings, 10_000).len(), DEPTH);
        assert!(!history.rings.contains_key(&id(1)));
    }
}
