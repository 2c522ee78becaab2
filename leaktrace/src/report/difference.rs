//! What changed between two moments, in the words and numbers of Python's `tracemalloc`: who knows
//! `snapshot.compare_to(...)` reads the rows at once, and what reads its output reads these.

use std::{cmp::Reverse, fmt};

use serde::Serialize;

use super::{
    group::{Group, group},
    merge::{Bond, Unit},
    model::{GroupBy, Report, SortKey},
    path::ShortPaths,
    table::{signed_size, size},
    wording::{Naming, kind_of_memory, spell, spell_function, spell_line},
};

/// One row: a line, a function or a stack.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// What it is called: `file:line`, a function, the innermost frame of a stack.
    pub name: String,
    /// Survivors at the later moment, bytes.
    pub size: u64,
    /// Their change.
    pub size_diff: i64,
    /// Survivors at the later moment, blocks.
    pub count: u64,
    /// Their change.
    pub count_diff: i64,
    /// What kind of memory, where it is not a plain heap block.
    #[serde(skip)]
    kind: String,
    /// The stack, innermost first, without plumbing; empty unless stacks were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stack: Vec<String>,
}

/// The rows of a report whose changes are between two moments, the largest change first, whichever way it went.
pub fn differences(report: &Report, by: GroupBy) -> Vec<Difference> {
    let unit = Unit { bond: Bond::All, processes: report.processes.iter().collect() };
    if unit.processes.is_empty() {
        return Vec::new();
    }
    let groups = group(&unit, by, SortKey::Bytes);
    let frames = groups.iter().flat_map(|group| &group.largest.frames);
    let paths = ShortPaths::new(&report.application_roots(), frames);
    let mut rows: Vec<Difference> = groups
        .iter()
        .map(|group| row(group, by, Naming::Short(&paths)))
        .filter(Difference::says_something)
        .collect();
    // As `compare_to` sorts: by what changed, then by what is there.
    rows.sort_by_cached_key(|row| {
        let sizes = (row.size_diff.unsigned_abs(), row.size);
        (Reverse((sizes, row.count_diff.unsigned_abs(), row.count)), row.name.clone())
    });
    rows
}

fn row(group: &Group<'_>, by: GroupBy, naming: Naming<'_>) -> Difference {
    let frames = group.frames(false);
    let (spell_it, frame): (fn(&_, Naming<'_>) -> String, _) = match by {
        GroupBy::Line => (spell_line, group.named_after),
        GroupBy::Function => (spell_function, group.named_after),
        GroupBy::Stack => (spell, frames.first().copied()),
    };
    let stack = if by == GroupBy::Stack { frames.as_slice() } else { &[] };
    Difference {
        name: frame.map_or("[no stack]".to_owned(), |frame| spell_it(frame, naming)),
        size: group.survivors.bytes,
        size_diff: group.survivors_change.bytes,
        count: group.survivors.blocks,
        count_diff: group.survivors_change.blocks,
        kind: kind_of_memory(group, false),
        stack: stack.iter().map(|frame| spell(frame, naming)).collect(),
    }
}

impl Difference {
    fn says_something(&self) -> bool {
        self.size > 0 || self.size_diff != 0 || self.count > 0 || self.count_diff != 0
    }
}

/// `log.py:128: size=3947 KiB (+117 KiB), count=168388 (+5012), average=24 B`.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (now, change) = (size(self.size as f64), signed_size(self.size_diff as f64));
        write!(f, "{}: size={now} ({change}), count={} ({:+})", self.name, self.count, self.count_diff)?;
        if self.count > 0 {
            write!(f, ", average={}", size(self.size as f64 / self.count as f64))?;
        }
        f.write_str(&self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::{Amount, Change, Frame, FrameKind, ProcessReport, SiteReport};

    fn site(line: u32, bytes: u64, change: i64) -> SiteReport {
        let frame = Frame {
            kind: FrameKind::Python,
            function: Some("f".into()),
            file: Some("a.py".into()),
            line: Some(line),
            ..Frame::default()
        };
        SiteReport {
            stack_id: u64::from(line),
            domain: "py".into(),
            survivors: Amount { bytes, blocks: bytes / 100 },
            survivors_change: Change { bytes: change, blocks: change / 100 },
            frames: vec![frame],
            ..SiteReport::default()
        }
    }

    fn rows(sites: Vec<SiteReport>, by: GroupBy) -> Vec<String> {
        let process = ProcessReport { sites, ..ProcessReport::default() };
        let report = Report { processes: vec![process], ..Report::default() };
        differences(&report, by).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rows_read_as_tracemalloc_prints_them_the_largest_change_first() {
        let sites = vec![site(1, 5000, 100), site(2, 0, -20_000), site(3, 12_000, 12_000), site(4, 0, 0)];
        let expected = [
            "a.py:2: size=0 B (-19.5 KiB), count=0 (-200)",
            "a.py:3: size=11.7 KiB (+11.7 KiB), count=120 (+120), average=100 B",
            "a.py:1: size=5000 B (+100 B), count=50 (+1), average=100 B",
        ];
        assert_eq!(rows(sites.clone(), GroupBy::Line), expected);
        assert_eq!(
            rows(sites, GroupBy::Function),
            ["a.py f: size=16.6 KiB (-7900 B), count=170 (-79), average=100 B"]
        );
    }
}
