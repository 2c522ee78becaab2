//! What is shown below a suspect that is open: what else is known of it, and its stack. Pure.

use super::row::Row;
use crate::report::{
    group::Group,
    heading,
    human::{bytes, plural, printable},
    merge::Unit,
    model::FrameKind,
    wording::{Naming, amount, growth, recycled, spell},
};

/// A line below a suspect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StackLine {
    /// Text.
    pub text: String,
    /// The frame's language; `None`: this is no frame.
    pub kind: Option<FrameKind>,
}

impl StackLine {
    /// Everything below a suspect.
    pub(super) fn all(group: &Group<'_>, shown: &Unit<'_>, naming: Naming<'_>, plumbing: bool) -> Vec<Self> {
        let mut lines: Vec<Self> = notes(group, shown).into_iter().map(Self::note).collect();
        let frames = group.frames(plumbing);
        let spelled = frames.iter().map(|frame| Self { text: spell(frame, naming), kind: Some(frame.kind) });
        lines.extend(spelled);
        let end = group.largest.truncated.as_ref();
        lines.extend(end.map(|reason| Self::note(format!("[the stack ends here: {}]", printable(reason)))));
        lines
    }

    fn note(text: String) -> Self {
        Self { text, kind: None }
    }
}

fn notes(group: &Group<'_>, shown: &Unit<'_>) -> Vec<String> {
    let average =
        group.survivors.average_bytes().map_or(String::new(), |average| format!("{} each; ", bytes(average)));
    let mut notes = vec![
        format!("{average}{}", growth(group.growth)),
        format!(
            "live {}; allocated {}; {}",
            amount(group.live),
            amount(group.allocated),
            printable(&group.largest.domain)
        ),
    ];
    if shown.only().is_none() {
        notes.push(heading::split(shown, &group.split(), false));
    }
    notes.extend(recycled(group));
    if group.members.len() > 1 {
        notes.push(format!("{}; the one with most survivors:", plural(group.members.len() as u64, "stack")));
    }
    notes
}

/// A line of the list of suspects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Which row.
    pub row: usize,
    /// Which line below it; `None`: the row itself.
    pub part: Option<usize>,
}

/// All lines of the list: every row, with its stack behind it if it is open.
pub(super) fn places(rows: &[Row], stacks: &[(usize, Vec<StackLine>)]) -> Vec<Place> {
    let mut open = stacks.iter().peekable();
    let mut places = Vec::with_capacity(rows.len());
    for row in 0..rows.len() {
        places.push(Place { row, part: None });
        if let Some((_, lines)) = open.next_if(|(at, _)| *at == row) {
            places.extend((0..lines.len()).map(|part| Place { row, part: Some(part) }));
        }
    }
    places
}
