//! Several traces as one report: the daemon traces each subject by itself, people ask about all.

use std::collections::BTreeSet;

use crate::report::model::{CapHit, Detail, EndedProcesses, Fullness, Loss, Newcomers, Report, Truth};

/// One report of them all; `None` of none.
pub fn merged(reports: Vec<Report>) -> Option<Report> {
    let mut merged = reports.into_iter().reduce(plus)?;
    merged
        .processes
        .sort_by_key(|process| std::cmp::Reverse((process.survivors.bytes, process.survivors.blocks)));
    Some(merged)
}

/// The later report speaks for both where there is nothing to sum.
fn plus(mut a: Report, mut b: Report) -> Report {
    let started_unix_s = a.started_unix_s.min(b.started_unix_s);
    let elapsed_s = a.elapsed_s.max(b.elapsed_s);
    // Light where one of them is: what it leaves out has to be said.
    let detail = if a.detail == Detail::Light { a.detail } else { b.detail };
    // PIDs may meet again; serials keep images apart.
    let serials = 1 + a.processes.iter().map(|process| process.serial).max().unwrap_or(0);
    b.processes.iter_mut().for_each(|process| process.serial = process.serial.saturating_add(serials));
    a.processes.append(&mut b.processes);
    Report {
        started_unix_s,
        elapsed_s,
        detail,
        at_unix_s: a.at_unix_s.max(b.at_unix_s),
        processes: a.processes,
        ended: ended(a.ended, b.ended),
        truth: truth(a.truth, b.truth),
        ..b
    }
}

fn ended(a: EndedProcesses, b: EndedProcesses) -> EndedProcesses {
    EndedProcesses {
        processes: a.processes.saturating_add(b.processes),
        allocated: a.allocated.plus(b.allocated),
        live_at_end: a.live_at_end.plus(b.live_at_end),
    }
}

fn truth(a: Truth, b: Truth) -> Truth {
    let mut counters = a.counters;
    b.counters.into_iter().for_each(|(name, count)| *counters.entry(name).or_default() += count);
    let mut truncated_stacks = a.truncated_stacks;
    b.truncated_stacks
        .into_iter()
        .for_each(|(why, count)| *truncated_stacks.entry(why).or_default() += count);
    Truth {
        lost: losses(a.lost, b.lost),
        unmatched_frees: a.unmatched_frees.saturating_add(b.unmatched_frees),
        inherited_frees: a.inherited_frees.saturating_add(b.inherited_frees),
        newcomers: newcomers(a.newcomers, b.newcomers),
        truncated_stacks,
        stacks: a.stacks.saturating_add(b.stacks),
        unresolved_frames: a.unresolved_frames.saturating_add(b.unresolved_frames),
        frames: a.frames.saturating_add(b.frames),
        live_map: fullest(a.live_map, b.live_map),
        rows: fullest(a.rows, b.rows),
        caps: caps(a.caps, b.caps),
        blind_windows: [a.blind_windows, b.blind_windows].concat(),
        before_attach_bytes: sum(a.before_attach_bytes, b.before_attach_bytes),
        tracked_bytes: a.tracked_bytes.saturating_add(b.tracked_bytes),
        rss_bytes: sum(a.rss_bytes, b.rss_bytes),
        anonymous_bytes: sum(a.anonymous_bytes, b.anonymous_bytes),
        notes: a.notes.into_iter().chain(b.notes).collect::<BTreeSet<String>>().into_iter().collect(),
        counters,
        own_cpu_s: a.own_cpu_s + b.own_cpu_s,
        own_rss_bytes: a.own_rss_bytes.saturating_add(b.own_rss_bytes),
        map_bytes: a.map_bytes.saturating_add(b.map_bytes),
    }
}

fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).reduce(u64::saturating_add)
}

fn losses(mut known: Vec<Loss>, more: Vec<Loss>) -> Vec<Loss> {
    for loss in more {
        match known.iter_mut().find(|other| other.cause == loss.cause) {
            Some(same) => {
                same.events = same.events.saturating_add(loss.events);
                same.bytes = sum(same.bytes, loss.bytes);
            }
            None => known.push(loss),
        }
    }
    known
}

fn caps(mut known: Vec<CapHit>, more: Vec<CapHit>) -> Vec<CapHit> {
    for cap in more {
        match known.iter_mut().find(|other| other.cap == cap.cap && other.consequence == cap.consequence) {
            Some(same) => same.refused = same.refused.saturating_add(cap.refused),
            None => known.push(cap),
        }
    }
    known
}

fn newcomers(a: Newcomers, b: Newcomers) -> Newcomers {
    let longest = |gaps: &Option<crate::report::model::Gaps>| gaps.map_or(0.0, |gaps| gaps.max_ms);
    let gaps = if longest(&a.gaps) > longest(&b.gaps) { a.gaps } else { b.gaps };
    Newcomers {
        entered: a.entered.saturating_add(b.entered),
        from_birth: a.from_birth.saturating_add(b.from_birth),
        short_lived: a.short_lived.saturating_add(b.short_lived),
        refused: a.refused.saturating_add(b.refused),
        last_refusal: b.last_refusal.or(a.last_refusal),
        waiting: a.waiting.saturating_add(b.waiting),
        gaps,
    }
}

/// Each trace has tables of its own: the one that is nearest to its end tells.
fn fullest(a: Fullness, b: Fullness) -> Fullness {
    let share = |table: &Fullness| {
        (table.full_since_s.is_some(), table.used.saturating_mul(1000) / table.capacity.max(1))
    };
    if share(&a) > share(&b) { a } else { b }
}
