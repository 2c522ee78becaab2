//! Two moments beside each other, in the form of Python's `tracemalloc`.

use std::io::{self, Write};

use serde::Serialize;

use crate::{
    cli::Failure,
    report::{
        difference::{Difference, differences},
        human::{moment, plural, signed_bytes},
        model::{GroupBy, Report},
    },
    store::{
        History,
        history::{Moment, Nearest},
    },
    watched::Subject,
};

/// What is known of a subject at two moments.
pub(super) struct Both {
    subject: Subject,
    earlier: Moment,
    later: Moment,
    /// What was there at the later one, with the change since the earlier.
    pub(super) report: Report,
}

/// What changed of a subject.
#[derive(Serialize)]
pub(super) struct Comparison<'a> {
    subject: &'a Subject,
    /// When the two reports were made that are compared, seconds since the Unix epoch.
    earlier_unix_s: f64,
    later_unix_s: f64,
    /// Their traces. Each knows only what was allocated since it began.
    earlier_session: u64,
    later_session: u64,
    /// The largest change first.
    differences: Vec<Difference>,
}

/// Every subject that was traced at both moments.
pub(super) fn all(
    history: &History,
    subjects: &[Subject],
    earlier: f64,
    later: f64,
) -> Result<Vec<Both>, Failure> {
    let mut known = Vec::new();
    let mut nearest = [Nearest::default(); 2];
    for subject in subjects {
        match [history.moment(&subject.key, earlier)?, history.moment(&subject.key, later)?] {
            [Ok(earlier), Ok(later)] => {
                let report = history.difference(&earlier, &later)?;
                known.push(Both { subject: subject.clone(), earlier, later, report });
            }
            missing => {
                for (nearest, missing) in nearest.iter_mut().zip(missing) {
                    *nearest = missing.map_or_else(|other| nearest.or(other), |found| nearest.or(at(found)));
                }
            }
        }
    }
    if known.is_empty() {
        return Err(Failure::Failed(nothing([earlier, later], nearest)));
    }
    Ok(known)
}

/// A moment that is known is its own nearest.
fn at(found: Moment) -> Nearest {
    Nearest { before_unix_s: Some(found.at_unix_s), after_unix_s: None }
}

fn nothing(asked: [f64; 2], nearest: [Nearest; 2]) -> String {
    let both = asked.iter().zip(nearest).map(|(asked, nearest)| {
        match (nearest.before_unix_s, nearest.after_unix_s) {
            (None, None) => format!("{}: nothing", moment(*asked)),
            (Some(one), None) | (None, Some(one)) => format!("{}: {}", moment(*asked), moment(one)),
            (Some(before), Some(after)) => {
                format!("{}: {} and {}", moment(*asked), moment(before), moment(after))
            }
        }
    });
    format!(
        "nobody was traced at both moments; the nearest that something is known of are: {}",
        both.collect::<Vec<_>>().join("; ")
    )
}

impl<'a> Comparison<'a> {
    /// What changed, put together.
    pub(super) fn of(both: &'a Both, by: GroupBy) -> Self {
        Self {
            subject: &both.subject,
            earlier_unix_s: both.earlier.at_unix_s,
            later_unix_s: both.later.at_unix_s,
            earlier_session: both.earlier.session,
            later_session: both.later.session,
            differences: differences(&both.report, by),
        }
    }

    fn change(&self) -> i64 {
        self.differences.iter().fold(0, |sum, row| sum.saturating_add(row.size_diff))
    }
}

/// Writes them for people.
pub(super) fn write(comparisons: &[Comparison<'_>], top: usize, out: &mut dyn Write) -> io::Result<()> {
    for (place, compared) in comparisons.iter().enumerate() {
        if place > 0 {
            writeln!(out)?;
        }
        writeln!(
            out,
            "{}: survivors {} from {} to {}",
            compared.subject.name,
            signed_bytes(compared.change()),
            moment(compared.earlier_unix_s),
            moment(compared.later_unix_s)
        )?;
        if compared.earlier_session != compared.later_session {
            writeln!(out, "    two traces, each of which knows only what was allocated since it began")?;
        }
        for row in compared.differences.iter().take(top) {
            writeln!(out, "{row}")?;
            row.stack.iter().try_for_each(|line| writeln!(out, "    {line}"))?;
        }
        let hidden = compared.differences.len().saturating_sub(top);
        if hidden > 0 {
            writeln!(out, "{} not shown (see --top)", plural(hidden as u64, "more row"))?;
        }
    }
    Ok(())
}
