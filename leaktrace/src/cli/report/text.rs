//! The history for people: of each subject how its memory went, when it was traced and why not, whom it suspects, what was told.

use std::{
    io::{self, Write},
    path::Path,
};

use super::account::{Account, Curve};
use crate::{
    report::{
        human::{bytes, duration, moment, plural, rate, signed_bytes},
        model::{Detail, Report},
        text::{TextOptions, render},
    },
    store::history::Told,
    verdict::Shape,
    watched::{SessionInfo, Subject, SubjectKind, Suspect},
};

/// The latest so many of what repeats itself are shown.
const LATEST: usize = 5;

/// Writes it; with a report, everything that it lists behind it.
pub(super) fn write(
    history: &Path,
    accounts: &[Account],
    top: usize,
    report: Option<&Report>,
    out: &mut dyn Write,
) -> io::Result<()> {
    if accounts.is_empty() {
        writeln!(out, "The history {} knows nobody in that time.", history.display())?;
    }
    for (place, account) in accounts.iter().enumerate() {
        if place > 0 {
            writeln!(out)?;
        }
        of_one(account, top, out)?;
    }
    match report {
        Some(report) => {
            writeln!(out)?;
            render(report, &TextOptions::default(), out)
        }
        None => Ok(()),
    }
}

fn of_one(account: &Account, top: usize, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", title(&account.subject))?;
    if let Some(curve) = &account.memory {
        writeln!(out, "    memory {}", memory(curve))?;
    }
    latest(&account.sessions, "more trace", session, out)?;
    if account.sessions.is_empty() {
        writeln!(out, "    not traced")?;
    }
    latest(&account.decisions, "more decision", decision, out)?;
    if let Some(growth) = &account.unexplained {
        writeln!(
            out,
            "    not explained: memory {}, tracked live bytes {}",
            signed_bytes(growth.grown_bytes),
            signed_bytes(growth.tracked_bytes)
        )?;
        growth.reasons.iter().try_for_each(|reason| writeln!(out, "        {reason}"))?;
    }
    suspects(&account.suspects, top, out)?;
    latest(
        &account.alerts,
        "more alert",
        |alert| format!("alert {}: {}", moment(alert.at_unix_s), alert.sentence),
        out,
    )?;
    latest(
        &account.evidence,
        "more piece",
        |kept| format!("evidence {}: {} ({})", moment(kept.at_unix_s), kept.directory, kept.reason),
        out,
    )
}

/// `web (container 3f2a77c0ffee, PID 4711)`.
fn title(subject: &Subject) -> String {
    let pid = if subject.pid > 0 { format!(", PID {}", subject.pid) } else { String::new() };
    match (subject.kind, &subject.container) {
        (SubjectKind::Container, Some(container)) => {
            format!("{} (container {}{pid})", subject.name, container.short_id())
        }
        (kind, Some(container)) => {
            format!("{} ({kind} in container {}{pid})", subject.name, container.short())
        }
        (kind, None) => format!("{} ({kind}{pid})", subject.name),
    }
}

fn memory(curve: &Curve) -> String {
    let mut line = format!("{} at {}", bytes(curve.to.bytes), moment(curve.to.at_unix_s));
    if curve.from != curve.to {
        line.push_str(&format!(", {} at {}", bytes(curve.from.bytes), moment(curve.from.at_unix_s)));
    }
    match curve.bytes_per_hour {
        Some(up) if up >= 1.0 => line.push_str(&format!(": up {} over {}", rate(up), duration(curve.over_s))),
        Some(down) if down <= -1.0 => {
            line.push_str(&format!(": down {} over {}", rate(down), duration(curve.over_s)));
        }
        Some(_) => line.push_str(&format!(": level over {}", duration(curve.over_s))),
        None => {}
    }
    if curve.peak_bytes > curve.to.bytes.max(curve.from.bytes) {
        line.push_str(&format!("; at most {}", bytes(curve.peak_bytes)));
    }
    if let Some(share) = curve.share_of_limit {
        line.push_str(&format!("; {:.0} % of its cgroup's limit", share * 100.0));
    }
    line
}

