//! A subject's allocation sites over all its traces, in bounded room: readings by site, and what is thought of each. Pure.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    mem,
};

use crate::{
    report::{
        fingerprint::SiteKey,
        line,
        model::{Amount, ProcessReport, Report, SiteReport},
    },
    verdict::{Options, ProcessReading, Shape, SiteReading, Verdict, judge, worst_first},
    watched::Suspect,
};

/// Sites of a subject that are remembered; those with fewest survivors are forgotten first.
const MAX_SITES: usize = 2_000;
/// Readings of a site that are kept. When there are more, every other one is dropped: the span stays.
const MAX_READINGS: usize = 128;
/// Sites that are judged: those with most survivors, and those that grew most lately.
const MAX_JUDGED: usize = 400;
/// Suspects that are shown.
const MAX_SUSPECTS: usize = 20;

/// What is known of one site.
#[derive(Clone, Debug, Default)]
struct Site {
    readings: Vec<SiteReading>,
    verdict: Verdict,
    /// What people know it by; empty: of a site that a restart has left only the readings may be known.
    line: String,
    /// The stack for people, innermost first.
    stack: Vec<String>,
    /// Survivors when it was last seen.
    survivors: Amount,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct SiteBook {
    sites: HashMap<SiteKey, Site>,
    processes: Vec<ProcessReading>,
    /// The worst first.
    suspects: Vec<Suspect>,
}

/// What a report says of one site, over all processes.
#[derive(Default)]
struct Seen<'a> {
    survivors: Amount,
    allocated: Amount,
    largest: Option<&'a SiteReport>,
}

impl SiteBook {
    /// Takes the readings of a report; `process` is what was read of the subject's processes for it.
    pub fn take(&mut self, session: u64, report: &Report, process: ProcessReading) {
        let at_unix_s = process.at_unix_s;
        let seen = seen(&report.processes);
        let roots = report.application_roots();
        for (key, seen) in &seen {
            let site = self.sites.entry(*key).or_default();
            if let Some(largest) = seen.largest.filter(|_| site.line.is_empty()) {
                site.line = line::line(largest, &roots);
                site.stack = line::stack(largest, &roots);
            }
            site.survivors = seen.survivors;
            site.take(SiteReading {
                at_unix_s,
                session,
                bytes: seen.survivors.bytes,
                blocks: seen.survivors.blocks,
                allocated_bytes: seen.allocated.bytes,
                allocated_blocks: seen.allocated.blocks,
            });
        }
        self.take_absent(session, at_unix_s, &seen);
        self.processes.push(process);
        thin(&mut self.processes);
        self.forget_the_least();
    }

    /// What a report does not list has no live blocks any more.
    fn take_absent(&mut self, session: u64, at_unix_s: f64, seen: &HashMap<SiteKey, Seen<'_>>) {
        for (key, site) in &mut self.sites {
            let last = site.readings.last().copied().filter(|last| last.session == session);
            if let Some(last) = last.filter(|_| !seen.contains_key(key)) {
                site.survivors = Amount::default();
                site.take(SiteReading { at_unix_s, bytes: 0, blocks: 0, ..last });
            }
        }
    }

    /// Restores what was known of the sites before a restart: their readings, their stacks, and what was thought of those that were
    /// judged.
    pub fn restore(
        &mut self,
        readings: BTreeMap<SiteKey, Vec<SiteReading>>,
        mut stacks: BTreeMap<SiteKey, Vec<String>>,
        judged: Vec<Suspect>,
    ) {
        for (key, readings) in readings {
            let site = self.sites.entry(key).or_default();
            site.stack = stacks.remove(&key).unwrap_or_default();
            let last = readings.last().map(|last| Amount { bytes: last.bytes, blocks: last.blocks });
            site.survivors = last.unwrap_or_default();
            readings.into_iter().for_each(|reading| site.take(reading));
        }
        for Suspect { site, line, survivors, verdict, stack } in judged {
            let site = self.sites.entry(site).or_default();
            *site = Site { readings: mem::take(&mut site.readings), verdict, line, stack, survivors };
        }
        self.forget_the_least();
        self.rank();
    }

    /// Judges anew and returns the verdicts that have changed their shape.
    pub fn judge(&mut self, options: &Options) -> Vec<(SiteKey, Verdict)> {
        let chosen = self.worth_judging();
        let mut changed = Vec::new();
        for (key, site) in self.sites.iter_mut().filter(|(key, _)| chosen.contains(key)) {
            let verdict = judge(&site.readings, &self.processes, options);
            if verdict.shape != site.verdict.shape || verdict.is_leak() {
                changed.push((*key, verdict.clone()));
            }
            site.verdict = verdict;
        }
        self.rank();
        changed
    }

