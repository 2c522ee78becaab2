//! What one rule says about one subject at one moment. Pure.

use super::{
    rule::{Condition, Rule},
    text,
};
use crate::{
    report::human::{bytes, duration, percent, rate},
    verdict::MemoryTrend,
    watched::{SubjectState, Suspect},
};

/// Below that part of a threshold it is over; in between nothing changes.
const OVER_BELOW: f64 = 0.95;

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Holds,
    /// Not any more, and not yet by enough to say that it is over.
    Lingers,
    /// It is over, by a number that was read: at once.
    Over,
    /// It is over, by an estimate: if that lasts.
    SeemsOver,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Finding<'a> {
    /// The rule, the subject, the site.
    pub fingerprint: String,
    /// Whether it holds.
    pub standing: Standing,
    /// The suspect that it is about.
    pub suspect: Option<&'a Suspect>,
    /// Makes the sentence.
    pub sentence: String,
}

/// What makes two alerts the same.
pub fn fingerprint(rule: &str, subject: &str, site: Option<&Suspect>) -> String {
    match site {
        Some(suspect) => format!("{rule}|{subject}|{}", suspect.site),
        None => format!("{rule}|{subject}"),
    }
}

/// What a rule says; nothing at all if it cannot be told (no limit, no reading).
pub fn findings<'a>(rule: &Rule, state: &'a SubjectState) -> Vec<Finding<'a>> {
    match rule.condition {
        Condition::MemoryAbove(most) => {
            let used = state.memory.private_bytes();
            let standing = above(used as f64, most as f64);
            vec![finding(rule, state, standing, || memory_above(state, used, most))]
        }
        Condition::ShareOfLimit(most) => {
            let share = state.memory.cgroup.and_then(|cgroup| cgroup.share_of_limit());
            share
                .map(|share| finding(rule, state, above(share, most), || of_limit(state)))
                .into_iter()
                .collect()
        }
        Condition::TimeToLimit(within_s) => {
            let left_s = state.trend.to_limit_s;
            let standing = left_s.map_or(Standing::SeemsOver, |left_s| near(left_s, within_s));
            vec![finding(rule, state, standing, || limit_near(state))]
        }
        Condition::Suspect { least_confidence, least_bytes_per_hour, least_share } => state
            .suspects
            .iter()
            .filter(|suspect| is_leak(suspect, least_confidence, least_bytes_per_hour))
            .filter(|suspect| suspect.verdict.share_of_growth.is_none_or(|share| share >= least_share))
            .map(|suspect| Finding {
                fingerprint: fingerprint(&rule.name, &state.subject.key, Some(suspect)),
                standing: Standing::Holds,
                suspect: Some(suspect),
                sentence: leak(state, suspect),
            })
            .collect(),
        // Kills are events; whoever sees one says so.
        Condition::OomKill => Vec::new(),
    }
}

fn finding<'a>(
    rule: &Rule,
    state: &'a SubjectState,
    standing: Standing,
    sentence: impl FnOnce() -> String,
) -> Finding<'a> {
    Finding {
        fingerprint: fingerprint(&rule.name, &state.subject.key, None),
        standing,
        suspect: None,
        sentence: if standing == Standing::Holds { sentence() } else { String::new() },
    }
}

fn above(value: f64, most: f64) -> Standing {
    match value {
        value if value > most => Standing::Holds,
        value if value < most * OVER_BELOW => Standing::Over,
        _ => Standing::Lingers,
    }
}

fn near(left_s: f64, within_s: f64) -> Standing {
    match left_s {
        left_s if left_s <= within_s => Standing::Holds,
        left_s if left_s * OVER_BELOW > within_s => Standing::SeemsOver,
        _ => Standing::Lingers,
    }
}

fn is_leak(suspect: &Suspect, least_confidence: f64, least_bytes_per_hour: f64) -> bool {
    let verdict = &suspect.verdict;
    verdict.is_leak()
        && verdict.confidence >= least_confidence
        && verdict.bytes_per_hour >= least_bytes_per_hour
}

fn memory_above(state: &SubjectState, used: u64, most: u64) -> String {
    format!(
        "{} uses {} of private memory, more than {}{}",
        text::name(&state.subject),
        bytes(used),
        bytes(most),
        growing(&state.trend)
    )
}

fn of_limit(state: &SubjectState) -> String {
    let cgroup = state.memory.cgroup.unwrap_or_default();
    let used = cgroup.current_bytes.saturating_sub(cgroup.reclaimable_bytes);
    let limit = cgroup.limit_bytes.unwrap_or(0);
    format!(
        "{} uses {} of its memory limit ({} of {}){}",
        text::name(&state.subject),
        percent(used, limit),
        bytes(used),
        bytes(limit),
        growing(&state.trend)
    )
}

fn limit_near(state: &SubjectState) -> String {
    let limit = state.memory.cgroup.and_then(|cgroup| cgroup.limit_bytes);
    let limit = limit.map(|limit| format!(" of {}", bytes(limit))).unwrap_or_default();
    format!(
        "{} reaches its memory limit{limit} in {} if it goes on like this (it uses {} of private memory{})",
        text::name(&state.subject),
        duration(state.trend.to_limit_s.unwrap_or(0.0)),
        bytes(state.memory.private_bytes()),
        growing(&state.trend)
    )
}

fn growing(trend: &MemoryTrend) -> String {
    let leading = trend.leading.filter(|leading| trend.grows && leading.bytes_per_hour > 0.0);
    leading.map(|leading| format!(", growing by {}", rate(leading.bytes_per_hour))).unwrap_or_default()
}

fn leak(state: &SubjectState, suspect: &Suspect) -> String {
    let because = suspect.verdict.because.trim_end_matches('.');
    let because = if because.is_empty() { String::new() } else { format!(": {because}") };
    format!("{} leaks: {}{because}", text::name(&state.subject), text::suspect(suspect))
}
