//! Readings from reports: of each site, and of everything that was traced.

use std::collections::BTreeMap;

use super::model::{Facts, ProcessReading, SiteReading};
use crate::report::{
    fingerprint::SiteKey,
    model::{Amount, ProcessReport, Report},
};

/// One reading for each site that has live blocks; what is missing of those seen before has none left. Sites of several processes, and stacks that mean the same, are one.
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
        lost_events: report.truth.lost_events(),
        python_blocks_gained: (!gained.is_empty()).then(|| gained.into_iter().fold(0, i64::saturating_add)),
        python_blocks_tracked: python().next().is_some().then_some(tracked),
        python_unseen: python().any(|python| python.inlined_unseen),
        before_attach_bytes: report.truth.before_attach_bytes,
    }
}
