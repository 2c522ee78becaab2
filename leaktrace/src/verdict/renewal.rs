//! Survivors that take the place of others: a cache that is full and gives its oldest entries up for new ones, a pool whose
//! connections are made anew. Tracing sees what comes from its beginning on, so they seem to grow; the process's memory does not.

use super::{
    because,
    model::{Options, ProcessReading},
    site::Run,
    statistics,
};

/// Memory that grew by less than this share of what survivors did, did not grow with them.
const LEAST_SHARE: f64 = 0.2;
/// Survivors renew others if at least this share of them has older blocks that went meanwhile.
const LEAST_RENEWED: f64 = 0.5;
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

/// The reason to believe that the survivors of this run only take the place of others.
pub(super) fn explains(run: &Run<'_>, process: &[ProcessReading], options: &Options) -> Option<String> {
    let grown = grown(run, process)?;
    let tells = run.rise() > options.least_memory_bytes as f64 * 2.0;
    if !tells || grown > run.rise() * LEAST_SHARE {
        return None;
    }
    let freed = freed_from_before(run, process);
    let renewed = freed.is_none_or(|freed| freed as f64 >= run.blocks() as f64 * LEAST_RENEWED);
    renewed.then(|| because::renewal(run, grown, freed))
}

fn memory(process: &[ProcessReading]) -> Vec<(f64, f64)> {
    let known = process.iter().filter(|reading| reading.at_unix_s.is_finite() && reading.memory_bytes > 0);
    let mut memory: Vec<(f64, f64)> =
        known.map(|reading| (reading.at_unix_s, reading.memory_bytes as f64)).collect();
    memory.sort_by(|a, b| a.0.total_cmp(&b.0));
    memory
}

/// By how much memory grew from the beginning of the run to its end, what lies between its sessions included.
fn grown(run: &Run<'_>, process: &[ProcessReading]) -> Option<f64> {
    let from = run.times().map(|(began, _)| began).fold(f64::INFINITY, f64::min);
    let to = run.times().map(|(_, ended)| ended).fold(f64::NEG_INFINITY, f64::max);
    let end = (to - from) * END;
    let memory = memory(process);
    let middle = |from: f64, to: f64| {
        let within = memory.iter().filter(|(at, _)| *at >= from && *at <= to);
        statistics::median(within.map(|(_, bytes)| *bytes).collect())
    };
    Some(middle(to - end, to)? - middle(from, from + end)?)
}

/// Frees of older blocks in all sessions of the run; `None` if any of them was not counted.
fn freed_from_before(run: &Run<'_>, process: &[ProcessReading]) -> Option<u64> {
    let of = |(from, to): (f64, f64)| {
        let traced = process.iter().filter(|reading| reading.session.is_some());
        let within =
            traced.filter(|reading| reading.at_unix_s >= from - 1.0 && reading.at_unix_s <= to + 1.0);
        within.filter_map(|reading| reading.freed_from_before).max()
    };
    run.times().map(of).try_fold(0_u64, |sum, freed| Some(sum.saturating_add(freed?)))
}
