//! Entries of the two lists, as values that outlive the report they were made of. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{
    choice::UnitKey,
    history::{Id, process_id, site_id},
};
use crate::report::{
    group::{Group, named_after},
    heading,
    human::printable,
    merge::{Bond, Unit},
    model::{Amount, Change, Frame, FrameKind, GroupBy, Growth},
    wording::{Naming, kind_of_memory, spell, spell_function, spell_line},
};

/// A suspect: sites that were put together.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Identity from one report to the next.
    pub key: u64,
    /// What it is called.
    pub name: String,
    /// The language that its name is written in.
    pub kind: FrameKind,
    /// Live blocks older than the minimum age.
    pub survivors: Amount,
    /// Their change since the last report.
    pub change: Change,
    /// Their growth.
    pub growth: Option<Growth>,
    /// Its sites, for their history.
    pub sites: Vec<Id>,
}

impl Row {
    /// A group as a row.
    pub(super) fn of(group: &Group<'_>, by: GroupBy, naming: Naming<'_>) -> Self {
        let named_after = name_giver(group);
        Self {
            key: key(group, by),
            name: named_after.map_or("[no stack]".to_owned(), |frame| name(frame, by, naming))
                + &kind_of_memory(group, false),
            kind: named_after.map_or(FrameKind::Other, |frame| frame.kind),
            survivors: group.survivors,
            change: group.survivors_change,
            growth: group.growth,
            sites: group.members.iter().map(|member| site_id(member.process, member.site)).collect(),
        }
    }
}

/// The frame that a group is called after; for stacks the same as for lines.
pub(super) fn name_giver<'a>(group: &Group<'a>) -> Option<&'a Frame> {
    group.named_after.or_else(|| named_after(group.largest, GroupBy::Line))
}

fn name(frame: &Frame, by: GroupBy, naming: Naming<'_>) -> String {
    match by {
        GroupBy::Function => spell_function(frame, naming),
        GroupBy::Line | GroupBy::Stack if frame.file.is_some() && frame.line.is_some() => {
            spell(frame, naming)
        }
        GroupBy::Line | GroupBy::Stack => spell_line(frame, naming),
    }
}

fn key(group: &Group<'_>, by: GroupBy) -> u64 {
    let mut hasher = DefaultHasher::new();
    (by as u8, &group.largest.label, group.largest.domain == "mmap").hash(&mut hasher);
    match by {
        GroupBy::Stack => group.largest.frames.iter().for_each(|frame| hash_frame(frame, true, &mut hasher)),
        GroupBy::Line | GroupBy::Function => {
            group.named_after.iter().for_each(|frame| hash_frame(frame, by == GroupBy::Line, &mut hasher));
        }
    }
    hasher.finish()
}

fn hash_frame(frame: &Frame, line: bool, hasher: &mut impl Hasher) {
    (&frame.function, &frame.file, frame.line.filter(|_| line)).hash(hasher);
    if frame.file.is_none() {
        (&frame.object, frame.file_offset.filter(|_| line || frame.function.is_none())).hash(hasher);
    }
}

/// A process, or a container.
#[derive(Clone, Debug)]
pub(super) struct UnitRow {
    /// Identity from one report to the next.
    pub key: UnitKey,
    /// The PID; of a container how many processes.
    pub number: String,
    /// What it is called.
    pub name: String,
    /// Live blocks older than the minimum age.
    pub survivors: Amount,
    /// Their change since the last report.
    pub change: Change,
    /// Their growth.
    pub growth: Option<Growth>,
    /// Resident bytes.
    pub rss_bytes: Option<u64>,
    /// Whether (all of) it has ended.
    pub ended: bool,
    /// Its processes, for their history.
    pub processes: Vec<Id>,
}

impl UnitRow {
    /// A unit as a row; `None`: one without processes, which there is not.
    pub(super) fn of(unit: &Unit<'_>) -> Option<Self> {
        let first = unit.processes.first()?;
        let (key, number, name) = match unit.bond {
            Bond::Container(container) => (
                UnitKey::Container(container.id.clone()),
                format!("({})", unit.processes.len()),
                format!("container {}", printable(&container.short())),
            ),
            Bond::Process | Bond::All => {
                let title = heading::title(unit);
                // The PID has a column of its own.
                let name = title.replacen(&format!(" (PID {}", first.pid), " (", 1).replace(" (, ", " (");
                (UnitKey::Process(first.pid, first.serial), first.pid.to_string(), name.replace(" ()", ""))
            }
        };
        Some(Self {
            key,
            number,
            name,
            survivors: unit.survivors(),
            change: unit.survivors_change(),
            growth: unit.growth(),
            rss_bytes: unit.rss_bytes(),
            ended: unit.ended() == unit.processes.len(),
            processes: unit.processes.iter().map(|process| process_id(process)).collect(),
        })
    }
}