    fn worth_judging(&self) -> HashSet<SiteKey> {
        let mut sites: Vec<(u64, u64, SiteKey)> =
            self.sites.iter().map(|(key, site)| (site.survivors.bytes, site.risen(), *key)).collect();
        sites.sort_unstable_by(|a, b| b.cmp(a));
        let mut chosen: HashSet<SiteKey> = sites.iter().take(MAX_JUDGED).map(|site| site.2).collect();
        sites.sort_unstable_by_key(|(bytes, risen, key)| Reverse((*risen, *bytes, *key)));
        chosen.extend(sites.iter().take(MAX_JUDGED).map(|site| site.2));
        chosen
    }

    /// The worst first: leaks, then whatever else grows, then what holds memory and cannot be judged yet: of somebody who is killed
    /// soon, that is all there is.
    pub fn suspects(&self) -> &[Suspect] {
        &self.suspects
    }

    fn rank(&mut self) {
        let is_suspect = |site: &Site| {
            let unjudged = site.verdict.shape == Shape::TooEarly && !site.survivors.is_zero();
            site.verdict.bytes_per_hour > 0.0 || unjudged
        };
        let mut suspects: Vec<(&SiteKey, &Site)> =
            self.sites.iter().filter(|(_, site)| is_suspect(site)).collect();
        suspects.sort_by(|(a, left), (b, right)| {
            worst_first((&left.verdict, left.survivors), (&right.verdict, right.survivors)).then(a.cmp(b))
        });
        suspects.truncate(MAX_SUSPECTS);
        self.suspects = suspects.into_iter().map(|(key, site)| site.suspect(*key)).collect();
    }

    /// Which share of the growth while traced known leaks explain, 0 to 1.
    pub fn explained(&self) -> f64 {
        let leaks = self.sites.values().filter(|site| site.verdict.is_leak());
        // An empty sum is -0.0, which people would be shown.
        leaks.filter_map(|site| site.verdict.share_of_growth).fold(0.0, |sum, share| sum + share).min(1.0)
    }

    /// Readings of the processes, the oldest first.
    pub fn processes(&self) -> &[ProcessReading] {
        &self.processes
    }

    /// Moves everything in time: the wall clock was set.
    pub fn shift(&mut self, by: f64) {
        self.sites
            .values_mut()
            .flat_map(|site| &mut site.readings)
            .for_each(|reading| reading.at_unix_s += by);
        self.processes.iter_mut().for_each(|reading| reading.at_unix_s += by);
        let since = self.sites.values_mut().filter_map(|site| site.verdict.since_unix_s.as_mut());
        since.for_each(|since| *since += by);
        self.rank();
    }

    fn forget_the_least(&mut self) {
        let surplus = self.sites.len().saturating_sub(MAX_SITES);
        if surplus == 0 {
            return;
        }
        let mut sites: Vec<(bool, u64, SiteKey)> = self
            .sites
            .iter()
            .map(|(key, site)| (site.verdict.is_leak(), site.survivors.bytes, *key))
            .collect();
        sites.sort_unstable();
        sites.iter().take(surplus).for_each(|(_, _, key)| drop(self.sites.remove(key)));
    }
}

impl Site {
    fn take(&mut self, reading: SiteReading) {
        self.readings.push(reading);
        thin(&mut self.readings);
    }

    /// By how much survivors rose in the latest session.
    fn risen(&self) -> u64 {
        let Some(last) = self.readings.last() else { return 0 };
        let first = self.readings.iter().find(|reading| reading.session == last.session);
        last.bytes.saturating_sub(first.map_or(0, |first| first.bytes))
    }

    fn known_by(&self) -> &str {
        if self.line.is_empty() { self.stack.first().map_or("", String::as_str) } else { &self.line }
    }

    fn suspect(&self, site: SiteKey) -> Suspect {
        Suspect {
            site,
            line: self.known_by().to_owned(),
            survivors: self.survivors,
            verdict: self.verdict.clone(),
            stack: self.stack.clone(),
        }
    }
}

/// Keeps the first and the last, and of those between every other one.
fn thin<T>(readings: &mut Vec<T>) {
    if readings.len() <= MAX_READINGS {
        return;
    }
    let last = readings.len() - 1;
    let mut at = 0;
    readings.retain(|_| {
        at += 1;
        at % 2 == 1 || at > last
    });
}

