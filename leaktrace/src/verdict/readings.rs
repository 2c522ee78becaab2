//! Readings from reports: of each site, and of everything that was traced.

use std::collections::BTreeMap;

use super::model::{Facts, ProcessReading, SiteReading};
use crate::{
    report::{
        fingerprint::SiteKey,
        model::{Amount, ProcessReport, Report},
    },
    session::wire,
};

/// Sites that are remembered of a subject, those with most survivors.
const MOST_SITES: usize = 500;
/// Readings that are remembered of a site; beyond that, of each two one goes.
const MOST_READINGS: usize = 256;

/// The readings of all sites of a subject, as many as judging needs.
#[derive(Clone, Debug, Default)]
pub struct Histories {
    sites: BTreeMap<SiteKey, Vec<SiteReading>>,
}

impl Histories {
    /// Takes a report. A site that is not in it has no live blocks: that is a reading too, unless the report was cut.
    pub fn record(&mut self, report: &Report, session: u64) {
        let mut seen = sites(report, session);
        let cut = report.processes.iter().any(|process| process.sites.len() >= wire::MAX_SITES);
        for (key, readings) in &mut self.sites {
            match (seen.remove(key), readings.last()) {
                (Some(reading), _) => readings.push(reading),
                (None, Some(last)) if last.session == session && !cut => {
                    readings.push(SiteReading { at_unix_s: report.at_unix_s, bytes: 0, blocks: 0, ..*last });
                }
                _ => {}
            }
            if readings.len() > MOST_READINGS {
                *readings = thinned(readings);
            }
        }
        self.sites.extend(seen.into_iter().map(|(key, reading)| (key, vec![reading])));
        self.forget_the_smallest();
    }

    /// What was recorded before, from a history on disk; readings in order of time.
    pub fn restore(&mut self, key: SiteKey, mut readings: Vec<SiteReading>) {
        while readings.len() > MOST_READINGS {
            readings = thinned(&readings);
        }
        self.sites.insert(key, readings);
    }

    /// Every site with its readings, in order of time.
    pub fn iter(&self) -> impl Iterator<Item = (SiteKey, &[SiteReading])> {
        self.sites.iter().map(|(key, readings)| (*key, readings.as_slice()))
    }

    /// The readings of one.
    pub fn of(&self, key: SiteKey) -> &[SiteReading] {
        self.sites.get(&key).map(Vec::as_slice).unwrap_or_default()
    }

    fn forget_the_smallest(&mut self) {
        if self.sites.len() <= MOST_SITES {
            return;
        }
        let bytes = |readings: &[SiteReading]| readings.last().map_or(0, |last| last.bytes);
        let mut sizes: Vec<u64> = self.sites.values().map(|readings| bytes(readings)).collect();
        let surplus = sizes.len() - MOST_SITES;
        let least = *sizes.select_nth_unstable(surplus - 1).1;
        let mut alike = surplus - self.sites.values().filter(|readings| bytes(readings) < least).count();
        self.sites.retain(|_, readings| match bytes(readings) {
            bytes if bytes == least && alike > 0 => {
                alike -= 1;
                false
            }
            bytes => bytes >= least,
        });
    }
}

/// Of each two readings in a session the one with fewer survivors, as judging goes by what they never fall below; the first and
/// the last always.
fn thinned(readings: &[SiteReading]) -> Vec<SiteReading> {
    let (Some((first, rest)), Some(last)) = (readings.split_first(), readings.last()) else {
        return Vec::new();
    };
    let sessions = rest.chunk_by(|a, b| a.session == b.session);
    let lower = |two: &[SiteReading]| two.iter().min_by_key(|reading| reading.bytes).copied();
    let lows = sessions.flat_map(|session| session.chunks(2).filter_map(lower));
    let mut kept: Vec<SiteReading> = std::iter::once(*first).chain(lows).collect();
    kept.extend((kept.last() != Some(last)).then_some(*last));
    kept
}