fn session(info: &SessionInfo) -> String {
    let detail = match info.detail {
        Detail::Exact => "exactly",
        Detail::Light => "lightly",
    };
    let mut line = format!("traced {detail} from {}", moment(info.began_unix_s));
    if let Some(ended) = info.ended_unix_s {
        line.push_str(&format!(" for {}", duration((ended - info.began_unix_s).max(0.0))));
    }
    if let Some(slowdown) = info.predicted_slowdown {
        line.push_str(&format!(", predicted slowdown {slowdown:.2}"));
    }
    if !info.reason.is_empty() {
        line.push_str(&format!(": {}", info.reason));
    }
    if let Some(outcome) = &info.outcome {
        line.push_str(&format!("; {outcome}"));
    }
    line
}

fn decision(told: &Told) -> String {
    let since = moment(told.began_unix_s);
    match told.times {
        0 | 1 => format!("{since}: {}", told.decision.sentence),
        times => format!(
            "{since}: {} ({times} times until {})",
            told.decision.sentence,
            moment(told.decision.at_unix_s)
        ),
    }
}

fn suspects(suspects: &[Suspect], top: usize, out: &mut dyn Write) -> io::Result<()> {
    let (shown, others): (Vec<&Suspect>, Vec<&Suspect>) =
        suspects.iter().partition(|suspect| is_worth_showing(suspect.verdict.shape));
    for (rank, suspect) in shown.iter().take(top).enumerate() {
        writeln!(out, "\n#{}  {}", rank + 1, headline(suspect))?;
        suspect.stack.iter().try_for_each(|line| writeln!(out, "    {line}"))?;
        if !suspect.verdict.because.is_empty() {
            writeln!(out, "    because {}", suspect.verdict.because)?;
        }
    }
    let hidden = shown.len().saturating_sub(top);
    if hidden > 0 {
        writeln!(out, "\n{} not shown (see --top)", plural(hidden as u64, "more suspect"))?;
    }
    if !others.is_empty() {
        let words = plural(others.len() as u64, "other site");
        writeln!(out, "{}{words} judged: {}", if shown.is_empty() { "    " } else { "" }, counted(&others))?;
    }
    Ok(())
}

fn is_worth_showing(shape: Shape) -> bool {
    matches!(shape, Shape::GrowsSteadily | Shape::GrowsWithLoad | Shape::Bursts)
}

/// `+3.9 MiB in 168,388 blocks: grows steadily, 1.6 MiB/h, 97 % sure, since ..., 88 % of the growth`.
fn headline(suspect: &Suspect) -> String {
    let (survivors, verdict) = (suspect.survivors, &suspect.verdict);
    let mut line = format!(
        "{}: {} in {}: {}",
        suspect.line,
        bytes(survivors.bytes),
        plural(survivors.blocks, "block"),
        spell(verdict.shape)
    );
    if verdict.bytes_per_hour >= 1.0 {
        line.push_str(&format!(", {}", rate(verdict.bytes_per_hour)));
    }
    line.push_str(&format!(", {:.0} % sure", (verdict.confidence * 100.0).floor()));
    if let Some(since) = verdict.since_unix_s {
        line.push_str(&format!(", since {}", moment(since)));
    }
    if let Some(share) = verdict.share_of_growth {
        line.push_str(&format!(", {:.0} % of the growth", share * 100.0));
    }
    line
}

fn spell(shape: Shape) -> &'static str {
    match shape {
        Shape::TooEarly => "too early to tell",
        Shape::GrowsSteadily => "leak, grows steadily",
        Shape::GrowsWithLoad => "grows with load",
        Shape::LevelledOff => "grew and levelled off",
        Shape::Steady => "steady",
        Shape::Bursts => "bursts",
    }
}

/// `3 steady, 1 grew and levelled off`.
fn counted(suspects: &[&Suspect]) -> String {
    let shapes = [Shape::LevelledOff, Shape::Steady, Shape::TooEarly];
    let counts = shapes.iter().filter_map(|shape| {
        let count = suspects.iter().filter(|suspect| suspect.verdict.shape == *shape).count();
        (count > 0).then(|| format!("{count} {}", spell(*shape)))
    });
    counts.collect::<Vec<_>>().join(", ")
}

/// The latest of a list in order of time, one line each, and how many there were before.
fn latest<T>(list: &[T], more: &str, line: impl Fn(&T) -> String, out: &mut dyn Write) -> io::Result<()> {
    let hidden = list.len().saturating_sub(LATEST);
    if hidden > 0 {
        writeln!(out, "    {} before", plural(hidden as u64, more))?;
    }
    list.iter().skip(hidden).try_for_each(|item| writeln!(out, "    {}", line(item)))
}