/// Also of those that have ended since the last report: what they held when they were killed is what people ask for.
fn seen(processes: &[ProcessReport]) -> HashMap<SiteKey, Seen<'_>> {
    let mut all: HashMap<SiteKey, Seen<'_>> = HashMap::new();
    for site in processes.iter().flat_map(|process| &process.sites) {
        let seen = all.entry(SiteKey::of(site)).or_default();
        seen.survivors = seen.survivors.plus(site.survivors);
        seen.allocated = seen.allocated.plus(site.allocated);
        if seen.largest.is_none_or(|largest| largest.survivors.bytes < site.survivors.bytes) {
            seen.largest = Some(site);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::{Frame, FrameKind};

    fn site(line: u32, bytes: u64) -> SiteReport {
        let frame = Frame {
            kind: FrameKind::Python,
            function: Some("record".into()),
            file: Some("/srv/log.py".into()),
            line: Some(line),
            ..Frame::default()
        };
        let amount = Amount { bytes, blocks: bytes / 24 };
        SiteReport { survivors: amount, allocated: amount, frames: vec![frame], ..SiteReport::default() }
    }

    fn report(sites: Vec<SiteReport>) -> Report {
        let workers =
            sites.into_iter().map(|site| ProcessReport { sites: vec![site], ..ProcessReport::default() });
        Report { processes: workers.collect(), ..Report::default() }
    }

    fn at(at_unix_s: f64) -> ProcessReading {
        ProcessReading { at_unix_s, session: Some(1), ..ProcessReading::default() }
    }

    #[test]
    fn workers_of_a_service_are_one_and_what_is_gone_counts_as_nothing() {
        let mut book = SiteBook::default();
        book.take(1, &report(vec![site(7, 240), site(7, 480), site(9, 24)]), at(10.0));
        book.take(1, &report(vec![site(7, 960)]), at(20.0));
        let readings = |line| -> Vec<u64> {
            book.sites[&SiteKey::of(&site(line, 0))].readings.iter().map(|reading| reading.bytes).collect()
        };
        assert_eq!(readings(7), [720, 960]);
        assert_eq!(readings(9), [24, 0]);
    }

    #[test]
    fn of_somebody_who_was_killed_at_once_there_are_suspects() {
        let mut book = SiteBook::default();
        let mut killed = report(vec![site(7, 2400), site(9, 24)]);
        killed.processes.iter_mut().for_each(|process| process.ended = Some("killed by SIGKILL".into()));
        book.take(1, &killed, at(10.0));
        book.judge(&Options::default());
        let suspects = book.suspects();
        assert_eq!(suspects.iter().map(|suspect| suspect.survivors.bytes).collect::<Vec<_>>(), [2400, 24]);
    }

    #[test]
    fn what_was_thought_before_a_restart_is_thought_after_it() {
        let mut book = SiteBook::default();
        (0..100).for_each(|tick| {
            book.take(1, &report(vec![site(7, tick * 65_536), site(9, 2400)]), at(tick as f64 * 10.0));
        });
        book.judge(&Options::default());
        let (readings, stacks) = (|site: &Site| site.readings.clone(), |site: &Site| site.stack.clone());
        let leaks = |book: &SiteBook| {
            book.suspects().iter().filter(|suspect| suspect.verdict.is_leak()).cloned().collect::<Vec<_>>()
        };
        assert_eq!(leaks(&book).len(), 1, "{:?}", book.suspects());
        let mut next = SiteBook::default();
        next.restore(
            book.sites.iter().map(|(key, site)| (*key, readings(site))).collect(),
            book.sites.iter().map(|(key, site)| (*key, stacks(site))).collect(),
            leaks(&book),
        );
        assert_eq!(leaks(&next), leaks(&book));
        // Of what was not judged there is what it held.
        assert!(
            next.suspects().iter().any(|suspect| suspect.survivors.bytes == 2400),
            "{:?}",
            next.suspects()
        );
    }

    #[test]
    fn readings_and_sites_are_bounded_and_the_largest_stay() {
        let mut book = SiteBook::default();
        for tick in 0..1000 {
            book.take(1, &report(vec![site(7, 1 << 20), site(tick + 10_000, 24)]), at(f64::from(tick)));
        }
        let kept = &book.sites[&SiteKey::of(&site(7, 0))].readings;
        assert!(kept.len() <= MAX_READINGS && book.processes.len() <= MAX_READINGS);
        assert_eq!((kept[0].at_unix_s, kept.last().unwrap().at_unix_s), (0.0, 999.0));
        let many = (0..3 * MAX_SITES as u32).map(|line| site(line + 100, u64::from(line))).collect();
        book.take(1, &report(many), at(1000.0));
        assert!(book.sites.len() <= MAX_SITES);
    }
}
