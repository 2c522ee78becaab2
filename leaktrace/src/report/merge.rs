//! Which processes of a report are seen as one: each by itself, those of a container together, or all. What ten workers of
//! one service leak is one leak: its sites come together in `group`, with the share of each process behind them. Pure.

use std::collections::HashMap;

use super::model::{Amount, Change, Growth, MergeBy, ProcessReport, Report};
use crate::target::Container;

/// Processes that are seen as one.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit<'a> {
    /// What holds them together.
    pub bond: Bond<'a>,
    /// At least one, those with the largest survivors first.
    pub processes: Vec<&'a ProcessReport>,
}

/// What holds the processes of a unit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bond<'a> {
    /// Nothing: it is one process.
    Process,
    /// They run in this container.
    Container(&'a Container),
    /// They are all that is traced.
    All,
}

/// The units of a report, those with the largest survivors first. Processes outside of containers stay by themselves when
/// those in containers are put together: nothing is known that they have in common.
pub fn units(report: &Report) -> Vec<Unit<'_>> {
    let mut units: Vec<Unit<'_>> = Vec::new();
    let mut known: HashMap<Option<&str>, usize> = HashMap::new();
    for process in &report.processes {
        let (bond, key) = bond(process, report.merge);
        let place = key.and_then(|key| known.get(&key).copied()).and_then(|index| units.get_mut(index));
        if let Some(unit) = place {
            unit.processes.push(process);
            continue;
        }
        if let Some(key) = key {
            known.insert(key, units.len());
        }
        units.push(Unit { bond, processes: vec![process] });
    }
    units.iter_mut().for_each(|unit| unit.processes.sort_by_key(|process| largest_first(process.survivors)));
    units.sort_by_key(|unit| largest_first(unit.survivors()));
    units
}

/// What a process is held by, and by what others that belong to it are known.
fn bond(process: &ProcessReport, merge: MergeBy) -> (Bond<'_>, Option<Option<&str>>) {
    match (merge, &process.container) {
        (MergeBy::All, _) => (Bond::All, Some(None)),
        (MergeBy::Container, Some(container)) => {
            (Bond::Container(container), Some(Some(container.id.as_str())))
        }
        _ => (Bond::Process, None),
    }
}

fn largest_first(amount: Amount) -> std::cmp::Reverse<(u64, u64)> {
    std::cmp::Reverse((amount.bytes, amount.blocks))
}

impl<'a> Unit<'a> {
    /// The process, if it is only one that was not put together with others on purpose.
    pub fn single(&self) -> Option<&'a ProcessReport> {
        match (self.bond, self.processes.as_slice()) {
            (Bond::Process, [process]) => Some(process),
            _ => None,
        }
    }

    /// What it is called: the process, the container, or what all processes are called; `all` if they differ.
    pub fn name(&self) -> String {
        match (self.bond, self.common_name()) {
            (Bond::Container(container), _) => container.short(),
            (_, Some(name)) => name.to_owned(),
            (_, None) => "all".to_owned(),
        }
    }

    /// The name that all its processes share.
    pub fn common_name(&self) -> Option<&'a str> {
        let mut names = self.processes.iter().map(|process| process.name.as_str());
        let first = names.next()?;
        names.all(|name| name == first).then_some(first)
    }

    /// Everything live that was allocated while traced.
    pub fn live(&self) -> Amount {
        self.sum(|process| process.live)
    }

    /// Live blocks older than the minimum age.
    pub fn survivors(&self) -> Amount {
        self.sum(|process| process.survivors)
    }

    /// Everything ever allocated while traced.
    pub fn allocated(&self) -> Amount {
        self.sum(|process| process.allocated)
    }

    fn sum(&self, pick: fn(&ProcessReport) -> Amount) -> Amount {
        self.processes.iter().map(|process| pick(process)).fold(Amount::default(), Amount::plus)
    }

    /// Change of survivors since the last report, of the processes that are in this one: what one that has ended since held
    /// is no change.
    pub fn survivors_change(&self) -> Change {
        self.processes.iter().map(|process| process.survivors_change).fold(Change::default(), Change::plus)
    }

    /// Sum of the slopes of its processes.
    pub fn growth(&self) -> Option<Growth> {
        self.processes.iter().filter_map(|process| process.growth).reduce(Growth::plus)
    }

    /// Sum of what is resident, bytes; pages that processes share are counted in each.
    pub fn rss_bytes(&self) -> Option<u64> {
        self.processes.iter().filter_map(|process| process.rss_bytes).reduce(u64::saturating_add)
    }

    /// What was resident when tracing began, likewise.
    pub fn rss_at_attach_bytes(&self) -> Option<u64> {
        self.processes.iter().filter_map(|process| process.rss_at_attach_bytes).reduce(u64::saturating_add)
    }

    /// How many of its processes have ended.
    pub fn ended(&self) -> usize {
        self.processes.iter().filter(|process| process.ended.is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, bytes: u64, container: Option<&str>) -> ProcessReport {
        ProcessReport {
            pid,
            survivors: Amount { bytes, blocks: 1 },
            container: container.map(|id| Container { id: id.into(), ..Container::default() }),
            ..ProcessReport::default()
        }
    }

    fn pids(merge: MergeBy) -> Vec<Vec<u32>> {
        let processes = vec![
            process(1, 60, None),
            process(2, 50, Some("a")),
            process(3, 40, Some("b")),
            process(4, 30, Some("b")),
            process(5, 20, None),
        ];
        let report = Report { processes, merge, ..Report::default() };
        units(&report).iter().map(|unit| unit.processes.iter().map(|process| process.pid).collect()).collect()
    }

    #[test]
    fn processes_of_a_container_come_together_and_others_stay_apart() {
        assert_eq!(pids(MergeBy::Process), [[1], [2], [3], [4], [5]]);
        assert_eq!(pids(MergeBy::Container), [vec![3, 4], vec![1], vec![2], vec![5]]);
        assert_eq!(pids(MergeBy::All), [[1, 2, 3, 4, 5]]);
    }

    #[test]
    fn a_report_of_nothing_has_no_unit() {
        assert!(units(&Report { merge: MergeBy::All, ..Report::default() }).is_empty());
    }

    /// A worker that was recycled takes its slope with it, and leaves that of the others as it is.
    #[test]
    fn the_growth_of_a_unit_is_that_of_its_running_processes() {
        let slope = |bytes_per_hour, steady_s| Growth { bytes_per_hour, observed_s: 60.0, steady_s };
        let mut report = Report { merge: MergeBy::All, ..Report::default() };
        report.processes = vec![process(1, 9, None), process(2, 8, None), process(3, 7, None)];
        report.processes[0].growth = Some(slope(100.0, 50.0));
        report.processes[1].growth = Some(slope(10.0, 0.0));
        let growth = units(&report)[0].growth();
        assert_eq!(growth, Some(slope(110.0, 50.0)), "one that is idle does not make the sum unsteady");
        report.processes.remove(1);
        assert_eq!(units(&report)[0].growth(), Some(slope(100.0, 50.0)));
    }
}