/// One reading for each site that has live blocks. Sites of several processes, and stacks that mean the same, are one.
pub fn sites(report: &Report, session: u64) -> BTreeMap<SiteKey, SiteReading> {
    let mut readings = BTreeMap::new();
    for site in report.processes.iter().flat_map(|process| &process.sites) {
        let reading = readings.entry(SiteKey::of(site)).or_insert(SiteReading {
            at_unix_s: report.at_unix_s,
            session,
            ..SiteReading::default()
        });
        reading.bytes = reading.bytes.saturating_add(site.survivors.bytes);
        reading.blocks = reading.blocks.saturating_add(site.survivors.blocks);
        reading.allocated_bytes = reading.allocated_bytes.saturating_add(site.allocated.bytes);
        reading.allocated_blocks = reading.allocated_blocks.saturating_add(site.allocated.blocks);
    }
    readings
}

/// The reading of everything, beside the memory and the CPU seconds that were read of the subject at that time.
pub fn process(report: &Report, session: u64, memory_bytes: u64, cpu_s: f64) -> ProcessReading {
    let sum = |of: fn(&ProcessReport) -> Amount| {
        report.processes.iter().map(of).fold(Amount::default(), Amount::plus)
    };
    let allocated = sum(|process| process.allocated).plus(report.ended.allocated);
    ProcessReading {
        at_unix_s: report.at_unix_s,
        session: Some(session),
        memory_bytes,
        cpu_s,
        allocated_bytes: allocated.bytes,
        allocated_blocks: allocated.blocks,
        tracked_bytes: sum(|process| process.live).bytes,
        freed_from_before: Some(report.truth.unmatched_frees),
    }
}

/// What else a report knows that [`super::unexplained`] asks for.
pub fn facts(report: &Report) -> Facts {
    let python = || report.processes.iter().filter_map(|process| process.python.as_ref());
    let gained = python().filter_map(|python| {
        let (now, before) = (python.counted_blocks?, python.counted_at_attach?);
        Some(i64::try_from(now).ok()?.saturating_sub(i64::try_from(before).ok()?))
    });
    let gained: Vec<i64> = gained.collect();
    let tracked = python().map(|python| python.tracked_blocks).fold(0, u64::saturating_add);
    Facts {
        detail: report.detail,
        lost_events: report.truth.lost.iter().map(|loss| loss.events).fold(0, u64::saturating_add),
        python_blocks_gained: (!gained.is_empty()).then(|| gained.into_iter().fold(0, i64::saturating_add)),
        python_blocks_tracked: python().next().is_some().then_some(tracked),
        python_unseen: python().any(|python| python.inlined_unseen),
        before_attach_bytes: report.truth.before_attach_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::SiteReport;

    fn report(at_unix_s: f64, sites: impl IntoIterator<Item = (u32, u64)>) -> Report {
        let site = |(name, bytes): (u32, u64)| SiteReport {
            domain: name.to_string(),
            survivors: Amount { bytes, blocks: 1 },
            ..SiteReport::default()
        };
        let process =
            ProcessReport { sites: sites.into_iter().map(site).collect(), ..ProcessReport::default() };
        Report { at_unix_s, processes: vec![process], ..Report::default() }
    }

    fn bytes(histories: &Histories) -> Vec<Vec<u64>> {
        histories.iter().map(|(_, readings)| readings.iter().map(|reading| reading.bytes).collect()).collect()
    }

    #[test]
    fn a_site_that_is_missing_has_nothing_left_in_its_session_only() {
        let mut histories = Histories::default();
        histories.record(&report(1.0, [(1, 10)]), 1);
        histories.record(&report(2.0, []), 1);
        histories.record(&report(3.0, []), 2);
        histories.record(&report(4.0, [(1, 5), (1, 6)]), 2);
        assert_eq!(bytes(&histories), [[10, 0, 11]]);
    }

    #[test]
    fn nothing_grows_beyond_its_cap_and_what_is_large_is_kept() {
        let mut histories = Histories::default();
        histories.record(&report(0.0, (0..2000).map(|site| (site, u64::from(site)))), 1);
        assert_eq!(histories.iter().count(), MOST_SITES);
        assert_eq!(bytes(&histories).into_iter().flatten().min(), Some(1500));
        for number in 0..2000_u32 {
            histories.record(&report(f64::from(number), [(1999, u64::from(number))]), 2);
        }
        let longest =
            histories.iter().map(|(_, readings)| readings).max_by_key(|readings| readings.len()).unwrap();
        assert!(longest.len() <= MOST_READINGS && longest.len() > MOST_READINGS / 2);
        assert!(longest.is_sorted_by_key(|reading| reading.at_unix_s));
        assert_eq!(longest.last().unwrap().bytes, 1999);
    }
}
