//! Judgements in words: one sentence with the figures that they were made from.

use super::{
    model::{Options, Shape, Verdict},
    segment::{Finding, Segment},
    site::Run,
};
use crate::report::human;

fn bytes(amount: f64) -> String {
    human::bytes(amount.max(0.0) as u64)
}

fn share(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// "... of what is allocated here survives", to be put behind a sentence without its full stop.
pub(super) fn survival(survival: f64) -> String {
    format!("; {} of the blocks allocated here survive", share(survival))
}

/// Why it is a leak.
pub(super) fn growth(run: &Run<'_>) -> String {
    let sessions = match run.sessions() {
        1 => String::new(),
        count => format!(" in {count} sessions"),
    };
    let fell = match run.fall() {
        fall if fall >= 1.0 => format!("fell back by no more than {}", bytes(fall)),
        _ => "never fell back".to_owned(),
    };
    let pace = if run.by_work() { ", as the work done does and not as time does" } else { "" };
    let (rise, time) = (bytes(run.rise()), human::duration(run.span_s()));
    format!("survivors grew by {rise} in {time}{sessions}, {fell}, and grow on{pace}")
}

/// Why growth is not yet called a leak.
pub(super) fn unsure(verdict: &Verdict) -> String {
    format!("{}; not sure enough yet ({})", verdict.because, share(verdict.confidence))
}

/// Growth that is nobody's concern.
pub(super) fn too_slow(run: &Run<'_>, options: &Options) -> String {
    let (slope, least) = (human::rate(run.bytes_per_hour()), human::rate(options.least_bytes_per_hour));
    format!("survivors grow by {slope}, which is less than the {least} that count")
}

/// Nothing can be said.
pub(super) fn too_early(watched_s: f64, rise: Option<f64>, options: &Options) -> String {
    let (watched, least) = (human::duration(watched_s), human::duration(options.least_watched_s));
    let so_far = rise.map(|rise| format!("; survivors grew by {} so far", bytes(rise))).unwrap_or_default();
    format!("watched for {watched}, judged after {least} and {} readings{so_far}", options.least_readings)
}

/// New ones for old ones.
pub(super) fn renewal(rise: f64, grown: f64, freed: Option<f64>) -> String {
    let memory =
        if grown > 0.0 { format!("grew by {} only", bytes(grown)) } else { "did not grow".to_owned() };
    let freed = freed
        .map(|freed| format!(" and {} from before tracing were freed", human::plural(freed as u64, "block")));
    let freed = freed.unwrap_or_default();
    let rise = bytes(rise);
    format!(
        "{rise} of survivors are new, but the process's memory {memory}{freed}: they take the place of older ones"
    )
}

/// New ones for others that were tracked.
pub(super) fn exchange(rise: f64) -> String {
    format!(
        "{} of survivors are new, but as much was freed elsewhere: all that is tracked did not grow",
        bytes(rise)
    )
}

/// Everything that is no leak.
pub(super) fn without_growth(finding: &Finding, segment: &Segment) -> String {
    let (highest, time) = (bytes(finding.highest), human::duration(segment.span_s()));
    match finding.shape {
        Shape::GrowsWithLoad => format!(
            "survivors (up to {highest}) follow how busy the process is, over {time}: they rise and fall with the rate of its work"
        ),
        Shape::LevelledOff => format!(
            "survivors grew to {highest} and then hardly any more: lately at {} of their earlier pace, over {time}",
            share(finding.evenness.min(1.0))
        ),
        Shape::Bursts => format!(
            "survivors come and go: up to {highest}, down by {} again, over {time}",
            bytes(finding.fall)
        ),
        _ => format!("survivors stay at up to {highest} over {time}"),
    }
}
