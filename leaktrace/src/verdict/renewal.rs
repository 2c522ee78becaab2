//! Survivors that take the place of others: a cache that is full and gives its oldest entries up for new ones, a pool whose
//! connections are made anew, maybe by another line. Tracing sees what comes from its beginning on, so they seem to grow; the
//! process's memory does not, or all that is tracked in it does not.

use super::{
    because,
    model::{Options, ProcessReading},
    segment::{Finding, Segment},
    site::Run,
    statistics,
};

/// Memory that grew by less than this share of what survivors did, did not grow with them.
const LEAST_SHARE: f64 = 0.2;
/// Survivors renew others if at least this share of them has older blocks that went meanwhile.
const LEAST_RENEWED: f64 = 0.5;
/// And if all that is tracked stays within a band of this share of their rise.
const LEVEL: f64 = 0.5;
/// What is compared at both ends: the middle of so much of the time.
const END: f64 = 1.0 / 8.0;

/// Their part of what the process grew by while they were watched; `None`: it did not grow.
pub(super) fn share_of_growth(run: &Run<'_>, process: &[ProcessReading]) -> Option<f64> {
    let memory = memory(process);
    let grown = |(from, to): (f64, f64)| {
        let within = |at: &&(f64, f64)| at.0 >= from && at.0 <= to;
        Some(statistics::interpolate(&memory, to)? - statistics::interpolate(&memory, from)?)
            .filter(|_| memory.iter().any(|at| within(&at)))
    };
    let grown: f64 = run.times().filter_map(grown).sum();
    (grown > 0.0).then(|| (run.rise() / grown).clamp(0.0, 1.0))
}

/// A time in which survivors rose.
#[derive(Clone, Copy)]
struct Window {
    from: f64,
    to: f64,
    rise: f64,
    blocks: f64,
}

/// The reason to believe that the survivors of this run only take the place of others: all of them, or those of the later half.
pub(super) fn explains(run: &Run<'_>, process: &[ProcessReading], options: &Options) -> Option<String> {
    let (all, memory) = (windows(run), memory(process));
    let later = all.get(all.len() / 2..).unwrap_or_default();
    let later = if let [one] = later { vec![later_half(*one)] } else { later.to_vec() };
    [all, later].into_iter().find_map(|windows| {
        renewed(&windows, &memory, process, options).or_else(|| exchanged(&windows, process))
    })
}

/// What others that are tracked as well gave up meanwhile.
fn exchanged(windows: &[Window], process: &[ProcessReading]) -> Option<String> {
    let is_level = |window: &Window| {
        let tracked: Vec<u64> = within(*window, process).map(|reading| reading.tracked_bytes).collect();
        let (least, most) = (tracked.iter().min().copied()?, tracked.iter().max().copied()?);
        Some(tracked.len() > 2 && least > 0 && (most - least) as f64 <= window.rise * LEVEL)
    };
    let level = !windows.is_empty() && windows.iter().all(|window| is_level(window) == Some(true));
    level.then(|| because::exchange(windows.iter().map(|window| window.rise).sum()))
}

/// Readings that were made while tracing, in a part of a session.
fn within(window: Window, process: &[ProcessReading]) -> impl Iterator<Item = &ProcessReading> {
    let traced = process.iter().filter(|reading| reading.session.is_some());
    traced.filter(move |reading| reading.at_unix_s >= window.from && reading.at_unix_s <= window.to)
}

/// One for each session.
fn windows(run: &Run<'_>) -> Vec<Window> {
    let window = |(segment, finding): &(&Segment, &Finding)| Window {
        from: segment.began_unix_s,
        to: segment.ended_unix_s,
        rise: finding.rise,
        blocks: segment.blocks as f64,
    };
    run.sessions.iter().map(window).collect()
}

/// Growth is even: half of the time has half of it.
fn later_half(Window { from, to, rise, blocks }: Window) -> Window {
    Window { from: (from + to) / 2.0, to, rise: rise / 2.0, blocks: blocks / 2.0 }
}

fn renewed(
    windows: &[Window],
    memory: &[(f64, f64)],
    process: &[ProcessReading],
    options: &Options,
) -> Option<String> {
    let (first, last) = (windows.first()?, windows.last()?);
    let rise: f64 = windows.iter().map(|window| window.rise).sum();
    let grown = grown(memory, first.from, last.to)?;
    if rise <= options.least_memory_bytes as f64 || grown > rise * LEAST_SHARE {
        return None;
    }
    let blocks: f64 = windows.iter().map(|window| window.blocks).sum();
    let freed = windows.iter().try_fold(0.0, |sum, window| Some(sum + freed_from_before(*window, process)?));
    let renewed = freed.is_none_or(|freed| freed >= blocks * LEAST_RENEWED);
    renewed.then(|| because::renewal(rise, grown, freed))
}

fn memory(process: &[ProcessReading]) -> Vec<(f64, f64)> {
    let known = process.iter().filter(|reading| reading.at_unix_s.is_finite() && reading.memory_bytes > 0);
    let mut memory: Vec<(f64, f64)> =
        known.map(|reading| (reading.at_unix_s, reading.memory_bytes as f64)).collect();
    memory.sort_by(|a, b| a.0.total_cmp(&b.0));
    memory
}

/// By how much memory grew from one time to another.
fn grown(memory: &[(f64, f64)], from: f64, to: f64) -> Option<f64> {
    let end = (to - from) * END;
    let middle = |from: f64, to: f64| {
        let within = memory.iter().filter(|(at, _)| *at >= from && *at <= to);
        statistics::median(within.map(|(_, bytes)| *bytes).collect())
    };
    Some(middle(to - end, to)? - middle(from, from + end)?)
}

/// Frees of older blocks in a part of a session; `None`: they were not counted.
fn freed_from_before(window: Window, process: &[ProcessReading]) -> Option<f64> {
    let counted: Vec<u64> = within(window, process).filter_map(|reading| reading.freed_from_before).collect();
    Some(counted.iter().max()?.abs_diff(*counted.iter().min()?) as f64)
}
