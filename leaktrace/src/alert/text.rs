//! An alert in words.

use super::model::{Alert, AlertKind};
use crate::{
    report::human::{bytes, cut_middle, percent, printable, rate},
    watched::{Subject, Suspect},
};

/// Most characters of a name.
const MOST_OF_A_NAME: usize = 80;

/// What people call a subject, safe to show.
pub fn name(subject: &Subject) -> String {
    let name = if subject.name.is_empty() { &subject.key } else { &subject.name };
    cut_middle(&printable(name), MOST_OF_A_NAME).into_owned()
}

/// What is known of a suspect, in a line.
pub fn suspect(suspect: &Suspect) -> String {
    let line = printable(&suspect.line);
    let verdict = &suspect.verdict;
    let share = verdict.share_of_growth.filter(|share| share.is_finite());
    let share = share.map(|share| format!(", {} of the growth", percent((share * 1000.0) as u64, 1000)));
    format!(
        "{} holds {}, growing by {} (confidence {:.2}{})",
        cut_middle(&line, 2 * MOST_OF_A_NAME),
        bytes(suspect.survivors.bytes),
        rate(verdict.bytes_per_hour),
        verdict.confidence,
        share.unwrap_or_default()
    )
}

/// All of it that fits into a log's line.
pub fn one_line(alert: &Alert) -> String {
    let mut parts = vec![printable(&alert.sentence)];
    // A suspect's own alert has said it already.
    if alert.kind != AlertKind::Suspect {
        parts.extend(alert.suspects.first().map(|worst| format!("worst suspect: {}", suspect(worst))));
    }
    parts.extend(alert.evidence.as_ref().map(|directory| format!("evidence: {}", printable(directory))));
    parts.extend(alert.see_more.first().map(|command| format!("see more: {}", printable(command))));
    parts.join("; ")
}

/// Priority as syslog counts it: what has happened is worse than what will.
pub fn priority(kind: AlertKind) -> u8 {
    match kind {
        AlertKind::OomKill => 2,
        AlertKind::ShareOfLimit | AlertKind::TimeToLimit | AlertKind::Daemon => 3,
        AlertKind::MemoryAbove | AlertKind::Suspect => 4,
    }
}

/// Cuts a text to at most that many bytes, between characters.
pub fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
    }
}
